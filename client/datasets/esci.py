"""Amazon's Shopping Queries (ESCI): 130,652 queries in three languages, each with up to 40 products that people graded.

The folder `root` holds shopping_queries_dataset_examples.parquet and shopping_queries_dataset_products.parquet, as the
authors pack them (github.com/amazon-science/esci-data, README.md), and may hold images/PRODUCT_ID.jpg, which are not
Amazon's own.

`locale` is us, es, jp or all; a product is one of its locale, where the same id may stand in several: with `all` an
item is called LOCALE:PRODUCT_ID. `version` is small (task 1, without the easy queries) or large. The catalogue holds
the products that were judged in that version, `products: all` the others of the locale too. `text` names the columns
that make a title. Each query is a slate of its judged products; nobody clicked anything, so there is no history.

`gains` says what a label is worth. kdd: E 1, S 0.1, C 0.01, I 0, of the KDD Cup 2022 and of the authors' baseline
(ranking/train.py there). graded: E 3, S 2, C 1, I 0, as in JMTEB (huggingface.co/datasets/sbintuitions/JMTEB,
reranking.py). test is as the file says; of the queries for training, a hash of the words keeps the share
`split.validation_fraction` for validation, so that equal words lie in one part of the two. `split: query` deals all
queries by that hash instead. Licence: Apache-2.0, with citation (Reddy et al. 2022, arXiv:2206.06588).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._esci_products import EXAMPLES, LOCALES, PRODUCTS, keys_of, of_locale, read_products
from client.datasets._reading import values
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._shaping.loader import loader
from client.datasets._shaping.parts import Parts
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Lists, Source, lists_of
from mmrank.errors import DatasetError
from mmrank.settings import one_of

HOLDS = f"{EXAMPLES} and {PRODUCTS}"
SIZE = "small 48,300 queries and 1.1 million judgments; large 130,652 and 2.6 million"
VERSIONS = ("small", "large")
GAINS: Mapping[str, Mapping[str, float]] = {
    "kdd": {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0},
    "graded": {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0},
}
TEXTS = ("product_title", "product_brand", "product_color", "product_bullet_point", "product_description")
JUDGED = ("product_id", "product_locale", "query_id", "query", "esci_label", "split")
TRAIN, VALIDATION, TEST = range(3)
_POINTER = b"version https://git-lfs"


def read(
    root: Path,
    *,
    locale: str = "us",
    version: str = "small",
    gains: str = "kdd",
    products: str = "judged",
    text: str | Sequence[str] = TEXTS[:3],
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. Raises ConfigError for a setting that is none, DatasetError for files that are no ESCI."""
    one_of("dataset.locale", locale, (*LOCALES, "all"))
    one_of("dataset.version", version, VERSIONS)
    one_of("dataset.gains", gains, tuple(GAINS))
    one_of("dataset.products", products, ("judged", "all"))
    texts: tuple[Any, ...] = tuple(text) if isinstance(text, (list, tuple)) else (text,)
    for column in texts:
        one_of("dataset.text", column, TEXTS)
    for file in (EXAMPLES, PRODUCTS):
        _unpacked(root, file)
    names = {"key": Names(), "query_id": Names(), "query": Names()}
    rows = _examples(root, locale, version, GAINS[gains], names, findings, progress)
    judged = names["key"].names().array
    items = read_products(root, locale, judged, products == "all", texts, findings, progress)
    rows["item"] = _joined(rows, items, judged, findings)
    queries = names["query"].names()
    return Source(
        name="esci",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        lists=(_lists(rows, names["query_id"].names(), queries, shape.split.validation_fraction, findings),),
        queries=queries,
    )


def _unpacked(root: Path, file: str) -> None:
    """A clone without Git LFS has a few words in place of each table."""
    path = root / file
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise DatasetError(
                    f"{file}: a pointer of Git LFS in place of the table; run git lfs pull in the clone."
                )


def _examples(
    root: Path,
    locale: str,
    version: str,
    gains: Mapping[str, float],
    names: Mapping[str, Names],
    findings: Findings,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """Columns of the judgments of that locale and version: key, query_id, query, grade, part, line."""
    flag = f"{version}_version"
    found: dict[str, list[Any]] = {column: [] for column in (*names, "grade", "part", "line")}
    for block in blocks(root, EXAMPLES, (*JUDGED, flag), layout=Layout(), findings=findings, progress=progress):
        texts = {column: values.text(block[column]) for column in JUDGED}
        kept = (values.numbers(block[flag])[0] == 1) & of_locale(texts["product_locale"], locale)
        grade = _coded(texts["esci_label"], gains, np.nan)
        _leave(findings, block, "grade", "column esci_label: none of E, S, C, I; the row is left out", grade, kept)
        part = _coded(texts["split"], {"train": TRAIN, "test": TEST}, np.nan)
        _leave(findings, block, "split", "column split: neither train nor test; the row is left out", part, kept)
        blank = _coded(texts["query"], {"": np.nan}, 0.0) + _coded(texts["query_id"], {"": np.nan}, 0.0)
        _leave(findings, block, "query_join", "a query without words or id; the row is left out", blank, kept)
        mask = pa.array(kept)
        keys = {**texts, "key": keys_of(texts["product_locale"], texts["product_id"], locale)}
        for column in names:
            found[column].append(keys[column].filter(mask).dictionary_encode())
        found["grade"].append(grade[kept].astype(np.float32))
        found["part"].append(part[kept].astype(np.int8))
        found["line"].append(block.rows[kept])
    rows = {column: names[column].codes(found[column]) for column in names}
    rows |= {column: np.concatenate(found[column] or [np.zeros(0)]) for column in ("grade", "part", "line")}
    if not len(rows["grade"]):
        raise DatasetError(
            f"{EXAMPLES}: no row of {flag} 1 and locale {locale}; set dataset.locale or dataset.version to what it has."
        )
    return rows


def _coded(array: pa.StringArray, numbers: Mapping[str, float], other: float) -> np.ndarray:
    """float64 [n]: the number of each text."""
    encoded = array.dictionary_encode()
    table = np.array([numbers.get(text, other) for text in encoded.dictionary.to_pylist()], np.float64)
    return table[encoded.indices.to_numpy(zero_copy_only=False)]


def _leave(findings: Findings, block: Block, code: str, text: str, numbers: np.ndarray, kept: np.ndarray) -> None:
    """Leave out, and say, what is kept so far and has no number."""
    bad = kept & np.isnan(numbers)
    if bad.any():
        findings.add("warning", code, block.file, text, count=int(bad.sum()), lines=block.rows[bad], lost=True)
        kept &= ~bad


def _joined(rows: dict[str, np.ndarray], items: Items, judged: pa.StringArray, findings: Findings) -> np.ndarray:
    """int64 [n]: the item of each row, NONE where the table of products lacks it."""
    found = pc.fill_null(pc.index_in(judged, value_set=pa.array(items.catalog.item_ids, pa.string())), NONE)
    item = np.append(found.to_numpy(zero_copy_only=False).astype(np.int64), NONE)[rows["key"]]  # a key of NONE is last
    if (item < 0).any():
        text = f"column product_id: a product that {PRODUCTS} lacks; the row is left out"
        lines = rows["line"][item < 0]
        findings.add("warning", "item_join", EXAMPLES, text, count=len(lines), lines=lines, lost=True)
    return item


def _lists(
    rows: Mapping[str, np.ndarray], ids: Sequence[str], queries: Sequence[str], share: float, findings: Findings
) -> Lists:
    """A list for each query. One of the queries has rows of both parts: what is for test is no training."""
    tested = np.zeros(len(ids), bool)
    tested[rows["query_id"][rows["part"] == TEST]] = True
    both = (rows["part"] == TRAIN) & tested[rows["query_id"]]
    if both.any():
        text = "column split: train, of a query that is for test too; the row is left out"
        findings.add("warning", "split_both", EXAMPLES, text, count=int(both.sum()), lines=rows["line"][both])
    order = np.flatnonzero((rows["item"] >= 0) & ~both)
    order = order[np.argsort(rows["query_id"][order], kind="stable")]
    own = rows["query_id"][order]
    begins = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else np.zeros(0, np.int64)
    first = order[begins]
    held_out = Parts(by="query", edges=(0, 0, 0, 0), shares=(share, 0.0), public=True)
    words = [queries[number] for number in rows["query"][first].tolist()]
    validation = np.array([held_out.of_query(text) == VALIDATION for text in words], bool)
    part = rows["part"][first]
    return lists_of(
        judged=True,
        query_id=tuple(ids[number] for number in own[begins].tolist()),
        start=np.r_[begins, len(own)].astype(np.int64),
        item=rows["item"][order].astype(np.int32),
        relevance=rows["grade"][order],
        query=rows["query"][first],
        part=np.where((part == TRAIN) & validation, VALIDATION, part).astype(np.int8),
    )


load = loader(read, holds=HOLDS)
