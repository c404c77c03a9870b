"""Checkpoints: after each round, the model and what the server remembers; a killed run goes on from there.

One round is one safetensors file: parameters, optimiser state, and JSON in its header. It is written
beside its name, flushed and renamed, so that no half-written file ever bears a checkpoint's name. It holds no time and
no pickle: equal rounds give equal bytes. The newest two are kept; a damaged one falls back to the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmrank.errors import CheckpointError
from mmrank.protocol import Head
from server.aggregation import State

logger = logging.getLogger(__name__)

VERSION = 3
KEPT = 2
_HEADER = "mmrank"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The run after `round_number` rounds.

    run: enters every charge's id, so it must outlive the process. exhausted: clients not asked again.
    epsilon: each client's last public total. heads: of each client's ledger, as it was acknowledged last.
    kept_rounds: rounds that had too few replies and kept the model. clip_norm: the next round's clip of whole updates.
    """

    run: str
    config_sha256: str
    round_number: int
    parameters: Mapping[str, np.ndarray]
    state: State
    exhausted: frozenset[str] = frozenset()
    epsilon: Mapping[str, float] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    kept_rounds: int = 0
    clip_norm: float = 0.0


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write it durably, drop all but the newest two, and return its path."""
    arrays = {f"parameters/{name}": array for name, array in checkpoint.parameters.items()}
    arrays |= {f"state/{name}": array for name, array in checkpoint.state.items()}
    header: dict[str, Any] = {
        "version": VERSION,
        "run": checkpoint.run,
        "config_sha256": checkpoint.config_sha256,
        "round_number": checkpoint.round_number,
        "exhausted": sorted(checkpoint.exhausted),
        "epsilon": {client: repr(checkpoint.epsilon[client]) for client in sorted(checkpoint.epsilon)},
        "heads": {client: list(checkpoint.heads[client]) for client in sorted(checkpoint.heads)},
        "kept_rounds": checkpoint.kept_rounds,
        "clip_norm": repr(checkpoint.clip_norm),
    }
    header["sha256"] = _digest(header, arrays)
    path = folder / f"round-{checkpoint.round_number:07d}.safetensors"
    _write_durably(path, _serialise(arrays, {_HEADER: json.dumps(header, sort_keys=True)}))
    for old in _checkpoints(folder)[KEPT:]:
        old.unlink()
    return path


def load_checkpoint(folder: Path, *, config_sha256: str) -> Checkpoint | None:
    """The newest sound checkpoint in `folder`, or None where there is none.

    Raises CheckpointError for a checkpoint of another configuration, or where every one is damaged.
    """
    paths = _checkpoints(folder)
    for path in paths:
        try:
            checkpoint = _read(path)
        except _DamagedError as damage:
            logger.warning("Checkpoint %s is damaged (%s); falling back to the one before.", path, damage)
            continue
        if checkpoint.config_sha256 != config_sha256:
            raise CheckpointError(
                f"Checkpoint {path} belongs to configuration {checkpoint.config_sha256}, not {config_sha256}; "
                "resume with the configuration that it was made with, or start anew in another folder."
            )
        return checkpoint
    if paths:
        raise CheckpointError(
            f"All {len(paths)} checkpoints in {folder} are damaged; restore one from a backup, or start anew elsewhere."
        )
    return None


def run_identity(folder: Path, *, config_sha256: str, fresh: str) -> str:
    """The run's id: the one in `folder`, or `fresh`, written there before anything is charged under it.

    It enters charge ids, so a run killed in its first round must find the same one again.
    Raises CheckpointError where the folder belongs to another configuration or its file is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        _write_durably(path, json.dumps({"config_sha256": config_sha256, "run": fresh}, sort_keys=True).encode())
        return fresh
    try:
        stored = json.loads(path.read_text())
        run, stored_sha256 = str(stored["run"]), str(stored["config_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); start anew in another folder.") from error
    if stored_sha256 != config_sha256:
        raise CheckpointError(
            f"{path} belongs to configuration {stored_sha256}, not {config_sha256}; "
            "resume with the configuration that it was made with, or start anew in another folder."
        )
    return run


def has_begun(folder: Path) -> bool:
    """Whether a run left anything in `folder`."""
    return (folder / "run.json").exists() or bool(_checkpoints(folder))


def write_model(path: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Parameters as safetensors, durably; equal parameters give equal bytes."""
    _write_durably(path, _serialise(dict(parameters), None))


def read_model(path: Path) -> dict[str, np.ndarray]:
    """What write_model wrote. Raises CheckpointError where it is absent or damaged."""
    try:
        with safe_open(path, framework="np") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no iterator)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Model {path} can't be read ({error}); run the training again.") from error


class _DamagedError(Exception):
    """One file can't be trusted; another may."""


def _read(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            header: dict[str, Any] = json.loads((stored.metadata() or {}).get(_HEADER, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise _DamagedError(str(error)) from error
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise _DamagedError(f"its header is not of version {VERSION}")
    if header.pop("sha256", None) != _digest(header, arrays):
        raise _DamagedError("its content does not match its checksum")
    return Checkpoint(
        run=header["run"],
        config_sha256=header["config_sha256"],
        round_number=header["round_number"],
        parameters=_under("parameters/", arrays),
        state=_under("state/", arrays),
        exhausted=frozenset(header["exhausted"]),
        epsilon={client: float(text) for client, text in header["epsilon"].items()},
        heads={client: (int(count), str(digest)) for client, (count, digest) in header["heads"].items()},
        kept_rounds=header["kept_rounds"],
        clip_norm=float(header["clip_norm"]),
    )


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("round-*.safetensors"), reverse=True)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """safetensors checks lengths only: a flipped bit would train on unseen."""
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(repr((name, str(arrays[name].dtype), arrays[name].shape)).encode())
        sha.update(np.ascontiguousarray(arrays[name]).tobytes())
    return sha.hexdigest()


def _serialise(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None) -> bytes:
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}, metadata)


def _write_durably(path: Path, data: bytes) -> None:
    """Write, flush and rename, then flush the folder: after a power cut either all of it is there or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
