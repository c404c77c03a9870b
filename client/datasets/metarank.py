"""Metarank's event log: JSON lines of items, of rankings that were shown, and of what people did with them.

The folder `root` holds files of one event a line, plain or packed (events.jsonl, events.jsonl.gz), which `file` names
by a pattern, and may hold images/ITEM.jpg. The format is that of github.com/metarank/metarank, doc/event-schema.md and
doc/timestamp-formats.md: events `item` (or `metadata`), `ranking`, `interaction` and `user`, the last of which is not
read. A timestamp is milliseconds since 1970 as text or number, or ISO 8601.

What a value is called is free in Metarank: `title` (one field or several, joined), `category`, `price`, `merchant`,
`image` (a path under the root in place of images/ITEM.jpg) and `fields` name fields of item events, `query` one of
rankings, `score` one beside each of their items: the score of the shop's own ranker. An item may come again: of each
field the newest value stands, and an equal time is for the later line. `types` says what types of interactions mean:
{like: cart}.

A ranking is a slate in its order. An interaction belongs to the ranking that it names, wherever that stands, and makes
the item there worth what it says: a click 1, a cart 1, a purchase 2, the most of them, or the item's `label` where that
is more; in later histories it stands at the time of the ranking. One that names no ranking, or one that did not show
the item, is history; without any ranking these make the slates. Who is not named by `user` is named by `session`.
`tenant` may make clients (clients: tenant). Metarank is Apache-2.0; the log is whose shop it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from client.datasets._metarank_events import Log, arrays_of
from client.datasets._metarank_values import BETWEEN, LARGEST
from client.datasets._reading import values
from client.datasets._reading.behaviour import DAY, KINDS, RELEVANCE
from client.datasets._reading.blocks import Progress
from client.datasets._reading.files import text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, Items, items_of
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Events, Lists, Source, events_of, lists_of
from mmrank.errors import ConfigError, DatasetError

HOLDS = "events.jsonl of Metarank, or such files packed"
SIZE = "that of your own log"
EVERY = 10_000
"""Lines between two calls of progress."""


def read(
    root: Path,
    *,
    file: str = "*.jsonl*",
    title: str | Sequence[str] = ("title",),
    category: str = "category",
    price: str = "price",
    merchant: str = "merchant",
    image: str = "image",
    fields: Sequence[str] = (),
    query: str = "query",
    score: str = "relevancy",
    types: Mapping[str, str] | None = None,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. now_days: what is later is no time. Raises ConfigError for a setting that is none, DatasetError
    for files that are no events.
    """
    titles, fields = _several(title), _several(fields)
    names = dict.fromkeys((*titles, category, price, merchant, image, *fields))
    kinds = {str(name).lower(): _kind(name, kind) for name, kind in _map(types).items()}
    latest = (time.time() / DAY if now_days is None else now_days) + 1.0
    log = Log(wanted=tuple(names), query=query, score=score, kinds={**KINDS, **kinds}, findings=findings, latest=latest)
    count = 0
    for count, line in enumerate(text_lines(root, file, findings=findings), 1):
        log.take(line)
        if progress is not None and count % EVERY == 0:
            progress(EVERY)
    if progress is not None:
        progress(count % EVERY)
    items, item_of = _items(root, file, log, titles, (category, price, merchant, image), fields)
    lists, events = _behaviour(log, item_of)
    return Source(
        name="metarank",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        events=events if len(events) else None,
        lists=(lists,) if len(lists) else (),
        users=tuple(log.people),
        queries=tuple(log.queries),
        groups=tuple(log.tenants),
        group_column="tenant" if log.tenants else None,
    )


def _several(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _map(types: Any) -> Mapping[str, Any]:
    if types is not None and not isinstance(types, Mapping):
        raise ConfigError(f"Expected dataset.types={types!r} as {{like: cart}}.")
    return types or {}


def _kind(name: str, kind: Any) -> int:
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"Expected dataset.types: {name}={kind!r} to be one of view, click, cart, purchase.")
    return KINDS[kind]


def _items(
    root: Path, file: str, log: Log, titles: Sequence[str], roles: tuple[str, str, str, str], fields: Sequence[str]
) -> tuple[Items, np.ndarray]:
    """(the items that an event described, in the order in which they first came; int64, of each number its item)."""
    known = np.zeros(len(log.items) + 1, bool)
    known[list(log.described)] = True
    item_of = np.where(known, np.cumsum(known) - 1, NONE)
    names = [name for name, number in log.items.items() if known[number]]
    if not names:
        raise DatasetError(f"{file}: no event of an item in it, which would say what is shown.")

    described = np.flatnonzero(known).tolist()

    def texts(field: str, *, first: bool = False) -> list[str]:
        given = log.values[field].text
        found = [given[number] if number < len(given) else "" for number in described]
        return [text.split(BETWEEN, 1)[0] if first else text.replace(BETWEEN, " ") for text in found]

    made = [title[:LONGEST_TITLE] for title in values.joined([texts(name) for name in titles], between=". ")]
    if not any(made):
        has = ", ".join(sorted(log.names)) or "none"
        text = f"no item has a field {' or '.join(titles)}, so none has a title; set dataset.title to one of: {has}"
        log.findings.add("warning", "title", file, text, count=len(names))
    category, price, merchant, image = roles
    pictures = [path or f"images/{name}.jpg" for path, name in zip(texts(image, first=True), names, strict=True)]
    prices, bad = values.prices(pa.array(texts(price, first=True), pa.string()))
    bad |= prices >= LARGEST
    if bad.any():
        text = f"field {price}: no price of at least 0; the item has none"
        log.findings.add("warning", "price", file, text, count=int(bad.sum()))
    items = items_of(
        names,
        made,
        name="metarank",
        file=file,
        root=root,
        pictures=pictures,
        merchants=texts(merchant, first=True),
        categories=texts(category, first=True),
        prices=np.where(bad, np.nan, prices),
        fields={name: texts(name) for name in fields},
    )
    return items, item_of.astype(np.int64)


def _behaviour(log: Log, item_of: np.ndarray) -> tuple[Lists, Events]:
    """The rankings, with what was done with what they showed, and what was done elsewhere."""
    lists, rows, acts = arrays_of(log.lists), arrays_of(log.rows), arrays_of(log.acts)
    of_row = np.repeat(np.arange(len(lists["start"])), np.diff(np.r_[lists["start"], len(rows["item"])]))
    row = _rows_of(log, lists, rows, of_row, acts)
    worth = RELEVANCE[acts["kind"].astype(np.int64)]
    relevance = np.maximum(np.nan_to_num(rows["label"], nan=0.0), 0.0).astype(np.float32)
    np.maximum.at(relevance, row[row >= 0], worth[row >= 0])
    item, elsewhere = item_of[rows["item"]], row < 0
    done = item_of[acts["item"]]
    unknown = np.bincount(of_row, weights=item < 0, minlength=len(lists["start"])) > 0
    log.say("note", "item_join", "an item that no event describes; it is left out of its ranking", lists, unknown)
    log.say("warning", "act_join", "an item that no event describes; it is left out", acts, elsewhere & (done < 0))
    for columns, what in ((lists, "ranking"), (acts, "interaction")):
        text = f"a {what} without user or session; it is nobody's, and no history"
        log.say("note", f"{what}_user", text.replace("a i", "an i"), columns, columns["user"] < 0)
    kept, elsewhere = item >= 0, elsewhere & (done >= 0)
    made = lists_of(
        judged=False,
        query_id=_names_of(log.rankings, lists["name"]),
        start=np.r_[0, np.cumsum(np.bincount(of_row[kept], minlength=len(lists["start"])))].astype(np.int64),
        **_who(lists, np.ones(len(lists["start"]), bool)),
        item=item[kept].astype(np.int32),
        relevance=relevance[kept],
        position=(np.arange(len(of_row)) - lists["start"][of_row])[kept].astype(np.int32),
        score=rows["score"][kept].astype(np.float32),
    )
    events = events_of(
        **_who(acts, elsewhere),
        item=done[elsewhere].astype(np.int32),
        kind=acts["kind"][elsewhere].astype(np.int8),
        relevance=worth[elsewhere],
    )
    return made, events


def _rows_of(
    log: Log,
    lists: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    of_row: np.ndarray,
    acts: Mapping[str, np.ndarray],
) -> np.ndarray:
    """int64 [acts]: the row of the ranking that each names where its item stands there, NONE where there is none."""
    list_of = np.full(len(log.rankings) + 1, NONE, np.int64)
    list_of[lists["name"]] = np.arange(len(lists["name"]))
    named = list_of[acts["ranking"]]
    count = np.int64(len(log.items) + 1)
    keys = of_row * count + rows["item"]
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], named * count + acts["item"])
    found = np.append(order, NONE)[place]
    same = (named >= 0) & (found >= 0) & (np.append(keys, NONE)[found] == named * count + acts["item"])
    text = "an interaction of a ranking that is not there, or that did not show the item; it is history"
    log.say("note", "ranking_join", text, acts, ~same & (acts["ranking"] >= 0))
    return np.where(same, found, NONE)


def _names_of(numbers: Mapping[str, int], wanted: np.ndarray) -> tuple[str, ...]:
    names = tuple(numbers)
    return tuple(names[number] for number in wanted.tolist())


def _who(columns: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    named = {"user": "user", "query": "query", "group": "tenant"}
    made = {name: columns[column][kept].astype(np.int32) for name, column in named.items()}
    return {**made, "time": columns["time"][kept]}


load = loader(read, holds=HOLDS)
