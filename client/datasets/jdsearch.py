"""JDsearch: the searches of 173,831 people of JD.com with what they were shown, and a year of what they did before.

The folder `root` holds product_meta_data.txt and user_behavior_data.txt, or the samples of both, as the authors pack
them (github.com/rucliujn/JDsearch, README.md): fields between tabs, elements of a list between `_`, terms of a text
between the control character 0x18. Texts are anonymous: the words of a title or a query are numbers of terms.

A line of user_behavior_data.txt is a person: a last query, the products that were shown for it (0 nothing, 1 clicked,
2 in the cart, 3 bought, which are the relevances), and the history: products, the query that led to each or -1, CLICK,
CART, FLW (followed, taken as a cart) or ORD, and the time from one to the next, the last up to the query. The README
names no unit; as seconds the sums fit the year that the paper speaks of. All last queries are of one day, 17 October
2022; they stand at its beginning, and the history before.

With `slates: shown` a slate is what was shown for a person's last query, and what the person did before is its history;
as all are of one day, parts are by a hash of the query, with the fractions of `split`. With `slates: behaviour` the
history makes slates as well, day by day against `candidates`, and parts are by time: `test_from: 2022-10-17` tests on
the last queries, against what was shown. The file lists what was chosen first, so its order is no position and is not
kept. 6 % of the products lack metadata; they are left out of lists and histories, and said. `people` reads the first so
many lines alone. The merchant is the shop, the category the third level. Licence: CC BY-NC-SA 4.0, with citation (Liu
et al. 2023, arXiv:2305.14810).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.datasets._jdsearch_people import COLUMNS, LAST_QUERY_DAY, People, words_of
from client.datasets._reading import values
from client.datasets._reading.blocks import Layout, Progress, blocks, names_of
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, Items, items_of
from client.datasets._reading.values import Names
from client.datasets._shaping.loader import loader
from client.datasets._shaping.parts import Parts
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Events, Lists, Source, events_of, lists_of
from mmrank.errors import ConfigError, DatasetError
from mmrank.settings import one_of

HOLDS = "product_meta_data.txt and user_behavior_data.txt of JDsearch"
SIZE = "about 170,000 people and 12.9 million products"
BEHAVIOUR, PRODUCTS = "user_behavior_data", "product_meta_data"
LEVELS = tuple(f"{what}_{level}" for level in (1, 2, 3, 4) for what in ("cate_id", "cate_name"))
PRODUCT_COLUMNS = ("wid", "name", "brand_id", "brand_name", *LEVELS, "shop_id")
READ = ("wid", "name", "brand_name", "cate_name_1", "cate_name_3", "shop_id")
_SCATTER = 2_654_435_761


def read(
    root: Path,
    *,
    slates: str = "shown",
    people: int | None = None,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. Raises ConfigError for a setting that is none, DatasetError for files that are no JDsearch."""
    one_of("dataset.slates", slates, ("shown", "behaviour"))
    if people is not None and (isinstance(people, bool) or not isinstance(people, int) or people < 1):
        raise ConfigError(f"Expected dataset.people={people!r} to be a whole number of at least 1, or nothing for all.")
    behaviour = People(file=_file(root, BEHAVIOUR), findings=findings)
    layout = _layout(root, behaviour.file, COLUMNS)
    for block in blocks(root, behaviour.file, COLUMNS, layout=layout, findings=findings, progress=progress):
        behaviour.take(block, people)
        if people is not None and behaviour.lines_read >= people:
            break
    wids, queries = Names(), Names()
    shown, done, last = behaviour.joined(wids, queries)
    file = _file(root, PRODUCTS)
    items, item_of = _items(root, file, wids.names().array, findings, progress)
    lines = np.concatenate(behaviour.lines)
    _say_lost(shown, done, item_of, lines, f"a product that {file} lacks", behaviour.file, findings)
    shown, done = _known(shown, item_of), _known(done, item_of)
    shown["query"] = last[shown["person"]]
    words = queries.names()
    lists = _lists(shown, words, shape) if slates == "shown" else None
    return Source(
        name="jdsearch",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        events=_events(done, None if lists is not None else shown),
        lists=() if lists is None else (lists,),
        users=tuple(f"p{line}" for line in lines.tolist()),
        queries=words,
        user_column="person",
    )


def _file(root: Path, stem: str) -> str:
    """The table, or its sample where that alone is there."""
    sample = f"{stem}_sample.txt"
    return sample if not (root / f"{stem}.txt").is_file() and (root / sample).is_file() else f"{stem}.txt"


def _layout(root: Path, file: str, columns: tuple[str, ...]) -> Layout:
    """Tabs without quotes; the samples have a header, and the README speaks of none."""
    first = names_of(root, file, layout=Layout(format="tsv"), findings=Findings())
    return Layout(format="tsv", header=None if set(first) & set(columns) else columns)


def _items(
    root: Path, file: str, wids: pa.StringArray, findings: Findings, progress: Progress | None
) -> tuple[Items, np.ndarray]:
    """(the products that somebody saw, in the order of the file; int64 [W + 1], the item of each of the W wids, and
    NONE after them).
    """
    names = wids.to_pylist()
    number_of = {wid: number for number, wid in enumerate(names)}  # Arrow would hash all of them once a block
    item_of = np.full(len(wids) + 1, NONE, np.int64)
    ids: list[str] = []
    texts: dict[str, list[str]] = {column: [] for column in READ[1:]}
    for block in blocks(
        root, file, READ, layout=_layout(root, file, PRODUCT_COLUMNS), findings=findings, progress=progress
    ):
        own = values.strings(block["wid"])
        code = np.fromiter((number_of.get(wid, NONE) for wid in own), np.int64, len(own))
        kept = code >= 0
        first = np.zeros(len(block), bool)
        first[np.unique(code, return_index=True)[1]] = True
        again = kept & (~first | (item_of[code] >= 0))
        if again.any():
            text = "a product that stands in an earlier row; the row is left out"
            findings.add("warning", "duplicate_item", file, text, count=int(again.sum()), lines=block.rows[again])
            kept &= ~again
        item_of[code[kept]] = np.arange(len(ids), len(ids) + int(kept.sum()))
        mask = pa.array(kept)
        ids += [names[number] for number in code[kept].tolist()]
        for column, rows in texts.items():
            rows += words_of(values.text(block[column].filter(mask))).to_pylist()
    if not ids:
        raise DatasetError(f"{file}: none of the products that people saw; are the two files of one release?")
    items = items_of(
        tuple(ids),
        [title[:LONGEST_TITLE] for title in texts["name"]],
        name="jdsearch",
        file=file,
        root=root,
        merchants=texts["shop_id"],
        categories=texts["cate_name_3"],
        fields={"brand": texts["brand_name"], "department": texts["cate_name_1"]},
    )
    return items, item_of


def _known(rows: Mapping[str, np.ndarray], item_of: np.ndarray) -> dict[str, np.ndarray]:
    """The rows whose product has metadata, with its `item` in place of its wid."""
    item = item_of[rows["wid"]]
    return {name: column[item >= 0] for name, column in {**rows, "item": item}.items() if name != "wid"}


def _say_lost(
    shown: Mapping[str, np.ndarray],
    done: Mapping[str, np.ndarray],
    item_of: np.ndarray,
    lines: np.ndarray,
    what: str,
    file: str,
    findings: Findings,
) -> None:
    people = np.concatenate([rows["person"][item_of[rows["wid"]] < 0] for rows in (shown, done)])
    if len(people):
        text = f"{what}; it is left out of the list or the history"
        findings.add("warning", "item_join", file, text, count=len(people), lines=lines[np.unique(people)])


def _lists(shown: Mapping[str, np.ndarray], words: Sequence[str], shape: Shape) -> Lists:
    """What was shown to each person, in an order that says nothing: the file has what was chosen first."""
    scattered = (shown["item"].astype(np.uint64) * np.uint64(_SCATTER)) & np.uint64(0xFFFFFFFF)
    order = np.lexsort((scattered, shown["person"]))
    person = shown["person"][order]
    begins = np.flatnonzero(np.r_[True, person[1:] != person[:-1]]) if len(person) else np.zeros(0, np.int64)
    query = shown["query"][order][begins]
    shares = (shape.split.validation_fraction, shape.split.test_fraction)
    parts = Parts(by="query", edges=(0, 0, 0, 0), shares=shares, public=True)
    return lists_of(
        judged=False,
        start=np.r_[begins, len(person)].astype(np.int64),
        user=person[begins],
        query=query,
        time=np.full(len(begins), LAST_QUERY_DAY),
        part=np.array([parts.of_query(words[code] if code >= 0 else "") for code in query.tolist()], np.int8),
        item=shown["item"][order].astype(np.int32),
        relevance=shown["relevance"][order],
    )


def _events(done: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray] | None) -> Events:
    """The histories and, where given, what was shown: seen, or chosen, at the time of the last query."""
    rows = done if shown is None else {name: np.concatenate([done[name], shown[name]]) for name in done}
    return events_of(
        user=rows["person"],
        item=rows["item"].astype(np.int32),
        time=rows["time"],
        kind=rows["kind"],
        relevance=rows["relevance"],
        query=rows["query"],
    )


load = loader(read, holds=HOLDS)
