"""At stake: a newcomer's plain `flwr run .`, offline, from the bundle that Flower makes of the project."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from server.checkpoint import read_model
from simulations.engines import inline
from simulations.engines.flower import OFFLINE
from tests.engines.deployment import BIN, LIMIT_SECONDS, bundle, ended, free_port
from tests.federations import PRIVATE, small_settings, write_config

pytestmark = pytest.mark.e2e

TOO_SLOW = "Failed to start local SuperLink within"
"""flwr gives it 15 seconds, which a busy machine may not have, and then kills it: whoever asks again begins anew."""


@pytest.fixture
def flower(tmp_path):
    """Run a `flwr` command with a home of its own; ends the SuperLink that it started, by its process id."""
    home = tmp_path / "flwr-home"
    env = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        **OFFLINE,
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*arguments):
        command = [str(BIN / "flwr"), *arguments]
        for _ in range(5):
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS)
            if TOO_SLOW not in done.stderr:
                break
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


def test_flwr_run_trains_offline_from_the_bundle(tmp_path, flower):
    settings = small_settings(tmp_path / "features", privacy=PRIVATE, federation={"rounds": 2})
    project, state = bundle(tmp_path / "project"), tmp_path / "state"
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
    assert ended(flower) == "finished:completed"
    config = write_config(settings, tmp_path / "inline")
    expected = inline.federate(settings, config_path=config, state_dir=tmp_path / "inline" / "state")
    model = read_model(state / "model.safetensors")
    for name, array in expected.items():
        np.testing.assert_allclose(model[name], array, rtol=0, atol=1e-5, err_msg=name)
    assert not (state / "client-errors.log").exists()
