"""A real federation on this machine: a SuperLink, a SuperNode for each client, and `flwr run` of this very project."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from simulations.engines.flower import OFFLINE

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LIMIT_SECONDS = 600

_given: set[int] = set()


def free_port() -> int:
    """One that was not given before: it may be bound seconds later, and is free for the kernel until then."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def bundle(folder: Path) -> Path:
    """What `flwr run` needs of the project, in `folder`."""
    for name in ("mmrank", "client", "server", "simulations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def ended(flwr: Callable[..., str]) -> str:
    """The only run's status once it has ended: `flwr run` itself ends with 0 whatever happens."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        (run,) = json.loads(flwr("ls", "--format", "json"))["runs"]
        if run["status"].startswith("finished"):
            return run["status"]
        time.sleep(2)
    raise AssertionError(f"The run has not ended within {LIMIT_SECONDS} s.")


class Deployment:
    """Servers with a home of their own, each ended by its process id."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.home = folder / "flwr-home"
        self.home.mkdir(parents=True)
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.env = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            **OFFLINE,
            "FLWR_HOME": str(self.home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=self.env,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it starts the apps in processes of their own, which end with it
            )

    def superlink(self) -> None:
        self.start(
            "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        self.wait(lambda: listens(self.port), "The SuperLink does not listen")

    def supernode(self, client: str, values: Mapping[str, object]) -> None:
        """values: the node's own configuration, beside its `client-id`."""
        words = " ".join(f'{name}="{value}"' for name, value in {"client-id": client, **values}.items())
        self.start(
            client, "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
            "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", words,
        )  # fmt: skip

    def flwr(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, project: Path, run_config: str) -> str:
        """Its status once it has ended; it begins when every node is there, since a server takes whoever is."""
        nodes = len(self.started) - 1
        self.wait(lambda: self.online() == nodes, f"Fewer than {nodes} nodes are online")
        self.flwr("run", str(project), "here", "--run-config", run_config)
        return ended(lambda *arguments: self.flwr(arguments[0], "here", *arguments[1:]))

    def online(self) -> int:
        """How many SuperNodes the SuperLink hears."""
        nodes = json.loads(self.flwr("supernode", "list", "here", "--format", "json"))["nodes"]
        return sum(node["status"] == "online" for node in nodes)

    def wait(self, met: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not met():
            gone = [name for name, process in self.started.items() if process.poll() is not None]
            if gone or time.monotonic() > deadline:
                raise AssertionError(f"{otherwise}; ended: {gone}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in self.folder.glob("*.log"))

    def end(self) -> None:
        for process in reversed(self.started.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """A SuperLink that is up; whatever is started in it ends with the block."""
    deployment = Deployment(folder)
    try:
        deployment.superlink()
        yield deployment
    finally:
        deployment.end()
