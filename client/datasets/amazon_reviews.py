"""Amazon Reviews of McAuley Lab: 2023, and the older ones of 2018 and 2014, one category or several.

The folder `root` holds the reviews of a category and the metadata of its items as they are published, packed or not:
2023 CATEGORY.jsonl and meta_CATEGORY.jsonl (amazon-reviews-2023.github.io), 2018 CATEGORY_5.json and
meta_CATEGORY.json (nijianmo.github.io/amazon), 2014 reviews_CATEGORY_5.json and meta_CATEGORY.json, whose metadata are
Python literals (cseweb.ucsd.edu/~jmcauley/datasets/amazon). For reviews also a benchmark's CSV with the header
user_id,parent_asin,rating,timestamp. An item is its parent_asin (2023) or asin: what its colours and sizes share.

Pictures are read from images/ under the root, where whoever downloaded them put them: by the last part of their address
(`pictures: basename`; of the main picture the largest that is there), or as ASIN.jpg (`pictures: asin`).

A review of at least `liked` stars is relevant, one below stands beside it as seen and not liked; a verified purchase is
a purchase, another review a click. The merchant is the store or brand; the category is the step `category_level` of the
item's path, the last one where the path is shorter, and the main category where there is no path. A price range is its
lower end. Many items have no metadata; their reviews are left out and said, and `bad_rows` says how many may be. There
are no queries: they may be derived (`queries: derive`). Licence: none is stated; for research. Citation: Hou et al.
2024 (arXiv 2403.03952), Ni et al. 2019 (EMNLP), McAuley et al. 2015 (SIGIR).
"""

from __future__ import annotations

import dataclasses
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from client.datasets._amazon_items import IMAGES, Product, object_of, product_of
from client.datasets._reading.behaviour import EventColumns, Vocabulary, read_events
from client.datasets._reading.blocks import Layout, Progress, format_of, names_of
from client.datasets._reading.files import shards, text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items, items_of
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from mmrank.errors import DatasetError
from mmrank.settings import bounded, parse_table

HOLDS = "CATEGORY.jsonl.gz (reviews) and meta_CATEGORY.jsonl.gz, as McAuley Lab publishes them"
SIZE = "2023: 571 million reviews of 48 million items, in 33 categories that are read one by one"
YEARS = (
    ("user_id", "parent_asin", "rating", "timestamp", "verified_purchase"),
    ("reviewerID", "asin", "overall", "unixReviewTime", "verified"),
)
"""What reviews call person, item, stars, time, and whether it was bought: 2023, then 2018 and 2014."""
TYPES = {"true": "purchase", "false": "click", "": "click"}
TEXTS = ("title", "merchant", "category", "main_category", "picture")
LOOKED_AT = 50
"""Lines of which the fields are looked at: not each review says whether it was verified."""
_TABLE = re.compile(r"\.(jsonl?|csv)(\.(gz|bz2|zst|lz4))?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """The settings of this reader; see read."""

    reviews: str | None = None
    meta: str | None = None
    liked: float = 4.0
    pictures: Literal["basename", "asin"] = "basename"
    category_level: int = 1

    def __post_init__(self) -> None:
        bounded("dataset.liked", self.liked, 0.0, 5.0)
        bounded("dataset.category_level", self.category_level, 0, 20)


def read(
    root: Path,
    *,
    reviews: str | None = None,
    meta: str | None = None,
    liked: float = 4.0,
    pictures: str = "basename",
    category_level: int = 1,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. reviews, meta: files or patterns, where several lie in one folder. liked: from so many stars on
    an item was liked. pictures: basename or asin. category_level: 0 the root of an item's path.

    Raises ConfigError for a setting, DatasetError (file, line, what to do) for files that can't be used.
    """
    given = {"reviews": reviews, "meta": meta, "liked": liked, "pictures": pictures, "category_level": category_level}
    own: Own = parse_table(Own, given, "dataset")
    items = _items(root, _file(root, own.meta, "meta"), own, findings, progress)
    names = Vocabulary()
    columns = _review_columns(root, _file(root, own.reviews, "reviews"), own.liked)
    events = read_events(root, columns, items, names, findings=findings, now_days=now_days, progress=progress)
    return Source(
        name="amazon_reviews",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        events=events,
        users=names.users.names(),
        user_column=columns.user or "user",
    )


def _file(root: Path, named: str | None, what: Literal["meta", "reviews"]) -> str:
    """The one file of that kind. Raises DatasetError where there is none, or more than one."""
    if named is not None:
        return named
    tables = sorted(path.name for path in root.iterdir() if path.is_file() and _TABLE.search(path.name))
    found = [name for name in tables if name.startswith("meta_") == (what == "meta") and name != "asin2category.json"]
    if len(found) == 1:
        return found[0]
    told = f"several files may be the {what}: {', '.join(found)}" if found else f"no file of {what} in it"
    raise DatasetError(f"{root}: {told}; it should hold {HOLDS}, or set dataset.{what} to a file or a pattern.")


def _review_columns(root: Path, file: str, liked: float) -> EventColumns:
    known = _fields(root, file)
    for user, item, rating, time, verified in YEARS:
        if {user, item, rating, time} <= known:
            bought = verified in known
            return EventColumns(
                file=file,
                user=user,
                item=item,
                time=time,
                weight=rating,
                liked=liked,
                type=verified if bought else None,
                types=TYPES if bought else {},
            )
    wanted = " or ".join(", ".join(year[:4]) for year in YEARS)
    raise DatasetError(f"{file}: no reviews in its first lines; expected {wanted}, found {', '.join(sorted(known))}.")


def _fields(root: Path, file: str) -> set[str]:
    """The fields of the first lines."""
    first = shards(root, file)[0]
    if format_of(first.name) != "jsonl":
        return set(names_of(root, file, layout=Layout(), findings=Findings()))
    found: set[str] = set()
    lines = text_lines(root, str(first.relative_to(root)), findings=Findings())
    for line, _ in zip(lines, range(LOOKED_AT), strict=False):
        found |= set(object_of(line.text) or ())
    return found


def _items(root: Path, file: str, own: Own, findings: Findings, progress: Progress | None) -> Items:
    ids: list[str] = []
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    prices = array("d")
    for product in _products(root, file, own, findings, progress):
        ids.append(product.item_id)
        prices.append(product.price)
        for name, column in texts.items():
            column.append(getattr(product, name))
    if not ids:
        raise DatasetError(f"{file}: no item in it; each line should be an object with parent_asin or asin.")
    return items_of(
        ids,
        texts["title"],
        name="amazon_reviews",
        file=file,
        root=root,
        pictures=texts["picture"],
        merchants=texts["merchant"],
        categories=texts["category"],
        prices=np.array(prices),
        fields={"main_category": texts["main_category"]},
    )


def _products(root: Path, file: str, own: Own, findings: Findings, progress: Progress | None) -> Iterator[Product]:
    """The products of the metadata, each id once."""
    folder = str(root / IMAGES) if (root / IMAGES).is_dir() else None
    known: set[str] = set()
    for line in text_lines(root, file, findings=findings):
        findings.rows[line.file] += 1
        if progress is not None:
            progress(1)
        row = object_of(line.text)
        product = None if row is None else product_of(row, folder, by=own.pictures, level=own.category_level)
        if product is None:
            text = "neither JSON nor a Python literal in braces, left out; each line is one object"
            findings.add("warning", "json", line.file, text, lines=(line.number,), by_row=False, lost=True)
        elif not product.item_id:
            text = "no parent_asin or asin; the row is left out"
            findings.add("warning", "id", line.file, text, lines=(line.number,), by_row=False, lost=True)
        elif product.item_id in known:
            text = "an item whose id an earlier row has; the row is left out"
            findings.add("note", "duplicate_item", line.file, text, lines=(line.number,), by_row=False)
        else:
            known.add(product.item_id)
            for code, text in product.faults:
                findings.add("warning", code, line.file, text, lines=(line.number,), by_row=False)
            yield product


load = loader(read, holds=HOLDS)
