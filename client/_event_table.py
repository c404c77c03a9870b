"""What is asked of a store's tables, inside a transaction that the caller holds."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client._event_file import EXPIRED, PROMISED
from client._event_records import COLUMNS, TYPES, LoggedEvent, mark_of, values_of
from mmrank.errors import DatasetError

PAGE = 2_000
_NAMES = ", ".join(COLUMNS)
_MARKS = ", ".join("?" for _ in COLUMNS)

Place = tuple[float, int]
"""(time_days, row) of the event that was read last."""
START: Place = (-math.inf, 0)


@dataclass(frozen=True, kw_only=True)
class About:
    """What the file says of itself."""

    salt: bytes
    retention_days: float | None
    traces: int


def about(connection: sqlite3.Connection) -> About:
    """Raises DatasetError where the file doesn't say it any more."""
    row = connection.execute("SELECT salt, retention_days, traces FROM about").fetchone()
    if row is None:
        raise DatasetError("The store lost its salt, so it no longer knows who was forgotten; begin a new one.")
    return About(salt=row[0], retention_days=row[1], traces=row[2])


def keep_for(connection: sqlite3.Connection, retention_days: float) -> None:
    """Make that the store's limit."""
    connection.execute("UPDATE about SET retention_days = ?", (retention_days,))


def insert(connection: sqlite3.Connection, event: LoggedEvent, number: int) -> bool:
    """Whether the event was new. Raises DatasetError where its key is that of another event."""
    values = values_of(event)
    added = connection.execute(
        f"INSERT INTO events ({_NAMES}) VALUES ({_MARKS}) ON CONFLICT (key) DO NOTHING", values
    ).rowcount
    if added:
        return True
    if connection.execute(f"SELECT {_NAMES} FROM events WHERE key = ?", values[-1:]).fetchone() != values:
        raise DatasetError(
            f"Event {number} of the batch has the key of another event that is kept; give each event a key of its own, "
            "or none. Nothing of the batch was added."
        )
    return False


def is_refused(connection: sqlite3.Connection, mark: bytes, time_days: float) -> bool:
    """Whether a person of that mark is forgotten up to that time."""
    row = connection.execute("SELECT before_days FROM forgotten WHERE mark = ?", (mark,)).fetchone()
    return row is not None and time_days < row[0]


def anybody_forgotten(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM forgotten LIMIT 1").fetchone() is not None


def expire(connection: sqlite3.Connection, oldest: float, *, promised: bool) -> int:
    """Delete what was before `oldest` and return how many; what they leave in the file is owed, at once if promised."""
    deleted = connection.execute("DELETE FROM events WHERE time_days < ?", (oldest,)).rowcount
    owed, before = (PROMISED if promised else EXPIRED), about(connection).traces
    if deleted or (promised and before):
        connection.execute("UPDATE about SET traces = ?", (max(before, owed),))
    return deleted


def forget(connection: sqlite3.Connection, user: str) -> int:
    """Delete a person's events, mark the person, and return how many events it were."""
    mark = mark_of(about(connection).salt, user)
    connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?)", (mark, math.inf))
    connection.execute("UPDATE about SET traces = ?", (PROMISED,))
    # by a scan: an index with a fault must not hide a row
    return connection.execute("DELETE FROM events NOT INDEXED WHERE user = ?", (user,)).rowcount


def readmit(connection: sqlite3.Connection, user: str, before_days: float) -> bool:
    """Refuse what was before alone; whether the person was forgotten."""
    mark = mark_of(about(connection).salt, user)
    if before_days <= 0:
        return connection.execute("DELETE FROM forgotten WHERE mark = ?", (mark,)).rowcount > 0
    update = "UPDATE forgotten SET before_days = ? WHERE mark = ?"
    return connection.execute(update, (before_days, mark)).rowcount > 0


def newest_row(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT coalesce(max(row), 0) FROM events").fetchone()[0]


def page(
    connection: sqlite3.Connection, after: Place, *, first_days: float, up_to_row: int, user: str | None
) -> tuple[list[LoggedEvent], Place]:
    """The next PAGE events by time, fewer at the end, and where the last of them stands."""
    where, given = ("AND user = ?", (user,)) if user is not None else ("", ())
    rows: Sequence[tuple[Any, ...]] = connection.execute(
        f"SELECT row, {_NAMES} FROM events WHERE (time_days, row) > (?, ?) AND time_days >= ? AND row <= ? {where} "
        f"ORDER BY time_days, row LIMIT {PAGE}",
        (*after, first_days, up_to_row, *given),
    ).fetchall()
    events = [LoggedEvent(**dict(zip(COLUMNS, row[1:], strict=True))) for row in rows]
    return events, (events[-1].time_days, rows[-1][0]) if rows else after


def counts(connection: sqlite3.Connection, oldest: float) -> dict[str, Any]:
    """Of events at or after `oldest`, as Standing names them."""
    types = "SELECT type, count(*) FROM events WHERE time_days >= ? GROUP BY type"
    by_type: dict[str, int] = dict(connection.execute(types, (oldest,)).fetchall())
    span = "SELECT count(DISTINCT user), min(time_days), max(time_days) FROM events WHERE time_days >= ?"
    people, first, last = connection.execute(span, (oldest,)).fetchone()
    pairs = "SELECT DISTINCT user, slate FROM events WHERE slate != '' AND time_days >= ?"
    return {
        "events": sum(by_type.values()),
        "people": people,
        "slates": connection.execute(f"SELECT count(*) FROM ({pairs})", (oldest,)).fetchone()[0],
        "by_type": {name: by_type.get(name, 0) for name in TYPES},
        "oldest_days": first,
        "newest_days": last,
        "forgotten": connection.execute("SELECT count(*) FROM forgotten").fetchone()[0],
    }
