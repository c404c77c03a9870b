"""The private side of a data set: tables of events, of judgments and of impressions, as columns of numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import CART, CLICK, NONE, PURCHASE, VIEW, Events
from mmrank.errors import ConfigError, DatasetError

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

DAY = 86_400.0


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
    reader = Rows(items, names, findings, columns.time_unit, now_days)
    kinds = {name.lower(): KINDS[kind] for name, kind in columns.types.items()}
    kinds = {**KINDS, **kinds}
    parts: list[Events] = []
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        kept = np.ones(len(block), bool)
        item = reader.items(block, columns.item, kept)
        user = reader.people(block, columns.user, kept)
        at = reader.times(block, columns.time, kept)
        kind = reader.kinds(block, columns.type, kinds, kept)
        weight = reader.numbers(block, columns.weight, kept)
        parts.append(
            Events(
                user=user[kept],
                item=item[kept].astype(np.int32),
                time=at[kept],
                kind=kind[kept],
                relevance=_relevance(columns, kind, weight)[kept],
                query=reader.queries(block, columns.query)[kept],
                group=reader.groups(block, columns.group)[kept],
            )
        )
    if not parts:
        raise DatasetError(f"{columns.file}: no row after the header.")
    return _joined(parts)


def _joined(parts: Sequence[Events]) -> Events:
    names = ("user", "item", "time", "kind", "relevance", "query", "group")
    return Events(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _relevance(columns: EventColumns, kind: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if columns.graded:
        return np.nan_to_num(np.maximum(weight, 0.0), nan=0.0).astype(np.float32)
    if columns.liked is not None:
        return (weight >= columns.liked).astype(np.float32)
    return RELEVANCE[kind]


class Rows:
    """Columns of blocks as numbers, and what is wrong with them; `kept`, bool [n], is narrowed in place."""

    def __init__(
        self, items: Items, names: Vocabulary, findings: Findings, time_unit: str, now_days: float | None
    ) -> None:
        self._items, self._names, self._findings = items, names, findings
        self._unit = time_unit
        self._latest = (time.time() / DAY if now_days is None else now_days) + 1.0

    def items(self, block: Block, column: str, kept: np.ndarray) -> np.ndarray:
        """int64 [n] item indices."""
        found = self._items.codes(values.text(block[column]))
        text = f"column {column}: an item that {self._items.file} lacks; the row is left out"
        self.leave(block, "item_join", text, found < 0, kept)
        return found

    def people(self, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
        """int32 [n]; everybody is one person where no column says who."""
        if column is None:
            return self._names.users.codes(pa.array(["everybody"] * len(block)))
        found = self._names.users.codes(values.text(block[column]))
        self.leave(block, "user", f"column {column}: no person; the row is left out", found < 0, kept)
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
            unknown = sorted({word for word, kind in zip(words, table, strict=False) if kind < 0})[:5]
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

    def queries(self, block: Block, column: str | None) -> np.ndarray:
        """int32 [n], NONE where nobody asked."""
        return codes_of(self._names.queries, block, column)

    def groups(self, block: Block, column: str | None) -> np.ndarray:
        """int32 [n], NONE where there is none."""
        return codes_of(self._names.groups, block, column)

    def leave(self, block: Block, code: str, text: str, bad: np.ndarray, kept: np.ndarray) -> None:
        """Leave the rows `bad` out, and say so."""
        bad = bad & kept
        if bad.any():
            self._findings.add("warning", code, block.file, text, count=int(bad.sum()), lines=block.rows[bad])
            kept &= ~bad


def codes_of(names: Names, block: Block, column: str | None) -> np.ndarray:
    """int32 [n]: numbers of what the column says; NONE where it is blank, or there is no column."""
    if column is None:
        return np.full(len(block), NONE, np.int32)
    return names.codes(values.text(block[column]))
