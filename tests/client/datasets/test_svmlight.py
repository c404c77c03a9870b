"""At stake: a row under the wrong query, or a part that leaks, voids every figure on a learning-to-rank set."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.datasets import svmlight
from client.datasets._feature_words import LARGEST_FEATURE, PUBLIC_EDGES, FeatureTitles
from client.datasets._reading.findings import Findings
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Source
from mmrank.encoders.text._tokens import tokens
from mmrank.errors import ConfigError, DatasetError, MmrankError
from tests.client.datasets.fixtures_judged import damage, letor_line, write_letor

TWO_QUERIES = """\
# written by a tool
2 qid:1 1:0.55 2:0 3:-7 # docid = GX01 inc = 1 prob = 0.5
0 qid:1 1:0.05 3:NULL # docid = GX02
1 qid:2 1:1.79769313486232E308 #docid = GX01
0 qid:2 5:20 \n"""


def read(root: Path, **own) -> Source:
    shape = own.pop("shape", Shape())
    return svmlight.read(root, shape=shape, findings=Findings(), **own)


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


def told(source: Source, code: str) -> str:
    found = [finding for finding in source.findings if finding.code == code]
    assert len(found) == 1, [str(finding) for finding in source.findings]
    return str(found[0])


def slates_of(root: Path, split: str, **own):
    dataset = svmlight.load(root=root, clients="all", **own)
    return dataset, dataset.slates("all", split)


def test_a_row_is_an_item_that_its_features_name_and_a_query_is_a_list(tmp_path):
    dataset, slates = slates_of(write(tmp_path, train=TWO_QUERIES, vali="1 qid:3 1:1\n", test="0 qid:4 1:2\n"), "train")
    assert dataset.catalog.item_ids == ("1:GX01", "1:GX02", "2:GX01", "2:2", "3:1", "4:1")
    edges = np.array(PUBLIC_EDGES)
    half, low, seven, twenty = (int((edges <= value).sum()) for value in (0.55, 0.05, -7, 20))
    top = len(edges)
    assert list(dataset.catalog.titles[:4]) == [f"f1b{half} f3b{seven}", f"f1b{low}", f"f1b{top}", f"f5b{twenty}"]
    assert [(slate.query, slate.candidates.tolist(), slate.relevance.tolist()) for slate in slates] == [
        ("q1", [0, 1], [2.0, 0.0]),
        ("q2", [2, 3], [1.0, 0.0]),
    ]
    assert all(not len(slate.history) and (slate.position == -1).all() for slate in slates)
    assert dataset.split_by == "column"
    assert dataset.left_out("all", "test") == {"fewer than 2 candidates": 1}
    assert any("public in a judged collection, and in no shop's log" in note for note in dataset.notes)


def test_a_feature_and_its_bin_are_one_word_to_the_text_encoders():
    features = np.array([1, 12, 136, 700, LARGEST_FEATURE], np.uint16)
    for number in range(256):
        titles = FeatureTitles(np.array([0, 5]), features, np.full(5, number, np.uint8))
        assert tokens(titles[0]) == titles[0].split()


def test_folds_of_letor_are_read_one_at_a_time_by_their_own_parts(tmp_path):
    write_letor(tmp_path, queries=20, documents=3)
    (tmp_path / "Fold2").mkdir()
    for name, qid in (("trainingset", 7), ("validationset", 8), ("testset", 9)):
        packed = gzip.compress(letor_line(1, qid, [0.5], f"GX{qid}").encode())
        (tmp_path / "Fold2" / f"{name}.txt.gz").write_bytes(packed)
    (lists,) = read(tmp_path).lists
    assert np.bincount(lists.part).tolist() == [12, 4, 4]
    assert lists.query_id[0] == "10001"
    assert len(lists.item) == 60
    (lists,) = read(tmp_path, fold=2).lists
    assert list(lists.query_id) == ["7", "8", "9"]
    assert lists.part.tolist() == [0, 1, 2]
    with pytest.raises(DatasetError, match="no folder Fold3/; set dataset.fold"):
        read(tmp_path, fold=3)


def test_validation_is_cut_out_of_training_where_no_file_is_for_it(tmp_path):
    rows = "".join(f"{place % 2} qid:{qid} 1:0.5\n" for qid in range(200) for place in range(2))
    source = read(write(tmp_path, train=rows, test="1 qid:900 1:1\n0 qid:900 1:2\n"))
    (lists,) = source.lists
    counts = np.bincount(lists.part, minlength=3)
    assert counts[2] == 1
    assert 5 < counts[1] < 40
    assert "10% of the training queries" in told(source, "parts_validation")
    again = read(tmp_path).lists[0]
    assert again.part.tolist() == lists.part.tolist()


def test_one_file_is_divided_by_its_queries(tmp_path):
    rows = "".join(f"{place % 2} qid:{qid} 1:0.5\n" for qid in range(60) for place in range(2))
    (tmp_path / "mine.svm").write_text(rows)
    assert (read(tmp_path).lists[0].part == NONE).all()
    dataset = svmlight.load(root=tmp_path, clients="all")
    assert dataset.split_by == "query"
    assert sum(len(dataset.slates("all", split)) for split in ("train", "validation", "test")) == 60


def test_deciles_are_those_of_training_alone(tmp_path):
    rows = "".join(f"0 qid:1 1:{value}\n" for value in range(1, 101))
    write(tmp_path, train=rows, test="0 qid:2 1:1000\n1 qid:2 1:50 9:3\n", vali="0 qid:3 1:-1\n")
    titles = list(read(tmp_path, edges="train").catalog.titles)
    assert titles[:2] == ["f1b0", "f1b0"]
    assert titles[99] == "f1b9"
    assert len(set(titles[:100])) == 10
    assert titles[100:] == ["f1b0", "f1b9", "f1b5 f9b0"]  # vali, then test; feature 9 was never in training
    assert list(read(tmp_path, edges=[0.5, 75]).catalog.titles[-2:]) == ["f1b2", "f1b1 f9b1"]


def test_rows_join_to_a_table_of_items_by_their_document(tmp_path):
    (tmp_path / "products.csv").write_text("sku,name\nGX01,Red shoe\nGX02,Hat\n7555,Coat\n")
    rows = "1 qid:1 1:1 # docid = GX02\n0 qid:1 1:1 # 7555 rambo\n0 qid:1 1:1 # docid = GX99\n2 qid:1 1:2\n"
    write(tmp_path, train=rows, test="1 qid:2 1:1 # GX01\n0 qid:2 1:1 # 7555\n")
    (tmp_path / "queries.tsv").write_text("qid\tquery\n1\twarm  things\n")
    source = read(tmp_path, items={"file": "products.csv", "id": "sku", "title": "name"}, topics="queries.tsv")
    assert list(source.catalog.titles) == ["Red shoe", "Hat", "Coat"]
    (lists,) = source.lists
    assert lists.item.tolist() == [1, 2, 0, 2]
    assert list(source.queries) == ["warm things", "q2"]
    assert "train.txt, lines 3, 4: a document that products.csv lacks; the row is left out" in told(source, "document")


def test_bad_rows_are_said_with_their_line_and_the_rest_goes_on(tmp_path):
    good = "1 qid:1 1:0.5\n0 qid:1 1:0.1\n"
    bad = [
        ("good qid:1 1:2", "grade", "no grade in front"),
        ("1 1:2 2:3", "qid", "no qid after the grade"),
        ("1 qid:1 1:2:3 4", "feature", "a feature that is no feature:value"),
        ("1 qid:1 99999:2", "feature", "a feature that is no feature:value"),
        ("1e9 qid:1 1:2", "grade", "no grade in front"),
    ]
    source = read(write(tmp_path, train=good + "\n".join(line for line, *_ in bad) + "\n", test="1 qid:2 1:1\n"))
    for line, (_, code, text) in enumerate(bad, 3):
        assert f"{line}" in told(source, code).split(":")[0]
        assert text in told(source, code)
    assert len(source.catalog) == 3
    assert source.lists[0].relevance.tolist() == [1.0, 0.0, 1.0]


def test_a_grade_below_zero_is_no_judgment_and_a_document_counts_once(tmp_path):
    rows = "-1 qid:1 1:1 # docid = A\n1 qid:1 1:1 # docid = B\n0 qid:1 1:1 # docid = B\n0 qid:1 1:1\n"
    source = read(write(tmp_path, train=rows, test="1 qid:2 1:1\n"))
    assert source.catalog.item_ids == ("1:B", "1:4", "2:1")
    assert "line 1: a grade below 0, which says that nobody judged" in told(source, "unjudged")
    assert "line 3: a document that an earlier row of the query has" in told(source, "document")


def test_a_qid_of_two_parts_is_two_queries(tmp_path):
    source = read(write(tmp_path, train="1 qid:1 1:1\n0 qid:1 1:2\n", vali="1 qid:5 1:1\n", test="0 qid:1 1:3\n"))
    (lists,) = source.lists
    assert list(lists.query_id) == ["1", "5", "1.test"]
    assert "test.txt, line 1: a qid that train has too, taken for another query" in told(source, "qid_twice")


def test_bytes_that_are_not_utf8_cost_a_comment_and_not_the_file(tmp_path):
    (tmp_path / "train.txt").write_bytes("1 qid:1 1:1 # é\n".encode("latin-1") * 2)
    assert "set it, for example encoding" in told(read(tmp_path), "encoding")
    assert not [finding for finding in read(tmp_path, encoding="latin-1").findings if finding.code == "encoding"]


def test_what_cannot_be_used_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="should hold train, vali and test files"):
        read(tmp_path)
    write(tmp_path, train="hello\n", test="world\n")
    with pytest.raises(DatasetError, match="no row `grade qid:1.*line 1: no grade in front"):
        read(tmp_path)
    (tmp_path / "set2.train.txt").write_text("1 qid:1 1:1\n")
    with pytest.raises(
        DatasetError, match=r"2 files for train \(set2.train.txt, train.txt\); name one with dataset.files"
    ):
        read(tmp_path)
    with pytest.raises(ConfigError, match="files: tran='train.txt' as a file.*Did you mean 'train'"):
        read(tmp_path, files={"tran": "train.txt"})
    for edges in ("quantiles", [], [2, 1], ["a"], list(range(300))):
        with pytest.raises(ConfigError, match="public, train, or 1 to 255 numbers that ascend"):
            read(tmp_path, files={"train": "set2.train.txt"}, edges=edges)
    assert len(read(tmp_path, files={"train": "set2.train.txt"}).catalog) == 1


@settings(max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_letor(root, queries=5, documents=2)
        (root / "topics.tsv").write_text("10001\tred shoes\n")
        path = root / data.draw(st.sampled_from(("Fold1/train.txt", "Fold1/test.txt", "topics.tsv")))
        path.write_bytes(data.draw(damage(path.read_bytes())))
        edges = data.draw(st.sampled_from(("public", "train")))
        try:
            source = read(root, topics="topics.tsv", edges=edges)
        except MmrankError:
            return
        (lists,) = source.lists
        assert lists.start[-1] == len(lists.item) == len(lists.relevance)
        assert lists.item.max() < len(source.catalog) == len(source.catalog.titles)
        assert np.isfinite(lists.relevance).all()
        assert all(str(finding) for finding in source.findings)
