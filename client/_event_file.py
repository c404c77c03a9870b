"""The file of a client's store: made whole or not at all, opened for each call, and left without traces.

A connection lives for one call: nothing is held over a fork, threads need no lock, and once nobody writes there is one
file without a log beside it. The file must lie on a local disk, where SQLite's write-ahead log can share memory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mmrank.errors import DatasetError
from mmrank.privacy.database import committed

APPLICATION = 0x6D6D6576
"""Stands in the file's header: no other SQLite file is taken for a store."""
VERSION = 1

EXPIRED, PROMISED = 1, 2
"""What `about.traces` owes: nothing (0), to overwrite what expired some time, or what was to be gone at once."""

_SCHEMA = f"""
BEGIN;
CREATE TABLE events (
    row INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item TEXT NOT NULL, time_days REAL NOT NULL,
    type TEXT NOT NULL, query TEXT NOT NULL, slate TEXT NOT NULL, position INTEGER NOT NULL, propensity REAL,
    key TEXT NOT NULL UNIQUE);
CREATE INDEX by_time ON events (time_days);
CREATE INDEX by_user ON events (user, time_days);
CREATE TABLE forgotten (mark BLOB PRIMARY KEY, before_days REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE about (salt BLOB NOT NULL, retention_days REAL, traces INTEGER NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""

_DAMAGED = (
    "the file is damaged. Move it and its -wal away, append the shop's log to a new store, and forget again whoever "
    "had asked for it: the old one alone remembered them"
)
_DISK = "look after the disk (room, quota, health) and call again: what is there already is not added twice"
_RIGHTS = "file and folder must be this user's to write, also for reading; change their owner or rights"

_REMEDIES = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: f"it is no store of events; name another file. If it was one, {_DAMAGED}",
    sqlite3.SQLITE_FULL: _DISK,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_CANTOPEN: _RIGHTS,
}


class EventFile:
    """Connections to one store's file. durable: each transaction is fsynced before it returns."""

    def __init__(self, path: Path, *, durable: bool, busy_seconds: float) -> None:
        self.path, self._durable, self._busy_seconds = path, durable, busy_seconds
        self._checked = False

    def exists(self) -> bool:
        """Whether the file is there. Raises DatasetError where it is a link, no plain file, or others can read it."""
        for suffix in ("-wal", "-shm", ""):
            name = f"{self.path}{suffix}"
            try:
                mode = os.lstat(name).st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DatasetError(f"{name} can't be looked at ({error.strerror}); {_RIGHTS}.") from error
            if not stat.S_ISREG(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
                raise DatasetError(
                    f"{name} is {kind}: a store is one file in the client's own folder; name the file itself."
                )
            if mode & 0o077:
                raise DatasetError(
                    f"{name} holds behaviour, and others can read it (mode {mode & 0o777:o}); chmod 600 it."
                )
            if not suffix:
                return True
        return False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction that only reads; the file must exist. Raises DatasetError, as all here."""
        with self._opened() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside the only transaction that writes, committed at the end, undone by an error.

        Makes the file where it is absent. An older promise to leave no traces is kept first, if nobody is in the way.
        """
        if not self.exists():
            self._make()
        with self._opened() as connection:
            if connection.execute("SELECT traces FROM about").fetchone() == (PROMISED,):
                self._overwrite_if_free(connection)
            with committed(connection):
                yield connection

    def overwrite(self) -> None:
        """Leave no byte of what was deleted in the file or its log; durable where the file is.

        secure_delete alone leaves copies of rows that SQLite had moved within a page, so the file is built anew.
        """
        with self._opened() as connection:
            self._overwrite(connection)

    def bytes(self) -> int:
        """The size of the file and of what lies beside it."""
        files = (Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _overwrite_if_free(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._overwrite(connection)
        except (sqlite3.OperationalError, DatasetError):
            return  # the promise still stands in the file, and new events must not wait for it
        finally:
            connection.execute(f"PRAGMA busy_timeout = {round(self._busy_seconds * 1e3)}")

    def _overwrite(self, connection: sqlite3.Connection) -> None:
        before = connection.execute("PRAGMA data_version").fetchone()
        self._empty_log(connection)
        connection.execute("VACUUM")
        self._empty_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA data_version").fetchone() == before:  # or another process may have deleted more
            connection.execute("UPDATE about SET traces = 0")
        connection.execute("COMMIT")

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """All of the log into the file, and the log cut to nothing."""
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise DatasetError(
                f"{self.path} is being read or written by another process, for longer than {self._busy_seconds:g} "
                "seconds; wait for it, or end it, and call again."
            )
        try:
            if self._durable:  # or a loss of power could bring the old log back
                _sync(Path(f"{self.path}-wal"))
        except OSError as error:
            raise DatasetError(f"{self.path}-wal can't be synced ({error.strerror}); {_DISK}.") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.exists()
        with self._refusing(), self._connection(self.path) as connection:
            self._check(connection)
            yield connection

    @contextmanager
    def _connection(self, path: Path) -> Iterator[sqlite3.Connection]:
        uri = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file
        with closing(sqlite3.connect(uri, uri=True, timeout=self._busy_seconds, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA temp_store = MEMORY")  # nothing of it lies in a file elsewhere
            yield connection

    def _check(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise DatasetError(f"{self.path} can't be used: {_REMEDIES[sqlite3.SQLITE_NOTADB]}.")
        if version != VERSION:
            raise DatasetError(
                f"{self.path} has schema {version}, and this release knows {VERSION}; use the release that wrote it."
            )
        connection.execute("PRAGMA journal_mode = WAL")  # it is, unless somebody changed it by hand
        if not self._checked:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != ("ok",):
                raise DatasetError(f"{self.path} can't be used: {_DAMAGED}.")
            self._checked = True

    def _make(self) -> None:
        """The empty store, under its name only when it is whole: an empty file is thus always a damaged one."""
        folder, draft = self.path.parent, self.path.with_name(f".{self.path.name}.new")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):  # two that make it at once take turns
                if self.exists():
                    return
                if Path(f"{self.path}-wal").exists():
                    raise DatasetError(
                        f"{self.path}-wal lies there without its store, and would spoil a new one; put the store back, "
                        "or delete the log with what it holds."
                    )
                self._write_draft(draft)
                os.replace(draft, self.path)
                _sync(folder)
        except OSError as error:
            raise DatasetError(f"{self.path} can't be made ({error.strerror}); {_RIGHTS}, and have room.") from error

    def _write_draft(self, draft: Path) -> None:
        for suffix in ("", "-journal", "-wal", "-shm"):  # of a process that was killed here
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with self._refusing(), self._connection(draft) as connection:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO about VALUES (?, NULL, 0)", (secrets.token_bytes(32),))
            connection.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """An error of SQLite's becomes a DatasetError with a remedy."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # no code: no UTF-8
            if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                why = f"another process has held it for {self._busy_seconds:g} seconds; wait for it, or end it"
                raise DatasetError(f"{self.path} is busy: {why}, and call again.") from error
            raise DatasetError(f"{self.path} can't be used ({error}): {_REMEDIES.get(primary, _DISK)}.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Never of the store's file itself: closing it would drop SQLite's locks on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
