"""Rows of public content on disk, by content hash: what was encoded once is never encoded again.

One folder holds one encoder's rows as blocks, each a pair of .npy files: `NAME.rows.npy` [n, *row] and
`NAME.keys.npy` [n, 32], the SHA-256 of each row's content, zeros where there is nothing. A block is written under
another name and renamed, rows first, so that a process killed at any moment leaves whole blocks alone.
A block `part-*` holds rows as they were encoded; a block `table-*` all rows of one catalogue in its order.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmrank.errors import DatasetError

log = logging.getLogger(__name__)

KEY_BYTES = 32
TABLES_KEPT = 8
"""Tables of other catalogues that stay in a folder; the least recently used beyond these are deleted."""

_PART_SECONDS = 10.0
"""About how much encoding a kill can lose."""

Load = Callable[[Sequence[int]], Any]
"""Positions in the catalogue -> their contents. Called from one other thread, while the batch before is encoded."""

Encode = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""What `Load` gave for n positions -> (rows [n, *row], present bool [n])."""


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
        self,
        keys: np.ndarray,
        load: Load,
        encode: Encode,
        *,
        batch: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows [N, *row], memory-mapped; present bool [N]) for content `keys` [N, 32].

        Rows that no block holds are encoded, `batch` at a time, and kept. Absent content (zero keys), and content
        that `encode` reports as absent, has rows of zeros; the latter is tried again with the next new table.
        """
        report = progress or (lambda done, total: None)
        name = "table-" + hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        while (found := self._opened(name)) is None:
            with locked(self.folder):
                if self._opened(name) is None:  # another process may have made it while this one waited
                    self._write_table(name, keys, self._fill(keys, load, encode, batch, report))
                    self._prune(name)
        report(len(keys), len(keys))
        return found[0], np.any(found[1], axis=1).reshape(len(keys))

    def _fill(self, keys: np.ndarray, load: Load, encode: Encode, batch: int, report: Report) -> _Index:
        index = self._index()
        wanted: dict[bytes, int] = {}
        for position, key in enumerate(map(bytes, keys)):
            if any(key) and key not in index and key not in wanted:
                wanted[key] = position
        positions = list(wanted.values())
        batches = [positions[start : start + batch] for start in range(0, len(positions), batch)]
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        done, flushed = len(keys) - len(positions), time.monotonic()
        report(done, len(keys))
        for here, contents in _loaded_ahead(load, batches):
            rows, present = encode(contents)
            pending.append((np.asarray(rows, self._row_dtype)[present], keys[here][present]))
            done += len(here)
            if here is batches[-1] or time.monotonic() - flushed > _PART_SECONDS:
                self._write_part(pending, index)
                pending, flushed = [], time.monotonic()
            report(done, len(keys))
        return index

    def _write_part(self, pending: list[tuple[np.ndarray, np.ndarray]], index: _Index) -> None:
        rows = np.concatenate([rows for rows, _ in pending])
        keys = np.concatenate([keys for _, keys in pending])
        if len(keys):
            name = f"part-{uuid.uuid4().hex}"
            write_array(self._path(name, "rows"), rows)
            write_array(self._path(name, "keys"), keys)
            self._add(index, name)

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

    def _prune(self, name: str) -> None:
        """Parts are in the new table now; older tables beyond TABLES_KEPT go."""
        tables = sorted(self.folder.glob("table-*.keys.npy"), key=lambda path: path.stat().st_mtime)
        doomed = [path.name for path in tables[:-TABLES_KEPT]] + [p.name for p in self.folder.glob("part-*.keys.npy")]
        for keys_name in doomed:
            if not keys_name.startswith(name):
                (self.folder / keys_name).unlink()
        whole = {path.name.removesuffix(".keys.npy") for path in self.folder.glob("*.keys.npy")}
        for path in [*self.folder.glob("*.rows.npy"), *self.folder.glob("*.tmp")]:
            if path.name.split(".")[0] not in whole:
                path.unlink()

    def _index(self) -> _Index:
        index: _Index = {}
        for path in sorted(self.folder.glob("*.keys.npy")):
            self._add(index, path.name.removesuffix(".keys.npy"))
        return index

    def _add(self, index: _Index, name: str) -> None:
        rows, keys = self._open(name)
        index.update((key, (rows, place)) for place, key in enumerate(map(bytes, keys)) if any(key))

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
Report = Callable[[int, int], None]


def _loaded_ahead(load: Load, batches: Sequence[list[int]]) -> Iterator[tuple[list[int], Any]]:
    """Each batch with its contents; the next one is loaded meanwhile, so that drawing and encoding overlap."""
    with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
        ahead = [loader.submit(load, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            contents = ahead.pop().result()
            ahead = [loader.submit(load, following) for following in batches[number + 1 : number + 2]]
            yield batch, contents


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
