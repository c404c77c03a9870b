"""A durable SQLite file for one or more processes of one machine: what the ledger and the outbox stand on."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmrank.errors import PrivacyError

BUSY_SECONDS = 60.0


@contextmanager
def committed(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that no other writes into: committed at the end, undone by an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Database:
    """Safe for threads, forks and several processes at once.

    durable: each transaction is fsynced before it returns and survives a loss of power; without it one survives the
    death of the process (kill -9) alone: enough for what dies with a simulation.
    The file must lie on a local disk: SQLite's write-ahead log needs shared memory.
    """

    def __init__(
        self,
        path: Path | str,
        schema: str,
        *,
        durable: bool,
        before: Callable[[], None] | None = None,
        opened: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """before: called before the file is touched; opened: with each new connection before anyone uses it. Either
        may refuse by a PrivacyError."""
        self.path, self.durable = Path(path).expanduser(), durable
        self._schema, self._before, self._opened = schema, before, opened
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._file = (0, 0)
        self._inherited: list[sqlite3.Connection] = []

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, without a transaction. Opens the file, and makes it where it is absent.

        Raises PrivacyError where it is no database, can't be opened, or can't be read.
        """
        with self._lock, self._refusing():
            yield self._connected()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction that no other writes into: committed at the end, undone by an error.

        Raises PrivacyError where the disk fails: what was written may then be lost, and counts for nothing.
        """
        with self._lock, self._refusing():
            connection = self._connected()
            self._check_place()
            with committed(connection):
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction that only reads: all of it as it stood at one moment."""
        with self.read() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
                self._connection = None

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """An error of the disk or the file becomes a PrivacyError, and the next use opens and checks the file anew."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._forget()
            raise PrivacyError(
                f"{self.path} can't be read or written ({error}), so nothing may be charged to it; look after the "
                "disk (space, health, rights) and try again. Keep the file: deleting it may forget what was spent."
            ) from error

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._process == os.getpid():
            with suppress(sqlite3.Error):  # it is broken already; what matters is that nobody uses it again
                connection.close()

    def _check_place(self) -> None:
        """Raise PrivacyError where the file was moved away: others would not see what is written into it."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != self._file:
            raise PrivacyError(
                f"{self.path} was removed or replaced while it was in use; put it back, or restart with the file that "
                "holds what was spent."
            )

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            # after a fork the parent's connection must be neither used nor closed here
            self._inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._connection, self._process = self._open(), os.getpid()
            opened = self.path.stat()
            self._file = (opened.st_dev, opened.st_ino)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._before is not None:
            self._before()
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'OFF'}")
            _write_ahead(connection)
            connection.executescript(self._schema)
            if self._opened is not None:
                self._opened(connection)
        except (sqlite3.DatabaseError, PrivacyError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, PrivacyError):
                raise
            raise PrivacyError(
                f"{self.path} can't be opened ({error}); name another file in the settings. "
                "Keep this one: deleting it may forget what was spent."
            ) from error
        if self.durable:
            _sync_folder(self.path.parent)
        return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log: one fsync a transaction. Two that open a new file at once must take turns."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _sync_folder(folder: Path) -> None:
    """A new file's name is durable only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
