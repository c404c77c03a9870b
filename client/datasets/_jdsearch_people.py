"""Lines of JDsearch's user_behavior_data.txt as flat columns: what people were shown, and what they did before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.behaviour import DAY
from client.datasets._reading.blocks import Block
from client.datasets._reading.findings import Findings
from client.datasets._reading.values import Names
from client.datasets._source import CART, CLICK, NONE, PURCHASE, VIEW
from mmrank.errors import DatasetError

LAST_QUERY_DAY = 19_282.0
"""17 October 2022, in days since 1970. At midnight, a day of history is 24 hours back from the query."""
KINDS: Mapping[str, tuple[int, float]] = {
    "CLICK": (CLICK, 1.0),
    "CART": (CART, 2.0),
    "FLW": (CART, 2.0),
    "ORD": (PURCHASE, 3.0),
}
"""What each says, and what it is worth: as much as the same among the labels."""
LABELS = np.array([VIEW, CLICK, CART, PURCHASE], np.int8)
SHOWN = ("candidate_wid_list", "candidate_label_list")
HISTORY = ("history_qry_list", "history_wid_list", "history_type_list", "history_time_list")
COLUMNS = ("query", *SHOWN, *HISTORY)


@dataclass(kw_only=True)
class People:
    """Lines of people as they are read, as flat columns. lines: where each of the people stands."""

    file: str
    findings: Findings
    lines_read: int = 0
    lines: list[np.ndarray] = field(default_factory=list)
    last: list[pa.DictionaryArray] = field(default_factory=list)
    shown: dict[str, list[Any]] = field(default_factory=dict)
    done: dict[str, list[Any]] = field(default_factory=dict)
    people: int = 0

    def take(self, block: Block, most: int | None) -> None:
        """Add the people of a block, whose lists fit together."""
        count = len(block) if most is None else min(len(block), most - self.lines_read)
        self.lines_read += count
        texts = {column: values.text(block[column].slice(0, count)) for column in COLUMNS}
        lists = {column: _split(texts[column]) for column in (*SHOWN, *HISTORY)}
        lines, kept = block.rows[:count], np.ones(count, bool)
        text = "lists that should be of one length are not; the person is left out"
        self._leave(
            "lengths", text, _uneven({name: _sizes(array) for name, array in lists.items()}), lines, kept, lost=True
        )
        mask = pa.array(kept)
        lists = {column: array.filter(mask) for column, array in lists.items()}
        lines, query, kept = lines[kept], texts["query"].filter(mask), kept[kept]
        at, bad = _times(lists["history_time_list"])
        text = "column history_time_list: no seconds of at least 0, or more than since 1970; the person is left out"
        self._leave("time", text, bad, lines, kept, lost=True)
        self.last.append(words_of(query.filter(pa.array(kept))).dictionary_encode())
        self._candidates(lists, lines, kept)
        self._history(lists, at, lines, kept)
        self.lines.append(lines[kept])
        self.people += int(kept.sum())

    def joined(self, wids: Names, queries: Names) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """(what was shown, what was done, int32 [people] the last query of each). Raises DatasetError for nobody."""
        if not self.people:
            raise DatasetError(f"{self.file}: no person in it.")
        codes = wids.codes([*self.shown.pop("wid"), *self.done.pop("wid")])
        asked = queries.codes([*self.last, *self.done.pop("query")])
        shown, done = (
            {name: np.concatenate(parts) for name, parts in rows.items()} for rows in (self.shown, self.done)
        )
        count = len(shown["person"])
        return (
            shown | {"wid": codes[:count]},
            done | {"wid": codes[count:], "query": asked[self.people :]},
            asked[: self.people],
        )

    def _candidates(self, lists: Mapping[str, pa.ListArray], lines: np.ndarray, kept: np.ndarray) -> None:
        size = _sizes(lists["candidate_wid_list"])
        person = np.repeat(self._numbers(kept), size)
        label, bad = values.numbers(pc.list_flatten(lists["candidate_label_list"]))
        none = bad | ~np.isin(label, (0, 1, 2, 3))
        here = person >= 0
        text = "column candidate_label_list: none of 0, 1, 2, 3; the product is left out"
        self._leave("label", text, none, np.repeat(lines, size), here)
        grade = label[here].astype(np.int64)
        self._add(
            self.shown,
            person=person[here],
            wid=pc.list_flatten(lists["candidate_wid_list"]).filter(pa.array(here)).dictionary_encode(),
            kind=LABELS[grade],
            relevance=grade.astype(np.float32),
            time=np.full(len(grade), LAST_QUERY_DAY),
        )

    def _history(self, lists: Mapping[str, pa.ListArray], at: np.ndarray, lines: np.ndarray, kept: np.ndarray) -> None:
        size = _sizes(lists["history_wid_list"])
        person = np.repeat(self._numbers(kept), size)
        encoded = pc.list_flatten(lists["history_type_list"]).dictionary_encode()
        known = [KINDS.get(name, (NONE, 0.0)) for name in encoded.dictionary.to_pylist()]
        index = encoded.indices.to_numpy(zero_copy_only=False)
        kind = np.array([kind for kind, _ in known], np.int8)[index]
        here = person >= 0
        text = f"column history_type_list: none of {', '.join(KINDS)}; the act is left out"
        self._leave("type", text, kind < 0, np.repeat(lines, size), here)
        mask = pa.array(here)
        asked = pc.list_flatten(lists["history_qry_list"]).filter(mask)
        self._add(
            self.done,
            person=person[here],
            wid=pc.list_flatten(lists["history_wid_list"]).filter(mask).dictionary_encode(),
            query=words_of(pc.if_else(pc.equal(asked, "-1"), "", asked)).dictionary_encode(),
            kind=kind[here],
            relevance=np.array([worth for _, worth in known], np.float32)[index][here],
            time=at[here],
        )

    def _numbers(self, kept: np.ndarray) -> np.ndarray:
        """int32 [n]: the number of each person, NONE for who is left out."""
        return np.where(kept, self.people + np.cumsum(kept) - 1, NONE).astype(np.int32)

    def _leave(
        self, code: str, text: str, bad: np.ndarray, lines: np.ndarray, kept: np.ndarray, *, lost: bool = False
    ) -> None:
        """Leave the rows `bad` out, and say so; lost: whether each is a line of the file."""
        bad = bad & kept
        if bad.any():
            where = np.unique(lines[bad])
            self.findings.add("warning", code, self.file, text, count=int(bad.sum()), lines=where, lost=lost)
            kept &= ~bad

    @staticmethod
    def _add(rows: dict[str, list[Any]], **columns: Any) -> None:
        for name, column in columns.items():
            rows.setdefault(name, []).append(column)


def _split(array: pa.StringArray) -> pa.ListArray:
    """The elements of each; none of what is blank."""
    return pc.split_pattern(pc.if_else(pc.equal(array, ""), None, array), "_")


def _sizes(lists: pa.ListArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def words_of(array: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring(array, "\x18", " ")


def _uneven(size: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [n]: whose lists do not fit together; there is one more of the seconds, up to the query."""
    wids, labels = (size[column] for column in SHOWN)
    asked, done, kinds, times = (size[column] for column in HISTORY)
    return (wids != labels) | (asked != done) | (kinds != done) | ((times != done + 1) & ((done > 0) | (times > 0)))


def _times(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """(float64, the day of each act of each history, whose list is one longer than itself; bool [n], where it is none).

    The gaps are counted back from the last query, at LAST_QUERY_DAY.
    """
    size = _sizes(lists)
    gap, bad = values.numbers(pc.list_flatten(lists))
    owner = np.repeat(np.arange(len(size)), size)
    bad |= ~((gap >= 0) & (gap <= LAST_QUERY_DAY * DAY))
    wrong = np.bincount(owner, weights=bad, minlength=len(size)) > 0
    gap = np.where(bad, 0.0, gap) / DAY
    until = np.cumsum(gap)
    end = np.cumsum(size) - 1
    total = np.where(size > 0, until[np.maximum(end, 0)] if len(until) else 0.0, 0.0)
    at = LAST_QUERY_DAY - (total[owner] - until)
    wrong |= np.bincount(owner, weights=~(at >= 0), minlength=len(size)) > 0
    last = np.zeros(len(owner), bool)
    last[end[size > 0]] = True
    return at[~last], wrong
