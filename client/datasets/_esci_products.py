"""Products of the Shopping Queries data: what one is called where an id may stand in several locales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, Items, items_of
from mmrank.errors import DatasetError

EXAMPLES, PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"
LOCALES = ("us", "es", "jp")
FIELDS = ("product_brand", "product_color", "product_locale")


def of_locale(array: pa.StringArray, locale: str) -> np.ndarray:
    """bool [n]."""
    wanted = pa.array(LOCALES if locale == "all" else (locale,))
    return pc.is_in(array, value_set=wanted).to_numpy(zero_copy_only=False)


def keys_of(locales: pa.StringArray, ids: pa.StringArray, locale: str) -> pa.StringArray:
    """What an item is called; the same id is another product in another locale."""
    return pc.binary_join_element_wise(locales, ids, ":") if locale == "all" else ids


def read_products(
    root: Path,
    locale: str,
    judged: pa.StringArray,
    others: bool,
    text: Sequence[str],
    findings: Findings,
    progress: Progress | None,
) -> Items:
    """The catalogue, in the order of the file: what was judged, or all of the locale where `others`."""
    columns = tuple(dict.fromkeys(("product_id", *FIELDS, *text)))
    wanted = frozenset(judged.to_pylist())
    ids: dict[str, str] = {}
    titles: list[str] = []
    fields: dict[str, list[str]] = {column: [] for column in FIELDS}
    for block in blocks(root, PRODUCTS, columns, layout=Layout(), findings=findings, progress=progress):
        locales, own = values.text(block["product_locale"]), values.text(block["product_id"])
        keys = keys_of(locales, own, locale)
        kept = of_locale(locales, locale)
        names = keys.to_pylist()
        if not others:  # one set for all blocks: Arrow would hash all that was judged once a block
            kept &= np.fromiter((name in wanted for name in names), bool, len(names))
        _take_new(names, own.to_pylist(), ids, block, kept, findings)
        taken = {column: values.strings(block[column].filter(pa.array(kept))) for column in columns}
        titles += [title[:LONGEST_TITLE] for title in values.joined([taken[column] for column in text], between=". ")]
        for column in FIELDS:
            fields[column] += taken[column]
    if not ids:
        raise DatasetError(f"{PRODUCTS}: none of the products that {EXAMPLES} judges; are the two of one release?")
    pictures = [f"images/{bare}.jpg" for bare in ids.values()]
    return items_of(tuple(ids), titles, name="esci", file=PRODUCTS, root=root, pictures=pictures, fields=fields)


def _take_new(
    keys: Sequence[str], bare: Sequence[str], ids: dict[str, str], block: Block, kept: np.ndarray, findings: Findings
) -> None:
    """Add the products that are kept to `ids`; one without an id, or that was there before, is left out and said."""
    for place in np.flatnonzero(kept).tolist():
        key, name = keys[place], bare[place]
        if name and name.isprintable() and key not in ids:
            ids[key] = name
            continue
        kept[place] = False
        code, fault = ("duplicate_item", "a product that stands in an earlier row") if key in ids else ("id", "no id")
        words = f"{fault}; the row is left out"
        findings.add("warning", code, block.file, words, lines=(block.rows[place],), lost=True)
