"""Wayfair's WANDS: 480 furniture queries, 42,994 products and 233,448 judgments: Exact, Partial or Irrelevant.

The folder `root` holds product.csv, query.csv and label.csv, which are separated by tabs whatever their names say, with
quotes as in CSV (github.com/wayfair/WANDS, README.md and read_dataset.ipynb), and may hold images/PRODUCT_ID.jpg, which
are not Wayfair's own. The header says `category hierarchy` where the README says category_hierarchy; both are read.

Each query is a slate of its judged products, about 490 of them; nobody clicked anything, so there is no history. With
`gains: graded` Exact is worth 2, Partial 1, Irrelevant 0; with `exact` Exact alone is worth 1. The authors name no
parts, so these are by a hash of the words. The title is made of the columns `text`; the category is the first of
product_class, and the fields are product_class, category_hierarchy and its first step, `department`. Licence: MIT, with
citation (Chen et al. 2022, "WANDS: Dataset for Product Search Relevance Assessment", ECIR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from client.datasets._reading.behaviour import Vocabulary
from client.datasets._reading.blocks import Layout, Progress, names_of
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import ItemColumns, Items, items_of, read_items
from client.datasets._reading.judgments import JudgmentColumns, read_judgments
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from mmrank.settings import one_of

HOLDS = "product.csv, query.csv and label.csv of WANDS"
SIZE = "480 queries, 42,994 products, 233,448 judgments"
TABBED = Layout(format="csv", separator="\t", quotes=True)
GAINS: Mapping[str, Mapping[str, float]] = {
    "graded": {"Exact": 2.0, "Partial": 1.0, "Irrelevant": 0.0},
    "exact": {"Exact": 1.0, "Partial": 0.0, "Irrelevant": 0.0},
}
TEXTS = ("product_name", "product_class", "product_description", "product_features")
HIERARCHY = ("category hierarchy", "category_hierarchy")
QUERIES = {"file": "query.csv", "id": "query_id", "text": "query"}


def read(
    root: Path,
    *,
    gains: str = "graded",
    text: str | Sequence[str] = TEXTS[:3],
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. Raises ConfigError for a setting that is none, DatasetError for files that are no WANDS."""
    texts: tuple[Any, ...] = tuple(text) if isinstance(text, (list, tuple)) else (text,)
    for name, value, known in (("gains", gains, tuple(GAINS)), *(("text", column, TEXTS) for column in texts)):
        one_of(f"dataset.{name}", value, known)
    items = _items(root, texts, findings, progress)
    names = Vocabulary()
    columns = JudgmentColumns(
        file="label.csv",
        query="query_id",
        query_id="query_id",
        item="product_id",
        grade="label",
        gains=GAINS[gains],
        texts=QUERIES,
        layout=TABBED,
    )
    lists = read_judgments(root, columns, items, names, findings=findings, progress=progress)
    return Source(
        name="wands",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        lists=(lists,),
        queries=names.queries.names(),
    )


def _items(root: Path, text: Sequence[str], findings: Findings, progress: Progress | None) -> Items:
    header = names_of(root, "product.csv", layout=TABBED, findings=findings)
    hierarchy = next((name for name in HIERARCHY if name in header), HIERARCHY[0])
    columns = ItemColumns(
        file="product.csv",
        id="product_id",
        title=tuple(text),
        image="images/{product_id}.jpg",
        fields={"product_class": "product_class", "category_hierarchy": hierarchy},
        layout=TABBED,
    )
    found = read_items(root, columns, name="wands", findings=findings, progress=progress)
    catalog, fields = found.catalog, dict(found.fields)
    fields["department"] = [_first(path, "/") for path in fields["category_hierarchy"]]
    return items_of(
        catalog.item_ids,
        catalog.titles,
        name="wands",
        file=found.file,
        root=root,
        pictures=[f"images/{item_id}.jpg" for item_id in catalog.item_ids],
        categories=[_first(kinds, "|") for kinds in fields["product_class"]],
        fields=fields,
    )


def _first(path: str, between: str) -> str:
    """
    >>> _first("Furniture / Bedroom Furniture / Beds", "/"), _first("Teen Lounge Furniture|Accent Chairs", "|")
    ('Furniture', 'Teen Lounge Furniture')
    """
    return path.split(between, 1)[0].strip()


load = loader(read, holds=HOLDS)
