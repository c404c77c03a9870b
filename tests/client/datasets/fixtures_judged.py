"""Judged collections written to disk as they are published: LETOR 4.0 in folds, TREC's test collections, BEIR's."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hypothesis import strategies as st

INJURIES = (
    b"\0",
    b'"',
    b"\n\n",
    b"\t",
    b" ",
    b":",
    b"#",
    b"<top>",
    b"nan",
    b"-",
    b"1e999",
    b"9" * 400,
    b"\xff\xfe",
    b"\r",
)
FEATURES = 46
"""Of a row of LETOR 4.0."""
SUBJECTS = ("red shoes", "warm coats", "leather bags", "sun hats", "运动鞋")
TOPIC = """<top>

<num> Number: {number:03d}
<title> {words}

<desc> Description:
Find <b>{words}</b> that are for sale.

<narr> Narrative:
A relevant document names a price.

</top>

"""


def letor_line(grade: int, qid: int, values: list[float], document: str) -> str:
    """A row as LETOR 4.0 writes it: six digits, every feature, and a comment without a blank before docid."""
    numbers = " ".join(f"{number}:{value:.6f}" for number, value in enumerate(values, 1))
    return f"{grade} qid:{qid} {numbers} #docid = {document} inc = 0.0119881192468859 prob = 0.139842\n"


def write_letor(root: Path, *, queries: int = 60, documents: int = 8) -> None:
    """Fold1 with train, vali and test, three to one to one; the first feature tells of the grade, the 46th is 0."""
    draw = random.Random(7)
    folder = root / "Fold1"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": 3 * queries // 5, "vali": queries // 5, "test": queries // 5}
    qid = 10_000
    for part, count in parts.items():
        with (folder / f"{part}.txt").open("w", encoding="utf-8") as file:
            for _ in range(count):
                qid += 1
                for place in range(documents):
                    grade = draw.choice((0, 0, 0, 1, 2))
                    values = [grade / 2 + draw.random() / 4, *(draw.random() for _ in range(FEATURES - 2)), 0.0]
                    file.write(letor_line(grade, qid, values, f"GX{qid % 100:03d}-{place:02d}-{qid * 10 + place}"))


def write_trec(root: Path, *, queries: int = 80, documents: int = 120) -> None:
    """A collection as JSON lines, topics in tags, qrels of three parts with one junk document, a run over them."""
    draw = random.Random(11)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "collection.jsonl").open("w", encoding="utf-8") as file:
        for index in range(documents):
            title = f"{draw.choice(SUBJECTS)} number {index}"
            row = {"docid": f"D-{index:04d}", "title": title, "text": "Free of charge & new."}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    numbers = range(1, queries + 1)
    text = "".join(TOPIC.format(number=number, words=f"{draw.choice(SUBJECTS)} {number}") for number in numbers)
    (root / "topics.trec").write_text(text, encoding="utf-8")
    cuts = {"train": numbers[: queries // 2], "dev": numbers[queries // 2 : 3 * queries // 4]}
    cuts["test"] = numbers[3 * queries // 4 :]
    run = []
    for part, asked in cuts.items():
        lines = []
        for number in asked:
            for index in draw.sample(range(documents), 8):
                lines.append(f"{number}\t0\tD-{index:04d}\t{draw.choice((-2, 0, 0, 1, 3))}\n")
                run.append(f"{number} Q0 D-{index:04d} 1 {draw.random():.4f} mybaseline\n")
        (root / f"qrels.{part}.tsv").write_text("".join(lines), encoding="utf-8")
    (root / "baseline.run").write_text("".join(run), encoding="utf-8")


def write_beir(root: Path) -> None:
    """corpus.jsonl, queries.jsonl and qrels/ with a header and three fields, as BEIR packs them."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "qrels").mkdir(exist_ok=True)
    corpus = [{"_id": f"d{index}", "title": f"shoe {index}", "text": "red", "metadata": {}} for index in range(6)]
    asked = [{"_id": f"q{index}", "text": f"shoes {index}", "metadata": {}} for index in range(4)]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for part, query in (("train", 0), ("dev", 2), ("test", 3)):
        rows = [f"q{query}\td{index}\t{index % 2}" for index in range(4)]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
        (root / "qrels" / f"{part}.tsv").write_text(text, encoding="utf-8")


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with one to three injuries: a byte flipped, a cut, a line twice, a NUL, a huge number, a quote."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        line = data[data.rfind(b"\n", 0, place) + 1 : (data.find(b"\n", place) + 1) or len(data)]
        kind = draw(st.sampled_from(("flip", "cut", "remove", "twice", "insert")))
        if kind == "flip" and data:
            data = data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "remove":
            data = data[:place] + data[place + draw(st.integers(1, 40)) :]
        elif kind == "twice":
            data = data[:place] + line + data[place:]
        else:
            data = data[:place] + draw(st.sampled_from(INJURIES)) + data[place:]
    return data
