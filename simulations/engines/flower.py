"""The flower engine: the same two apps on Flower's own simulation, on Ray; for many cores, GPUs, or a Ray cluster.

It uses flwr.simulation.run_simulation, deprecated in 1.41 but the one way to run a simulation that needs neither a
SuperLink that stays running nor a bundled project folder; `flwr run .` is the other way, for those who want it.
Every node is enrolled by message, so its place is hundreds of clients; for 100,000 take `inline`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from client.secure_keys import simulated_keys
from client.workspace import Workspace
from mmrank import components, errors
from mmrank.errors import ConfigError
from mmrank.settings import Settings
from server.app import MODEL
from server.checkpoint import read_model
from server.rounds import OnClient, OnRound
from simulations.engines.inline import check_config

OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Without these Flower and Ray reach for the network; they are read when flwr is imported."""

LOG = "flower.log"
GRACE_SECONDS = 20.0


def federate(
    settings: Settings,
    *,
    config_path: Path,
    state_dir: Path,
    on_round: OnRound | None = None,
    on_client: OnClient | None = None,
    resume: bool = False,
    workspace: Workspace | None = None,
) -> dict[str, np.ndarray]:
    """Train as `settings` say and return the model; see simulations.engines.inline.federate.

    Flower's and Ray's output goes to state_dir/flower.log. Every process that was started is ended.
    Raises ConfigError without Ray or for another configuration, the apps' own MmrankErrors, and RuntimeError
    with the log's path where Flower itself fails.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "Expected Ray for engine=flower; install it with pip install 'mmrank[sim]', or set engine: inline."
        )
    check_config(settings, config_path)
    dataset = workspace.dataset if workspace else components.build("client.datasets", settings.dataset, entry="load")
    state_dir.mkdir(parents=True, exist_ok=True)
    if settings.privacy.distributed:  # the server reads the roster, and each worker makes its clients' identities anew
        simulated_keys(
            state_dir, dataset.client_ids, seed=settings.seed if settings.privacy.noise == "seeded" else None
        )
    with tempfile.TemporaryDirectory(prefix="mmrank-ray-", ignore_cleanup_errors=True) as ray_dir:
        here, there = Pipe(duplex=False)
        job = {
            "config": str(config_path.resolve()),
            "state_dir": str(state_dir.resolve()),
            "resume": resume,
            "clients": len(dataset.client_ids),
            "device": settings.device,
            "ray_dir": ray_dir,
            "pipe": there.fileno(),
        }
        process = _start(job, there, state_dir / LOG)
        try:
            _follow(here, on_round, on_client, state_dir / LOG)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it shuts Ray down; where that hangs, it is ended
                process.wait(GRACE_SECONDS)
        finally:
            here.close()
            _end(process)
    return read_model(state_dir / MODEL)


def _start(job: dict[str, Any], pipe: Connection, log: Path) -> subprocess.Popen[bytes]:
    """The process that runs the job, in a session of its own; `pipe` is its end alone from then on."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}._flower_app", json.dumps(job)],
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[pipe.fileno()],
            env=_environment(),
            start_new_session=True,
        )
    pipe.close()
    return process


def _environment() -> dict[str, str]:
    """The caller's, offline, with this process's import path: the child is to find the same packages."""
    return {**os.environ, **OFFLINE, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _follow(pipe: Connection, on_round: OnRound | None, on_client: OnClient | None, log: Path) -> None:
    """Pass on what the child tells, until it is done. Raises what it told of."""
    for kind, *rest in _told(pipe):
        if kind == "round" and on_round is not None:
            on_round(rest[0])
        elif kind == "client" and on_client is not None:
            on_client(*rest)
        elif kind == "error":
            raise getattr(errors, rest[0])(rest[1])
        elif kind == "done":
            return
    raise RuntimeError(f"Flower's simulation ended before the run did; {log} says why.")


def _told(pipe: Connection) -> Iterator[tuple[Any, ...]]:
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of its session: Ray's processes end with the one that started them, and belong to it."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
