"""Correlated noise kept through a restart: the state in a file that only its owner reads, written before a release."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from safetensors.numpy import load, save

from mmrank.errors import PrivacyError
from mmrank.privacy.correlated import CorrelatedNoise, NoiseStream, digest_of, with_noise
from mmrank.privacy.noise import Noise

_HEAD = "head"
_CHECKSUM_BYTES = 32


class NoiseFile:
    """The sums of one run, released round by round; `begin` and `resume` give one, and `with` closes it.

    The file is a secret as long as anything released matters: mode 0600, at the party that adds the noise, in no
    checkpoint and no backup that could be put back. An older state put back would draw a second noise for a round
    that was released; take round_number from the ledger or the run's own record, never from here, and that shows.
    One process holds it at a time.
    """

    def __init__(self, path: Path, stream: NoiseStream, lock: int) -> None:
        self.path, self._stream, self._lock, self._process = path, stream, lock, os.getpid()

    @classmethod
    def begin(cls, path: Path | str, mechanism: CorrelatedNoise, *, size: int, run: str) -> NoiseFile:
        """A new run, once its event is charged. Raises PrivacyError where the file is there already."""
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
        if path.exists():
            os.close(lock)
            raise PrivacyError(f"{path} already holds a run's noise; resume it, or name another file.")
        begun = cls(path, NoiseStream(mechanism, size=size, run=run), lock)
        begun._write()
        return begun

    @classmethod
    def resume(cls, path: Path | str, mechanism: CorrelatedNoise, *, size: int, run: str) -> NoiseFile:
        """A run that had begun. Raises PrivacyError for a file that is missing, damaged, open to others or another's.

        A run whose file is lost has ended: new noise for its rounds would be a second look at them.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise PrivacyError(f"Expected the state of the noise in {path}; restore it, or begin and charge a new run.")
        lock = _locked(path)
        try:
            stream = NoiseStream(mechanism, size=size, run=run)
            stream.load_state_dict(_read(path))
        except PrivacyError:
            os.close(lock)
            raise
        return cls(path, stream, lock)

    @property
    def round_number(self) -> int:
        """The last round whose noise was drawn, 0 before the first."""
        return self._stream.round_number

    def release(self, total: np.ndarray, noise: Noise, *, round_number: int) -> np.ndarray:
        """float64 [size]: `total` with that round's noise, on a public grid; once this returns it may be sent.

        total: float64 [size], the exact sum of contributions of norm at most max_grad_norm; zeros for a round that had
        none. The same total again gives the same bytes, after a restart as well. Raises PrivacyError as
        NoiseStream.next does, and OSError where the state can't be written: then nothing may be released.
        """
        if total.dtype != np.float64 or total.shape != (self._stream.size,) or not np.isfinite(total).all():
            raise PrivacyError(
                f"Expected a finite float64 sum of {self._stream.size} values, not {total.dtype} {total.shape}; "
                "clip each contribution and leave out what is not finite."
            )
        if os.getpid() != self._process:
            raise PrivacyError("A fork holds its parent's noise; release in the process that opened the file.")
        drawn = self._stream.next(noise, round_number=round_number, digest=digest_of(total))
        self._write()
        return with_noise(total, drawn, self._stream.mechanism.std)

    def close(self) -> None:
        """Let another process open the file. A second call does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> NoiseFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self) -> None:
        if self._lock < 0:
            raise PrivacyError(f"{self.path} was closed; resume it.")
        state = self._stream.state_dict()
        arrays = {name: state.pop(name) for name in ("buffers", "last")}
        head = np.frombuffer(json.dumps(state).encode(), np.uint8)
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.unlink(missing_ok=True)  # of a write that was cut short; the lock says that it is nobody's
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        body = save({**arrays, _HEAD: head})
        with open(file, "wb") as stream:
            stream.write(hashlib.sha256(body).digest() + body)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> dict[str, object]:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PrivacyError(
            f"Expected {path} to be its owner's alone, not mode {mode:o}: who read it can subtract the noise; "
            "if nobody did, chmod 600 it."
        )
    whole = path.read_bytes()
    checksum, body = whole[:_CHECKSUM_BYTES], whole[_CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest() != checksum:
        raise PrivacyError(f"{path} is damaged; its run has ended, begin and charge a new one.")
    arrays = load(body)
    return {**json.loads(arrays.pop(_HEAD).tobytes()), **arrays}


def _locked(path: Path) -> int:
    """An open descriptor that holds the lock; the lock goes with the process."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise PrivacyError(f"{path} is open elsewhere; two holders would use one noise twice.") from error
    return lock
