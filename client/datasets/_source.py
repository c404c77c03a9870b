"""What every reader makes of its files: items, and behaviour in up to three forms, as columns.

A reader is one file of client.datasets: `read(...)` of it gives a Source, and `load` hands that to
client.datasets._shaping, which makes clients, parts, slates and candidates of it by the same rules for all.
Everything refers to items, people, queries and groups by number: an index into the Source's own names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from client.datasets._reading.findings import Findings
from mmrank.catalog import Catalog
from mmrank.slates import EVENT_TYPES

NONE = -1
"""The number that stands where there is no person, query, or group."""

VIEW, CLICK, CART, PURCHASE = range(len(EVENT_TYPES))


@dataclass(frozen=True, kw_only=True)
class Events:
    """E things that people did, in the order of the files.

    user, item: int32 [E]. time: float64 [E], days since 1970-01-01 UTC, or NaN in all where none is known.
    kind: int8 [E], see mmrank.slates.EVENT_TYPES. relevance: float32 [E], what it says of the item: 0 it was seen, or
    disliked. query, group: int32 [E] or NONE: the words that led there; a column that clients may be made by.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    relevance: np.ndarray
    query: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, kw_only=True)
class Lists:
    """L lists of items that were shown or judged together, R rows in all.

    start: int64 [L + 1]: list i has the rows [start[i], start[i + 1]). user, query, group: int32 [L] or NONE; query_id:
    the name of each list in a TREC file. time: float64 [L], NaN where unknown. part: int8 [L], index of train,
    validation, test, or NONE where nothing says so.
    item: int32 [R]; relevance: float32 [R]; position: int32 [R], 0 the top, -1 unknown; propensity, score: float32 [R],
    NaN where unknown; score: of the ranker that the shop had.
    judged: whether the relevance is somebody's grade for the query, and not what a person did.
    """

    start: np.ndarray
    user: np.ndarray
    query: np.ndarray
    group: np.ndarray
    time: np.ndarray
    part: np.ndarray
    query_id: Sequence[str]
    item: np.ndarray
    relevance: np.ndarray
    position: np.ndarray
    propensity: np.ndarray
    score: np.ndarray
    judged: bool

    def __len__(self) -> int:
        return len(self.start) - 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set before it is cut into clients and slates.

    name: of the reader. fields: further public texts of each item (colour, brand), from which queries may be derived
    and clients made. users, queries, groups: the names by number. user_column, group_column: what they were read from.
    findings: what was wrong.
    """

    name: str
    catalog: Catalog
    findings: Findings
    events: Events | None = None
    lists: tuple[Lists, ...] = ()
    users: Sequence[str] = ()
    queries: Sequence[str] = ()
    groups: Sequence[str] = ()
    user_column: str = "user"
    group_column: str | None = None
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def timed(self) -> bool:
        """Whether anything that people did has a time."""
        known = [self.events.time] if self.events is not None else []
        known += [lists.time for lists in self.lists if not lists.judged]
        return any(bool(np.isfinite(times).any()) for times in known)


def events_of(**columns: np.ndarray) -> Events:
    """Events with what is not given filled in: no query, no group, no time, clicks that say 1."""
    count = len(columns["item"])
    filled: dict[str, np.ndarray] = {
        "time": np.full(count, np.nan),
        "kind": np.full(count, CLICK, np.int8),
        "relevance": np.ones(count, np.float32),
        "query": np.full(count, NONE, np.int32),
        "group": np.full(count, NONE, np.int32),
    }
    return Events(**(filled | columns))


def both(first: Events, second: Events) -> Events:
    """The events of two tables."""
    columns = {item.name: (getattr(first, item.name), getattr(second, item.name)) for item in fields(Events)}
    return Events(**{name: np.concatenate(pair) for name, pair in columns.items()})


def lists_of(*, judged: bool, query_id: Sequence[str] = (), **columns: np.ndarray) -> Lists:
    """Lists with what is not given filled in. Needs start, item, relevance."""
    count, rows = len(columns["start"]) - 1, len(columns["item"])
    filled: dict[str, np.ndarray] = {
        "user": np.full(count, NONE, np.int32),
        "query": np.full(count, NONE, np.int32),
        "group": np.full(count, NONE, np.int32),
        "time": np.full(count, np.nan),
        "part": np.full(count, NONE, np.int8),
        "position": np.full(rows, -1, np.int32),
        "propensity": np.full(rows, np.nan, np.float32),
        "score": np.full(rows, np.nan, np.float32),
    }
    return Lists(**(filled | columns), query_id=query_id, judged=judged)


def nothing_listed(*, judged: bool) -> Lists:
    """No list: of a table that has no row yet."""
    nothing = np.zeros(0, np.int32)
    return lists_of(judged=judged, start=np.zeros(1, np.int64), item=nothing, relevance=nothing.astype(np.float32))


def arrays_of(columns: Events | Lists) -> dict[str, np.ndarray]:
    """The arrays by name, for a digest or a count of bytes."""
    found = {item.name: getattr(columns, item.name) for item in fields(columns)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
