"""If an earlier list's history holds a later click, or lacks one of before, every figure on news is worthless."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import mind
from client.datasets._source import CLICK
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets.fixtures_logs import clock, found, news, read_logs, write_lines, write_mind
from tests.client.datasets.injured_logs import INJURIES, read_injured

BEFORE = "N1 N2 N1"
TRAIN = (
    ("1", "U1", "11/11/2019 9:05:58 AM", BEFORE, "N3-0 N4-1 N5-0"),
    ("2", "U1", "11/10/2019 11:30:54 PM", BEFORE, "N5-1 N6-0"),
    ("3", "U2", "11/14/2019 12:00:01 AM", "", "N1-0 N2-1"),
)
DEV = (("1", "U1", "11/15/2019 8:55:22 AM", BEFORE, "N6-1 N3-0"),)
TEST = (("1", "U1", "11/16/2019 8:55:22 AM", BEFORE, "N6 N3"),)
SPLIT = {"validation_from": "2019-11-14", "test_from": "2019-11-15"}


def write(root: Path, *, items=7, **parts) -> Path:
    for name, rows in (parts or {"train": TRAIN, "dev": DEV, "test": TEST}).items():
        write_lines(root / name / "behaviors.tsv", ["\t".join(row) for row in rows])
        write_lines(root / name / "news.tsv", [news(item) for item in range(1, items)])
    return root


def clicks(source, item):
    """When that item was clicked, as events say, in days."""
    return source.events.time[source.events.item == source.catalog.index_of[item]]


def test_news_of_all_folders_are_one_catalogue_with_their_quotes(tmp_path):
    source = read_logs(mind, write(tmp_path))
    catalog = source.catalog
    assert catalog.item_ids == ("N1", "N2", "N3", "N4", "N5", "N6")
    assert catalog.titles[0] == '"Title 1" it said. Abstract 1.'
    assert [catalog.category_names[code] for code in catalog.categories[:3]] == ["health", "news", "sports"]
    assert source.fields["subcategory"][:3] == ["weightloss", "newsus", "golf"]
    assert catalog.images(0) is None
    assert found(source, "duplicate_item") == []
    assert read_logs(mind, tmp_path, abstracts=False).catalog.titles[0] == '"Title 1" it said'


def test_a_list_is_a_slate_and_the_history_lies_before_the_first(tmp_path):
    press = mind.load(root=write(tmp_path), split=SPLIT)
    assert list(press.source.users) == ["U1", "U2"] or list(press.source.users) == ["U2", "U1"]
    one = next(name for name in press.client_ids if name.startswith("u1"))
    first, second = press.slates(one, "train")
    assert first.time_days == pytest.approx(18_210 + (23 * 3600 + 30 * 60 + 54) / 86_400)
    assert first.candidates.tolist() == [4, 5]
    assert first.relevance.tolist() == [1, 0]
    assert first.position.tolist() == [-1, -1]
    assert first.history.tolist() == [0, 1, 0]
    assert first.event_type.tolist() == [CLICK] * 3
    np.testing.assert_allclose(first.age_days * 24, [3, 2, 1], atol=1e-4)
    assert second.candidates.tolist() == [2, 3, 4]
    assert second.relevance.tolist() == [0, 1, 0]
    assert second.history.tolist() == [0, 1, 0, 4]
    assert second.age_days[-1] * 86_400 == pytest.approx(9 * 3600 + 35 * 60 + 4, abs=0.1)
    (last,) = press.slates(one, "test")
    assert last.history.tolist() == [0, 1, 0, 4, 3]
    two = next(name for name in press.client_ids if name.startswith("u2"))
    (other,) = press.slates(two, "validation")
    assert other.history.tolist() == []
    assert sorted(press.source.lists[0].query_id) == ["dev-1", "train-1", "train-2", "train-3"]


def test_lists_without_clicks_are_left_out_and_said(tmp_path):
    source = read_logs(mind, write(tmp_path))
    assert len(source.lists[0]) == 4
    assert found(source, "unlabelled") == [
        "test/behaviors.tsv: lists without clicks, N1 in place of N1-0 or N1-1; the folder is left out"
    ]
    with pytest.raises(DatasetError, match="no list with clicks, since test has none; put the folder train beside it"):
        read_logs(mind, write(tmp_path / "alone", test=TEST))
    labelled = read_logs(mind, write(tmp_path / "labelled", train=TRAIN, test=DEV))
    assert len(labelled.lists[0]) == 4


def test_a_history_that_grows_is_never_seen_before_its_row(tmp_path):
    start = 1_573_430_400  # 2019-11-11
    rows = (
        ("1", "U1", clock(start), "N1", "N3-1 N4-0"),
        ("2", "U1", clock(start + 86_400), "N1 N3 N2", "N5-1 N6-0"),
        ("3", "U1", clock(start + 86_460), "N1 N3 N2 N5 N4 N6", "N3-1 N2-0"),
    )
    press = mind.load(root=write(tmp_path, train=rows), split=SPLIT)
    slates = press.slates(press.client_ids[0], "train")
    named = [[press.catalog.item_ids[item] for item in slate.history] for slate in slates]
    assert named == [["N1"], ["N1", "N3", "N2"], ["N1", "N3", "N2", "N5", "N4", "N6"]]
    day = start / 86_400
    np.testing.assert_allclose(clicks(press.source, "N1"), [day - 1 / 24])
    np.testing.assert_allclose(clicks(press.source, "N2"), [day + 1 - 1 / 24])
    np.testing.assert_allclose(clicks(press.source, "N4"), [day + 1 + 20 / 86_400])
    np.testing.assert_allclose(clicks(press.source, "N6"), [day + 1 + 40 / 86_400])


def test_histories_do_not_move_the_parts(tmp_path):
    """Their times are made up: two thirds of the clicks would lie about the first day, and hardly a list before."""
    write_mind(tmp_path)
    press = mind.load(root=tmp_path)
    parts = [
        sum(len(press.slates(name, part)) for name in press.client_ids) for part in ("train", "validation", "test")
    ]
    assert sum(parts) == len(press.source.lists[0])
    np.testing.assert_allclose(np.array(parts) / sum(parts), [0.7, 0.1, 0.2], atol=0.04)


def test_two_histories_of_one_second_stay_out_of_its_lists(tmp_path):
    when = clock(1_573_430_400)
    rows = (("1", "U1", when, "N1", "N3-1 N4-0"), ("2", "U1", when, "N1 N2", "N5-1 N6-0"))
    press = mind.load(root=write(tmp_path, train=rows), split=SPLIT)
    assert [slate.history.tolist() for slate in press.slates(press.client_ids[0], "train")] == [[0], [0]]


def test_folders_are_named_as_they_are_packed(tmp_path):
    write_mind(tmp_path / "small", packed_as="MINDsmall_")
    source = read_logs(mind, tmp_path / "small")
    assert len(source.users) > 20
    part = read_logs(mind, tmp_path / "small", folders=["MINDsmall_dev"])
    assert 0 < len(part.lists[0]) < len(source.lists[0])
    alone = read_logs(mind, tmp_path / "small" / "MINDsmall_train")
    assert alone.lists[0].query_id[0].startswith("all-")
    write(tmp_path / "small", MINDlarge_train=TRAIN)
    with pytest.raises(DatasetError, match=r"several MIND in it .*MINDlarge_train.*set dataset\.folders"):
        read_logs(mind, tmp_path / "small")


def test_a_bad_row_is_named_and_the_rest_goes_on(tmp_path):
    bad = (
        ("4", "U3", "11/14/2019 9:00:00 AM", "", "N1-0 N2-2 N9-1 N3-1"),
        ("5", "U3", "14.11.2019 9:00", "", "N1-0 N2-1"),
        ("6", "", "11/14/2019 9:00:00 AM", "", "N1-0 N2-1"),
        ("7", "U3", "11/14/2019 9:00:00 AM", "", "N1 N2"),
        ("8", "U3", "11/14/2019 9:00:00 AM", ""),
        ("9", "U3", "11/14/2019 9:00:00 AM", "", "N8-0 N9-1"),
        ("10", "U3", "11/14/2019 10:00:00 AM", "N77 N1", "N1-0 N2-1"),
    )
    write(tmp_path, train=(*TRAIN, *bad))
    with (tmp_path / "train/news.tsv").open("a") as file:
        file.write(
            news(1).replace("Abstract", "Other") + "\n" + news(7)[:20] + "\n" + news(8).replace("N8", " ") + "\n"
        )
    source = read_logs(mind, tmp_path)
    lists = source.lists[0]
    assert len(lists) == 5
    assert lists.item[lists.start[3] : lists.start[4]].tolist() == [0, 2]
    where = "train/behaviors.tsv, line"
    assert found(source, "label") == [f"{where} 4: neither N1-0 nor N1-1; left out of its list"]
    assert found(source, "item_join") == [f"{where}s 4, 9 and 1 more: news that news.tsv lacks, left out of its list"]
    assert found(source, "time") == [f"{where} 5: column time: no time; the row is left out"]
    assert found(source, "user") == [f"{where} 6: column user: no person; the row is left out"]
    assert found(source, "unlabelled")[0].startswith(f"{where} 7: nothing shown that says whether it was clicked")
    assert found(source, "empty") == [f"{where} 9: no news of it stands in news.tsv; the row is left out"]
    assert found(source, "history_join") == ["behaviors.tsv: news of histories that news.tsv lacks, left out of them"]
    assert found(source, "ragged") == [
        "train/news.tsv, line 8: a row of 3 fields under a header of 8, left out",
        "train/behaviors.tsv, line 8: a row of 4 fields under a header of 5, left out",
    ]
    assert found(source, "duplicate_item")[0].startswith("train/news.tsv, line 7: other words than an earlier row has")
    assert found(source, "id") == ["train/news.tsv, line 9: no id; the row is left out"]


def test_what_is_no_mind_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder with behaviors\.tsv in it; it should hold the folders train"):
        read_logs(mind, tmp_path)
    write(tmp_path)
    (tmp_path / "dev/news.tsv").unlink()
    with pytest.raises(DatasetError, match=r"there is no file dev/news\.tsv"):
        read_logs(mind, tmp_path)
    with pytest.raises(DatasetError, match="no list in it that can be used"):
        read_logs(mind, write(tmp_path / "none", train=[("1", "U1", "soon", "", "N1-0 N2-1")]))
    write_lines(tmp_path / "none/train/news.tsv", ["\t" * 7])
    with pytest.raises(DatasetError, match=r"news\.tsv: no news in it"):
        read_logs(mind, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"dataset\.folders='train' to be a list"):
        read_logs(mind, tmp_path, folders="train")


@pytest.mark.parametrize("write_part", [write_mind, partial(write, train=TRAIN, dev=DEV)])
@settings(max_examples=60, deadline=None)
@given(file=st.integers(0, 8), injuries=INJURIES)
def test_injured_files_are_read_or_refused(write_part, file, injuries):
    made = read_injured(mind, write_part, file, injuries)
    if not isinstance(made, Exception):
        lists = made.lists[0]
        assert lists.start[-1] == len(lists.item) == len(lists.relevance)
        assert (np.diff(lists.start) > 0).all()
        assert (lists.item < len(made.catalog)).all()
