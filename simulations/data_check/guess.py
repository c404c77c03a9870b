"""`mmrank data init`: a column map guessed from a folder's tables and pictures. It asks nothing, and says what it took.

Names are looked at first, then values: an id is what is different in each row, a time is what reads as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from client.datasets._reading import values
from client.datasets._reading.blocks import ENDINGS, PACKINGS, Layout, blocks, names_of
from client.datasets._reading.findings import Findings
from mmrank.errors import ConfigError, DatasetError

WORDS: Mapping[str, tuple[str, ...]] = {
    "id": (
        "item_id",
        "itemid",
        "product_id",
        "productid",
        "sku",
        "asin",
        "article_id",
        "movieid",
        "goods_id",
        "商品id",
    ),
    "title": ("title", "name", "product_name", "product_title", "item_name", "prod_name", "标题", "名称", "商品名称"),
    "description": ("description", "product_description", "detail_desc", "desc", "描述"),
    "merchant": ("merchant", "merchant_id", "shop", "shop_id", "seller", "seller_id", "store", "brand", "店铺", "品牌"),
    "price": ("price", "amount", "list_price", "价格"),
    "category": ("category", "category_id", "product_type", "product_class", "genre", "genres", "类目", "分类"),
    "image": ("image", "image_path", "picture", "img", "poster", "图片"),
    "user": (
        "user_id",
        "userid",
        "user",
        "customer_id",
        "customer",
        "visitor_id",
        "session_id",
        "reviewerid",
        "用户id",
    ),
    "time": ("timestamp", "time", "date", "datetime", "event_time", "created_at", "t_dat", "ts", "时间"),
    "type": ("event_type", "event", "type", "action", "behavior", "behavior_type", "行为"),
    "query": ("query", "search", "search_term", "keyword", "keywords", "q", "搜索词", "查询"),
    "weight": ("rating", "stars", "overall", "score", "评分"),
    "grade": ("grade", "label", "relevance", "esci_label", "judgment", "gain"),
    "clicked": ("clicked", "click", "is_click", "clk"),
    "position": ("position", "rank", "pos"),
    "propensity": ("propensity",),
    "score": ("score", "ranker_score", "model_score"),
    "impression": ("impression_id", "request_id", "search_id", "ranking_id"),
    "items": ("items", "shown", "impressions", "products", "candidates"),
}
"""What columns of each role are called in shops' own tables, the likeliest first."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SAMPLE = 20_000
FOLDERS_DEEP = 2


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the folder: its columns, and the first rows of each."""

    file: str
    columns: Mapping[str, pa.Array]

    def role(self, role: str, taken: Sequence[str | None] = ()) -> str | None:
        """The column that is called as that role is."""
        lower = {name.lower(): name for name in self.columns if name not in taken}
        return next((lower[word] for word in WORDS[role] if word in lower), None)


def guess(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """(settings of `dataset`, what was taken for what in plain words). Raises ConfigError where no table has items."""
    if not folder.is_dir():
        raise ConfigError(f"Expected {folder} to be a folder that holds your tables.")
    said: list[str] = []
    tables = list(_tables(folder.resolve(), said))
    items = max(tables, key=_as_items, default=None)
    if items is None or _as_items(items) <= 0:
        found = ", ".join(table.file for table in tables) or "no table"
        raise ConfigError(
            f"{folder}: no table of items in it (found {found}); one needs a column of different ids and, best, a "
            "title. Write the map by hand: docs/datasets.md."
        )
    spec: dict[str, Any] = {"name": "tables", "root": str(folder), "items": _items(items, folder.resolve(), said)}
    join = set(values.strings(items.columns[spec["items"]["id"]]))
    for table in tables:
        if table is items:
            continue
        kind, columns = _behaviour(table, join)
        if kind is None:
            said.append(f"{table.file}: no column joins with {items.file}; it is left out")
        elif kind in spec:
            said.append(f"{table.file}: a second table of {kind}; it is left out")
        else:
            spec[kind] = columns
            said.append(f"{table.file}: {kind}, {_told(columns)}")
    return spec, said


def _tables(root: Path, said: list[str]) -> Iterator[Table]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        bare = path.name.lower()
        for packing in PACKINGS:
            bare = bare.removesuffix(packing)
        if len(parts) > FOLDERS_DEEP or not path.is_file() or Path(bare).suffix not in ENDINGS:
            continue
        file, quiet = str(path.relative_to(root)), Findings()
        try:
            names = names_of(root, file, layout=Layout(), findings=quiet)
            first = next(blocks(root, file, names, layout=Layout(), findings=quiet), None)
        except DatasetError as error:
            said.append(f"{file}: can't be read ({error})")
            continue
        if first is not None and len(first):
            yield Table(file=file, columns={name: first[name].slice(0, SAMPLE) for name in names})


def _as_items(table: Table) -> float:
    """How much a table looks like one of items: a column of different ids, a title, no people."""
    column = _id_of(table)
    if column is None:
        return 0.0
    score = (
        1.0
        + 2.0 * (table.role("title") is not None)
        + sum(table.role(role) is not None for role in ("price", "category", "merchant", "description", "image"))
    )
    return score - 3.0 * (table.role("user") is not None) - 2.0 * (table.role("grade") is not None)


def _id_of(table: Table) -> str | None:
    named = [
        table.role("id"),
        *(name for name in table.columns if name.lower() in ("id", "index")),
        next(iter(table.columns)),
    ]
    for name in named:
        if name is not None and not pa.types.is_nested(table.columns[name].type):
            texts = values.strings(table.columns[name])
            if all(texts) and len(set(texts)) > 0.99 * len(texts):
                return name
    return None


def _items(table: Table, root: Path, said: list[str]) -> dict[str, Any]:
    column = _id_of(table)
    found: dict[str, Any] = {"file": table.file, "id": column}
    titles = [name for name in (table.role("title", [column]), table.role("description", [column])) if name is not None]
    if titles:
        found["title"] = titles
    for role in ("merchant", "price", "category"):
        name = table.role(role, [column])
        if name is not None:
            found[role] = name
    image = _image(table, str(column), root)
    if image is not None:
        found["image"] = image
    said.append(f"{table.file}: items, {_told(found)}")
    return found


def _image(table: Table, column: str, root: Path) -> str | None:
    """A column of paths, or a pattern over the ids that some picture's path has."""
    ids = values.strings(table.columns[column])[:2000]
    name = table.role("image")
    if name is not None and any((root / path).is_file() for path in values.strings(table.columns[name])[:200] if path):
        return name
    folders = {path.parent for path in root.rglob("*") if path.suffix.lower() in PICTURES}
    for folder in sorted(folders):
        for ending in PICTURES:
            if any((folder / f"{item_id}{ending}").is_file() for item_id in ids if "/" not in item_id):
                return f"{_folder(folder, root, column, ids)}/{{{column}}}{ending}"
    return None


def _folder(folder: Path, root: Path, column: str, ids: Sequence[str]) -> str:
    """Its path as a pattern: pictures often lie in folders called as the first letters of their ids."""
    name, above = folder.name, folder.parent.relative_to(root)
    beginnings = {item_id[: len(name)] for item_id in ids}
    if (
        folder != root
        and name in beginnings
        and len([1 for other in beginnings if (folder.parent / other).is_dir()]) > 1
    ):
        return f"{above}/{{{column}:.{len(name)}}}"
    return str(folder.relative_to(root))


def _behaviour(table: Table, join: set[str]) -> tuple[str | None, dict[str, Any]]:
    """Which kind of behaviour a table holds, and its columns; None where nothing joins with the items."""
    item = _joining(table, join)
    if item is None:
        return None, {}
    found: dict[str, Any] = {"file": table.file}
    roles = {role: table.role(role, [item]) for role in ("user", "time", "query", "grade", "clicked", "position")}
    if roles["grade"] and roles["query"] and not roles["user"]:
        return "judgments", found | {"query": roles["query"], "item": item, "grade": roles["grade"]}
    shown = pa.types.is_nested(table.columns[item].type) or (roles["clicked"] and (roles["position"] or roles["query"]))
    if shown and roles["clicked"]:
        names = {"items": item, "clicked": roles["clicked"], "id": table.role("impression")}
        names |= {role: roles[role] for role in ("user", "time", "query", "position")}
        names |= {"propensity": table.role("propensity"), "score": table.role("score")}
        return "impressions", found | {role: name for role, name in names.items() if name}
    names = {"user": roles["user"], "item": item, "time": _time(table, roles["time"]), "query": roles["query"]}
    names |= {"type": table.role("type", [item]), "weight": table.role("weight", [item])}
    columns = found | {role: name for role, name in names.items() if name}
    if "weight" in columns:
        columns["liked"] = _liked(table.columns[columns["weight"]])
    return "events", columns


def _joining(table: Table, join: set[str]) -> str | None:
    """The column whose values are the items' ids."""
    best, share = None, 0.3
    likely = [table.role("id"), table.role("items")]
    others = [name for name in table.columns if name not in (*likely, table.role("user"), table.role("impression"))]
    for name in dict.fromkeys(filter(None, [*likely, *others])):
        if best is not None and name not in likely:
            break  # numbers from 1 on join with anything
        array = table.columns[name]
        flat = array.flatten() if pa.types.is_list(array.type) else array
        if pa.types.is_nested(flat.type):
            continue
        texts = [text for text in values.strings(flat)[:2000] if text]
        hits = sum(text in join for text in texts) / max(len(texts), 1)
        if hits > share:
            best, share = name, hits
    return best


def _time(table: Table, name: str | None) -> str | None:
    """The column where its values read as times."""
    if name is None:
        return None
    found, bad = values.times(table.columns[name])
    return name if bad.mean() < 0.1 and np.isfinite(found).mean() > 0.5 else None


def _liked(array: pa.Array) -> float:
    """From which rating on an item was liked: four fifths of the scale."""
    found, _ = values.numbers(array)
    return round(0.8 * float(np.nanmax(found)), 2) if np.isfinite(found).any() else 1.0


def _told(columns: Mapping[str, Any]) -> str:
    return ", ".join(f"{role} {name}" for role, name in columns.items() if role != "file")
