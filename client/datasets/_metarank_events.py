"""Metarank's events line by line, as columns: what an item is called, what was shown, what was done with it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from client.datasets._metarank_values import BETWEEN, days, float_of, name_of, text_of
from client.datasets._reading.files import Line
from client.datasets._reading.findings import Findings, Level
from client.datasets._reading.items import LONGEST_ID
from client.datasets._source import NONE

SHOWN_NAMES = 20
"""Of the fields that items have, how many are named where none is the title."""


@dataclass(kw_only=True)
class Newest:
    """One field of all items: the newest text that an event gave, '' before. time: of that event, in days."""

    text: list[str] = field(default_factory=list)
    time: array[float] = field(default_factory=lambda: array("d"))

    def put(self, item: int, text: str, time: float) -> None:
        """Keep the text, unless a later event gave another."""
        missing = item + 1 - len(self.text)
        if missing > 0:
            self.text.extend([""] * missing)
            self.time.extend([-np.inf] * missing)
        if time >= self.time[item]:
            self.text[item], self.time[item] = text, time


@dataclass(kw_only=True)
class Log:
    """What was read so far.

    items, people, queries, tenants, rankings, files: numbers by name. described: the items that an event described;
    names: of their fields; values: those that are wanted. lists: columns of rankings (start: of their rows; name: among
    rankings); rows: of the items that they showed; acts: of interactions.
    """

    wanted: Sequence[str]
    query: str
    score: str
    kinds: Mapping[str, int]
    findings: Findings
    latest: float
    items: dict[str, int] = field(default_factory=dict)
    people: dict[str, int] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)
    rankings: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    described: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    values: dict[str, Newest] = field(init=False)
    lists: dict[str, array[Any]] = field(init=False)
    rows: dict[str, array[Any]] = field(init=False)
    acts: dict[str, array[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {name: Newest() for name in self.wanted}
        who = {"user": "i", "query": "i", "tenant": "i", "time": "d", "file": "i", "line": "q"}
        self.lists = _columns({"start": "q", "name": "i", **who})
        self.rows = _columns({"item": "i", "score": "d", "label": "d"})
        self.acts = _columns({"item": "i", "kind": "b", "ranking": "i", **who})
        self._shown: set[int] = set()

    def take(self, line: Line) -> None:
        """Read one line; one that is no event is left out and said."""
        self.findings.rows[line.file] += 1
        try:
            event = orjson.loads(line.text)
        except orjson.JSONDecodeError as error:
            event, fault = None, f"not JSON ({error})"
        else:
            fault = "no object in braces"
        if not isinstance(event, dict):
            self._fault(line, "json", f"{fault}, left out; each line is one event")
            return
        readers: Mapping[str, Callable[[dict[str, Any], float, Line], None]] = {
            "item": self._item,
            "metadata": self._item,
            "ranking": self._ranking,
            "interaction": self._interaction,
        }
        kind = event.get("event")
        if kind == "user":
            return
        if not isinstance(kind, str) or kind not in readers:
            self._fault(line, "event", "no event of item, user, ranking or interaction, left out")
            return
        time = days(event.get("timestamp"))
        if np.isnan(time):
            self._fault(line, "time", "timestamp: no milliseconds since 1970 and not ISO 8601; the event is left out")
        elif not 0 <= time <= self.latest:
            self._fault(line, "time_future", "timestamp: before 1970 or in the future; the event is left out")
        else:
            readers[kind](event, time, line)

    def say(self, level: Level, code: str, text: str, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """A finding of those rows, bool [n], of rankings or interactions, with their files and lines; a warning is of
        events that are lost.
        """
        for name, number in self.files.items():
            lines = columns["line"][rows & (columns["file"] == number)]
            if len(lines):
                lost = level == "warning"
                self.findings.add(level, code, name, text, count=len(lines), lines=lines, by_row=False, lost=lost)

    def _fault(self, line: Line, code: str, text: str, *, lost: bool = True) -> None:
        self.findings.add("warning", code, line.file, text, lines=(line.number,), by_row=False, lost=lost)

    def _item(self, event: dict[str, Any], time: float, line: Line) -> None:
        number = self._numbered(event.get("item"))
        if number is None:
            self._fault(line, "id", f"item: no id of 1 to {LONGEST_ID} letters; the event is left out")
            return
        self.described.add(number)
        for key, value in self._fields(event, line):
            if len(self.names) < SHOWN_NAMES:
                self.names.add(key)
            if key in self.values and value is not None:
                self.values[key].put(number, text_of(value), time)

    def _ranking(self, event: dict[str, Any], time: float, line: Line) -> None:
        name, shown = name_of(event.get("id")), event.get("items")
        rows = shown if isinstance(shown, list) else []
        known = [
            (item, row) for row in rows if isinstance(row, dict) and (item := self._numbered(row.get("id"))) is not None
        ]
        if name is None or not known:
            self._fault(line, "ranking", "a ranking without id or items; it is left out")
            return
        number = _number(self.rankings, name)
        if number in self._shown:
            self._fault(line, "duplicate_ranking", "a ranking whose id an earlier one has; it is left out")
            return
        self._shown.add(number)
        if len(known) < len(rows):
            self._fault(line, "ranking_item", "an item of a ranking without id; it is left out of it", lost=False)
        self.lists["start"].append(len(self.rows["item"]))
        self.lists["name"].append(number)
        self._who(self.lists, event, time, line)
        self.rows["item"].extend(item for item, _ in known)
        self.rows["score"].extend(float_of(self._beside(row, line)) for _, row in known)
        self.rows["label"].extend(float_of(row.get("label")) for _, row in known)

    def _numbered(self, value: Any) -> int | None:
        """The number of an item, by its id; None for what is none."""
        known = self.items.get(value) if isinstance(value, str) else None
        if known is None and (name := name_of(value)) is not None:
            return _number(self.items, name)
        return known

    def _beside(self, row: dict[str, Any], line: Line) -> Any:
        """The score of an item of a ranking: a field of it or, in older logs, its own key."""
        for key, value in self._fields(row, line) if "fields" in row else ():
            if key == self.score:
                return value
        return row.get(self.score)

    def _interaction(self, event: dict[str, Any], time: float, line: Line) -> None:
        item, kind = self._numbered(event.get("item")), event.get("type")
        if item is None:
            self._fault(line, "id", f"item: no id of 1 to {LONGEST_ID} letters; the event is left out")
            return
        known = self.kinds.get(kind.lower()) if isinstance(kind, str) else None
        if known is None:
            text = f"type: {str(kind)[:40]!r} means nothing here; such events are left out, name them with types: "
            self._fault(line, "type", text + "{value: view | click | cart | purchase}")
            return
        ranking = name_of(event.get("ranking"))
        self.acts["item"].append(item)
        self.acts["kind"].append(known)
        self.acts["ranking"].append(NONE if ranking is None else _number(self.rankings, ranking))
        self._who(self.acts, event, time, line)

    def _who(self, columns: Mapping[str, array[Any]], event: dict[str, Any], time: float, line: Line) -> None:
        """The columns that rankings and interactions share."""
        person = name_of(event.get("user")) or name_of(event.get("session"))
        words = text_of(dict(self._fields(event, line)).get(self.query)).replace(BETWEEN, " ")
        tenant = name_of(event.get("tenant"))
        columns["user"].append(NONE if person is None else _number(self.people, person))
        columns["query"].append(_number(self.queries, words) if words else NONE)
        columns["tenant"].append(NONE if tenant is None else _number(self.tenants, tenant))
        columns["time"].append(time)
        columns["file"].append(_number(self.files, line.file))
        columns["line"].append(line.number)

    def _fields(self, event: dict[str, Any], line: Line) -> list[tuple[str, Any]]:
        """(name, value) of each of `fields`; what is none is left out and said."""
        given = event.get("fields")
        if given is None:
            return []
        pairs = given if isinstance(given, list) else []
        good = [pair for pair in pairs if isinstance(pair, dict) and isinstance(pair.get("name"), str)]
        if not isinstance(given, list) or len(good) < len(given):
            self._fault(line, "fields", "fields: no list of {name, value}; what is none is left out", lost=False)
        return [(pair["name"], pair.get("value")) for pair in good]


def _columns(kinds: Mapping[str, str]) -> dict[str, array[Any]]:
    return {name: array(kind) for name, kind in kinds.items()}


def _number(names: dict[str, int], name: str) -> int:
    return names.setdefault(name, len(names))


def arrays_of(columns: Mapping[str, array[Any]]) -> dict[str, np.ndarray]:
    """The columns as numpy has them."""
    return {name: np.array(column) for name, column in columns.items()}
