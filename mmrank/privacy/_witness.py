"""A small file beside a durable ledger that says how many entries it must hold.

SQLite drops the end of a damaged write-ahead log without a word, and takes an emptied file for a new one. The witness
is written after each commit, so that it never says more than the ledger holds; where the ledger holds less, entries
were lost, and nothing may be charged. It lies in the page cache until the system writes it out: against the loss of
power the ledger's own fsync stands, against damage to the ledger's files the witness.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mmrank.privacy._chain import digest

Mark = tuple[int, str]
"""(number of the newest entry in the file, its hash); (0, "") for none."""

_SLOT_BYTES = 128


class Witness:
    """Two slots, each with a checksum: the older one is overwritten, so that a torn write leaves the other."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(f"{ledger.name}.witness")

    def read(self) -> Mark | None:
        """The newest mark that is whole, or None where there is no file or no whole slot."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return max(_marks(content), default=None)

    def create(self, mark: Mark) -> None:
        """Write a file that holds `mark` alone, in place of any other; durable when this returns."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(_slot(mark) + _slot((0, "")))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def record(self, mark: Mark) -> None:
        """Write `mark`, unless a newer one stands there. Raises OSError."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = [_marks(os.pread(descriptor, _SLOT_BYTES, at)) for at in (0, _SLOT_BYTES)]
            first, second = (slot[0] if slot else (-1, "") for slot in found)
            if mark > max(first, second):
                slot, at = _slot(mark), 0 if first < second else _SLOT_BYTES
                if os.pwrite(descriptor, slot, at) != _SLOT_BYTES:
                    raise OSError(f"short write to {self.path}")
        finally:
            os.close(descriptor)


def _slot(mark: Mark) -> bytes:
    text = f"{mark[0]:020d} {mark[1]:64}"
    return f"{text} {digest(text)[:32]}".ljust(_SLOT_BYTES - 1).encode() + b"\n"


def _marks(content: bytes) -> list[Mark]:
    """The marks of all whole slots."""
    marks = []
    for at in range(0, len(content) - _SLOT_BYTES + 1, _SLOT_BYTES):
        text = content[at : at + _SLOT_BYTES].decode("ascii", errors="replace")
        if text[86:118] == digest(text[:85])[:32]:
            marks.append((int(text[:20]), text[21:85].strip()))
    return marks
