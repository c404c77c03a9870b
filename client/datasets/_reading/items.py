"""The public side of a data set: a table of items, as a catalogue."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.datasets._reading import values
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.pictures import FolderPictures
from mmrank.catalog import Catalog
from mmrank.errors import ConfigError, DatasetError

_BEGINNING = re.compile(r"(\.\d{1,3})?")
LONGEST_ID = 1000
LONGEST_TITLE = 20_000
"""Letters of a title that are kept: an encoder reads less."""


@dataclass(frozen=True, kw_only=True)
class ItemColumns:
    """Where a table of items has what. title: one column or several, joined. fields: further public columns, by the
    name that they get.

    image: a column of paths under the root, or a path with columns in braces, `images/{item_id}.jpg`, or with their
    first letters, `images/{item_id:.3}/{item_id}.jpg`.
    """

    file: str
    id: str
    title: tuple[str, ...] = ()
    image: str | None = None
    merchant: str | None = None
    price: str | None = None
    category: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)

    def columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        named = [self.id, *self.title, *self.image_columns(), self.merchant, self.price, self.category]
        return tuple(dict.fromkeys(name for name in [*named, *self.fields.values()] if name))

    def image_columns(self) -> tuple[str, ...]:
        """The columns that a picture's path is made of. Raises ConfigError for braces that hold no column's name."""
        if self.image is None:
            return ()
        if "{" not in self.image:
            return (self.image,)
        return tuple(dict.fromkeys(name for _, name, _ in _template(self.image) if name is not None))


@dataclass(frozen=True, kw_only=True)
class Items:
    """A catalogue and further public columns of its N items. file: where they were read."""

    catalog: Catalog
    fields: Mapping[str, Sequence[str]]
    file: str

    def codes(self, column: pa.Array) -> np.ndarray:
        """int64 [n]: the items of those ids; -1 for what the catalogue lacks."""
        encoded, of = values.encoded(column), self.catalog.index_of
        found = np.fromiter((of.get(name, -1) for name in encoded.dictionary.to_pylist()), np.int64)
        return found[encoded.indices.to_numpy(zero_copy_only=False)] if len(found) else np.zeros(0, np.int64)


def read_items(
    root: Path,
    columns: ItemColumns,
    *,
    name: str,
    findings: Findings,
    progress: Progress | None = None,
) -> Items:
    """The catalogue of a table. A row without an id, or with one that an earlier row has, is left out and said; a price
    that is none is absent. Raises DatasetError where no row is left, ConfigError for a template that is none.
    """
    taken = _Taken(columns)
    image = columns.image_columns()
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        kept = taken.ids(block, findings)
        taken.take(block, kept, image, findings)
    if not taken.item_ids:
        raise DatasetError(f"{columns.file}: no item in it; column {columns.id!r} should name one in each row.")
    texts = taken.texts
    return items_of(
        tuple(taken.item_ids),
        texts["title"],
        name=name,
        file=columns.file,
        root=root,
        pictures=texts["image"],
        merchants=texts["merchant"],
        categories=texts["category"],
        prices=np.concatenate(taken.prices),
        fields={key: texts[f"field {key}"] for key in columns.fields},
    )


def items_of(
    item_ids: Sequence[str],
    titles: Sequence[str],
    *,
    name: str,
    file: str,
    root: Path,
    pictures: Sequence[str] | None = None,
    merchants: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    prices: np.ndarray | None = None,
    fields: Mapping[str, Sequence[str]] | None = None,
) -> Items:
    """Items of N different ids and what is known of them. pictures: paths under root, '' where there is none."""
    count = len(item_ids)
    merchant, merchant_names = coded(merchants or [""] * count)
    category, category_names = coded(categories or [""] * count)
    catalog = Catalog(
        name=name,
        item_ids=tuple(item_ids),
        titles=tuple(titles),
        prices=np.full(count, np.nan, np.float32) if prices is None else prices.astype(np.float32),
        merchants=merchant,
        merchant_names=merchant_names,
        categories=category,
        category_names=category_names,
        images=FolderPictures(root=root, paths=pictures or [""] * count),
    )
    return Items(catalog=catalog, fields=fields or {}, file=file)


class _Taken:
    """Columns as they grow."""

    def __init__(self, columns: ItemColumns) -> None:
        self.columns = columns
        self.item_ids: dict[str, None] = {}
        names = ("title", "merchant", "category", "image", *(f"field {key}" for key in columns.fields))
        self.texts: dict[str, list[str]] = {name: [] for name in names}
        self.prices: list[np.ndarray] = []

    def ids(self, block: Block, findings: Findings) -> np.ndarray:
        """bool [n]: the rows with a new id."""
        kept = np.ones(len(block), bool)
        for place, item_id in enumerate(values.strings(block[self.columns.id])):
            fault = _id_fault(item_id)
            if fault is not None:
                findings.add(
                    "warning", "id", block.file, f"{fault}; the row is left out", lines=(block.rows[place],), lost=True
                )
            elif item_id in self.item_ids:
                findings.add(
                    "warning",
                    "duplicate_item",
                    block.file,
                    "an item whose id an earlier row has; the row is left out",
                    lines=(block.rows[place],),
                    lost=True,
                )
            else:
                self.item_ids[item_id] = None
                continue
            kept[place] = False
        return kept

    def take(self, block: Block, kept: np.ndarray, image: Sequence[str], findings: Findings) -> None:
        """The columns of the rows that are kept."""
        columns = self.columns
        mask = pa.array(kept)

        def texts(name: str) -> list[str]:
            return values.strings(block[name].filter(mask))

        count = int(kept.sum())
        titles = [texts(name) for name in columns.title]
        self.texts["title"] += (
            [title[:LONGEST_TITLE] for title in values.joined(titles, between=". ")] if titles else [""] * count
        )
        for key, name in (("merchant", columns.merchant), ("category", columns.category)):
            self.texts[key] += texts(name) if name else [""] * count
        for key, name in columns.fields.items():
            self.texts[f"field {key}"] += texts(name)
        self.texts["image"] += _paths(columns.image, {name: texts(name) for name in image}, count)
        if columns.price is None:
            self.prices.append(np.full(count, np.nan, np.float32))
            return
        found, bad = values.prices(block[columns.price])
        if (bad & kept).any():
            findings.add(
                "warning",
                "price",
                block.file,
                f"column {columns.price}: no price of at least 0; the item has none",
                count=int((bad & kept).sum()),
                lines=block.rows[bad & kept],
            )
        self.prices.append(found[kept].astype(np.float32))


def coded(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 [N], the names by number, sorted); what is blank has the name ''."""
    found = sorted(set(names))  # numpy would make room for the longest of them in each row
    number = {name: place for place, name in enumerate(found)}
    return np.fromiter((number[name] for name in names), np.int64, len(names)), tuple(found)


def _id_fault(item_id: str) -> str | None:
    if not item_id:
        return "no id"
    if len(item_id) > LONGEST_ID:
        return f"an id of {len(item_id)} letters, more than {LONGEST_ID}"
    return "an id with a line break or a control character" if not item_id.isprintable() else None


def _paths(image: str | None, parts: Mapping[str, Sequence[str]], count: int) -> list[str]:
    if image is None:
        return [""] * count
    if "{" not in image:
        return list(parts[image])
    pieces = _template(image)
    paths = []
    for row in zip(*parts.values(), strict=True):
        known = dict(zip(parts, row, strict=True))
        made = "".join(before + ("" if name is None else known[name][:length]) for before, name, length in pieces)
        paths.append(made if all(row) else "")
    return paths


def _template(image: str) -> list[tuple[str, str | None, int | None]]:
    """(letters, the column after them or None at the end, how many of its letters or None for all).

    Raises ConfigError for braces that hold no column's name.
    """
    try:
        pieces = list(string.Formatter().parse(image))
    except ValueError as error:
        raise ConfigError(f"Expected image={image!r} as images/{{item_id}}.jpg ({error}).") from None
    named = [name for _, name, _, _ in pieces if name is not None]
    forms = [form or "" for _, _, form, _ in pieces]
    if not all(named) or not named or any(cast for *_, cast in pieces) or not all(map(_BEGINNING.fullmatch, forms)):
        raise ConfigError(
            f"Expected image={image!r} as images/{{item_id}}.jpg: a column's name alone in each brace, or with the "
            "number of letters to take of it, as images/{item_id:.3}/{item_id}.jpg."
        )
    lengths = [int(form[1:]) if form else None for form in forms]
    return [(before, name, length) for (before, name, _, _), length in zip(pieces, lengths, strict=True)]
