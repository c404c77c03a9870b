"""Rows of public content on disk, by content hash: what was encoded once is never encoded again.

One folder holds one encoder's rows. A table is all rows of one catalogue in its order, a pair of .npy files:
`table-*.rows.npy` [N, *row] and `table-*.keys.npy` [N, 32], the SHA-256 of each row's content, zeros where there is
nothing. It is written under another name and renamed, rows first, so that a process killed at any moment leaves whole
tables alone. What was encoded since is in logs `part-*.log`, batch by batch, until it is in a table.
One process at a time encodes (a lock file); readers take no lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrank._row_log import KEY_BYTES, RowLog, read_log
from mmrank._workers import completed
from mmrank.errors import DatasetError

log = logging.getLogger(__name__)

TABLES_KEPT = 8
"""Tables of other catalogues that stay in a folder; the least recently used beyond these are deleted."""

Encode = Callable[[list[int]], tuple[np.ndarray, np.ndarray]]
"""n positions in the catalogue -> (rows [n, *row], present bool [n]); called in several threads at once."""

Report = Callable[[int, int], None]
"""Called with (items done, items in all)."""


@dataclass(frozen=True, eq=False)
class Table:
    """rows: [N, *row], memory-mapped. present: bool [N].

    encoded: how many contents this call encoded, in `seconds`; the other present rows were there.
    """

    rows: np.ndarray
    present: np.ndarray
    encoded: int
    seconds: float


def key_of(content: str) -> bytes:
    """SHA-256 of a text, or of a picture's digest."""
    return hashlib.sha256(content.encode()).digest()


def keys_of(contents: Sequence[str | None]) -> np.ndarray:
    """uint8 [n, 32]; zeros where there is no content."""
    joined = b"".join(bytes(KEY_BYTES) if content is None else key_of(content) for content in contents)
    return np.frombuffer(joined, np.uint8).reshape(len(contents), KEY_BYTES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in `folder`; the lock goes with its process, however that ends."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("Another process works in %s; waiting for it.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class RowCache:
    """The rows of one encoder in `folder`, which is created where absent."""

    def __init__(self, folder: Path, *, row_shape: tuple[int, ...], row_dtype: str) -> None:
        self.folder = folder
        self._row_shape = row_shape
        self._row_dtype = np.dtype(row_dtype)
        folder.mkdir(parents=True, exist_ok=True)

    def table(
        self, keys: np.ndarray, encode: Encode, *, batch: int, workers: int = 1, progress: Report | None = None
    ) -> Table:
        """The rows for content `keys` [N, 32].

        Rows that are nowhere yet are encoded, `batch` at a time by `workers` threads, and each batch is kept before its
        thread goes on. Absent content (zero keys), and content that `encode` reports as absent, has rows of zeros; the
        latter is tried again with the next new table.
        """
        report = progress or (lambda done, total: None)
        name = "table-" + hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        encoded, seconds = 0, 0.0
        while (found := self._opened(name)) is None:
            with locked(self.folder):
                if self._opened(name) is None:  # another process may have made it while this one waited
                    started = time.perf_counter()
                    encoded += self._fill(keys, encode, batch, workers, report)
                    seconds += time.perf_counter() - started
                    self._write_table(name, keys, self._index())
                    self._prune(name, keys)
        report(len(keys), len(keys))
        return Table(found[0], np.any(found[1], axis=1).reshape(len(keys)), encoded, seconds)

    def _fill(self, keys: np.ndarray, encode: Encode, batch: int, workers: int, report: Report) -> int:
        """Encode and keep what is nowhere yet; how many contents that were."""
        index = self._index()
        wanted: dict[bytes, int] = {}
        for position, key in enumerate(map(bytes, keys)):
            if any(key) and key not in index and key not in wanted:
                wanted[key] = position
        positions = list(wanted.values())
        batches = [positions[start : start + batch] for start in range(0, len(positions), batch)]
        done, encoded = len(keys) - len(positions), 0
        report(done, len(keys))
        with RowLog(self.folder / f"part-{uuid.uuid4().hex}.log") as part:

            def keep(here: list[int]) -> tuple[int, int]:
                rows, present = encode(here)
                part.append(keys[here][present], np.asarray(rows, self._row_dtype)[present])
                return len(here), int(present.sum())

            for tried, found in completed(keep, batches, workers=workers):
                done, encoded = done + tried, encoded + found
                report(done, len(keys))
        return encoded

    def _write_table(self, name: str, keys: np.ndarray, index: _Index) -> None:
        stored = keys.copy()
        path = self._path(name, "rows")
        temporary = _temporary(path)
        rows = np.lib.format.open_memmap(temporary, "w+", self._row_dtype, (len(keys), *self._row_shape))
        for position, key in enumerate(map(bytes, keys)):
            place = index.get(key)
            if place is None:
                stored[position] = 0
            else:
                rows[position] = place[0][place[1]]
        rows.flush()
        del rows
        os.replace(temporary, path)
        write_array(self._path(name, "keys"), stored)

    def _prune(self, name: str, keys: np.ndarray) -> None:
        """Parts of this catalogue are in the new table now; older tables beyond TABLES_KEPT go."""
        tables = sorted(self.folder.glob("table-*.keys.npy"), key=lambda path: path.stat().st_mtime)
        doomed = [path for path in tables[:-TABLES_KEPT] if not path.name.startswith(name)]
        there = set(map(bytes, keys))
        for path in self.folder.glob("part-*.log"):
            logged = [key for part, _ in self._logged(path) for key in map(bytes, part)]
            if not logged or not there.isdisjoint(logged):  # else it is what a killed run over another catalogue left
                doomed.append(path)
        for path in doomed:
            path.unlink()
        whole = {path.name.removesuffix(".keys.npy") for path in self.folder.glob("*.keys.npy")}
        for path in [*self.folder.glob("*.rows.npy"), *self.folder.glob("*.tmp")]:
            if path.name.split(".")[0] not in whole:
                path.unlink()

    def _index(self) -> _Index:
        index: _Index = {}
        blocks = [self._open(path.name.removesuffix(".keys.npy")) for path in sorted(self.folder.glob("*.keys.npy"))]
        for path in sorted(self.folder.glob("part-*.log")):
            blocks += [(rows, keys) for keys, rows in self._logged(path)]
        for rows, keys in blocks:
            index.update((key, (rows, place)) for place, key in enumerate(map(bytes, keys)) if any(key))
        return index

    def _logged(self, path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return read_log(path, row_shape=self._row_shape, row_dtype=self._row_dtype)

    def _open(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            # copy-on-write: torch takes no read-only array, and nothing written to it reaches the file
            rows = np.load(self._path(name, "rows"), mmap_mode="c", allow_pickle=False)
            return rows, np.load(self._path(name, "keys"), allow_pickle=False)
        except (ValueError, EOFError) as error:  # what NumPy raises for half a file
            raise DatasetError(f"The feature cache's {name} in {self.folder} is damaged; delete it.") from error

    def _opened(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The block, marked as just used, or None where there is none; another process may delete it meanwhile."""
        try:
            os.utime(self._path(name, "keys"))
            return self._open(name)
        except FileNotFoundError:
            return None

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}.npy"


_Index = dict[bytes, tuple[np.ndarray, int]]
"""By key: the block that holds the row, and where in it."""


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file so that `path` holds all of it or nothing."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(temporary, path)


def kept_arrays(path: Path, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in the .npz file `path`; computed and kept where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with locked(path.parent):
            if not path.exists():  # another process may have made it while this one waited
                arrays = dict(compute())
                temporary = _temporary(path)
                with temporary.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                os.replace(temporary, path)
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
