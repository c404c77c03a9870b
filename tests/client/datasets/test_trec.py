"""At stake: a judgment that joins the wrong document or topic makes every figure on a test collection wrong."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.datasets import trec
from client.datasets._reading.findings import Findings
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Source
from client.datasets._topics import read_topics
from mmrank.errors import ConfigError, DatasetError, MmrankError
from tests.client.datasets.fixtures_judged import damage, write_beir, write_trec

DOCUMENTS = "id\ttitle\nFT-1\tred shoe\nFT-2\tblue shoe\nFT-3\that\n"
ROBUST = """<top>
<num> Number: 301
<title> International
Organized Crime

<desc> Description:
Identify organizations &amp; their <i>crimes</i>.
</top>
<top>
<head> Tipster Topic Description
<num> Number:  051
<dom> Domain: Economics
<title> Topic:  Airbus &amp; Subsidies
<desc> Description: none
</top>
"""
WEB = """<?xml version="1.0"?>
<webtrack2009>
 <topic number="20" type="faceted"> <query>defender</query>
  <description> Reports on Windows Defender. </description>
  <subtopic number="1" type="inf">What is it?</subtopic> </topic>
<topic number='21'>volvo</topic>
</webtrack2009>
"""


def read(root: Path, **own) -> Source:
    shape = own.pop("shape", Shape())
    return trec.read(root, shape=shape, findings=Findings(), **own)


def told(source: Source, code: str) -> list[str]:
    return [str(finding) for finding in source.findings if finding.code == code]


def collection(root: Path, qrels: str, topics: str = "1\tshoes\n2\that\n3\tcoat\n") -> Path:
    (root / "collection.tsv").write_text(DOCUMENTS)
    (root / "qrels.txt").write_text(qrels)
    (root / "topics.txt").write_text(topics)
    return root


def test_judged_documents_are_the_list_of_their_query(tmp_path):
    collection(tmp_path, "1 0 FT-2 1\n2 0 FT-3 2\n1 0 FT-1 -2\n1   Q0\tFT-3  0\n2 0 FT-1 0\n")
    dataset = trec.load(root=tmp_path, clients="all", split={"test_fraction": 0.0, "validation_fraction": 0.0})
    first, second = dataset.slates("all", "train")
    assert dataset.catalog.item_ids == ("FT-1", "FT-2", "FT-3")
    assert dataset.catalog.titles[1] == "blue shoe"
    assert (first.query, first.candidates.tolist(), first.relevance.tolist()) == ("shoes", [1, 0, 2], [1.0, 0.0, 0.0])
    assert (second.query, second.candidates.tolist(), second.relevance.tolist()) == ("hat", [2, 0], [2.0, 0.0])
    assert list(dataset.source.lists[0].query_id) == ["1", "2"]
    assert dataset.split_by == "query"
    assert dataset.notes == ("qrels.txt, line 3: a grade below 0, taken as 0",)


def test_topics_in_tags_are_read_with_their_titles_alone(tmp_path):
    (tmp_path / "robust.txt").write_text(ROBUST)
    (tmp_path / "web.xml").write_text(WEB)
    findings = Findings()
    found = read_topics(tmp_path, ["robust.txt", "web.xml"], findings)
    assert not list(findings)
    assert {name: words for name, words in found.items() if name != "51"} == {
        "301": "International Organized Crime",
        "051": "Airbus & Subsidies",
        "20": "defender",
        "21": "volvo",
    }
    assert found["51"] == found["051"]  # the qrels of TREC 1 to 3 write the number without its zero


def test_topics_as_rows_with_and_without_a_header(tmp_path):
    (tmp_path / "t2.tsv").write_text("qid\ttext\n0\t蜂巢取快递验证码摁错怎么办\n12\twho is robert gray\n")
    (tmp_path / "mq.txt.gz").write_bytes(gzip.compress(b"10001:comparability of pay analyses\n"))
    (tmp_path / "bad.tsv").write_text("7\t \n12\tanother\n8\tgood\n")
    findings = Findings()
    found = read_topics(tmp_path, ["t2.tsv", "mq.txt.gz", "bad.tsv"], findings)
    assert found == {
        "0": "蜂巢取快递验证码摁错怎么办",
        "12": "who is robert gray",
        "10001": "comparability of pay analyses",
        "8": "good",
    }
    assert [str(found) for found in findings] == [
        "bad.tsv, line 1: a query without an id or without words, left out",
        "bad.tsv, line 2: a query with other words than an earlier one of its id, left out",
    ]


def test_parts_come_from_the_names_of_qrels_and_runs_become_rows(tmp_path):
    write_trec(tmp_path)
    dataset = trec.load(root=tmp_path, clients="all", rows={"mybaseline": "baseline.run"})
    assert dataset.split_by == "column"
    assert [len(dataset.slates("all", split)) for split in ("train", "validation", "test")] == [40, 20, 20]
    assert dataset.brought_rows == ("mybaseline",)
    given = {}
    for line in (tmp_path / "baseline.run").read_text().splitlines():
        query, _, item, _, score, _ = line.split()
        given[query, item] = float(score)
    ids = dataset.catalog.item_ids
    for slate in dataset.slates("all", "test"):
        number = slate.query.split()[-1]
        expected = [given[number, ids[item]] for item in slate.candidates.tolist()]
        np.testing.assert_allclose(slate.scores["mybaseline"], expected, rtol=1e-6)


def test_the_layout_of_beir_is_read_as_it_is(tmp_path):
    write_beir(tmp_path)
    dataset = trec.load(root=tmp_path, clients="all")
    assert [len(dataset.slates("all", split)) for split in ("train", "validation", "test")] == [1, 1, 1]
    (slate,) = dataset.slates("all", "test")
    assert slate.query == "shoes 3"
    assert slate.relevance.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert dataset.catalog.titles[5] == "shoe 5. red"
    assert not dataset.notes


def test_a_table_of_products_with_pictures_may_be_the_documents(tmp_path):
    write_beir(tmp_path)
    (tmp_path / "products.jsonl").write_text(
        "".join(json.dumps({"sku": f"d{index}", "name": f"Name {index}", "price": 9.5}) + "\n" for index in range(6))
    )
    items = {"file": "products.jsonl", "id": "sku", "title": "name", "price": "price", "image": "images/{sku}.jpg"}
    source = read(tmp_path, items=items)
    assert source.catalog.titles[0] == "Name 0"
    assert source.catalog.prices[0] == pytest.approx(9.5)
    assert source.lists[0].item.tolist() == [0, 1, 2, 3] * 3


def test_a_missing_part_is_completed_and_said(tmp_path):
    rows = "".join(f"{query} 0 FT-{document} {document % 2}\n" for query in range(100) for document in (1, 2))
    collection(tmp_path, "", "".join(f"{query}\tquery {query}\n" for query in range(200)))
    (tmp_path / "qrels.txt").unlink()
    (tmp_path / "qrels.train.txt").write_text(rows)
    assert (read(tmp_path).lists[0].part == NONE).all()
    (tmp_path / "qrels.dev.txt").write_text("150 0 FT-1 1\n150 0 FT-2 0\n3 0 FT-3 1\n")
    source = read(tmp_path)
    counts = np.bincount(source.lists[0].part, minlength=3)
    assert counts[2] == 1
    assert 2 < counts[1] < 25
    assert told(source, "query_twice") == ["qrels.dev.txt, line 3: a query that another part has; the row is left out"]
    assert "the validation file is the test part" in told(source, "parts")[0]
    named = read(tmp_path, qrels={"train": "qrels.train.txt", "test": "qrels.dev.txt"})
    assert np.bincount(named.lists[0].part).tolist() == counts.tolist()


def test_bad_lines_are_said_with_their_number_and_the_rest_goes_on(tmp_path):
    collection(tmp_path, "1 0 FT-1 1\n1 0 FT-2\t\n1 0 FT-2 good\n9 0 FT-1 1\n1 0 FT-99 1\n1 0 FT 2 1\n1 0 FT-2 0\n")
    source = read(tmp_path)
    assert source.lists[0].item.tolist() == [0, 1]
    assert told(source, "grade") == ["qrels.txt, lines 2, 3: no grade at its end; the row is left out"]
    assert told(source, "query_join") == ["qrels.txt, line 4: a query that the topics lack; the row is left out"]
    assert told(source, "item_join") == ["qrels.txt, line 5: a document that collection.tsv lacks; the row is left out"]
    assert told(source, "ragged") == [
        "qrels.txt, line 6: a line of 5 fields; expected: qid 0 docid grade; the row is left out"
    ]


def test_what_cannot_be_used_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="no file has qrels in its name; name it with dataset.qrels"):
        read(tmp_path)
    collection(tmp_path, "x y\n")
    with pytest.raises(
        DatasetError, match="no judgment `qid 0 docid grade` in it that can be used. qrels.txt, line 1: a"
    ):
        read(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"name": "a"}\n')
    with pytest.raises(DatasetError, match="2 files that may be the collection.*dataset.items"):
        read(tmp_path)
    (tmp_path / "collection.tsv").unlink()
    with pytest.raises(DatasetError, match="none of its columns is an id.*map them with dataset.items"):
        read(tmp_path)
    (tmp_path / "topics.txt").write_text("<top>\n<num> 5\n</top>\n")
    with pytest.raises(DatasetError, match=r"topics.txt: no query in it; expected lines of id<TAB>words"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="qrels: 1='a' as a file for one of train"):
        read(tmp_path, qrels={1: "a"})


@settings(max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_trec(root, queries=6, documents=12)
        path = root / data.draw(
            st.sampled_from(("qrels.train.tsv", "qrels.test.tsv", "topics.trec", "collection.jsonl"))
        )
        path.write_bytes(data.draw(damage(path.read_bytes())))
        try:
            source = read(root)
        except MmrankError:
            return
        (lists,) = source.lists
        assert lists.start[-1] == len(lists.item) == len(lists.relevance)
        assert lists.item.max() < len(source.catalog)
        assert (lists.relevance >= 0).all()
        assert lists.query.max() < len(source.queries)
        assert all(str(finding) for finding in source.findings)
