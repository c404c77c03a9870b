"""At stake: real tables are broken somewhere; each fault must be named with its place, and the rest must go on."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from client.datasets import tables
from client.datasets._reading.blocks import Layout, blocks, names_of
from client.datasets._reading.findings import Findings
from client.datasets._reading.pictures import decoded, fault_of_picture
from mmrank.errors import ConfigError, DatasetError, MmrankError

ROWS = 250
"""Of 250 rows the default of 1% lets three be left out."""
T0 = 1_700_000_000
ITEMS = {"file": "items.csv", "id": "id", "title": "title", "price": "price"}
EVENTS = {"file": "events.csv", "user": "user", "item": "item", "time": "time"}


def item_lines(count: int = ROWS) -> list[str]:
    """A header, and items 000, 001, ...: item n stands in line n + 2."""
    return ["id,title,price", *(f"{n:03d},red shoe {n},{n}.5" for n in range(count))]


def event_lines(count: int = ROWS) -> list[str]:
    return ["user,item,time", *(f"u{n % 4},{n % ROWS:03d},{T0 + n * 3600}" for n in range(count))]


def write(root: Path, name: str, content: str | bytes | list[str] | pa.Table) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "\n".join(content) + "\n"
    if isinstance(content, pa.Table):
        pa.parquet.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def open_items(root: Path, content, *, name: str = "items.csv", bad_rows: float = 0.01, **columns):
    """A catalogue alone of one client."""
    if content is not None:
        write(root, name, content)
    return tables.load(root=root, items={**ITEMS, "file": name, **columns}, clients="all", bad_rows=bad_rows)


def open_events(root: Path, content, *, name: str = "events.csv", items=None, bad_rows: float = 0.01, **columns):
    write(root, "items.csv", items or item_lines())
    if content is not None:
        write(root, name, content)
    return tables.load(root=root, items=ITEMS, events={**EVENTS, "file": name, **columns}, bad_rows=bad_rows)


def said(dataset) -> list[str]:
    return [str(finding) for finding in dataset.findings]


def events_in(dataset) -> int:
    return len(dataset.source.events)


def changed(lines: list[str], **at: str) -> list[str]:
    """Lines with others in their place, by `line7="..."`, counted from 1."""
    made = list(lines)
    for name, line in at.items():
        made[int(name.removeprefix("line")) - 1] = line
    return made


BAD_ITEMS = {
    "a row too long": ("003,red, blue,1", "items.csv, line 5: a row of 4 fields under a header of 3, left out", 1),
    "a row too short": ("003,red", "items.csv, line 5: a row of 2 fields under a header of 3, left out", 1),
    "no id": (",red,1", "items.csv, line 5: no id; the row is left out", 1),
    "an id twice": ("001,red,1", "items.csv, line 5: an item whose id an earlier row has; the row is left out", 1),
    "a line break in an id": ('"00\n3",red,1', "items.csv, line 5: an id with a line break or a control character", 1),
    "NUL in an id": ("00\0003,red,1", "items.csv, line 5: an id with a line break or a control character", 1),
    "a huge id": (
        "3" * 1001 + ",red,1",
        "items.csv, line 5: an id of 1001 letters, more than 1000; the row is left",
        1,
    ),
    "NaN for a price": ("003,red,NaN", "items.csv, line 5: column price: no price of at least 0; the item has none", 0),
    "a price below 0": ("003,red,-1", "items.csv, line 5: column price: no price of at least 0; the item has none", 0),
    "a word for a price": (
        "003,red,ask us",
        "items.csv, line 5: column price: no price of at least 0; the item has",
        0,
    ),
    "an endless price": (
        "003,red,1e300",
        "items.csv, line 5: column price: no price of at least 0; the item has none",
        0,
    ),
    "two prices": ("003,red,5 or 6", "items.csv, line 5: column price: no price of at least 0; the item has none", 0),
}


@pytest.mark.parametrize("fault", list(BAD_ITEMS))
def test_a_bad_row_of_items_is_said_and_the_rest_goes_on(fault, tmp_path):
    line, expected, lost = BAD_ITEMS[fault]
    dataset = open_items(tmp_path, changed(item_lines(), line5=line))
    (finding,) = said(dataset)
    assert finding.startswith(expected)
    assert len(dataset.catalog) == ROWS - lost
    if not lost:
        assert np.isnan(dataset.catalog.prices[3])
    assert np.isfinite(np.delete(dataset.catalog.prices, 3)).all() or lost
    assert dataset.catalog.titles[-1] == f"red shoe {ROWS - 1}"


BAD_EVENTS = {
    "an unknown item": (f"u1,nosuch,{T0}", "events.csv, line 5: column item: an item that items.csv lacks; the row is"),
    "nobody": (f",003,{T0}", "events.csv, line 5: column user: no person; the row is left out"),
    "no time": ("u1,003,", "events.csv, line 5: column time: no time; the row is left out"),
    "a word for a time": ("u1,003,yesterday", "events.csv, line 5: column time: no time; the row is left out"),
    "before 1970": ("u1,003,-86400", "events.csv, line 5: column time: a time before 1970; the row is left out"),
    "in the future": (
        "u1,003,99999999999",
        "events.csv, line 5: column time: a time in the future, or in another unit",
    ),
    "in milliseconds": (f"u1,003,{T0}000", "events.csv, line 5: column time: a time in the future, or in another unit"),
    "endless": ("u1,003,1e999", "events.csv, line 5: column time: no time; the row is left out"),
    "an id without its zeros": (f"u1,3,{T0}", "events.csv, line 5: column item: an item that items.csv lacks"),
}


@pytest.mark.parametrize("fault", list(BAD_EVENTS))
def test_a_bad_event_is_said_and_the_rest_goes_on(fault, tmp_path):
    line, expected = BAD_EVENTS[fault]
    dataset = open_events(tmp_path, changed(event_lines(), line5=line))
    (finding,) = said(dataset)
    assert finding.startswith(expected)
    assert events_in(dataset) == ROWS - 1
    assert sum(len(dataset.slates(client, "train")) for client in dataset.client_ids) > 0


TYPED = ["user,item,time,type,weight", *(f"u{n % 4},{n:03d},{T0 + n * 3600},view,{n % 5}" for n in range(ROWS))]
TYPED[1::2] = [line.replace("view", "click") for line in TYPED[1::2]]


def test_types_and_numbers_that_mean_nothing_are_named(tmp_path):
    lines = changed(TYPED, line5=f"u1,003,{T0},shrug{'!' * 5000},1", line7=f"u1,003,{T0},Click,many")
    dataset = open_events(tmp_path, lines, type="type", weight="weight")
    unknown, number = said(dataset)
    assert unknown.startswith("events.csv, line 5: column type: types that mean nothing here ('shrug!!!")
    assert "name them with types: {value: view | click | cart | purchase}" in unknown
    assert len(unknown) < 400
    assert number == "events.csv, line 7: column weight: no number; the row is left out"
    assert events_in(dataset) == ROWS - 2


def test_a_weight_beyond_every_relevance_is_left_out(tmp_path):
    lines = changed(TYPED, line5=f"u1,003,{T0},click,1e7", line6=f"u1,003,{T0},click,-3")
    dataset = open_events(tmp_path, lines, weight="weight", graded=True)
    assert said(dataset) == [
        "events.csv, line 5: column weight: a relevance of more than 1,000,000; the row is left out"
    ]
    assert dataset.source.events.relevance.min() == 0.0  # what is below 0 was disliked


def test_faults_are_counted_and_the_first_places_named(tmp_path):
    lines = [f"u1,gone,{T0}" if n % 10 == 5 else line for n, line in enumerate(event_lines())]
    dataset = open_events(tmp_path, lines, bad_rows=0.2)
    assert said(dataset) == [
        "events.csv, lines 6, 16, 26, 36, 46 and 20 more: column item: an item that items.csv lacks; the row is left"
        " out"
    ]
    assert dataset.findings.counted("item_join") == 25


def test_more_bad_rows_than_allowed_stop_with_the_most_frequent_fault(tmp_path):
    lines = [
        f"u1,gone,{T0}" if n % 10 == 5 else f",000,{T0}" if n % 50 == 6 else line
        for n, line in enumerate(event_lines())
    ]
    with pytest.raises(DatasetError) as caught:
        open_events(tmp_path, lines)
    message = str(caught.value)
    assert message.startswith(
        "events.csv: 30 of 250 rows are left out, and at most 1% may be; most of them: events.csv, lines 6, 16"
    )
    assert "an item that items.csv lacks" in message
    assert message.endswith("Mend the table, or raise dataset.bad_rows.")
    assert events_in(open_events(tmp_path, lines, bad_rows=0.12)) == 220


def test_no_bad_row_is_allowed_where_that_is_said(tmp_path):
    with pytest.raises(DatasetError, match="1 of 250 rows are left out, and at most 0% may be"):
        open_events(tmp_path, changed(event_lines(), line5=f"u1,gone,{T0}"), bad_rows=0)


TEXTS = {
    "a byte order mark": b"\xef\xbb\xbf" + "\n".join(item_lines()).encode(),
    "CRLF": "\r\n".join([*item_lines(), ""]).encode(),
    "CR alone": "\r".join([*item_lines(), ""]).encode(),
    "no line end at the end": "\n".join(item_lines()).encode(),
    "blank lines": "\n\n".join(["", *item_lines(), ""]).encode(),
    "UTF-16 with a mark": "\n".join(item_lines()).encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + "\n".join(item_lines()).encode("utf-16-be"),
    "semicolons": "\n".join(item_lines()).replace(",", ";").encode(),
    "bars": "\n".join(item_lines()).replace(",", "|").encode(),
    "semicolons after a blank line": b"\n" + "\n".join(item_lines()).replace(",", ";").encode(),
    "quotes around all": "\n".join('"' + line.replace(",", '","') + '"' for line in item_lines()).encode(),
    "spaces around ids": "\n".join(f" {line}" if n else line for n, line in enumerate(item_lines())).encode(),
}


@pytest.mark.parametrize("form", list(TEXTS))
def test_a_table_is_the_same_however_it_is_written(form, tmp_path):
    dataset = open_items(tmp_path, TEXTS[form])
    assert said(dataset) == []
    assert dataset.catalog.item_ids == tuple(f"{n:03d}" for n in range(ROWS))  # leading zeros are kept
    assert dataset.catalog.titles[7] == "red shoe 7"
    assert dataset.catalog.prices[7] == 7.5


def other_forms(root: Path) -> dict[str, dict]:
    lines = [line.split(",") for line in item_lines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    columns = {name: [row[name] for row in rows] for name in lines[0]}
    text = "\n".join(item_lines())
    write(root, "a.tsv", text.replace(",", "\t"))
    write(root, "b.jsonl", "\n".join(json.dumps(row) for row in rows))
    write(root, "c.parquet", pa.table(columns))
    write(root, "d.parquet", pa.table({**columns, "id": pa.array(columns["id"]).dictionary_encode()}))
    write(root, "e.parquet", pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()}))
    write(root, "f.csv.gz", gzip.compress(text.encode()))
    write(root, "g.JSONL.GZ", gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    write(root, "h.csv.bz2", __import__("bz2").compress(text.encode()))
    write(root, "bare", text.split("\n", 1)[1])
    for name, compression in (("i.csv.zst", "zstd"), ("j.csv.lz4", "lz4")):
        with pa.CompressedOutputStream(str(root / name), compression) as stream:
            stream.write(text.encode())
    for shard in range(3):
        write(root, f"shards/part-{shard}.csv", [item_lines()[0], *item_lines()[1 + shard :: 3]])
    write(root, "shards/_SUCCESS", "")
    write(
        root,
        "k.jsonl",
        "\n".join(
            json.dumps({"a": {"id": row["id"]}, "b.c": row["title"], "price": {"eur": row["price"]}}) for row in rows
        ),
    )
    files = [name for name in sorted(item.name for item in root.iterdir()) if name not in ("bare", "shards", "k.jsonl")]
    return {
        **{name: {"file": name} for name in files},
        "no header": {"file": "bare", "format": "csv", "header": ["id", "title", "price"]},
        "shards": {"file": "shards"},
        "a pattern": {"file": "shards/part-?.csv"},
        "inside objects": {"file": "k.jsonl", "id": "a.id", "title": "b.c", "price": "price.eur"},
    }


def test_every_format_gives_the_same_catalogue(tmp_path):
    seen = {}
    for form, columns in other_forms(tmp_path).items():
        dataset = tables.load(root=tmp_path, items={**ITEMS, **columns}, clients="all")
        assert said(dataset) == [], form
        rows = zip(dataset.catalog.item_ids, dataset.catalog.titles, dataset.catalog.prices.tolist(), strict=True)
        seen[form] = sorted(rows)
    assert len(seen) == 14
    assert len({tuple(rows) for rows in seen.values()}) == 1


def test_the_columns_of_a_table_are_named_before_it_is_read(tmp_path):
    for columns in other_forms(tmp_path).values():
        layout = {name: value for name, value in columns.items() if name in ("format", "header")}
        layout["header"] = tuple(layout["header"]) if "header" in layout else None
        names = names_of(tmp_path, columns["file"], layout=Layout(**layout), findings=Findings())
        assert names == (("a", "b.c", "price") if "a.id" in columns.values() else ("id", "title", "price"))
    write(tmp_path, "array.jsonl", "[1, 2]\n")
    assert names_of(tmp_path, "array.jsonl", layout=Layout(), findings=Findings()) == ()
    write(tmp_path, "broken.jsonl", "{\n")
    with pytest.raises(DatasetError, match="broken.jsonl, line 1: not JSON"):
        names_of(tmp_path, "broken.jsonl", layout=Layout(), findings=Findings())


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_long_table_comes_in_blocks_and_says_how_far_it_is(form, tmp_path):
    count = 150_000
    if form == "parquet":
        write(tmp_path, "long.parquet", pa.table({"a": [str(n) for n in range(count)]}))
    else:
        line = '{{"a": "{}"}}' if form == "jsonl" else "{},1"
        rows = [line.format(n) for n in range(count)]
        rows[70_000] = "broken,2,3"
        write(tmp_path, f"long.{form}", rows if form == "jsonl" else ["a,b", *rows])
    findings, seen = Findings(), []
    found = blocks(tmp_path, f"long.{form}", ["a"], layout=Layout(), findings=findings, progress=seen.append)
    rows_of = [(block.rows, block["a"]) for block in found]
    numbers = np.concatenate([rows for rows, _ in rows_of])
    words = [word for _, column in rows_of for word in column.to_pylist()]
    lost = 0 if form == "parquet" else 1
    assert sum(seen) == len(words) == count - lost
    assert findings.rows[f"long.{form}"] == count
    first = 2 if form == "csv" else 1
    assert [int(words[k]) + first for k in (0, 69_999, 70_001, -1)] == [numbers[k] for k in (0, 69_999, 70_001, -1)]
    assert [finding.lines for finding in findings] == [(70_000 + first,)] * lost


def test_findings_are_given_for_json_and_errors_first():
    findings = Findings()
    findings.add("note", "seen", "a.csv", "something", count=3)
    findings.add("error", "gone", "b.csv", "no such thing", lines=[4])
    findings.add("error", "worse", "c.csv", "nor that")
    assert [str(finding) for finding in findings] == [
        "b.csv, line 4: no such thing",
        "c.csv: nor that",
        "a.csv: something (3 times)",
    ]
    known = {"code": "gone", "file": "b.csv", "lines": [4], "count": 1, "text": "no such thing"}
    assert next(iter(findings)).to_dict() == known
    with pytest.raises(
        DatasetError, match="^b.csv, line 4: no such thing .1 more errors; mmrank data check lists them.."
    ):
        findings.check(bad_rows=1.0)


def test_numbers_are_ids_in_json_and_parquet(tmp_path):
    """7, 7.0 (what a missing value beside it makes of 7) and "7" are one item, and 1e16 is not written so."""
    ids = [7, 12, 10**16]
    write(tmp_path, "items.csv", ["id,title,price", *(f"{number},red shoe,1" for number in ids)])
    forms = {
        "ints.jsonl": "\n".join(json.dumps({"user": 1, "item": n, "time": T0}) for n in ids),
        "floats.jsonl": "\n".join(json.dumps({"user": 1.0, "item": float(n), "time": float(T0)}) for n in ids),
        "ints.parquet": pa.table({"user": [1] * 3, "item": ids, "time": [T0] * 3}),
        "floats.parquet": pa.table({"user": [1.0] * 3, "item": [float(n) for n in ids], "time": [float(T0)] * 3}),
        "decimals.parquet": pa.table(
            {
                name: pa.array(column).cast(pa.decimal128(21, 2))
                for name, column in (("user", [1] * 3), ("item", ids), ("time", [T0] * 3))
            }
        ),
    }
    for name, content in forms.items():
        write(tmp_path, name, content)
        dataset = tables.load(root=tmp_path, items=ITEMS, events={**EVENTS, "file": name}, split="query")
        assert (said(dataset), dataset.client_ids) == ([], ("1",)), name
        assert dataset.source.events.item.tolist() == [0, 1, 2], name
        np.testing.assert_allclose(dataset.source.events.time, T0 / 86_400)


def test_bytes_that_are_no_text_stay_different_ids(tmp_path):
    keys = [bytes([200 + n, 255, n]) for n in range(5)]
    write(
        tmp_path,
        "items.parquet",
        pa.table({"id": pa.array(keys, pa.binary(3)), "title": ["red"] * 5, "price": [1] * 5}),
    )
    dataset = open_items(tmp_path, None, name="items.parquet")
    assert dataset.catalog.item_ids == ("c8ff00", "c9ff01", "caff02", "cbff03", "ccff04")


NOON = datetime.datetime(2024, 1, 31, 12, 30, tzinfo=datetime.UTC)
TIMES = {
    "seconds": 1706704200,
    "milliseconds": "1706704200000",
    "a float as text": "1706704200.0",
    "ISO 8601": "2024-01-31T12:30:00Z",
    "with a zone": "2024-01-31T20:30:00+08:00",
    "with a zone without colon": "2024-01-31 20:30:00+0800",
    "with a short zone": "2024-01-31 07:30:00-05",
    "with a spaced zone": "2024-01-31 07:30:00 -05:00",
    "with a named zone": "2024-01-31 12:30:00 UTC",
    "without a zone": "2024-01-31 12:30",
    "with fractions": "2024-01-31T12:30:00.000Z",
    "with slashes": "2024/01/31 12:30:00",
    "as in the United States": "01/31/2024 12:30:00 PM",
    "a timestamp": pa.array([NOON], pa.timestamp("us", "UTC")),
    "a timestamp in Shanghai": pa.array([NOON], pa.timestamp("ms", "Asia/Shanghai")),
    "a timestamp in nanoseconds without a zone": pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
    "dictionary of numbers": pa.array(["1706704200"]).dictionary_encode(),
    "large text": pa.array(["1706704200"], pa.large_string()),
    "days": pa.array([19_753 + 12.5 / 24]),
}


@pytest.mark.parametrize("form", list(TIMES))
def test_a_time_is_the_same_in_every_form(form, tmp_path):
    column = TIMES[form] if isinstance(TIMES[form], pa.Array) else pa.array([TIMES[form]])
    write(tmp_path, "events.parquet", pa.table({"user": ["ann"], "item": ["003"], "time": column}))
    dataset = open_events(tmp_path, None, name="events.parquet")
    assert said(dataset) == []
    assert dataset.source.events.time[0] == pytest.approx(NOON.timestamp() / 86_400, abs=1e-9)


@pytest.mark.parametrize(
    "form", ["2024-01-31", "20240131", 20240131, "2024年1月31日", "31.01.2024", datetime.date(2024, 1, 31)]
)
def test_a_day_is_the_same_in_every_form(form, tmp_path):
    write(tmp_path, "events.parquet", pa.table({"user": ["ann"], "item": ["003"], "time": [form]}))
    assert open_events(tmp_path, None, name="events.parquet").source.events.time[0] == 19_753


@pytest.mark.parametrize("day", ["2024-02-31", "2024-13-01", "31/01/2024", "2024-01-31T25:00:00", "0000-00-00", "soon"])
def test_a_day_that_no_month_has_is_no_time(day, tmp_path):
    lines = ["user,item,time", *(f"u1,{n:03d},2024-01-{n % 28 + 1:02d}" for n in range(ROWS))]
    dataset = open_events(tmp_path, changed(lines, line9=f"u1,003,{day}"))
    assert said(dataset) == ["events.csv, line 9: column time: no time; the row is left out"]
    assert events_in(dataset) == ROWS - 1


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    lines = [line.replace("red shoe", "红色运动鞋") for line in item_lines()]
    dataset = open_items(tmp_path, "\n".join(lines).encode("gb18030"), encoding="gb18030")
    assert said(dataset) == []
    assert dataset.catalog.titles[3] == "红色运动鞋 3"


def test_another_encoding_by_mistake_is_said_with_its_first_line(tmp_path):
    lines = changed(item_lines(), line7="005,红色运动鞋,5.5", line9="007,红鞋,7.5")
    dataset = open_items(tmp_path, "\n".join(lines).encode("gb18030"))
    (finding,) = said(dataset)
    assert finding.startswith("items.csv, line 7 and ")
    assert "bytes that are not utf-8, replaced by \ufffd" in finding
    assert "encoding: gb18030" in finding
    assert len(dataset.catalog) == ROWS
    assert dataset.catalog.titles[8] == "red shoe 8"


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13", "undefined", "utf\0", ""])
def test_an_encoding_that_is_none_is_refused(encoding, tmp_path):
    with pytest.raises(ConfigError, match="encoding=.*to be one of text that Python knows, for example gb18030"):
        open_items(tmp_path, item_lines(), encoding=encoding)


def test_half_a_pair_in_utf_16_is_said(tmp_path):
    text = "\n".join(item_lines()).encode("utf-16-le")
    at = text.index("shoe 7".encode("utf-16-le"))
    dataset = open_items(tmp_path, b"\xff\xfe" + text[:at] + b"\x3d\xd8" + text[at:])
    assert said(dataset)[0].startswith("items.csv, line 9: bytes that are not utf-16-le")
    assert len(dataset.catalog) == ROWS


def test_nul_bytes_in_a_title_stop_nothing(tmp_path):
    dataset = open_items(tmp_path, changed(item_lines(), line5="003,red\0shoe,1"))
    assert len(dataset.catalog) == ROWS


def test_a_quoted_line_break_is_no_row_and_lines_are_those_of_an_editor(tmp_path):
    lines = changed(item_lines(), line3='001,"red\nand\n\nwarm ""shoe""",1', line6="004,red", line8="006,red,free")
    dataset = open_items(tmp_path, lines)
    assert dataset.catalog.titles[1] == 'red\nand\n\nwarm "shoe"'
    assert said(dataset) == [  # three lines further down than the rows are
        "items.csv, line 9: a row of 2 fields under a header of 3, left out",
        "items.csv, line 11: column price: no price of at least 0; the item has none",
    ]


def test_a_long_field_before_a_fault_moves_no_line(tmp_path):
    lines = changed(item_lines(), line3=f'001,"{"x" * 200_000}\n",1', line6="004,red")
    assert said(open_items(tmp_path, lines)) == ["items.csv, line 7: a row of 2 fields under a header of 3, left out"]


def test_a_quote_that_nobody_closes_is_named_and_swallows_nothing_in_silence(tmp_path):
    for line in ('003,"red shoe,1', '003,red shoe,"1', '"003,red shoe,1'):
        with pytest.raises(DatasetError, match="items.csv, line 5: a quote is opened and not closed until the end"):
            open_items(tmp_path, changed(item_lines(), line5=line))
    dataset = open_items(tmp_path, changed(item_lines(), line5='003,"red shoe,1'), quotes=False)
    assert (said(dataset), dataset.catalog.titles[3]) == ([], '"red shoe')


def test_a_quote_that_the_next_row_closes_is_said(tmp_path):
    """The rows 003 and 004 have five fields together, and one of them holds the id and the quote of the other."""
    lines = changed(item_lines(), line5='003,"red shoe,3.5', line6='004,"red ""shoe""",4.5')
    dataset = open_items(tmp_path, lines)
    assert "004" not in dataset.catalog.item_ids
    assert said(dataset) == [
        "items.csv, line 5: a row of several lines in which letters follow a quote: is one not closed, and another row "
        "lost in it? double a quote that is meant"
    ]


def test_an_inch_is_no_quote(tmp_path):
    dataset = open_items(tmp_path, changed(item_lines(), line5='003,a 5" disk,1', line6='004,5"" tall,2'))
    assert (said(dataset), dataset.catalog.titles[3]) == ([], 'a 5" disk')


def test_a_field_of_20_mb_is_cut_and_one_that_never_ends_is_named(tmp_path):
    dataset = open_items(tmp_path, changed(item_lines(), line5=f'003,"{"x" * 20_000_000}",1'))
    assert len(dataset.catalog) == ROWS
    assert len(dataset.catalog.titles[3]) == 20_000
    with pytest.raises(DatasetError, match="items.csv, line 5: a quote is opened and not closed within 16 MB"):
        open_items(tmp_path, changed(item_lines(), line5='003,"' + ("x" * 999 + "\n") * 40_000 + '",1'))


def test_a_line_that_never_ends_does_not_fill_the_memory(tmp_path):
    """A file of 300 MB that packs into less than 1 MB."""
    write(tmp_path, "items.jsonl.gz", gzip.compress(b" " * 300_000_000, 1))
    tracemalloc.start()
    with pytest.raises(DatasetError, match="items.jsonl.gz, line 1: a line of more than 16 MB"):
        open_items(tmp_path, None, name="items.jsonl.gz")
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


def test_one_long_name_does_not_take_its_length_for_every_item(tmp_path):
    """An array of text in numpy is as wide as its longest: 4 MB for each of 20,000 items are 80 GB."""
    rows = [f"{n},red shoe,1,s{n % 3 if n else 'x' * 1_000_000}" for n in range(20_000)]
    dataset = open_items(tmp_path, ["id,title,price,shop", *rows], merchant="shop", fields={"of": "shop"})
    assert len(dataset.catalog.merchant_names) == 4


HEADERS = {
    "a missing column": (
        "id,titel,price",
        "items.csv, line 1: no column 'title'; it has: id, titel, price. Did you mean 'titel'?",
    ),
    "a column twice": ("id,title,price,title", "items.csv, line 1: two columns are called 'title'; rename one."),
    "a header of nothing": (",,", "items.csv, line 1: no header; name the columns with header: [...] beside file."),
    "rubbish": ("\x01\x02" * 5000, "items.csv, line 1: no column 'id'; it has: " + "\ufffd" * 60 + "...."),
}


@pytest.mark.parametrize("fault", list(HEADERS))
def test_a_header_that_does_not_fit_is_named(fault, tmp_path):
    header, expected = HEADERS[fault]
    with pytest.raises(DatasetError) as caught:
        open_items(tmp_path, [header, *item_lines()[1:]])
    assert str(caught.value) == expected


def test_many_columns_are_named_in_part(tmp_path):
    with pytest.raises(DatasetError, match=r"it has: c0, c1, .*c29, \.\.\.\.$"):
        open_items(tmp_path, [",".join(f"c{n}" for n in range(100))])


EMPTY = {
    "an empty file": ("", "items.csv: the file is empty."),
    "a mark alone": (b"\xef\xbb\xbf", "items.csv, line 1: no header"),
    "blank lines alone": ("\n\n", "items.csv, line 1: no header"),
    "a header alone": ("id,title,price\n", "items.csv: no item in it; column 'id' should name one in each row."),
}


@pytest.mark.parametrize("fault", list(EMPTY))
def test_an_empty_table_is_said(fault, tmp_path):
    content, expected = EMPTY[fault]
    with pytest.raises(DatasetError) as caught:
        open_items(tmp_path, content)
    assert str(caught.value).startswith(expected)


def test_tables_of_only_a_header_are_said_and_a_client_without_data_is_one(tmp_path):
    header = {
        "events": (EVENTS, "user,item,time"),
        "impressions": ({"items": "shown", "clicked": "clicked", "user": "user"}, "user,shown,clicked"),
        "judgments": ({"query": "query", "item": "item", "grade": "grade"}, "query,item,grade"),
    }
    write(tmp_path, "items.csv", item_lines())
    for table, (columns, line) in header.items():
        write(tmp_path, "nothing.csv", line + "\n")
        given = {table: {**columns, "file": "nothing.csv"}}
        dataset = tables.load(root=tmp_path, items=ITEMS, clients="all", **given)
        assert said(dataset) == ["nothing.csv: no row after the header"]
        assert [dataset.slates("all", split) for split in ("train", "validation", "test")] == [[], [], []]
        with pytest.raises(DatasetError, match="tables: no person and no query is in its tables"):
            tables.load(root=tmp_path, items=ITEMS, **given)


def test_events_of_which_none_is_left_are_said(tmp_path):
    with pytest.raises(DatasetError, match="250 of 250 rows are left out.*an item that items.csv lacks"):
        open_events(
            tmp_path, [line.replace(",0", ",x0").replace(",1", ",x1").replace(",2", ",x2") for line in event_lines()]
        )


def json_lines() -> list[str]:
    return [json.dumps({"id": f"{n:03d}", "title": f"red shoe {n}", "price": n + 0.5}) for n in range(ROWS)]


BAD_JSON = {
    "a broken line": ('{"id": "003", "title": ', "items.jsonl, line 4: not JSON (", 1),
    "no object": ('["003", "red"]', "items.jsonl, line 4: no object in braces, left out; each line is one object", 1),
    "a bare word": ("null", "items.jsonl, line 4: no object in braces, left out; each line is one object", 1),
    "half a pair": ('{"id": "\\ud800", "title": "red"}', "items.jsonl, line 4: not JSON (", 1),
    "deep": ("[" * 5000, "items.jsonl, line 4: not JSON (", 1),
    "no id": ('{"title": "red"}', "items.jsonl, line 4: no id; the row is left out", 1),
    "a list for a price": (
        '{"id": "003", "title": "red", "price": [1, 2]}',
        "items.jsonl, line 4: column price: no price",
        0,
    ),
    "an object for a price": ('{"id": "003", "price": {"eur": 1}}', "items.jsonl, line 4: column price: no price", 0),
}


@pytest.mark.parametrize("fault", list(BAD_JSON))
def test_a_bad_line_of_json_is_said_and_the_rest_goes_on(fault, tmp_path):
    line, expected, lost = BAD_JSON[fault]
    dataset = open_items(tmp_path, changed(json_lines(), line4=line), name="items.jsonl")
    (finding,) = said(dataset)
    assert finding.startswith(expected)
    assert len(dataset.catalog) == ROWS - lost
    assert dataset.catalog.prices[-1] == ROWS - 0.5


def test_lists_of_words_are_words(tmp_path):
    lines = changed(json_lines(), line4='{"id": "003", "title": ["red", null, "shoe"], "price": 1}')
    dataset = open_items(tmp_path, lines, name="items.jsonl")
    assert (said(dataset), dataset.catalog.titles[2:4]) == ([], ("red shoe 2", "red shoe"))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_told_from_json_lines(indent, tmp_path):
    with pytest.raises(
        DatasetError, match="items.json: no line is a JSON object; write one object a line, with no brack"
    ):
        open_items(tmp_path, json.dumps([json.loads(line) for line in json_lines()], indent=indent), name="items.json")


def test_a_column_that_no_line_has_is_named(tmp_path):
    with pytest.raises(DatasetError, match="items.jsonl: no line has titel; name another, or leave it out"):
        open_items(tmp_path, json_lines(), name="items.jsonl", title="titel")


def test_a_damaged_parquet_file_is_said(tmp_path):
    columns = {"id": [f"{n:03d}" for n in range(ROWS)], "title": ["red"] * ROWS, "price": [1.0] * ROWS}
    write(tmp_path, "items.parquet", pa.table(columns))
    whole = (tmp_path / "items.parquet").read_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"id,title,price\n1,red,1\n",
        "rubbish inside": whole[:20] + bytes(60) + whole[80:],
    }
    for content in broken.values():
        with pytest.raises(DatasetError, match="items.parquet(: not Parquet, or damaged|, after row 0: damaged) "):
            open_items(tmp_path, content, name="items.parquet")


def test_parquet_text_that_is_none_is_said(tmp_path):
    offsets = pa.array([0, 3, 6], pa.int32()).buffers()[1]
    bad = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"abc\xff\xfe\xfd"))
    with pytest.raises(DatasetError, match="items.parquet, after row 0: damaged .*UTF8"):
        open_items(tmp_path, pa.table({"id": bad, "title": ["a", "b"], "price": [1, 2]}), name="items.parquet")


def test_parquet_columns_without_text_or_number_are_named(tmp_path):
    table = pa.table({"id": ["a", "b"], "title": [{"en": "red"}, {"en": "blue"}], "price": [1, 2]})
    with pytest.raises(
        DatasetError, match=r"items.parquet: column 'title' holds struct<en: string>; write what is inside"
    ):
        open_items(tmp_path, table, name="items.parquet")
    twice = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"]), pa.array(["c"]), pa.array([1])], ["id", "id", "title", "price"]
    )
    with pytest.raises(DatasetError, match="items.parquet: two columns are called 'id'"):
        open_items(tmp_path, twice, name="items.parquet")


def test_a_packed_file_that_is_cut_or_none_is_said(tmp_path):
    packed = gzip.compress("\n".join(item_lines()).encode())
    for content in (packed[: len(packed) // 2], b"id,title,price\n"):
        with pytest.raises(DatasetError, match="items.csv.gz: can't be read to its end .*; is it cut off"):
            open_items(tmp_path, content, name="items.csv.gz")


def test_what_lies_outside_of_the_root_is_not_read(tmp_path):
    root, outside = tmp_path / "shop", tmp_path / "secret.csv"
    write(tmp_path, "secret.csv", item_lines())
    root.mkdir()
    (root / "link.csv").symlink_to(outside)
    (root / "shards").mkdir()
    (root / "shards" / "a.csv").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    (root / "circle.csv").symlink_to(root / "circle.csv")
    for name in (
        "../secret.csv",
        str(outside),
        "link.csv",
        "folder",
        "folder/secret.csv",
        "folder/*.csv",
        "circle.csv",
    ):
        with pytest.raises(DatasetError, match="leads out of"):
            open_items(root, None, name=name)
    for name in ("shards", "shards/*.csv", "*/../../secret.csv"):
        with pytest.raises(DatasetError, match="a link that leads out of .*copy the file into it"):
            open_items(root, None, name=name)


def test_a_link_within_the_root_is_followed(tmp_path):
    write(tmp_path, "2024/items.csv", item_lines())
    (tmp_path / "items.csv").symlink_to(tmp_path / "2024" / "items.csv")
    assert len(open_items(tmp_path, None).catalog) == ROWS


NAMES = {
    "there is none": ("itmes.csv", "there is no file itmes.csv. Did you mean 'items.csv'?"),
    "no pattern fits": ("*.parquet", "no file is called *.parquet"),
    "an empty folder": ("nothing", "the folder nothing holds no file"),
    "an archive": ("items.csv.zip", "items.csv.zip: an archive, where a table should be; unpack it"),
    "no ending": (
        "README",
        "README: its name does not say which format it has; set format: csv | tsv | jsonl | parquet",
    ),
    "NUL": ("a\0b.csv", "'a\\x00b.csv': leads out of"),
    "a long name": ("a" * 5000 + ".csv", "no name or pattern of files (File name too long)"),
    "stars": ("a**b.csv", "'a**b.csv': no name or pattern of files (Invalid pattern"),
}


@pytest.mark.parametrize("fault", list(NAMES))
def test_a_name_that_is_no_table_is_said(fault, tmp_path):
    name, expected = NAMES[fault]
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "README", "hello")
    write(tmp_path, "items.csv.zip", b"PK\x03\x04")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError) as caught:
        open_items(tmp_path, None, name=name)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 500


ROOTS = {
    "an archive": ("shop.zip", "and it is an archive: unpack it, and set it to the folder that holds the tables"),
    "a file": ("shop.csv", "and it is a file; set it to the folder that holds the tables"),
    "nothing": ("nowhere", "to be a folder that exists; set it to the folder that holds the tables"),
}


@pytest.mark.parametrize("fault", list(ROOTS))
def test_a_root_that_is_no_folder_is_said(fault, tmp_path):
    name, expected = ROOTS[fault]
    write(tmp_path, "shop.zip", b"PK\x03\x04")
    write(tmp_path, "shop.csv", item_lines())
    with pytest.raises(ConfigError) as caught:
        tables.load(root=tmp_path / name, items=ITEMS)
    assert expected in str(caught.value)
    with pytest.raises(ConfigError, match="Expected dataset.root=None to be a folder"):
        tables.load(items=ITEMS)


TEMPLATES = [
    "images/{}.jpg",
    "images/{id:>99999}.jpg",
    "images/{id!r}.jpg",
    "images/{{id}}.jpg",
    "images/{id.jpg",
    "{id}}",
]


@pytest.mark.parametrize("image", TEMPLATES)
def test_a_template_of_pictures_that_is_none_is_refused(image, tmp_path):
    with pytest.raises(ConfigError, match="Expected image=.*as images/{item_id}.jpg"):
        open_items(tmp_path, item_lines(), image=image)


def test_a_template_may_name_a_column_with_a_dot(tmp_path):
    lines = [json.dumps({"id": n, "media": {"main": f"m{n}"}}) for n in range(5)]
    write(tmp_path, "items.jsonl", lines)
    items = {"file": "items.jsonl", "id": "id", "image": "{media.main}/{id}.png", "title": "media.main"}
    dataset = tables.load(root=tmp_path, items=items, clients="all")
    assert dataset.catalog.images.paths == ["m0/0.png", "m1/1.png", "m2/2.png", "m3/3.png", "m4/4.png"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has one row of nothing: a few bytes that unpack to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(min(width * height // 8 + height, 40_000_000)))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(root: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "whole.jpg")
    return (root / "whole.jpg").read_bytes()


def gallery(root: Path):
    """Pictures 000.jpg, 001.jpg, ...: a good one, then one of each fault, and what is to be said of it."""
    good = jpeg(root)
    frame = Image.new("L", (8, 8))
    frame.save(root / "program.eps")
    faults = {
        "good": (good, None),
        "200 megapixels": (png_header(20_000, 10_000), "can't be decoded (Image size (200000000 pixels)"),
        "60 megapixels": (png_header(10_000, 6_000), "10000 x 6000 pixels, more than 50 million"),
        "a bomb": (png_header(2**31 - 1, 2**31 - 1), "can't be decoded"),
        "truncated": (good[: len(good) // 2], "can't be decoded (image file is truncated"),
        "no picture": (b"<html>404</html>", "can't be decoded (cannot identify image file"),
        "empty": (b"", "can't be decoded (cannot identify image file"),
        "a program": ((root / "program.eps").read_bytes(), "can't be decoded (cannot identify image file"),
        "too many bytes": (good + bytes(64 << 20), "larger than 64 MB"),
    }
    (root / "images").mkdir()
    for number, (content, _) in enumerate(faults.values()):
        (root / "images" / f"{number:03d}.jpg").write_bytes(content)
    return open_items(root, item_lines(20), image="images/{id}.jpg"), faults


def test_a_picture_that_is_none_is_said_and_the_others_are_shown(tmp_path):
    dataset, faults = gallery(tmp_path)
    images = dataset.catalog.images
    for number, (name, (_, expected)) in enumerate(faults.items()):
        path = tmp_path / "images" / f"{number:03d}.jpg"
        if expected is None:
            assert images(number).shape == (64, 48, 3)
            assert fault_of_picture(path) is None
            continue
        started = time.monotonic()
        assert images(number) is None, name
        assert images.unreadable[number].startswith(expected), name
        assert fault_of_picture(path).startswith(expected), name
        assert str(tmp_path) not in images.unreadable[number]
        assert time.monotonic() - started < 5
    assert images(15) is images.digest(15) is images.path(15) is None  # no file: missing, not unreadable
    assert set(images.unreadable) == set(range(1, len(faults)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1", "I;16"])
def test_what_is_transparent_is_white_and_every_mode_is_a_picture(mode, tmp_path):
    picture = Image.new("RGBA", (4, 3), (0, 0, 0, 0)) if mode in ("RGBA", "LA") else Image.new(mode, (4, 3))
    picture.convert(mode).save(tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}")
    found = decoded(next(tmp_path.glob("a.*")))
    assert (found.shape, found.dtype) == ((3, 4, 3), np.uint8)
    if mode in ("RGBA", "LA"):
        assert (found == 255).all()


def test_a_picture_bomb_within_the_process_that_lets_warnings_pass(tmp_path, recwarn):
    """Pillow warns of 100 million pixels before it raises for 200; outside of tests a warning is none."""
    import warnings

    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(10_000, 10_000))
    warnings.simplefilter("ignore")
    assert decoded(path) == fault_of_picture(path) == "10000 x 10000 pixels, more than 50 million"


PATHS = {
    "out of the root": "../secret.jpg",
    "absolute": "/etc/hostname",
    "a link out": "link.jpg",
    "a circle": "circle.jpg",
    "a folder": "images",
    "a long name": "a" * 300 + ".jpg",
    "a longer name": "a/" * 3000 + ".jpg",
    "nothing": "",
    "of another tongue": "图片/鞋.jpg",
}


def test_a_picture_outside_of_the_root_is_none(tmp_path):
    root = tmp_path / "shop"
    (root / "images").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(jpeg(tmp_path))
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "circle.jpg").symlink_to(root / "circle.jpg")
    lines = ["id,title,price,image", *(f"{n},red,1,{path}" for n, path in enumerate(PATHS.values()))]
    images = open_items(root, lines, image="image").catalog.images
    for number in range(len(PATHS)):
        assert images(number) is images.digest(number) is images.path(number) is None


def test_a_picture_that_vanishes_is_missing(tmp_path):
    (tmp_path / "000.jpg").write_bytes(jpeg(tmp_path))
    images = open_items(tmp_path, item_lines(3), image="{id}.jpg").catalog.images
    assert images.digest(0) is not None
    (tmp_path / "000.jpg").unlink()
    assert images.digest(0) is images(0) is None
    assert decoded(tmp_path / "000.jpg") == "can't be decoded ([Errno 2] No such file or directory: '000.jpg')"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is hidden from root")
def test_a_picture_that_may_not_be_read_is_missing(tmp_path):
    (tmp_path / "000.jpg").write_bytes(jpeg(tmp_path))
    (tmp_path / "000.jpg").chmod(0)
    images = open_items(tmp_path, item_lines(3), image="{id}.jpg").catalog.images
    assert images.digest(0) is images(0) is None
    assert images.unreadable[0].startswith("can't be")


BAD_SHOWN = {
    "no id": ("u1,1000,001 002,1 0,,,", "shown.csv, line 3 and 1 more: column id: no id; the row is left out"),
    "an unknown item": ("u1,1000,001 zzz,1 0,i9,,", "shown.csv, line 3: column shown: an item that items.csv lacks"),
    "another number of scores": (
        "u1,1000,001 002,1 0,i9,,5 6 7",
        "shown.csv, line 3: column score: not as many values",
    ),
    "a word for a click": (
        "u1,1000,001 002,x z,i9,,",
        "shown.csv, line 3 and 1 more: column clicked: no number; the row",
    ),
    "a click beyond all": ("u1,1000,001 002,9e9 0,i9,,", "shown.csv, line 3: column clicked: a relevance of more than"),
    "a propensity of 2": (
        "u1,1000,001 002,1 0,i9,2 1,",
        "shown.csv, line 3: column prop: a propensity that is not in (0, 1]",
    ),
    "a tiny propensity": (
        "u1,1000,001 002,1 0,i9,1e-50 1,",
        "shown.csv, line 3: column prop: a propensity that is not in",
    ),
    "an endless score": (
        "u1,1000,001 002,1 0,i9,,1e300 1",
        "shown.csv, line 3: column score: no number; the row is left",
    ),
}


@pytest.mark.parametrize("fault", list(BAD_SHOWN))
def test_a_bad_impression_is_said_and_the_rest_goes_on(fault, tmp_path):
    line, expected = BAD_SHOWN[fault]
    lines = [f"u{n % 3},{n * 60},{n:03d} {n + 1:03d},1 0,i{n},1 0.5,1 2" for n in range(ROWS - 2)]
    lines = changed(["user,time,shown,clicked,id,prop,score", *lines], line3=line)
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "shown.csv", lines)
    columns = {"items": "shown", "clicked": "clicked", "user": "user", "time": "time", "id": "id", "score": "score"}
    shown = {"file": "shown.csv", "time_unit": "s", "propensity": "prop", **columns}
    dataset = tables.load(root=tmp_path, items=ITEMS, impressions=shown)
    (finding,) = said(dataset)
    assert finding.startswith(expected)
    assert len(dataset.source.lists[0]) >= ROWS - 3


def test_items_that_are_gone_are_counted_by_item_and_not_by_list(tmp_path):
    lines = [
        "user,time,shown,clicked",
        *(f"u1,{n * 60},{n:03d} {n + 1:03d} gone {n + 2:03d} lost,1 0 0 0 0" for n in range(100)),
    ]
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "shown.csv", lines)
    columns = {
        "file": "shown.csv",
        "items": "shown",
        "clicked": "clicked",
        "user": "user",
        "time": "time",
        "time_unit": "s",
    }
    with pytest.raises(DatasetError, match="shown.csv: 200 of 500 rows are left out.*lines 2, 3, 4, 5, 6 and 195 more"):
        tables.load(root=tmp_path, items=ITEMS, impressions=columns)
    dataset = tables.load(root=tmp_path, items=ITEMS, impressions=columns, bad_rows=0.4)
    assert np.diff(dataset.source.lists[0].start).tolist() == [3] * 100


def test_lists_here_and_single_items_there_are_refused(tmp_path):
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "shown/1.csv", ["user,shown,clicked", "u1,001,1", "u1,002,0"])
    write(tmp_path, "shown/2.csv", ["user,shown,clicked", "u1,001 002,1 0"])
    columns = {"file": "shown", "items": "shown", "clicked": "clicked", "user": "user"}
    with pytest.raises(
        DatasetError, match="shown/2.csv, line 2: lists from here on, where the rows before have one item"
    ):
        tables.load(root=tmp_path, items=ITEMS, impressions=columns)
    write(tmp_path, "shown/1.csv", ["user,shown,clicked", "u1,001 002,1 0"])
    write(tmp_path, "shown/2.csv", ["user,shown,clicked", "u1,003,1"])  # a list of one
    dataset = tables.load(root=tmp_path, items=ITEMS, impressions=columns)
    assert np.diff(dataset.source.lists[0].start).tolist() == [2, 1]


BAD_JUDGED = {
    "no grade": ("shoes,001,", "judged.csv, line 3: column grade: no grade from 0 to 1,000,000; the row is left out"),
    "a grade below 0": (
        "shoes,001,-1",
        "judged.csv, line 3: column grade: no grade from 0 to 1,000,000; the row is left",
    ),
    "a grade beyond all": (
        "shoes,001,1e7",
        "judged.csv, line 3: column grade: no grade from 0 to 1,000,000; the row is",
    ),
    "an unknown item": (
        "shoes,zzz,1",
        "judged.csv, line 3: column item: an item that items.csv lacks; the row is left out",
    ),
    "no words": (",001,1", "judged.csv, line 3: column query: a query without words; the row is left out"),
}


@pytest.mark.parametrize("fault", list(BAD_JUDGED))
def test_a_bad_judgment_is_said_and_the_rest_goes_on(fault, tmp_path):
    line, expected = BAD_JUDGED[fault]
    lines = ["query,item,grade", *(f"query {n // 10},{n:03d},{n % 4}" for n in range(ROWS))]
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "judged.csv", changed(lines, line3=line))
    columns = {"file": "judged.csv", "query": "query", "item": "item", "grade": "grade"}
    dataset = tables.load(root=tmp_path, items=ITEMS, judgments=columns, clients="all")
    assert [finding[: len(expected)] for finding in said(dataset)] == [expected]
    assert len(dataset.source.lists[0].item) == ROWS - 1
    with pytest.raises(ConfigError, match=r"judgments.gains: good=1e\+300 to be a number in \[0, 1,000,000\]"):
        tables.load(root=tmp_path, items=ITEMS, judgments={**columns, "gains": {"good": 1e300}})


def test_a_line_of_a_trec_run_that_is_none_is_said(tmp_path):
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "judged.csv", ["query,item,grade", "shoes,001,1", "shoes,002,0"])
    columns = {"file": "judged.csv", "query": "query", "item": "item", "grade": "grade"}

    def opened(run: str):
        write(tmp_path, "base.run", run)
        return tables.load(root=tmp_path, items=ITEMS, judgments=columns, clients="all", rows={"base": "base.run"})

    for line in ("shoes 001 3", "shoes Q0 001 1 high base", "shoes Q0 001 1 nan b", "shoes Q0 001 1 1e300 b"):
        with pytest.raises(
            DatasetError, match=r"base.run, line 2: .* is no line of a TREC run; expected: query Q0 item"
        ):
            opened(f"shoes Q0 001 1 9.5 base\n{line}\n")
    with pytest.raises(ConfigError, match="dataset.rows: 'my row' to be a plain name"):
        tables.load(root=tmp_path, items=ITEMS, judgments=columns, clients="all", rows={"my row": "base.run"})


MAPS = {
    "no file": ({"items": {"id": "id"}}, "Expected dataset.items.file: the name of a column; add it to dataset.items"),
    "no map": ({"items": "items.csv"}, "Expected dataset.items='items.csv' as {file: ..., id: ...}"),
    "an unknown key": (
        {"items": {**ITEMS, "titel": "title"}},
        "Unknown setting 'dataset.items.titel'.*Did you mean 'title'",
    ),
    "an unknown format": ({"items": {**ITEMS, "format": "xlsx"}}, "Expected format='xlsx' to be one of csv, tsv"),
    "two letters between": ({"items": {**ITEMS, "separator": "||"}}, "separator='||' to be one ASCII character"),
    "an unknown type": (
        {"items": ITEMS, "events": {**EVENTS, "types": {"x": "love"}}},
        "events.types: x='love' to be one of",
    ),
    "liked without weight": (
        {"items": ITEMS, "events": {**EVENTS, "liked": 4}},
        "events.weight beside liked or graded",
    ),
    "an unknown unit": ({"items": ITEMS, "events": {**EVENTS, "time_unit": "weeks"}}, "time_unit='weeks' to be one of"),
    "half a table of texts": (
        {"items": ITEMS, "judgments": {"file": "e", "query": "q", "item": "i", "grade": "g", "texts": {"file": "x"}}},
        "judgments.texts={'file': 'x'} as {file: queries.csv, id: query_id, text: query}",
    ),
    "one half of the days": ({"items": ITEMS, "split": {"test_from": "2024-01-01"}}, "beside its other half"),
    "days in another order": (
        {"items": ITEMS, "split": {"validation_from": "2024-02-01", "test_from": "2024-01-01"}},
        "in this order",
    ),
    "a day that is none": (
        {"items": ITEMS, "split": {"validation_from": "1.2.2024", "test_from": "2024-01-01"}},
        "as YYYY-MM-DD",
    ),
    "a part that nothing says": ({"items": ITEMS, "split": "column"}, "where a column says the part"),
    "unknown clients": (
        {"items": ITEMS, "clients": "users"},
        "clients.by='users' to be a column that was read; available:",
    ),
    "users without any": ({"items": ITEMS, "clients": "user"}, "available: all, category, merchant"),
    "too much for tests": (
        {"items": ITEMS, "split": {"test_fraction": 0.9, "validation_fraction": 0.9}},
        "to leave at least",
    ),
    "an unknown partition": (
        {"items": ITEMS, "clients": {"partition": "idd"}},
        "clients.partition='idd' to be one of none",
    ),
}


@pytest.mark.parametrize("fault", list(MAPS))
def test_a_setting_that_does_not_fit_is_refused_with_what_would(fault, tmp_path):
    given, expected = MAPS[fault]
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "events.csv", event_lines())
    with pytest.raises(ConfigError) as caught:
        tables.load(root=tmp_path, **given)
    for part in expected.split(".*"):
        assert part in str(caught.value)


def test_a_user_with_a_million_events_takes_seconds(tmp_path):
    count = 1_000_000
    table = pa.table({
        "user": pa.array(["whale"]).take(pa.array(np.zeros(count, np.int32))),
        "item": pa.array([f"{n:03d}" for n in range(ROWS)]).take(pa.array(np.arange(count) % ROWS)),
        "time": T0 + np.arange(count) * 60,
    })  # fmt: skip
    started = time.monotonic()
    dataset = open_events(tmp_path, table, name="events.parquet")
    slates = {split: dataset.slates("whale", split) for split in ("train", "validation", "test")}
    assert time.monotonic() - started < 30  # about 2 s alone; a busy machine is no failure
    assert sum(map(len, slates.values())) == pytest.approx(count / 1440, abs=2)
    assert max(len(slate.history) for slate in slates["test"]) == 1000
    assert max(len(slate.candidates) for slate in slates["test"]) <= 20 + 19


def test_each_event_of_a_busy_person_may_be_a_slate_without_a_copy_of_all_before_it(tmp_path):
    count = 4_000
    rows = [f"whale,{n % ROWS:03d},{T0 + n * 60}" for n in range(count)]
    write(tmp_path, "items.csv", item_lines())
    write(tmp_path, "events.csv", ["user,item,time", *rows])
    shape = {"moment": "event", "candidates": {"from": "catalogue", "negatives": 2}, "split": "query"}
    dataset = tables.load(root=tmp_path, items=ITEMS, events=EVENTS, **shape)
    tracemalloc.start()
    slates = dataset.slates("whale", "train")
    assert len(slates) == count
    assert tracemalloc.get_traced_memory()[0] < 40e6  # 4 bytes an event, its age; with copies 20
    tracemalloc.stop()


@pytest.mark.slow
def test_a_million_events_as_text_with_their_faults_take_seconds(tmp_path):
    rows = (
        f'whale,{n % ROWS:03d},{T0 + n * 60},"a\nb"' if n % 1000 else f"whale,gone,{T0},x" for n in range(1_000_000)
    )
    started = time.monotonic()
    dataset = open_events(tmp_path, ["user,item,time,note", *rows])
    assert time.monotonic() - started < 60
    assert said(dataset)[0].startswith("events.csv, lines 2, 2001, 4000, 5999, 7998 and 995 more: column item")


def test_every_error_is_one_of_ours_and_names_its_file(tmp_path):
    """What the command line prints and exits 2 for: nothing else may leave a reader."""
    for name, content in {
        "items.csv": b"\x00" * 100,
        "items.tsv": b"\xff\xfe\x00",
        "items.jsonl": b"{" * 10_000,
        "items.parquet": b"PAR1PAR1",
        "items.csv.gz": b"\x1f\x8b\x08",
        "items.csv.zst": b"(\xb5/\xfd",
    }.items():
        with pytest.raises(MmrankError, match=name):
            open_items(tmp_path, content, name=name)
