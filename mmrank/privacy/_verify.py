"""Whether a ledger file still says what was written: every hash, every count, every total, from the entries alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from mmrank.errors import PrivacyError
from mmrank.privacy import _chain, _records
from mmrank.privacy._chain import Entry
from mmrank.privacy._records import Row
from mmrank.privacy.accountant import Event

_ENTRIES = (
    "SELECT c.ledger, c.id, c.position, c.previous, c.kind, c.charge, c.period, c.clock_period, c.hash, "
    "e.id, e.sampling_rate, e.noise_multiplier, e.steps, e.family, e.plan "
    "FROM entries AS c LEFT JOIN events AS e ON e.id = c.event ORDER BY c.ledger, c.position, c.id"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where a file does not hold together.

    key: whose ledger, "" for the file. position: the first wrong entry, or 0.
    """

    key: str
    position: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One entry as it lies in the file; event_id: the row of its event."""

    number: int
    position: int
    previous: int | None
    entry: Entry
    hash: str
    event_id: int | None


def stored_entries(connection: sqlite3.Connection) -> Iterator[tuple[int, Iterator[Stored]]]:
    """(ledger's row, its entries in order), ledger after ledger."""
    for ledger, lines in groupby(connection.execute(_ENTRIES), key=lambda line: line[0]):
        yield ledger, (_stored(*line[1:]) for line in lines)


def faults(connection: sqlite3.Connection) -> list[Fault]:
    """What is wrong with the file: nothing where it is whole. At most one fault a ledger, the first.

    The hash of an unkeyed chain can be recomputed by whoever can write the file: against that stands the head that
    was acknowledged elsewhere.
    """
    found = [
        Fault(key="", position=0, message=f"SQLite: {text}")
        for (text,) in connection.execute("PRAGMA integrity_check(20)")
        if text != "ok"
    ]
    if found:
        return found
    try:
        rows = {row.id: row for row in _records.every(connection)}
    except PrivacyError as error:
        return [Fault(key="", position=0, message=f"a ledger's promise can't be one: {error}")]
    totals: dict[int, Counter[tuple[int, int]]] = {}
    for ledger, period, event, charges in connection.execute("SELECT ledger, period, event, charges FROM totals"):
        totals.setdefault(ledger, Counter())[period, event] += charges
    seen: set[int] = set()
    for ledger, entries in stored_entries(connection):
        seen.add(ledger)
        if ledger not in rows:
            found.append(Fault(key="", position=0, message=f"entries of ledger {ledger}, which is missing"))
            continue
        found.extend(_chain_faults(rows[ledger], entries, totals.get(ledger, Counter())))
    found += [
        Fault(key=row.key, position=0, message=f"its {row.entries} entries are missing")
        for row in rows.values()
        if row.id not in seen
    ]
    count, last = connection.execute("SELECT count(*), max(id) FROM entries").fetchone()
    if not found and count != (last or 0):
        found.append(Fault(key="", position=0, message=f"the file has {count} entries, the last is number {last}"))
    return found


def _chain_faults(row: Row, entries: Iterator[Stored], totals: Counter[tuple[int, int]]) -> list[Fault]:
    def fault(position: int, message: str) -> list[Fault]:
        for _ in entries:  # the rest of this ledger, so that the next one comes
            pass
        return [Fault(key=row.key, position=position, message=message)]

    position, head, newest, period = 0, row.genesis, None, 0
    opted_out = clock_went_back = False
    counted: Counter[tuple[int, int]] = Counter()
    for stored in entries:
        position += 1
        entry = stored.entry
        if stored.position != position:
            return fault(position, f"entry {position} is missing or out of its place (found {stored.position})")
        head = _chain.entry_hash(head, position, _chain.entry_body(entry))
        if stored.hash != head:
            where = "it, the one before it" if position > 1 else "it, the promise"
            return fault(
                position,
                f"the hash of entry {position} does not follow from what stands there: {where} or its hash was changed",
            )
        if stored.previous != newest or entry.period < period or (entry.kind == _chain.CHARGE) == (entry.event is None):
            return fault(position, f"entry {position} does not follow on the one before it")
        if opted_out:
            return fault(position, f"entry {position} was written after the opt-out")
        newest, period = stored.number, entry.period
        opted_out = opted_out or entry.kind == _chain.OPT_OUT
        clock_went_back = clock_went_back or entry.clock_period < entry.period
        if stored.event_id is not None:
            counted[entry.period, stored.event_id] += 1
    state = (position, head, newest, period, opted_out, clock_went_back)
    if state != (row.entries, row.hash, row.newest, row.period, row.opted_out, row.clock_went_back):
        return fault(
            position, f"it ends at entry {position} ({head[:12]}), its row says {row.entries} ({row.hash[:12]})"
        )
    if counted != totals:
        return fault(position, "its totals are not those of its entries")
    return []


def _stored(
    number: int,
    position: int,
    previous: int | None,
    kind: str,
    charge: bytes | None,
    period: int,
    clock_period: int,
    digest: bytes,
    event_id: int | None,
    rate: float | None,
    noise: float | None,
    steps: int | None,
    family: str | None,
    plan: str | None,
) -> Stored:
    event = None
    if rate is not None and noise is not None and steps is not None:
        event = _unchecked(rate, noise, steps, family)
    entry = Entry(
        kind=kind,
        charge="" if charge is None else charge.hex(),
        event=event,
        plan=plan or "",
        period=period,
        clock_period=clock_period,
    )
    return Stored(
        number=number, position=position, previous=previous, entry=entry, hash=bytes(digest).hex(), event_id=event_id
    )


def _unchecked(rate: float, noise: float, steps: int, family: str | None) -> Event | None:
    """The event, or None where somebody wrote what can't be one: its hash is then wrong."""
    try:
        return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps, family=family)  # type: ignore[arg-type]
    except PrivacyError:
        return None
