"""A client's own store of new events: one SQLite file in the client's folder, readable by its owner alone.

It is local: nothing of it goes on the wire, into a log line or into an error's text, and no copy is made but the export
that somebody asks for. What `append` returned for survives kill -9 and, where durable, a loss of power; of a call that
was cut, all or nothing is there, and appending the same again adds nothing twice.

Slates of a later training are built from one person's events by time: the SHOWN rows of a slate are its candidates in
order of position, its other rows their relevance, and whatever the person did before is the history.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from client import _event_table as table
from client._event_file import EventFile
from client._event_records import SHOWN, TYPES, LoggedEvent, clock_days, fault_of, mark_of, oldest_kept, text_fault
from client._event_text import Form, days_of, moment_of, read_events, write_events
from mmrank.errors import ConfigError, DatasetError

__all__ = [
    "CANNOT_UNDO",
    "SHOWN",
    "TYPES",
    "Appended",
    "EventStore",
    "Forgotten",
    "LoggedEvent",
    "Standing",
    "days_of",
    "moment_of",
    "read_events",
]

CANNOT_UNDO = (
    "A model that was trained on these events keeps what it learned. What it can tell of the person is bounded by what "
    "was charged for it: mmrank ledger show LEDGER says the epsilon and its unit. Of unit slate it is a promise for "
    "one impression, not for the person; without privacy there is none.",
    "The ledger keeps its charges: what was spent stays spent.",
    "Personal parts of a model are fitted without noise: fit them anew.",
    "A process that has read them has them until it ends. Exports, backups and other copies of the file stay, as do "
    "the shop's logs, and blocks that the disk freed until it writes over them: delete the copies, encrypt the disk.",
    "Other clients never held these events, so there is nothing to forget there.",
)
"""What forgetting does not undo, for the person who asked and for whoever answers."""


@dataclass(frozen=True, kw_only=True)
class Appended:
    """added: new in the store. known: there already. expired: older than the limit; forgotten: of people who are to
    stay forgotten; neither is kept."""

    added: int
    known: int
    expired: int
    forgotten: int


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """events: how many were deleted. note: what that does not undo."""

    events: int
    note: tuple[str, ...] = CANNOT_UNDO


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Counts, and no ids. slates: distinct impressions. oldest_days, newest_days: of events, since 1970-01-01 UTC,
    None where there is none. forgotten: people. traces: whether bytes of what was deleted may still lie in the file."""

    events: int
    people: int
    slates: int
    by_type: Mapping[str, int]
    oldest_days: float | None
    newest_days: float | None
    retention_days: float | None
    forgotten: int
    traces: bool
    bytes: int


class EventStore:
    """Many processes may read while one writes; another that writes waits for up to busy_seconds.

    retention_days: events older than that are neither kept nor returned. It is written into the file by the next
    `append` or `expire`; None goes by what the file says, which is no limit at first.
    clock: now, in days since 1970-01-01 UTC. A clock that runs ahead makes events expire early, for good.
    durable: each change is fsynced before its call returns. The file is made by the first call that writes.

    Every call raises DatasetError where the file is damaged, of a newer release, a link, readable by others, busy, or
    can't be read or written; then nothing was changed unless it says so.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        retention_days: float | None = None,
        clock: Callable[[], float] = clock_days,
        durable: bool = True,
        busy_seconds: float = 60.0,
    ) -> None:
        if retention_days is not None and not 0 < retention_days < math.inf:
            raise ConfigError(
                f"Expected retention_days={retention_days} in (0, inf); leave it out to keep events for good."
            )
        self._retention_days, self._clock = retention_days, clock
        self.path = Path(path).expanduser()
        self._file = EventFile(self.path, durable=durable, busy_seconds=busy_seconds)

    def exists(self) -> bool:
        """Whether anything was ever written; DatasetError where what lies there can't be a store."""
        return self._file.exists()

    def append(self, events: Iterable[LoggedEvent]) -> Appended:
        """Add a batch in one transaction, and drop what is older than the limit. `events` may be an iterator.

        Raises DatasetError for the first event that can't be kept, by its number in the batch; then none is.
        """
        now = self._clock()
        counts = {"added": 0, "known": 0, "expired": 0, "forgotten": 0}
        with self._file.writing() as connection:
            oldest, salt = self._settle(connection, now), table.about(connection).salt
            some_forgotten = table.anybody_forgotten(connection)
            for number, event in enumerate(events, 1):
                fault = fault_of(event, now_days=now)
                if fault:
                    raise DatasetError(f"Event {number} of the batch: {fault}. Nothing of the batch was added.")
                if event.time_days < oldest:
                    counts["expired"] += 1
                elif some_forgotten and table.is_refused(connection, mark_of(salt, event.user), event.time_days):
                    counts["forgotten"] += 1
                else:
                    counts["added" if table.insert(connection, event, number) else "known"] += 1
            table.expire(connection, oldest, promised=False)
        return Appended(**counts)

    def events(self, *, since: float | None = None, user: str | None = None) -> Iterator[LoggedEvent]:
        """Events by time, each with its key: from day `since` on, of `user` alone; none where there is no store.

        They are read in pages, so a long reading holds up nobody: what is appended after the first page is left out,
        what expires or is forgotten meanwhile is returned no more.
        """
        if not self.exists():
            return
        newest, after = None, table.START
        while True:
            with self._file.reading() as connection:
                newest = table.newest_row(connection) if newest is None else newest
                first = max(self._oldest(connection), -math.inf if since is None else since)
                found, after = table.page(connection, after, first_days=first, up_to_row=newest, user=user)
            yield from found
            if len(found) < table.PAGE:
                return

    def export(self, out: Path, *, form: Form | None = None, user: str | None = None) -> int:
        """Write events to `out`, mode 0600, whole or not at all, and return how many. With `user`, all that is kept of
        one person: their right of access. An export can be appended to a store. form: by the suffix of `out` if None.

        Raises DatasetError also where `out` can't be written, or is the store's own file.
        """
        out = out.expanduser()
        own = {self.path.resolve().with_name(f"{self.path.name}{suffix}") for suffix in ("", "-wal", "-shm")}
        if out.resolve() in own:
            raise DatasetError(f"{out} is the store itself, which an export would replace; name another file.")
        return write_events(out, self.events(user=user), form=form)

    def expire(self, now_days: float | None = None) -> int:
        """Delete what is older than the limit at `now_days`, by default the clock's, without a trace as `forget`, and
        return how many it was."""
        now = self._clock() if now_days is None else now_days
        with self._file.writing() as connection:
            deleted = table.expire(connection, self._settle(connection, now), promised=True)
            traces = table.about(connection).traces
        if traces:
            self._overwrite()
        return deleted

    def forget(self, user: str) -> Forgotten:
        """Delete all of one person's events, and leave out what comes of them later, until `readmit`.

        Once it returns, the person's id, items and queries are in no byte of the file or its log. What stays is a
        keyed hash of the id, without which the store could not know whom to leave out; the key lies in the file, so
        whoever has the file can test a guess of who was forgotten.
        Raises DatasetError also where traces can't be overwritten, since another process is in the way or the disk is
        full: the events are deleted even so, and the next call that writes tries again.
        """
        _check_user(user)
        with self._file.writing() as connection:
            deleted = table.forget(connection, user)
        self._overwrite()
        return Forgotten(events=deleted)

    def readmit(self, user: str, *, since: float | None = None) -> bool:
        """Take events of a forgotten person again, from day `since` on; False where they were not forgotten.

        since: the clock's now by default, so that the person comes back and their past does not. 0 takes all, for
        one who was forgotten by mistake.
        """
        _check_user(user)
        before = self._clock() if since is None else since
        if not math.isfinite(before):
            raise DatasetError(f"Expected since={since} to be a day since 1970-01-01 UTC; give a finite one.")
        with self._file.writing() as connection:
            return table.readmit(connection, user, before)

    def standing(self) -> Standing:
        """Counts of what may still be returned, and the file's state. Raises DatasetError where there is no store."""
        if not self.exists():
            raise DatasetError(f"{self.path} is no store: there is no such file; the first append makes it.")
        size = self._file.bytes()
        with self._file.reading() as connection:
            told = table.about(connection)
            return Standing(
                **table.counts(connection, self._oldest(connection)),
                retention_days=told.retention_days if self._retention_days is None else self._retention_days,
                traces=told.traces > 0,
                bytes=size,
            )

    def _oldest(self, connection: sqlite3.Connection) -> float:
        given = self._retention_days
        return oldest_kept(self._clock(), table.about(connection).retention_days if given is None else given)

    def _settle(self, connection: sqlite3.Connection, now_days: float) -> float:
        """Write the limit that was given, if one was; the first moment that is kept."""
        if self._retention_days is not None:
            table.keep_for(connection, self._retention_days)
        return oldest_kept(now_days, table.about(connection).retention_days)

    def _overwrite(self) -> None:
        try:
            self._file.overwrite()
        except DatasetError as error:
            raise DatasetError(
                "The events are deleted for good, but traces of them may be left in the file until a later call "
                f"overwrites them: {error}"
            ) from error


def _check_user(user: str) -> None:
    fault = text_fault("user", user)
    if fault:
        raise DatasetError(f"{fault[0].upper()}{fault[1:]}.")
