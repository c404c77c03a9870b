"""At stake: a newcomer's plain `flwr run .`, offline, from the bundle that Flower makes of the project."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from server.checkpoint import read_model
from simulations.engines import inline
from simulations.engines.flower import OFFLINE
from tests.federations import PRIVATE, small_settings, write_config

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LIMIT_SECONDS = 600


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def flower(tmp_path):
    """Run a `flwr` command with a home of its own; ends the SuperLink that it started, by its process id."""
    home = tmp_path / "flwr-home"
    env = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        **OFFLINE,
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*arguments):
        command = [str(BIN / "flwr"), *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    for pid in superlinks(home):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while superlinks(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not superlinks(home)


def superlinks(home):
    """Processes of the SuperLink whose database lies in `home`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "flower-superlink" in line and str(home) in line:
            found.append(int(entry.name))
    return found


def finished(flower):
    """The run's status once it has ended: `flwr run` itself ends with 0 whatever happens."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        (run,) = json.loads(flower("ls", "--format", "json"))["runs"]
        if run["status"].startswith("finished"):
            return run["status"]
        time.sleep(2)
    raise AssertionError(f"The run has not ended within {LIMIT_SECONDS} s.")


def test_flwr_run_trains_offline_from_the_bundle(tmp_path, flower):
    settings = small_settings(tmp_path / "features", privacy=PRIVATE, federation={"rounds": 2})
    project, state = tmp_path / "project", tmp_path / "state"
    for name in ("mmrank", "client", "server", "simulations"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, project / name)
    # Named by a relative path, it is found beside the packages only where those come from the bundle.
    write_config(settings, project).rename(project / "small.yaml")
    flower(
        "run",
        str(project),
        "--run-config",
        f'config="small.yaml" state-dir="{state}"',
        "--federation-config",
        "num-supernodes=10 client-resources-num-cpus=1",
    )
    assert finished(flower) == "finished:completed"
    config = write_config(settings, tmp_path / "inline")
    expected = inline.federate(settings, config_path=config, state_dir=tmp_path / "inline" / "state")
    model = read_model(state / "model.safetensors")
    for name, array in expected.items():
        np.testing.assert_allclose(model[name], array, rtol=0, atol=1e-5, err_msg=name)
    assert not (state / "client-errors.log").exists()
