"""What people did, in one order: by client, person and time. Histories and moments are slices of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._shaping.clients import Owners
from client.datasets._source import CLICK, PURCHASE, Events, Source

ROWS_AT_ONCE = 1_000_000
UNTIMED_DAYS = 100.0
"""Where no time is known the order of the file stands for it: the k-th of a person's n acts is at day 100 (k - ½) / n,
so that no act lies on the edge of a part."""


@dataclass(frozen=True, kw_only=True)
class Acts:
    """A acts, sorted by (client, user, time), in the order of the files where times are equal.

    client, user, item, query: int32 [A]; time: float64 [A], days; kind: int8 [A]; relevance: float32 [A].
    edges: int64 [clients + 1], the rows of each client. timed: whether the times are the calendar's.
    """

    client: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    relevance: np.ndarray
    query: np.ndarray
    edges: np.ndarray
    timed: bool

    def __len__(self) -> int:
        return len(self.item)

    def people_of(self, client: int) -> list[tuple[int, slice]]:
        """(person, rows) of each person of a client."""
        start, end = int(self.edges[client]), int(self.edges[client + 1])
        users = self.user[start:end]
        cuts = np.flatnonzero(np.r_[True, users[1:] != users[:-1], True]) if end > start else np.zeros(0, np.int64)
        return [
            (int(users[low]), slice(start + low, start + high))
            for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
        ]


def acts_of(source: Source, owners: Owners) -> Acts:
    """Events, and what people chose from lists that they were shown; acts of nobody, or of no client, are left out.

    Where events are all there is they are put in order in place: a copy of ten million rows costs a quarter of a GB.
    """
    columns = _columns(source)
    timed = source.timed
    if timed and source.events is not None and len(source.events) and not np.isfinite(source.events.time).any():
        text = (
            "its events have no time, and what was shown beside them has: they stand in no history; name their column"
        )
        source.findings.add("warning", "events_untimed", source.name, text, count=len(source.events))
    client = owners.of_rows(**{name: columns[name] for name in ("item", "user", "query", "group")})
    client = client.astype(np.int32)
    kept = (client >= 0) & (columns["user"] >= 0)
    if timed:
        kept &= np.isfinite(columns["time"])
    if not kept.all():
        columns = {name: column[kept] for name, column in columns.items()}
        client = client[kept]
    people = max(len(source.users), 1)
    _sort(columns, client, people, timed)
    if not timed:
        columns["time"] = _in_order(client * np.int64(people) + columns["user"])
    return Acts(
        client=client,
        edges=np.searchsorted(client, np.arange(len(owners.names) + 1)),
        timed=timed,
        **{name: column for name, column in columns.items() if name != "group"},
    )


def _columns(source: Source) -> dict[str, np.ndarray]:
    parts = [part for part in (source.events, *_from_lists(source)) if part is not None and len(part)]
    found = {}
    for name, dtype in (
        ("user", np.int32),
        ("item", np.int32),
        ("time", np.float64),
        ("kind", np.int8),
        ("relevance", np.float32),
        ("query", np.int32),
        ("group", np.int32),
    ):
        columns = [getattr(part, name) for part in parts]
        found[name] = columns[0] if len(columns) == 1 else np.concatenate([np.zeros(0, dtype), *columns])
    return found


def _sort(columns: dict[str, np.ndarray], client: np.ndarray, people: int, timed: bool) -> None:
    """Sort all columns by client, person and, where `timed`, time, stably and in place."""
    whose = client * np.int64(people) + columns["user"]
    time = columns["time"]
    in_time = not timed or bool((np.diff(time) >= 0).all())
    order = np.argsort(whose, kind="stable") if in_time else np.lexsort((time, whose))
    del whose
    for name, column in [*columns.items(), ("client", client)]:
        if column.strides == (0,):
            continue  # one value for all
        if column.flags.writeable:
            column[:] = column[order]
        else:
            columns[name] = column[order]


def _from_lists(source: Source) -> list[Events]:
    """What was chosen from lists, as events: 2 is a purchase, less a click."""
    found = []
    for lists in source.lists:
        if lists.judged:
            continue
        row = np.flatnonzero(lists.relevance > 0)
        owner = np.searchsorted(lists.start, row, side="right") - 1
        relevance = lists.relevance[row]
        found.append(
            Events(
                user=lists.user[owner],
                item=lists.item[row],
                time=lists.time[owner],
                kind=np.where(relevance >= 2, PURCHASE, CLICK).astype(np.int8),
                relevance=relevance,
                query=lists.query[owner],
                group=lists.group[owner],
            )
        )
    return found


def _in_order(whose: np.ndarray) -> np.ndarray:
    """float64 [A]: days by place within each run of equal numbers.

    >>> _in_order(np.array([4, 4, 9])).tolist()
    [25.0, 75.0, 50.0]
    """
    if not len(whose):
        return np.zeros(0)
    starts = np.flatnonzero(np.r_[True, whose[1:] != whose[:-1]])
    sizes = np.diff(np.r_[starts, len(whose)])
    place = np.arange(len(whose)) - np.repeat(starts, sizes) + 0.5
    return UNTIMED_DAYS * place / np.repeat(sizes, sizes)


def moment_starts(acts: Acts, width_days: float) -> np.ndarray:
    """bool [A]: whether an act begins a moment: another client or person, or another stretch of `width_days` (each act
    alone where 0).
    """
    if not len(acts):
        return np.zeros(0, bool)
    differs = np.ones(len(acts), bool)
    if width_days > 0:
        for start in range(1, len(acts), ROWS_AT_ONCE):  # ten million floats for a moment are 80 MB
            rows = slice(start - 1, start - 1 + ROWS_AT_ONCE + 1)
            client, user, stretch = acts.client[rows], acts.user[rows], np.floor(acts.time[rows] / width_days)
            same = (client[1:] == client[:-1]) & (user[1:] == user[:-1]) & (stretch[1:] == stretch[:-1])
            differs[start : start + len(same)] = ~same
    return differs
