"""Rows of a ledger file: read, begun and appended to, inside the caller's transaction."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mmrank.errors import PrivacyError
from mmrank.privacy import _chain
from mmrank.privacy._chain import Entry, Head
from mmrank.privacy._composition import Planned
from mmrank.privacy.accountant import Event
from mmrank.privacy.policy import Policy

_COLUMNS = (
    "id, key, salt, mechanism, unit, delta, budget, renew_every_days, retention_days, filter_order, "
    "entries, head, newest, period, clock_went_back, opted_out"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A begun ledger, as its row tells it. entries, hash: its head. newest: row of its last entry."""

    id: int
    key: str
    salt: str
    policy: Policy
    order: float
    entries: int
    hash: str
    newest: int | None
    period: int
    clock_went_back: bool
    opted_out: bool

    @property
    def head(self) -> Head:
        """(entries, hash of the last one)."""
        return self.entries, self.hash

    @property
    def genesis(self) -> str:
        """The hash that its first entry stands on."""
        return _chain.genesis(self.key, self.salt, self.policy, self.order)


def find(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Row]:
    """The begun ledgers among `keys`, by key; a damaged one raises PrivacyError.

    Each row is held against its last entry, which lies elsewhere in the file.
    """
    found = connection.execute(
        f"SELECT {', '.join(f'l.{name}' for name in _COLUMNS.split(', '))}, e.ledger, e.position, e.hash "
        "FROM json_each(?) AS asked JOIN ledgers AS l ON l.key = asked.value LEFT JOIN entries AS e ON e.id = l.newest",
        (json.dumps(list(keys)),),
    )
    rows = {}
    for *columns, ledger, position, digest in found:
        row = _row(columns)
        if (ledger, position, digest) != (row.id, row.entries, bytes.fromhex(row.hash)):
            raise PrivacyError(
                f"The ledger of {row.key} is damaged: its head is entry {row.entries}, which is not where it should "
                "be; nothing may be charged to it. Put back the newest whole copy of the file."
            )
        rows[row.key] = row
    return rows


def every(connection: sqlite3.Connection) -> list[Row]:
    """All begun ledgers by key, as their rows tell; nothing is checked."""
    return [_row(columns) for columns in connection.execute(f"SELECT {_COLUMNS} FROM ledgers ORDER BY key")]


def begin(connection: sqlite3.Connection, key: str, policy: Policy, order: float, *, secret_salt: bool) -> Row:
    """A new ledger without an entry."""
    salt = _chain.new_salt(key, secret=secret_salt)
    head = _chain.genesis(key, salt, policy, order)
    cursor = connection.execute(
        "INSERT INTO ledgers (key, salt, mechanism, unit, delta, budget, renew_every_days, retention_days, "
        "filter_order, head) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key, salt, policy.mechanism, policy.unit, policy.delta, policy.budget_epsilon)
        + (policy.renew_every_days, policy.retention_days, order, head),
    )
    return Row(
        id=int(cursor.lastrowid or 0),
        key=key,
        salt=salt,
        policy=policy,
        order=order,
        entries=0,
        hash=head,
        newest=None,
        period=0,
        clock_went_back=False,
        opted_out=False,
    )


def append(connection: sqlite3.Connection, row: Row, entry: Entry) -> Row:
    """Write `entry` behind the last one; the ledger after it."""
    return append_all(connection, [row], entry)[0]


def append_all(connection: sqlite3.Connection, rows: Sequence[Row], entry: Entry) -> list[Row]:
    """Write the same `entry` to each ledger; the ledgers after it. Costs the same however many entries there are."""
    event = None if entry.event is None else _event_id(connection, entry.event, entry.plan)
    body, charge = _chain.entry_body(entry), bytes.fromhex(entry.charge) if entry.charge else None
    (last,) = connection.execute("SELECT max(id) FROM entries").fetchone()
    after = [
        replace(
            row,
            entries=row.entries + 1,
            hash=_chain.entry_hash(row.hash, row.entries + 1, body),
            newest=number,
            period=entry.period,
            clock_went_back=row.clock_went_back or entry.clock_period < entry.period,
            opted_out=row.opted_out or entry.kind == _chain.OPT_OUT,
        )
        for number, row in enumerate(rows, start=(last or 0) + 1)
    ]
    connection.executemany(
        "INSERT INTO entries (id, ledger, position, previous, kind, charge, event, period, clock_period, hash) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (new.newest, new.id, new.entries, old.newest, entry.kind, charge, event, entry.period, entry.clock_period)
            + (bytes.fromhex(new.hash),)
            for old, new in zip(rows, after, strict=True)
        ),
    )
    connection.executemany(
        "UPDATE ledgers SET entries = ?, head = ?, newest = ?, period = ?, clock_went_back = ?, opted_out = ? "
        "WHERE id = ?",
        ((r.entries, r.hash, r.newest, r.period, r.clock_went_back, r.opted_out, r.id) for r in after),
    )
    if event is not None:
        connection.executemany(
            "INSERT INTO totals (ledger, period, event, charges) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (ledger, period, event) DO UPDATE SET charges = charges + 1",
            ((row.id, entry.period, event) for row in rows),
        )
    return after


def histories(connection: sqlite3.Connection, rows: Iterable[Row]) -> dict[int, tuple[Planned, ...]]:
    """By ledger's id, what its totals say was charged; PrivacyError where they are fewer or more than its entries."""
    rows = list(rows)
    cursor = connection.execute(
        "SELECT t.ledger, t.period, t.charges, e.sampling_rate, e.noise_multiplier, e.steps, e.family, e.plan "
        "FROM json_each(?) AS asked CROSS JOIN totals AS t ON t.ledger = asked.value "
        "JOIN events AS e ON e.id = t.event ORDER BY t.ledger, t.period, t.event",
        (json.dumps([row.id for row in rows]),),
    )
    found: dict[int, list[Planned]] = defaultdict(list)
    charges: dict[int, int] = defaultdict(int)
    same: dict[tuple[object, ...], Planned] = {}  # clients with one history share its objects
    for ledger, *facts in cursor:
        key = tuple(facts)
        if key not in same:
            same[key] = _planned(*facts)
        found[ledger].append(same[key])
        charges[ledger] += facts[1]
    for row in rows:
        if charges[row.id] != row.entries - row.opted_out:
            raise PrivacyError(
                f"The ledger of {row.key} is damaged: its totals count {charges[row.id]} charges where it has "
                f"{row.entries - row.opted_out}; nothing may be charged to it. Put back the newest whole copy of the "
                "file."
            )
    return {row.id: tuple(found[row.id]) for row in rows}


def charged(connection: sqlite3.Connection, charge: str) -> dict[int, tuple[Event, str]]:
    """By ledger's id, the event and plan that the id `charge` (hashed) stands for."""
    cursor = connection.execute(
        "SELECT c.ledger, e.sampling_rate, e.noise_multiplier, e.steps, e.family, e.plan "
        "FROM entries AS c JOIN events AS e ON e.id = c.event WHERE c.charge = ?",
        (bytes.fromhex(charge),),
    )
    return {ledger: (_event(*facts), plan) for ledger, *facts, plan in cursor}


def hash_at(connection: sqlite3.Connection, row: Row, position: int) -> str | None:
    """The hash of the entry at `position`, found from the newest one back; None where the list ends before."""
    number = row.newest
    while number is not None:
        found = connection.execute(
            "SELECT ledger, position, previous, hash FROM entries WHERE id = ?", (number,)
        ).fetchone()
        if found is None or found[0] != row.id or found[1] < position:
            return None
        if found[1] == position:
            return str(found[3].hex())
        number = found[2]
    return None


def newest(connection: sqlite3.Connection) -> tuple[int, str]:
    """(number of entries in the file, hash of the last one); (0, "") for none."""
    found = connection.execute("SELECT id, hash FROM entries ORDER BY id DESC LIMIT 1").fetchone()
    return (0, "") if found is None else (int(found[0]), found[1].hex())


def _event_id(connection: sqlite3.Connection, event: Event, plan: str) -> int:
    values = (float(event.sampling_rate), float(event.noise_multiplier), event.steps, event.family, plan)
    connection.execute(
        "INSERT OR IGNORE INTO events (sampling_rate, noise_multiplier, steps, family, plan) VALUES (?, ?, ?, ?, ?)",
        values,
    )
    (number,) = connection.execute(
        "SELECT id FROM events WHERE sampling_rate = ? AND noise_multiplier = ? AND steps = ? AND family = ? "
        "AND plan = ?",
        values,
    ).fetchone()
    return int(number)


def _row(columns: Sequence) -> Row:
    number, key, salt, mechanism, unit, delta, budget, renew, retention, order, *derived = columns
    entries, head, newest_entry, period, clock_went_back, opted_out = derived
    if not math.isfinite(order):
        raise PrivacyError(
            f"The ledger of {key} is damaged: its filter_order is {order}. Put back the newest whole copy."
        )
    policy = Policy(
        mechanism=mechanism,
        unit=unit,
        delta=delta,
        budget_epsilon=budget,
        renew_every_days=renew,
        retention_days=retention,
    )
    return Row(
        id=number,
        key=key,
        salt=salt,
        policy=policy,
        order=order,
        entries=entries,
        hash=head,
        newest=newest_entry,
        period=period,
        clock_went_back=bool(clock_went_back),
        opted_out=bool(opted_out),
    )


def _planned(period: int, charges: int, rate: float, noise: float, steps: int, family: str, plan: str) -> Planned:
    return Planned(period, plan, _event(rate, noise, steps * charges, family))


def _event(rate: float, noise: float, steps: int, family: str) -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps, family=family)  # type: ignore[arg-type]
