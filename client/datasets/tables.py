"""Your own tables, without code: CSV, TSV, JSON lines or Parquet under one folder, with a column map.

    dataset:
      name: tables
      root: /data/shop
      items:  {file: items.csv, id: item_id, title: [title, description], image: "images/{item_id}.jpg", price: price}
      events: {file: events.parquet, user: user_id, item: item_id, time: timestamp, type: event_type, query: query}

`items` alone is required. `file` is a file, a folder of shards or a pattern; beside it may stand `format`,
`separator`, `encoding`, `quotes` and `header`. What people did comes as `events` (one thing a row), as `impressions`
(what was shown, and what of it was clicked), or as `judgments` (grades for a query); without any, queries are derived
from the items' own fields, and graded by how many of them match. Impressions are slates as they were shown, and events
beside them are history; events alone are slates of a person's day, against `candidates`. See docs/datasets.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.datasets._reading.behaviour import EventColumns, Vocabulary, read_events
from client.datasets._reading.blocks import Layout, Progress
from client.datasets._reading.findings import Findings
from client.datasets._reading.impressions import ImpressionColumns, read_impressions
from client.datasets._reading.items import ItemColumns, read_items
from client.datasets._reading.judgments import JudgmentColumns, read_judgments
from client.datasets._reading.stored import read_store
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Events, Lists, Source, both
from mmrank.errors import ConfigError
from mmrank.settings import parse_table

HOLDS = "the tables that items, events, judgments and impressions name"
SIZE = "as large as yours: ten million events are checked in about 1 GB"
_LAYOUT = tuple(item.name for item in dataclasses.fields(Layout))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The maps of all tables."""

    items: ItemColumns
    events: EventColumns | None = None
    judgments: JudgmentColumns | None = None
    impressions: ImpressionColumns | None = None


def columns_of(
    *,
    items: Mapping[str, Any],
    events: Mapping[str, Any] | None = None,
    judgments: Mapping[str, Any] | None = None,
    impressions: Mapping[str, Any] | None = None,
) -> Columns:
    """The maps as settings. Raises ConfigError for a key that is none, with the nearest one."""
    return Columns(
        items=_map(ItemColumns, items, "items"),
        events=None if events is None else _map(EventColumns, events, "events"),
        judgments=None if judgments is None else _map(JudgmentColumns, judgments, "judgments"),
        impressions=None if impressions is None else _map(ImpressionColumns, impressions, "impressions"),
    )


def read(
    root: Path,
    *,
    items: Mapping[str, Any],
    events: Mapping[str, Any] | None = None,
    judgments: Mapping[str, Any] | None = None,
    impressions: Mapping[str, Any] | None = None,
    store: str | None = None,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """The tables as a source; every row is read once. See ItemColumns, EventColumns, JudgmentColumns and
    ImpressionColumns for the maps. store: a file of `mmrank events` under the root, whose events are added. now_days:
    what is later is no time.

    Raises ConfigError for a setting, DatasetError (file, line, what to do) for tables that can't be used.
    """
    columns = columns_of(items=items, events=events, judgments=judgments, impressions=impressions)
    return read_columns(
        root, columns, shape=shape, name="tables", store=store, findings=findings, now_days=now_days, progress=progress
    )


def read_columns(
    root: Path,
    columns: Columns,
    *,
    shape: Shape,
    name: str,
    store: str | None = None,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """The tables that those maps speak of, as the source `name`: what a reader of a fixed layout calls."""
    made_by = shape.clients.by
    found = read_items(root, _with_field(columns, made_by), name=name, findings=findings, progress=progress)
    names = Vocabulary()
    behaviour, group_column = _grouped(columns, made_by)
    events: Events | None = None
    lists: list[Lists] = []
    if behaviour.events is not None:
        events = read_events(
            root, behaviour.events, found, names, findings=findings, now_days=now_days, progress=progress
        )
    if behaviour.impressions is not None:
        lists.append(
            read_impressions(
                root, behaviour.impressions, found, names, findings=findings, now_days=now_days, progress=progress
            )
        )
    if behaviour.judgments is not None:
        lists.append(read_judgments(root, behaviour.judgments, found, names, findings=findings, progress=progress))
    if store is not None:
        kept, shown = read_store(root, store, found, names, findings=findings)
        events = kept if events is None else events if kept is None else both(events, kept)
        lists += [] if shown is None else [shown]
    user = next((table.user for table in (columns.events, columns.impressions) if table and table.user), "user")
    return Source(
        name=name,
        catalog=found.catalog,
        fields=found.fields,
        findings=findings,
        events=events,
        lists=tuple(lists),
        users=names.users.names(),
        queries=names.queries.names(),
        groups=names.groups.names(),
        user_column=user,
        group_column=group_column,
    )


def _map(kind: Any, given: Mapping[str, Any], name: str) -> Any:
    """A column map; how the file is written stands among the columns."""
    where = f"dataset.{name}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"Expected {where}={given!r} as {{file: ..., id: ...}}.")
    values = {key: value for key, value in given.items() if key not in _LAYOUT}
    if isinstance(values.get("title"), str):
        values["title"] = [values["title"]]
    if isinstance(values.get("fields"), list):
        values["fields"] = {column: column for column in values["fields"]}
    if "item" in values and kind is ImpressionColumns:
        values["items"] = values.pop("item")
    layout = parse_table(Layout, {key: value for key, value in given.items() if key in _LAYOUT}, where)
    for item in dataclasses.fields(kind):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and item.name not in values:
            raise ConfigError(f"Expected {where}.{item.name}: the name of a column; add it to {where}.")
    return dataclasses.replace(parse_table(kind, values, where), layout=layout)


def _with_field(columns: Columns, made_by: str) -> ItemColumns:
    """The items' columns, with the one that clients are made by where it is a column of theirs by its own name."""
    items = columns.items
    roles = {"merchant": items.merchant, "category": items.category}
    if made_by in roles.values() and made_by not in items.fields:
        return dataclasses.replace(items, fields={**items.fields, made_by: made_by})
    return items


def _grouped(columns: Columns, made_by: str) -> tuple[Columns, str | None]:
    """The behaviour's columns, with `made_by` as their group where it is none of the roles."""
    own = {"auto", "user", "merchant", "category", "all", "queries", *columns.items.fields}
    own |= {name for name in (columns.items.merchant, columns.items.category) if name}
    own |= {table.user for table in (columns.events, columns.impressions) if table is not None and table.user}
    if made_by in own:
        given = [table.group for table in (columns.events, columns.impressions, columns.judgments) if table]
        return columns, next((group for group in given if group), None)
    grouped = {
        name: dataclasses.replace(table, group=made_by)
        for name in ("events", "impressions", "judgments")
        if (table := getattr(columns, name)) is not None
    }
    return dataclasses.replace(columns, **grouped), made_by


load = loader(read, holds=HOLDS)
