"""Small copies of search data sets in their documented layouts: a few rows written by hand, and more made by lot."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

from client.datasets._reading.findings import Findings
from client.datasets._shaping.dataset import ShapedDataset
from client.datasets._shaping.parts import SPLITS
from client.datasets._shaping.settings import shape_of
from client.datasets._source import Source
from mmrank.errors import MmrankError
from mmrank.slates import Slate

EXAMPLES, PRODUCTS = "shopping_queries_dataset_examples.parquet", "shopping_queries_dataset_products.parquet"
ESCI_PRODUCTS: Sequence[tuple[str | None, ...]] = (
    ("B00005U9CH", "Wireless Mouse", None, "Quiet\nSmall", "Logi", "Grey", "us"),
    ("0545310261", "Mouse Tales", "<p>A book</p>", None, None, None, "us"),
    ("B00005U9CH", "Ratón inalámbrico", None, None, "Logi", "Gris", "es"),
    ("B07ABCDEFG", "USB Cable", None, None, "Acme", "", "us"),
    ("B09JP00001", "ワイヤレスマウス", None, None, "ロジ", "黒", "jp"),
    ("B0LONELY00", "Nobody judged this", None, None, "Acme", "Red", "us"),
)
ESCI_EXAMPLES: Sequence[tuple[Any, ...]] = (
    (0, "wireless mouse", 7, "B00005U9CH", "us", "E", 1, 1, "train"),
    (1, "wireless mouse", 7, "0545310261", "us", "I", 1, 1, "train"),
    (2, "wireless mouse", 7, "B07ABCDEFG", "us", "C", 1, 1, "train"),
    (3, "raton", 8, "B00005U9CH", "es", "E", 1, 1, "test"),
    (4, "マウス", 9, "B09JP00001", "jp", "S", 0, 1, "test"),
    (5, "usb cable", 10, "B07ABCDEFG", "us", "E", 1, 1, "test"),
    (6, "usb cable", 10, "B00005U9CH", "us", "S", 1, 1, "test"),
    (7, "easy one", 11, "B07ABCDEFG", "us", "E", 0, 1, "train"),
    (8, "easy one", 11, "0545310261", "us", "I", 0, 1, "train"),
)
PRODUCT_COLUMNS = ("product_id", "product_title", "product_description", "product_bullet_point") + (
    ("product_brand", "product_color", "product_locale")
)
EXAMPLE_COLUMNS = ("example_id", "query", "query_id", "product_id", "product_locale", "esci_label") + (
    ("small_version", "large_version", "split")
)
WANDS_PRODUCTS = (
    "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\t"
    "rating_count\taverage_rating\treview_count\n"
    "0\tsolid wood platform bed\tBeds\tFurniture / Bedroom Furniture / Beds & Headboards\tgood , deep sleep\t"
    "overallwidth-sidetoside:64.7|color:brown\t15.0\t4.5\t15.0\n"
    "1\tfletcher 27.5 '' armchair\tTeen Lounge Furniture|Accent Chairs\tFurniture / Living Room\t\tcolor:red\t\t\t\n"
    '2\t"48"" barn door"\tBarn Door Hardware\tHome Improvement / Doors\t"two\nlines"\tcolor:black\t3.0\t5.0\t1.0\n'
    "3\tall-clad pizza cutter\t\t\t\t\t69.0\t4.5\t42.0\n"
)
WANDS_QUERIES = (
    "query_id\tquery\tquery_class\n0\tsalon chair\tMassage Chairs\n"
    '283\t"48"" sliding single track , barn door"\tBarn Door Hardware\n197\tdesk for kids tjat ate 10 year old\t\n'
)
WANDS_LABELS = (
    "id\tquery_id\tproduct_id\tlabel\n0\t0\t1\tPartial\n1\t0\t0\tIrrelevant\n2\t0\t3\tExact\n"
    "3\t283\t2\tExact\n4\t283\t1\tIrrelevant\n5\t197\t0\tPartial\n6\t197\t3\tPartial\n"
)
JD_PRODUCT_COLUMNS = ("wid", "name", "brand_id", "brand_name") + tuple(
    f"cate_{what}_{level}" for level in (1, 2, 3, 4) for what in ("id", "name")
)
JD_COLUMNS = ("query", "candidate_wid_list", "candidate_label_list", "history_qry_list", "history_wid_list") + (
    ("history_type_list", "history_time_list")
)
JD_PRODUCTS = (
    "456\t648\x18602\x18469\t81\t648\x18417\t639\t223\t984\t298\x18526\t878\t694\x18338\t263\t694\x18338\t769\n"
    "457\t602\x18782\t71\t\t639\t223\t615\t970\x18816\t314\t959\t942\t959\t437\n"
    "789\t120\x18333\t71\t940\t639\t223\t615\t970\x18816\t314\t959\t942\t959\t437\n"
    "889\t648\x18112\t81\t648\x18417\t316\t948\t476\t330\x18641\t861\t781\t855\t781\t392\n"
    "0256\t555\t81\t648\x18417\t316\t948\t476\t330\x18641\t861\t781\t855\t781\t\n"
)
JD_PEOPLE = (
    "648\x18602\t456_457_789\t3.0_1.0_0.0\t323\x18328_-1_648\x18112\t889_0256_889\tORD_CLICK_FLW\t0_43200_86400_3600\n"
    "602\t456_999_457\t0.0_0.0_0.0\t-1_-1\t0256_999\tCART_CLICK\t0_5_10\n"
)
"""The README's example (three products shown, three acts), with another person who chose nothing, whose product 999
lacks metadata.
"""


def write_esci(root: Path, *, queries: int = 120) -> None:
    """ESCI_PRODUCTS and ESCI_EXAMPLES, and so many more queries over 40 more products."""
    draw = random.Random(11)
    products, examples = list(ESCI_PRODUCTS), list(ESCI_EXAMPLES)
    words = ("red", "blue", "steel", "small", "kids", "travel")
    for number in range(40):
        title = f"{draw.choice(words)} {draw.choice(words)} mug {number}"
        products.append((f"B1{number:08d}", title, None, "Dishwasher safe", draw.choice(("Acme", "Bolt")), "Red", "us"))
    for number in range(queries):
        part = "test" if number % 4 == 0 else "train"
        words_ = f"{draw.choice(words)} mug {number}"
        for item in draw.sample(range(40), 8):
            row = (words_, 100 + number, f"B1{item:08d}", "us", draw.choice("EEESSCI"), 1, 1, part)
            examples.append((len(examples), *row))
    write_parquet(root / PRODUCTS, PRODUCT_COLUMNS, products)
    write_parquet(root / EXAMPLES, EXAMPLE_COLUMNS, examples)


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table whose numbers are int64 and whose texts are strings, in row groups of 64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(zip(columns, (list(column) for column in zip(*rows, strict=True)), strict=True)))
    pyarrow.parquet.write_table(table, path, row_group_size=64)


def write_wands(root: Path, *, queries: int = 120) -> None:
    """WANDS_PRODUCTS, WANDS_QUERIES and WANDS_LABELS, and so many more queries over 40 more products."""
    draw = random.Random(12)
    root.mkdir(parents=True, exist_ok=True)
    products, asked, labels = [WANDS_PRODUCTS], [WANDS_QUERIES], [WANDS_LABELS]
    for number in range(4, 44):
        kind = draw.choice(("Beds", "Lamps", "Rugs"))
        products.append(
            f"{number}\t{kind.lower()} number {number}\t{kind}\tFurniture / {kind}\tfine\tcolor:red\t1.0\t4.0\t1.0\n"
        )
    for number in range(queries):
        asked.append(f"{1000 + number}\t{draw.choice(('red', 'big'))} thing {number}\tBeds\n")
        for item in draw.sample(range(4, 44), 8):
            labels.append(
                f"{len(labels) + 6}\t{1000 + number}\t{item}\t{draw.choice(('Exact', 'Partial', 'Irrelevant'))}\n"
            )
    for name, rows in (("product", products), ("query", asked), ("label", labels)):
        (root / f"{name}.csv").write_text("".join(rows), encoding="utf-8", newline="")


def write_jdsearch(root: Path, *, people: int = 60) -> None:
    """JD_PRODUCTS and JD_PEOPLE under their headers, and so many more people over 60 more products."""
    draw = random.Random(13)
    root.mkdir(parents=True, exist_ok=True)
    products = ["\t".join((*JD_PRODUCT_COLUMNS, "shop_id")) + "\n", JD_PRODUCTS]
    for number in range(60):
        kind = draw.randrange(4)
        name = "\x18".join(str(draw.randrange(100, 140)) for _ in range(4))
        levels = "\t".join(f"{level}{kind}\t{level}0{kind}" for level in (1, 2, 3, 4))
        products.append(f"{5000 + number}\t{name}\t7\t70\t{levels}\t{draw.randrange(5)}\n")
    lines = ["\t".join(JD_COLUMNS) + "\n", JD_PEOPLE]
    for _ in range(people):
        lines.append(_person(draw))
    (root / "product_meta_data.txt").write_text("".join(products), encoding="utf-8", newline="")
    (root / "user_behavior_data.txt").write_text("".join(lines), encoding="utf-8", newline="")


def _person(draw: random.Random) -> str:
    shown = draw.sample(range(5000, 5060), 12)
    chosen = sorted((draw.choice((1, 1, 2, 3)) for _ in range(draw.randint(1, 2))), reverse=True)
    labels = [float(label) for label in chosen] + [0.0] * (12 - len(chosen))
    acts = draw.randint(6, 20)
    asked = [
        draw.choice(("-1", "-1", f"{draw.randrange(100, 140)}\x18{draw.randrange(100, 140)}")) for _ in range(acts)
    ]
    done = [str(draw.randrange(5000, 5060)) for _ in range(acts)]
    kinds = draw.choices(("CLICK", "CART", "ORD", "FLW"), k=acts)
    gaps = [0] + [draw.choice((0, 4000, 900_000, 2_000_000)) for _ in range(acts)]
    query = f"{draw.randrange(100, 140)}\x18{draw.randrange(100, 140)}"
    columns = (shown, labels, asked, done, kinds, gaps)
    return "\t".join((query, *("_".join(map(str, column)) for column in columns))) + "\n"


def event(kind: str, at: int | str, **values: Any) -> dict[str, Any]:
    """An event of Metarank; a number of seconds is written as text of milliseconds, as its documents do."""
    fields = values.pop("fields", {})
    listed = [{"name": name, "value": value} for name, value in fields.items()]
    stamp = at if isinstance(at, str) else str(at * 1000)
    return {"event": kind, "id": values.pop("id", f"{kind}-{stamp}"), "timestamp": stamp, **values, "fields": listed}


FIRST = 1_700_000_000
METARANK: Sequence[dict[str, Any]] = (
    event("item", FIRST, item="7", fields={"title": "Nice jeans", "price": 25.0, "category": ["trousers", "sale"]}),
    event("item", FIRST + 60, item="8", fields={"title": "Red hat", "price": 9, "category": "hats", "is_cute": True}),
    event("metadata", FIRST, item="9", fields={"title": "Old boots", "category": "shoes"}),
    event("user", FIRST, user="ann", fields={"age": 33}),
    event("interaction", FIRST + 9, id="c0", ranking="r1", item="8", user="ann", type="click"),
    event(
        "ranking",
        FIRST + 5,
        id="r1",
        user="ann",
        session="s1",
        fields={"query": "hat", "source": "search"},
        items=[
            {"id": "7", "fields": [{"name": "relevancy", "value": 2.0}]},
            {"id": "8", "relevancy": 1.5},
            {"id": "404", "fields": []},
            {"id": "9", "label": 3},
        ],
    ),
    event("interaction", FIRST + 11, id="c1", ranking="r1", item="8", user="ann", type="purchase"),
    event("interaction", FIRST + 2, id="c2", item="9", user="ann", type="like"),
    event("interaction", FIRST + 3, id="c3", ranking="r9", item="7", user="ann", type="click"),
    event("ranking", "2023-11-15T00:00:00Z", id="r2", session="s2", items=[{"id": "9"}, {"id": "8"}]),
    event("item", FIRST + 99, item="7", fields={"price": 19.5}),
    event("item", FIRST - 99, item="7", fields={"title": "Jeans of last year"}),
)


def write_metarank(root: Path, *, people: int = 30) -> None:
    """METARANK, packed, and so many more people over 40 more items in a second file, plain."""
    draw = random.Random(14)
    root.mkdir(parents=True, exist_ok=True)
    with gzip.open(root / "events-1.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.writelines(json.dumps(one) + "\n" for one in METARANK)
    kinds = ("trousers", "hats", "shoes")
    made = [
        event("item", FIRST, item=f"m{number}", fields={"title": f"thing {number}", "category": draw.choice(kinds)})
        for number in range(40)
    ]
    for number in range(people * 8):
        at, user = FIRST + draw.randrange(100 * 86_400), f"u{draw.randrange(people)}"
        shown = draw.sample(range(40), 8)
        items = [{"id": f"m{item}", "fields": [{"name": "relevancy", "value": draw.random()}]} for item in shown]
        made.append(event("ranking", at, id=f"x{number}", user=user, fields={"query": "hats"}, items=items))
        for item in draw.sample(shown, draw.randint(0, 2)):
            kind = draw.choice(("click", "purchase"))
            name = f"y{number}-{item}"
            made.append(
                event("interaction", at + 9, id=name, ranking=f"x{number}", item=f"m{item}", user=user, type=kind)
            )
    write_events(root / "events-2.jsonl", made)


def write_events(path: Path, events: Sequence[dict[str, Any]]) -> None:
    """One event a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in events), encoding="utf-8")


def source_of(reader: ModuleType, root: Path, *, shape: Mapping[str, Any] | None = None, **settings: Any) -> Source:
    """What `read` of a reader makes of the files under root."""
    return reader.read(root.resolve(), shape=shape_of(shape or {}), findings=Findings(), **settings)


def slates_of(dataset: ShapedDataset) -> dict[str, tuple[str, Slate]]:
    """(part, slate) by words, of all clients."""
    found = [
        (slate.query, (split, slate))
        for client in dataset.client_ids
        for split in SPLITS
        for slate in dataset.slates(client, split)
    ]
    assert len({query for query, _ in found}) == len(found)
    return dict(found)


def named(dataset: ShapedDataset, items: Iterable[int]) -> list[str]:
    """The ids of items."""
    return [dataset.catalog.item_ids[item] for item in items]


Injury = Callable[[bytes], bytes]
SECONDS = 10.0
"""What a reader may take over a damaged file of a few kilobytes, on a busy machine."""


def assert_survives(reader: ModuleType, root: Path, file: str, injury: Injury, **settings: Any) -> None:
    """The reader makes something sound of the damaged file, or refuses it in words; and in time."""
    path = root / file
    whole, started = path.read_bytes(), time.monotonic()
    refused: str | None = None
    path.write_bytes(injury(whole))
    try:
        assert_sound(source_of(reader, root, **settings))
    except MmrankError as error:
        refused = str(error)
    finally:
        path.write_bytes(whole)
    assert refused is None or file in refused or "no " in refused
    assert time.monotonic() - started < SECONDS


def assert_sound(source: Source) -> None:
    """Every number is one of something that is there."""
    items = len(source.catalog)
    assert len(set(source.catalog.item_ids)) == items == len(source.catalog.titles) > 0
    for rows in (*source.lists, *([] if source.events is None else [source.events])):
        assert ((rows.item >= 0) & (rows.item < items)).all()
        assert (np.isfinite(rows.relevance) & (rows.relevance >= 0)).all()
        for numbers, names in ((rows.user, source.users), (rows.query, source.queries), (rows.group, source.groups)):
            assert ((numbers >= -1) & (numbers < len(names))).all()
    for lists in source.lists:
        assert lists.start[0] == 0
        assert lists.start[-1] == len(lists.item) == len(lists.relevance) == len(lists.position)
        assert (np.diff(lists.start) >= 0).all()
        assert len(lists.user) == len(lists.time) == len(lists.part) == len(lists)


@st.composite
def injuries(draw: st.DrawFn) -> Injury:
    """A way to damage a file: bytes are flipped, cut or put in, lines blanked, cut off or doubled."""
    where, byte = draw(st.floats(0, 1)), draw(st.integers(0, 255))
    put = draw(
        st.sampled_from(
            [b"\0", b'"', b"\n", b"\r", b"\t", b"_", b"1e999", b"-1", b"9" * 40, b"\xff\xfe", b"{", b",", b"nan", b""]
        )
    )
    way = draw(st.sampled_from(["flip", "cut", "put", "drop", "double", "blank", "swap"]))

    def injured(data: bytes) -> bytes:
        at = int(where * max(len(data) - 1, 0))
        start, end = data.rfind(b"\n", 0, at) + 1, (data.find(b"\n", at) + 1) or len(data)
        if way == "flip":
            return data[:at] + bytes([byte]) + data[at + 1 :]
        if way == "cut":
            return data[:at]
        if way == "put":
            return data[:at] + put + data[at:]
        if way == "drop":
            return data[:start] + data[end:]
        if way == "double":
            return data[:end] + data[start:end] + data[end:]
        if way == "blank":
            return data[:start] + b"\n" + data[end:]
        return data[:start] + data[start:end].replace(b"\t", put).replace(b":", put) + data[end:]

    return injured
