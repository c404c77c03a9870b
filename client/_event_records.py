"""One event of a client's store: what it says, why it can't be kept, and the key that makes it one."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, field, fields
from typing import Any

from mmrank.slates import EVENT_TYPES

SECONDS_A_DAY = 86_400.0

SHOWN = "shown"
"""The type of a row that says that the item stood before the person, and nothing of what they did with it."""

TYPES = (SHOWN, *EVENT_TYPES)

LONGEST_ID = 1_000
LONGEST_QUERY = 10_000
LARGEST_POSITION = 1_000_000
AHEAD_DAYS = 1.0
"""How far after this machine's clock an event may be: time zones and clocks that are a little off."""


@dataclass(frozen=True, kw_only=True)
class LoggedEvent:
    """What happened to one person and one item: it was shown (SHOWN), or the person acted upon it (the other types).

    user, item: text ids, kept letter by letter. time_days: days since 1970-01-01 UTC. query: '' where the person
    browsed without one. slate: names one impression of that person's: its SHOWN rows are the candidates, its other
    rows what was done with them; '' where the event belongs to none. position: 0 the top, -1 unknown.
    propensity: in (0, 1], that a person looks there; None unknown.
    key: two events of one key are one event; '' for a hash of all the others. Where a log's times are coarse, and the
    same thing twice is two events, give each a key.
    """

    user: str = field(repr=False)
    item: str = field(repr=False)
    time_days: float
    type: str
    query: str = field(default="", repr=False)
    slate: str = field(default="", repr=False)
    position: int = -1
    propensity: float | None = None
    key: str = field(default="", repr=False)


COLUMNS = tuple(field.name for field in fields(LoggedEvent))


def clock_days() -> float:
    """Now, in days since 1970-01-01 UTC."""
    return time.time() / SECONDS_A_DAY


def values_of(event: LoggedEvent) -> tuple[Any, ...]:
    """The event in the order of COLUMNS, with its key; `event` must be without fault."""
    time_days = float(event.time_days) + 0.0  # no -0.0, which would have a key of its own
    propensity = None if event.propensity is None else float(event.propensity)
    values = (event.user, event.item, time_days, event.type, event.query, event.slate, event.position, propensity)
    if event.key:
        return (*values, event.key)
    text = json.dumps([value.hex() if isinstance(value, float) else value for value in values])
    return (*values, hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def fault_of(event: LoggedEvent, *, now_days: float) -> str | None:
    """Why the event can't be kept, with value, bound and remedy, or None. Never with a text of the event's but its
    type: it may name a person."""
    for name in ("user", "item", "slate", "key"):
        fault = text_fault(name, getattr(event, name), LONGEST_ID, needed=name in ("user", "item"))
        if fault:
            return fault
    fault = text_fault("query", event.query, LONGEST_QUERY, needed=False)
    return fault or _time_fault(event.time_days, now_days) or _rest_fault(event)


def text_fault(name: str, text: object, longest: int = LONGEST_ID, *, needed: bool = True) -> str | None:
    """The same of one text.

    >>> text_fault("user", "")
    'expected user to be a text of 1 to 1,000 characters, not an empty one; give the id'
    """
    bounds = f"expected {name} to be a text of {int(needed)} to {longest:,} characters"
    if not isinstance(text, str):
        return f"{bounds}, not of type {type(text).__name__}; write it as text, with its leading zeros"
    if needed and not text:
        return f"{bounds}, not an empty one; give the id"
    if len(text) > longest:
        return f"{bounds}, not of {len(text):,}; shorten it, or leave the event out"
    if "\0" in text:
        return f"{bounds} without NUL; take the NUL out"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{bounds} that UTF-8 can write, without half a surrogate pair; decode the log anew"
    return None


def _time_fault(time_days: object, now_days: float) -> str | None:
    latest = now_days + AHEAD_DAYS
    if isinstance(time_days, int | float) and 0 <= time_days <= latest:
        return None
    return (
        f"expected time_days={_short(time_days)} in [0, {latest:.2f}], days since 1970-01-01 UTC and at most "
        f"{AHEAD_DAYS:g} after this machine's clock; look after its unit, or the clock"
    )


def _rest_fault(event: LoggedEvent) -> str | None:
    if event.type not in TYPES:
        return f"expected type={_short(event.type)} to be one of {', '.join(TYPES)}; name one of them"
    position, propensity = event.position, event.propensity
    if not isinstance(position, int) or not -1 <= position <= LARGEST_POSITION:
        return (
            f"expected position={_short(position)} in [-1, {LARGEST_POSITION:,}]; count from 0, the top, and give -1 "
            "where it is unknown"
        )
    if propensity is not None and not (isinstance(propensity, int | float) and 0 < propensity <= 1):
        return f"expected propensity={_short(propensity)} in (0, 1]; leave it out where it is unknown"
    if event.type == SHOWN and not event.slate:
        return "expected slate of a shown item to name its impression, not to be empty; give the impression an id"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def mark_of(salt: bytes, user: str) -> bytes:
    """32 bytes that tell whether a person whose id one knows was forgotten; without the salt they tell nothing."""
    return hashlib.blake2b(user.encode(), key=salt, digest_size=32).digest()


def oldest_kept(now_days: float, retention_days: float | None) -> float:
    """The first moment that is not too old, in days since 1970-01-01 UTC; -inf where nothing ever is."""
    return -math.inf if retention_days is None else now_days - retention_days
