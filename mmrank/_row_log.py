"""Rows while they are encoded, appended to one file: what `append` returned from survives a kill.

The file is records, each a header (how many, and a checksum of the rest), n keys and n rows. A kill leaves a torn
record at the end at most; a loss of power may leave any of them torn. Reading ends before the first that is.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

KEY_BYTES = 32

_HEADER = struct.Struct("<II")


class RowLog:
    """A new log at `path`, created with its first record; threads may append at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()

    def append(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Keep rows [n, *row] under keys uint8 [n, 32]; nothing is written where n is 0. Raises OSError."""
        if not len(keys):
            return
        record = keys.tobytes() + rows.tobytes()
        header = _HEADER.pack(len(keys), zlib.crc32(record))
        with self._lock:
            if self._file is None:
                self._file = self._path.open("xb")
            self._file.write(header + record)
            self._file.flush()  # to the kernel: from there a kill takes nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def read_log(path: Path, *, row_shape: tuple[int, ...], row_dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys [n, 32], rows [n, *row], memory-mapped) of each whole record of a log."""
    if not path.stat().st_size:
        return  # nothing can be mapped of it
    content = np.memmap(path, np.uint8, mode="r")
    row_bytes = int(np.prod(row_shape, dtype=np.int64)) * row_dtype.itemsize
    start = _HEADER.size
    while start <= len(content):
        count, checksum = _HEADER.unpack(content[start - _HEADER.size : start].tobytes())
        middle, end = start + count * KEY_BYTES, start + count * (KEY_BYTES + row_bytes)
        if not count or end > len(content) or zlib.crc32(content[start:end].data) != checksum:
            return
        rows = content[middle:end].view(row_dtype).reshape(count, *row_shape)
        yield content[start:middle].reshape(count, KEY_BYTES), rows
        start = end + _HEADER.size
