"""What stands before a ledger file: refuses one that is damaged, or that lost charges which were acknowledged."""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path

from mmrank.errors import LedgerRolledBackError, PrivacyError
from mmrank.privacy import _records, _schema, _verify
from mmrank.privacy._witness import Mark, Witness

CHECKED_ON_OPENING = 200_000
"""Entries up to which a durable file is verified whole when it is opened (about a second); `mmrank ledger verify`
checks any."""
_MAGIC = b"SQLite format 3\x00"
_KEEP = "Put back the newest whole copy of the file and of those beside it (-wal, .witness), and keep this one."


class Guard:
    """The checks of one file; durable: as the ledger's."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path, self.durable, self.witness = path, durable, Witness(path)
        self._seen: Mark | None = None
        self._witnessed = durable

    def before(self) -> None:
        """Before SQLite touches the file, which would make a new one of an emptied one. Raises PrivacyError."""
        # read before the ledger: other processes may charge in between, and the ledger is always ahead
        self._seen = self.witness.read()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == 0 and self._seen is not None and self._seen[0] > 0:
            raise LedgerRolledBackError(
                f"{self.path} is missing or empty, but held {self._seen[0]} charges that count; nothing may be charged "
                f"to it. {_KEEP}"
            )
        if size:
            _check_length(self.path)

    def opened(self, connection: sqlite3.Connection) -> None:
        """After SQLite opened it. Raises PrivacyError; LedgerRolledBackError where entries are gone."""
        _schema.prepare(connection, self.path, durable=self.durable)
        (entries,) = connection.execute("SELECT max(id) FROM entries").fetchone()
        if self.durable and (entries or 0) <= CHECKED_ON_OPENING:
            self._check_all(connection)
        self._witnessed = check_witness(connection, self.path, self._seen) or self.durable
        if self.durable:
            self._begin_witness(connection)

    def committed(self, mark: Mark) -> None:
        """Tell the witness of the newest entry, after its transaction. Raises PrivacyError where that fails."""
        if not self._witnessed:
            return
        try:
            self.witness.record(mark)
        except OSError as error:
            raise PrivacyError(
                f"{self.witness.path} can't be written ({error}), so this charge counts but nothing may be trained on "
                "it; look after the disk (space, health, rights) and try again."
            ) from error

    def _check_all(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        try:
            found = _verify.faults(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if found:
            whose = found[0].key or "the file"
            raise PrivacyError(
                f"{self.path} is damaged: {whose}: {found[0].message}; nothing may be charged to it. {_KEEP}"
            )

    def _begin_witness(self, connection: sqlite3.Connection) -> None:
        """A file that becomes durable gets its witness before it says that it has one."""
        if _is_durable(connection, self.path):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _is_durable(connection, self.path):
                self.witness.create(_records.newest(connection))
                connection.execute("UPDATE file SET durable = 1")
            connection.execute("COMMIT")
        except OSError as error:
            connection.execute("ROLLBACK")
            raise PrivacyError(
                f"{self.witness.path} can't be made ({error}); look after the disk (space, health, rights)."
            ) from error
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def check_witness(connection: sqlite3.Connection, path: Path, seen: Mark | None) -> bool:
    """Whether the file should have a witness. Raises LedgerRolledBackError where it lacks what the witness has `seen`,
    PrivacyError where the witness is gone."""
    expected = _is_durable(connection, path)
    if seen is None and expected:
        raise PrivacyError(
            f"{Witness(path).path} is missing or damaged, which tells how many charges {path} must hold. {_KEEP} Where "
            "it is lost, `mmrank ledger verify --new-witness` makes one of a ledger that holds together."
        )
    if seen is not None and seen[0]:
        number, digest = seen
        held = connection.execute("SELECT hash FROM entries WHERE id = ?", (number,)).fetchone()
        if held is None or held[0].hex() != digest:
            raise LedgerRolledBackError(
                f"{path} lacks its entry number {number} ({digest[:12]}), which was charged; it holds "
                f"{_records.newest(connection)[0]} and was damaged, or is an older state. {_KEEP}"
            )
    return expected


def _is_durable(connection: sqlite3.Connection, path: Path) -> bool:
    found = connection.execute("SELECT durable FROM file").fetchone()
    if found is None:
        raise PrivacyError(f"{path} is damaged: its table `file` is empty; nothing may be charged to it. {_KEEP}")
    return bool(found[0])


def _check_length(path: Path) -> None:
    """SQLite fills a missing end of the last page with zeros. Raise PrivacyError where the file was cut."""
    for attempt in range(3):
        with path.open("rb") as file:
            header = file.read(100)
        if not header.startswith(_MAGIC[: len(header)]):
            return  # no database at all: SQLite says so
        size, logs = path.stat().st_size, [path.with_name(f"{path.name}-{log}") for log in ("wal", "journal")]
        if any(log.exists() and log.stat().st_size > 0 for log in logs):
            return  # what a log still holds need not be in the file yet, and half a page is written again from there
        if len(header) == 100:
            (page,), (pages,) = struct.unpack(">H", header[16:18]), struct.unpack(">I", header[28:32])
            page = 65_536 if page == 1 else page
            if size == pages * page:
                return
        time.sleep(0.005 * attempt)  # another process may have written between the looks
    raise PrivacyError(f"{path} was cut to {size} bytes; nothing may be charged to it. {_KEEP}")
