"""At stake: whatever stands in a file, a reader gives sound slates or our error that names it: no crash, no hang."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from client.datasets import tables
from client.datasets._reading import values
from client.datasets._reading.pictures import decoded, fault_of_picture
from client.datasets._reading.quoting import rows_of
from mmrank.errors import MmrankError
from mmrank.slates import fault_of

CORPUS = Path(__file__).parent / "corpus"
"""Files that once crashed a reader, or lost rows without a word: `TABLE-what.FORMAT`."""
T0 = 1_700_000_000
FORMATS = ("csv", "tsv", "jsonl", "parquet")
SECONDS = 10.0
"""For one small data set, which takes 0.02: a busy machine is no hang."""

TABLES: dict[str, list[dict[str, Any]]] = {
    "items": [
        {
            "id": f"{n:03d}",
            "title": f'red "shoe" {n}',
            "price": n + 0.5,
            "kind": ("hats", "bags")[n % 2],
            "pic": f"{n}.png",
        }
        for n in range(12)
    ],
    "events": [
        {
            "user": f"u{n % 3}",
            "item": f"{n % 12:03d}",
            "time": T0 + n * 40_000,
            "type": "click",
            "query": "shoes",
            "stars": n % 4,
        }
        for n in range(24)
    ],
    "impressions": [
        {
            "id": n,
            "user": f"u{n % 3}",
            "time": T0 + n * 40_000,
            "shown": [f"{(n + k) % 12:03d}" for k in range(3)],
            "clicked": [0, 1, 0],
            "chance": [1.0, 0.5, 0.2],
            "score": [0.1, 0.2, 0.3],
        }
        for n in range(12)
    ],
    "judgments": [
        {"query": f"query {n // 3}", "item": f"{n % 12:03d}", "grade": n % 3, "split": ("train", "test")[n % 2]}
        for n in range(24)
    ],
}
COLUMNS: Mapping[str, dict[str, Any]] = {
    "items": {
        "id": "id",
        "title": "title",
        "price": "price",
        "category": "kind",
        "image": "pics/{pic}",
        "fields": ["kind"],
    },
    "events": {
        "user": "user",
        "item": "item",
        "time": "time",
        "type": "type",
        "query": "query",
        "weight": "stars",
        "graded": True,
    },
    "impressions": {
        "items": "shown",
        "clicked": "clicked",
        "user": "user",
        "time": "time",
        "id": "id",
        "propensity": "chance",
        "score": "score",
    },
    "judgments": {"query": "query", "item": "item", "grade": "grade", "split": "split"},
}
SHAPES: tuple[dict[str, Any], ...] = (
    {"clients": "all", "bad_rows": 1.0},
    {"clients": "all", "bad_rows": 1.0, "candidates": {"from": "catalogue", "fill": True}, "queries": {"derive": 0.5}},
    {"clients": "all", "bad_rows": 0.1, "split": "query", "candidates": "bm25"},
    {"clients": "kind", "bad_rows": 1.0, "candidates": "same_query"},
    {"bad_rows": 1.0, "candidates": "others_same_window", "moment": "hour", "clients": {"kind": "merchant"}},
)


def flat(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def written(rows: list[dict[str, Any]], form: str) -> bytes:
    """The rows as a file of that format."""
    if form == "jsonl":
        return "\n".join(json.dumps(row) for row in rows).encode()
    if form == "parquet":
        stream = io.BytesIO()
        pa.parquet.write_table(pa.Table.from_pylist(rows), stream)
        return stream.getvalue()
    text = io.StringIO()
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    writer = csv.writer(text, **(tabs if form == "tsv" else {}))
    writer.writerow(rows[0])
    writer.writerows([flat(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def check(message: str, started: float) -> None:
    """An error names a file, or says that nothing is left to learn from, and is no novel."""
    nothing_left = ("of tables has 1 slates", "tables: no person and no query", "tables: no item has a title")
    assert any(name in message for name in (*(f"{name}." for name in TABLES), *nothing_left)), message
    assert len(message) < 20_000
    assert time.monotonic() - started < SECONDS


def look(content: bytes, table: str, form: str, shape: Mapping[str, Any]) -> str:
    """Read the table with `content` beside sound ones; 'sound', or the error. Fails on what is neither."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder)
        given: dict[str, Any] = {}
        for name in ("items", "events", "impressions", "judgments"):
            if name not in ("items", table) and not (name == "events" and table in ("items", "impressions")):
                continue
            own = name == table
            file = f"{name}.{form if own else 'csv'}"
            (root / file).write_bytes(content if own else written(TABLES[name], "csv"))
            given[name] = {"file": file, **COLUMNS[name]}
        try:
            dataset = tables.load(root=root, **given, **shape)
        except MmrankError as error:
            check(str(error), started)
            return str(error)
        items = len(dataset.catalog)
        for client in dataset.client_ids:
            for split in ("train", "validation", "test"):
                for slate in dataset.slates(client, split):
                    assert fault_of(slate, items) is None
                    assert len(np.unique(slate.candidates)) == len(slate.candidates) >= 2
        for finding in dataset.findings:
            assert all(line >= 1 for line in finding.lines)
            assert finding.count >= 1
            assert len(str(finding)) < 20_000
        assert np.isfinite(dataset.catalog.prices[~np.isnan(dataset.catalog.prices)]).all()
        for index in range(min(items, 3)):
            assert dataset.catalog.images(index) is None
        assert time.monotonic() - started < SECONDS
        return "sound"


NASTY_BYTES = [
    *(letter.encode() for letter in "\",\t;|'\\[{}]:\0\r\n\x1f\x1e\x85\u2028👟"),
    *(
        b'""',
        b"\r\n",
        b"\n\n",
        b"\xff",
        b"\xfe\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\x81\x30\x81\x30",
    ),
]
NASTY_FIELDS = [
    *(
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "null",
        "true",
        "none",
        "-1",
        "0",
        "1e308",
        "1e400",
        "-1e39",
        "1e-50",
        "1e18",
    ),
    *(
        "9" * 400,
        "0x1F",
        "1_000",
        "１２",
        "٣",
        "𝟙",
        "1,5",
        "1.299,50",
        "$",
        "--1",
        "+1",
        "1e",
        ".",
        "000",
        "0 1 2",
        "1 1",
    ),
    *("2024-02-31", "9999-12-31", "0001-01-01", "2024-01-01T00:00:00+99:99", "20240131", "[1, 2]", "[]", '{"a": 1}'),
    *("a" * 70_000, "a\x00b", "../..", "/etc/passwd", "{0}", "%s", "\ufeff", "\u202e", "a\nb", "a b", "a,b"),
]
WRONG: Mapping[str, Callable[[int], pa.Array]] = {
    "integers": lambda n: pa.array(range(n)),
    "floats": lambda n: pa.array([float(k) for k in range(n)]),
    "NaN": lambda n: pa.array([float("nan")] * n),
    "endless": lambda n: pa.array([1e300] * n),
    "below 0": lambda n: pa.array([-1] * n),
    "nothing": lambda n: pa.nulls(n),
    "yes": lambda n: pa.array([True] * n),
    "bytes": lambda n: pa.array([b"\xff\xfe"] * n),
    "bytes of one length": lambda n: pa.array([b"ab"] * n, pa.binary(2)),
    "bytes by view": lambda n: pa.array([b"ab"] * n, pa.binary_view()),
    "structs": lambda n: pa.array([{"a": 1}] * n),
    "maps": lambda n: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "lists": lambda n: pa.array([["a", None, "b"], None] * n)[:n],
    "lists of numbers": lambda n: pa.array([[1, 2]] * n),
    "lists of nothing": lambda n: pa.array([[]] * n, pa.list_(pa.string())),
    "lists of lists": lambda n: pa.array([[["a"]]] * n),
    "lists of one length": lambda n: pa.array([[1, 2]] * n, pa.list_(pa.int64(), 2)),
    "large lists": lambda n: pa.array([["003", "004"]] * n, pa.large_list(pa.string())),
    "times": lambda n: pa.array(range(n), pa.timestamp("s", "UTC")),
    "far times": lambda n: pa.array([2**62] * n, pa.timestamp("us")),
    "days": lambda n: pa.array(range(n), pa.date32()),
    "hours": lambda n: pa.array(range(n), pa.time32("s")),
    "durations": lambda n: pa.array(range(n), pa.duration("s")),
    "decimals": lambda n: pa.array(range(n)).cast(pa.decimal128(21, 2)),
    "a dictionary": lambda n: pa.array(["x"] * n).dictionary_encode(),
    "a dictionary of numbers": lambda n: pa.array([1.5] * n).dictionary_encode(),
    "large text": lambda n: pa.array([str(k) for k in range(n)], pa.large_string()),
    "text by view": lambda n: pa.array([str(k) for k in range(n)], pa.string_view()),
    "half floats": lambda n: pa.array([0.5] * n, pa.float16()),
    "the largest": lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    "the smallest": lambda n: pa.array([-(2**63)] * n),
    "uuids": lambda n: pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([bytes([255, *range(15)])] * n, pa.binary(16))
    ),
}

SHARE = st.floats(0, 1, allow_subnormal=False)
BYTES = st.one_of(st.sampled_from(NASTY_BYTES), st.binary(max_size=6))
MUTATION = st.one_of(
    st.tuples(st.just("flip"), SHARE, st.integers(0, 7)),
    st.tuples(st.just("insert"), SHARE, BYTES),
    st.tuples(st.just("delete"), SHARE, st.integers(1, 40)),
    st.tuples(st.just("cut"), SHARE, st.none()),
    st.tuples(st.just("double"), SHARE, SHARE),
    st.tuples(st.just("swap"), SHARE, SHARE),
    st.tuples(st.just("field"), SHARE, st.tuples(SHARE, st.one_of(st.sampled_from(NASTY_FIELDS), st.text(max_size=8)))),
    st.tuples(st.just("replace"), st.sampled_from(NASTY_BYTES), st.sampled_from(NASTY_BYTES)),
    st.tuples(st.just("encode"), st.sampled_from(["utf-16", "utf-16-be", "gb18030", "utf-32", "utf-8-sig"]), st.none()),
    st.tuples(st.just("pack"), SHARE, st.booleans()),
)


def mutated(content: bytes, mutations: list[tuple[str, Any, Any]], form: str) -> bytes:
    """The content after all of them."""
    for what, where, how in mutations:
        at = int(where * len(content)) if isinstance(where, float) else 0
        lines = content.split(b"\n")
        line = min(int(where * len(lines)), len(lines) - 1) if isinstance(where, float) else 0
        if what == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << how)]) + content[at + 1 :]
        elif what == "insert":
            content = content[:at] + how + content[at:]
        elif what == "delete":
            content = content[:at] + content[at + how :]
        elif what == "cut":
            content = content[:at]
        elif what in ("double", "swap"):
            other = min(int(how * len(lines)), len(lines) - 1)
            if what == "double":
                lines.insert(line, lines[other])
            else:
                lines[line], lines[other] = lines[other], lines[line]
            content = b"\n".join(lines)
        elif what == "field":
            lines[line] = with_field(lines[line], *how, form)
            content = b"\n".join(lines)
        elif what == "replace":
            content = content.replace(where, how)
        elif what == "encode":
            content = content.decode("utf-8", "replace").encode(where, "replace")
        elif what == "pack":
            content = gzip.compress(content)[: None if how else at]
    return content


def with_field(line: bytes, share: float, value: str, form: str) -> bytes:
    """The line with another value in one of its fields, as a writer of the format would write it."""
    if form == "jsonl":
        try:
            row = json.loads(line)
        except ValueError:
            return line
        if isinstance(row, dict) and row:
            key = list(row)[min(int(share * len(row)), len(row) - 1)]
            try:
                row[key] = json.loads(value)
            except (ValueError, RecursionError):
                row[key] = value
        return json.dumps(row).encode("utf-8", "replace")
    between = b"\t" if form == "tsv" else b","
    fields = line.split(between)
    text = value.encode("utf-8", "replace")
    if form == "csv" and any(mark in text for mark in (b",", b"\n", b'"')):
        text = b'"' + text.replace(b'"', b'""') + b'"'
    fields[min(int(share * len(fields)), len(fields) - 1)] = text
    return between.join(fields)


CASE = st.tuples(st.sampled_from(list(TABLES)), st.lists(MUTATION, min_size=1, max_size=4), st.sampled_from(SHAPES))
FUZZ = settings(
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("table", list(TABLES))
def test_what_was_not_touched_is_sound(table, form):
    for shape in SHAPES:
        assert look(written(TABLES[table], form), table, form, shape) == "sound"


def fuzz(form: str, case: tuple[str, list, Mapping[str, Any]]) -> None:
    table, mutations, shape = case
    content = written(TABLES[table], form)
    if form == "parquet":  # a changed byte breaks nearly every such file: values change before it is written
        fields = [change for change in mutations if change[0] == "field"]
        lines = mutated(written(TABLES[table], "jsonl"), fields, "jsonl").split(b"\n")
        content = as_parquet([json.loads(line) for line in lines])
        mutations = [change for change in mutations if change[0] != "field"]
    look(mutated(content, mutations, form), table, form, shape)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Each column with the type that its values have, or as text where they have several."""
    columns = {}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError):
            columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
    stream = io.BytesIO()
    try:
        pa.parquet.write_table(pa.table(columns), stream)
    except pa.ArrowException:  # an empty struct has no place in a file
        return written([{name: str(value) for name, value in row.items()} for row in rows], "parquet")
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMATS)
@settings(FUZZ, max_examples=40)
@given(case=CASE)
def test_a_broken_table_gives_sound_slates_or_our_error(form, case):
    fuzz(form, case)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@settings(FUZZ, max_examples=3000)
@given(case=CASE)
def test_many_broken_tables_give_sound_slates_or_our_error(form, case):
    before = pa.default_memory_pool().max_memory() or 0
    fuzz(form, case)
    assert (pa.default_memory_pool().max_memory() or 0) - before < 500e6


def parquet_of(table: str, place: int, wrong: str) -> bytes:
    """The table in Parquet with one column of another type."""
    sound = pa.Table.from_pylist(TABLES[table])
    stream = io.BytesIO()
    changed = sound.set_column(place, sound.column_names[place], WRONG[wrong](sound.num_rows))
    pa.parquet.write_table(changed, stream)
    return stream.getvalue()


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_parquet_column_of_another_type_gives_sound_slates_or_our_error(wrong):
    """Every third column with every type here; the slow test meets the others."""
    number = list(WRONG).index(wrong)
    places = [(table, place) for table, rows in TABLES.items() for place in range(len(rows[0]))]
    for table, place in places[number % 3 :: 3]:
        look(parquet_of(table, place, wrong), table, "parquet", SHAPES[place % 2])


@pytest.mark.slow
@pytest.mark.parametrize("wrong", list(WRONG))
def test_every_parquet_column_of_another_type_gives_sound_slates_or_our_error(wrong):
    for table, rows in TABLES.items():
        for place in range(len(rows[0])):
            for shape in SHAPES:
                look(parquet_of(table, place, wrong), table, "parquet", shape)


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_what_once_broke_a_reader_does_so_no_more(file):
    table, form = file.name.split("-")[0], file.name.rsplit(".", 1)[1]
    for shape in SHAPES:
        look(file.read_bytes(), table, form, shape)


WORD = st.one_of(
    st.sampled_from(NASTY_FIELDS), st.text(max_size=30), st.from_regex(r"[0-9+\-TZ:./ eE,]{1,30}", fullmatch=True)
)


@settings(FUZZ, max_examples=150)
@given(
    words=st.lists(st.one_of(WORD, st.none()), max_size=5), unit=st.sampled_from(["auto", "yyyymmdd", *values.UNITS])
)
@example(words=["0000-00-00"], unit="auto")
@example(words=["2024-01-31T10:00:00+"], unit="auto")
def test_any_words_are_numbers_prices_and_times_or_said_to_be_none(words, unit):
    array = pa.array(words, pa.string())
    for found, bad in (values.numbers(array), values.prices(array), values.times(array, unit)):
        assert len(found) == len(bad) == len(words)
        assert not (np.isfinite(found) & bad).any()
        blank = np.array([not (word or "").strip() for word in words], bool)
        assert (np.isnan(found) | ~blank).all()
        assert (np.isfinite(found) | bad | blank).all()


def pictures() -> list[bytes]:
    """A small picture in each format that shops have, and in some that they do not."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 4), dtype=np.uint8), "RGBA")
    made = []
    for form in ("PNG", "WEBP", "AVIF", "TIFF", "ICO", "DDS", "JPEG", "MPO", "BMP", "PPM", "JPEG2000", "EPS", "GIF"):
        stream = io.BytesIO()
        try:
            pixels.convert("RGBA" if form in ("PNG", "WEBP", "AVIF", "TIFF", "ICO", "DDS") else "RGB").save(
                stream, form
            )
        except (KeyError, OSError):  # this Pillow is built without it
            continue
        made.append(stream.getvalue())
    return made


@settings(FUZZ, max_examples=150)
@given(sound=st.sampled_from(pictures()), mutations=st.lists(MUTATION, min_size=1, max_size=4))
def test_a_broken_picture_is_a_picture_or_said_to_be_none(sound, mutations):
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "a.jpg"
        path.write_bytes(mutated(sound, [change for change in mutations if change[0] != "field"], "bytes"))
        found, fault = decoded(path), fault_of_picture(path)
    assert isinstance(found, str) or (found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3)
    for said in (found, fault):
        assert not isinstance(said, str) or (len(said) < 2000 and folder not in said)


CSV_PIECES = st.lists(
    st.sampled_from(["a", '"', ",", "\n", "\r", "\r\n", '"a,b"', " ", "é", '"\n"', '""']), max_size=30
)


@settings(FUZZ, max_examples=150)
@given(pieces=CSV_PIECES, quotes=st.booleans())
def test_lines_are_counted_as_the_parser_counts_rows(pieces, quotes):
    """Two parsers look at a table: one that reads it, and one that says in which line a row stands."""
    content = ("x,y\n" + "".join(pieces)).encode()
    ragged: list[int] = []

    def skip(row: Any) -> str:
        ragged.append(row.number)
        return "skip"

    reader = pyarrow.csv.open_csv(
        io.BytesIO(content),
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(
            quote_char='"' if quotes else False, newlines_in_values=quotes, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types={"x": pa.string(), "y": pa.string()}),
    )
    rows = 1 + sum(batch.num_rows for batch in reader) + len(ragged)
    found = list(rows_of(io.StringIO(content.decode(), newline=""), separator=",", quotes=quotes))
    assert len(found) == rows
    begins = [row.line for row in found]
    assert begins == sorted(set(begins))
