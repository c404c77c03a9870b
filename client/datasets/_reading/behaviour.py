"""The private side of a data set: tables of events, of judgments and of impressions, as columns of numbers."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import CART, CLICK, NONE, PURCHASE, VIEW, Events, events_of
from mmrank.errors import ConfigError, DatasetError
from mmrank.slates import LARGEST

KINDS: Mapping[str, int] = {
    **dict.fromkeys(("view", "pageview", "page_view", "impression", "detail", "browse", "浏览", "曝光"), VIEW),
    **dict.fromkeys(("click", "clk", "select_item", "interaction", "点击"), CLICK),
    **dict.fromkeys(
        ("cart", "addtocart", "add_to_cart", "add-to-cart", "basket", "fav", "favorite", "加购", "收藏"), CART
    ),
    **dict.fromkeys(("purchase", "buy", "order", "transaction", "conversion", "购买", "下单"), PURCHASE),
}
"""What events are called in tables that are known; others are named in the configuration (types)."""

RELEVANCE = np.array([0.0, 1.0, 1.0, 2.0], np.float32)
"""By kind: a view alone says nothing, a purchase twice as much as a click."""

TOO_MUCH = f"a relevance of more than {LARGEST:,.0f}; the row is left out"

DAY = 86_400.0
WAITING_ROWS = 1_000_000
FIRST_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class EventColumns:
    """Where a table of events has what. types: what the values of `type` mean. time_unit: see values.times.

    weight: a rating or another number; `liked` says from which one on the item was liked, and `graded` that the number
    itself is the relevance. Without a type, an event is a click. group: a column that clients are made by.
    """

    file: str
    item: str
    user: str | None = None
    time: str | None = None
    type: str | None = None
    query: str | None = None
    weight: str | None = None
    group: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    liked: float | None = None
    graded: bool = False
    time_unit: str = "auto"
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        for value, kind in self.types.items():
            if kind not in KINDS:
                raise ConfigError(f"Expected events.types: {value}={kind!r} to be one of view, click, cart, purchase.")
        if self.weight is None and (self.liked is not None or self.graded):
            raise ConfigError("Expected events.weight beside liked or graded: the column that they speak of.")

    def columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        named = (self.item, self.user, self.time, self.type, self.query, self.weight, self.group)
        return tuple(dict.fromkeys(name for name in named if name))


@dataclass(kw_only=True)
class Vocabulary:
    """The names of people, queries and groups, shared by all tables of a data set."""

    users: Names = field(default_factory=Names)
    queries: Names = field(default_factory=Names)
    groups: Names = field(default_factory=Names)


def read_events(
    root: Path,
    columns: EventColumns,
    items: Items,
    names: Vocabulary,
    *,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Events:
    """The events of a table. A row whose item the catalogue lacks, without a person, with a time that is none or in the
    future, or of an unknown type, is left out and said. Raises DatasetError as `blocks`.
    """
    reader = Rows(items, findings, time_unit=columns.time_unit, now_days=now_days)
    tell_unit("events", columns.time, columns.time_unit, findings)
    kinds = {name.lower(): KINDS[kind] for name, kind in columns.types.items()}
    kinds = {**KINDS, **kinds}
    parts = Parts(names)
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        kept = np.ones(len(block), bool)
        item = reader.items(block, columns.item, kept)
        user = reader.people(block, columns.user, kept)
        at = reader.times(block, columns.time, kept)
        kind = reader.kinds(block, columns.type, kinds, kept)
        weight = reader.numbers(block, columns.weight, kept)
        if columns.graded:
            reader.leave(block, "grade", f"column {columns.weight}: {TOO_MUCH}", weight > LARGEST, kept)
        parts.add(
            kept,
            user=user,
            item=item.astype(np.int32),
            time=at,
            kind=kind,
            relevance=_relevance(columns, kind, weight),
            query=reader.named(block, columns.query),
            group=reader.named(block, columns.group),
        )
    if not parts:
        findings.add("warning", "empty", columns.file, "no row after the header")
        return events_of(user=np.zeros(0, np.int32), item=np.zeros(0, np.int32))
    return Events(**parts.joined(columns.file))


class Parts:
    """Columns of blocks, brought together; `user`, `query` and `group` become numbers of the names."""

    def __init__(self, names: Vocabulary, *, own: Names | None = None) -> None:
        """own: of the column `own`, the names of lists."""
        self._of = {"user": names.users, "query": names.queries, "group": names.groups}
        if own is not None:
            self._of["own"] = own
        self._rows = 0
        self._columns: dict[str, _Column] = {}
        self._waiting: dict[str, list[pa.DictionaryArray]] = {}
        self._blank: set[str] = set()

    def add(self, kept: np.ndarray, **columns: Any) -> None:
        """The rows `kept`, bool [n], of a block; a column of names that there is not is None."""
        whole = bool(kept.all())
        self._rows += int(kept.sum())
        for name, column in columns.items():
            if column is None:
                self._blank.add(name)
            elif isinstance(column, pa.Array):
                waiting = self._waiting.setdefault(name, [])
                waiting.append(column if whole else column.filter(pa.array(kept)))
                if sum(map(len, waiting)) > WAITING_ROWS:
                    self._number(name)
            else:
                self._columns.setdefault(name, _Column()).add(column if whole else column[kept])

    def __bool__(self) -> bool:
        """Whether there was a block."""
        return bool(self._columns)

    def joined(self, file: str) -> dict[str, np.ndarray]:
        """Every column, whole. Raises DatasetError where there was no block."""
        if not self:
            raise DatasetError(f"{file}: no row after the header.")
        for name in self._waiting:
            self._number(name)
        give_back()
        made = {name: column.joined() for name, column in self._columns.items()}
        # one cell for all: nobody has such a name
        return made | {name: np.broadcast_to(np.int32(NONE), (self._rows,)) for name in self._blank}

    def _number(self, name: str) -> None:
        """Numbers for the names that wait: they are brought together some millions at a time."""
        self._columns.setdefault(name, _Column()).add(self._of[name].codes(self._waiting[name]))
        self._waiting[name] = []


def give_back() -> None:
    """Let the system have what the blocks took: glibc keeps a quarter of a GB of small holes after ten million rows."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Column:
    """An array that grows: blocks that are kept one by one would leave holes in the memory between them."""

    def __init__(self) -> None:
        self._values = np.zeros(0)
        self._count = 0

    def add(self, values: np.ndarray) -> None:
        end = self._count + len(values)
        if end > len(self._values):
            grown = np.empty(max(end, 2 * len(self._values), FIRST_ROWS), values.dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : end] = values
        self._count = end

    def joined(self) -> np.ndarray:
        self._values.resize(self._count, refcheck=False)
        return self._values


def _relevance(columns: EventColumns, kind: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if columns.graded:
        return np.nan_to_num(np.maximum(weight, 0.0), nan=0.0).astype(np.float32)
    if columns.liked is not None:
        return (weight >= columns.liked).astype(np.float32)
    return RELEVANCE[kind]


def tell_unit(table: str, time: str | None, unit: str, findings: Findings) -> None:
    """Say that the unit of a table's times is told from its rows, where it is; whatever the rows are."""
    if time is not None and unit == "auto":
        findings.told.append(
            f"The unit of its times is told from somebody's rows; set dataset.{table}.time_unit, for example to s."
        )


class Rows:
    """Columns of blocks as numbers, and what is wrong with them; `kept`, bool [n], is narrowed in place."""

    def __init__(
        self, items: Items, findings: Findings, *, time_unit: str = "auto", now_days: float | None = None
    ) -> None:
        self._items, self._findings = items, findings
        self._unit = time_unit
        self._latest = (time.time() / DAY if now_days is None else now_days) + 1.0

    def items(self, block: Block, column: str, kept: np.ndarray) -> np.ndarray:
        """int64 [n] item indices."""
        found = self._items.codes(block[column])
        text = f"column {column}: an item that {self._items.file} lacks; the row is left out"
        self.leave(block, "item_join", text, found < 0, kept)
        return found

    def people(self, block: Block, column: str | None, kept: np.ndarray) -> pa.DictionaryArray:
        """Names; everybody is one person where no column says who."""
        if column is None:
            return pa.DictionaryArray.from_arrays(np.zeros(len(block), np.int32), pa.array(["everybody"]))
        found = values.encoded(block[column])
        blank = pc.index(found.dictionary, "").as_py()
        if blank >= 0:
            nobody = found.indices.to_numpy(zero_copy_only=False) == blank
            self.leave(block, "user", f"column {column}: no person; the row is left out", nobody, kept)
        return found

    def times(self, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
        """float64 [n], days since 1970; NaN in all without a column. The unit is that of the first block."""
        if column is None:
            return np.full(len(block), np.nan)
        if self._unit == "auto":
            self._unit = values.time_unit(block[column])
        found, bad = values.times(block[column], self._unit)
        text = f"column {column}: no time; the row is left out"
        self.leave(block, "time", text, bad | np.isnan(found), kept)
        text = f"column {column}: a time before 1970; the row is left out"
        self.leave(block, "time_negative", text, found < 0, kept)
        text = f"column {column}: a time in the future, or in another unit than {self._unit}; the row is left out"
        self.leave(block, "time_future", text, found > self._latest, kept)
        return found

    def kinds(self, block: Block, column: str | None, known: Mapping[str, int], kept: np.ndarray) -> np.ndarray:
        """int8 [n]; clicks without a column."""
        if column is None:
            return np.full(len(block), CLICK, np.int8)
        encoded = pc.utf8_lower(values.text(block[column])).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        table = np.array([known.get(word, -1) for word in words] + [-1], np.int8)
        found = table[encoded.indices.to_numpy(zero_copy_only=False)]
        if (found < 0).any():
            unknown = sorted({word[:40] for word, kind in zip(words, table, strict=False) if kind < 0})[:5]
            text = (
                f"column {column}: types that mean nothing here ({', '.join(map(repr, unknown))}); the rows are left "
                "out, name them with types: {value: view | click | cart | purchase}"
            )
            self.leave(block, "type", text, found < 0, kept)
        return found

    def numbers(self, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
        """float64 [n], NaN where none; a value that is no number leaves its row out."""
        if column is None:
            return np.full(len(block), np.nan)
        found, bad = values.numbers(block[column])
        self.leave(block, "number", f"column {column}: no number; the row is left out", bad, kept)
        return found

    def named(self, block: Block, column: str | None) -> pa.DictionaryArray | None:
        """Words or names, '' where there are none; None without a column."""
        return None if column is None else values.encoded(block[column])

    def leave(self, block: Block, code: str, text: str, bad: np.ndarray, kept: np.ndarray) -> None:
        """Leave the rows `bad` out, and say so."""
        bad = bad & kept
        if bad.any():
            self._findings.add(
                "warning", code, block.file, text, count=int(bad.sum()), lines=block.rows[bad], lost=True
            )
            kept &= ~bad
