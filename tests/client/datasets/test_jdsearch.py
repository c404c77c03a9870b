"""If the file's order, which has what was chosen first, or a later act reaches a slate, every figure is a lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import jdsearch
from client.datasets._shaping.parts import Parts
from mmrank.errors import ConfigError, DatasetError
from mmrank.slates import EVENT_TYPES
from tests.client.datasets.fixtures_search import (
    JD_COLUMNS,
    JD_PEOPLE,
    JD_PRODUCTS,
    assert_survives,
    injuries,
    named,
    slates_of,
    source_of,
    write_jdsearch,
)

PEOPLE, PRODUCTS = "user_behavior_data.txt", "product_meta_data.txt"
LAST = 19_282.0


@pytest.fixture
def root(tmp_path):
    write_jdsearch(tmp_path, people=0)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jdsearch")
    write_jdsearch(folder, people=8)
    return folder


def with_people(root, lines):
    (root / PEOPLE).write_text("\t".join(JD_COLUMNS) + "\n" + JD_PEOPLE + lines, newline="")
    return root


def test_terms_are_words_and_ids_are_text(root):
    source = source_of(jdsearch, root)
    catalog = source.catalog
    assert catalog.item_ids == ("456", "457", "789", "889", "0256")
    assert catalog.titles[:3] == ("648 602 469", "602 782", "120 333")
    assert [catalog.category_names[index] for index in catalog.categories.tolist()] == ["694 338"] + ["959"] * 2 + [
        "781"
    ] * 2
    assert [catalog.merchant_names[index] for index in catalog.merchants.tolist()] == ["769", "437", "437", "392", ""]
    assert source.fields["brand"] == ["648 417", "", "940", "648 417", "648 417"]
    assert source.fields["department"][0] == "223"
    assert source.users == ("p2", "p3")


def test_what_was_shown_is_a_slate_after_its_history(root):
    dataset = jdsearch.load(root=root, bad_rows=1.0)
    found = slates_of(dataset)
    split, slate = found["648 602"]
    parts = Parts(by="query", edges=(0, 0, 0, 0), shares=(0.1, 0.2), public=True)
    assert split == ("train", "validation", "test")[parts.of_query("648 602")]
    assert dict(zip(named(dataset, slate.candidates), slate.relevance.tolist(), strict=True)) == {
        "456": 3.0,
        "457": 1.0,
        "789": 0.0,
    }
    assert named(dataset, slate.history) == ["889", "0256", "889"]
    assert [EVENT_TYPES[kind] for kind in slate.event_type.tolist()] == ["purchase", "click", "cart"]
    np.testing.assert_allclose(slate.age_days, np.array([43_200 + 86_400 + 3600, 86_400 + 3600, 3600]) / 86_400)
    assert slate.time_days == LAST
    assert set(slate.position.tolist()) == {-1}
    other = found["602"][1]
    assert sorted(named(dataset, other.candidates)) == ["456", "457"]  # 999 has no metadata
    assert named(dataset, other.history) == ["0256"]
    assert not (other.relevance > 0).any()


def test_the_order_of_a_slate_tells_nothing_of_what_was_chosen(tmp_path):
    write_jdsearch(tmp_path, people=200)
    lists = source_of(jdsearch, tmp_path).lists[0]
    place = np.arange(len(lists.item)) - np.repeat(lists.start[:-1], np.diff(lists.start))
    assert abs(place[lists.relevance > 0].mean() - place.mean()) < 0.6  # 5.5, of 12 places; about 0.3 in the file
    assert (lists.position == -1).all()


def test_histories_may_make_slates_too_and_the_last_query_is_the_test(root):
    split = {"validation_from": "2022-10-15", "test_from": "2022-10-17"}
    dataset = jdsearch.load(root=root, slates="behaviour", split=split, candidates="catalogue", bad_rows=1.0)
    days = {name: dataset.slates("p2", name) for name in ("train", "validation", "test")}
    assert [(slate.query, named(dataset, slate.candidates[slate.relevance > 0])) for slate in days["validation"]] == [
        ("323 328", ["889"]),
        ("", ["0256"]),
        ("648 112", ["889"]),
    ]
    (slate,) = days["test"]
    assert slate.query == "648 602"
    assert named(dataset, slate.history) == ["889", "0256", "889"]
    worth = dict(zip(named(dataset, slate.candidates), slate.relevance.tolist(), strict=True))
    assert {name: grade for name, grade in worth.items() if grade} == {"456": 3.0, "457": 1.0}
    assert "789" in worth  # it was shown
    assert dataset.slates("p3", "test") == []  # nothing was chosen


def test_the_first_people_alone_may_be_read(root):
    source = source_of(jdsearch, root, people=1)
    assert source.users == ("p2",)
    assert len(source.lists[0]) == 1
    assert len(source.catalog) == 5


def test_the_samples_and_files_without_a_header_are_read_alike(root):
    whole = source_of(jdsearch, root)
    (root / PEOPLE).write_text(JD_PEOPLE, newline="")
    (root / PRODUCTS).write_text(JD_PRODUCTS, newline="")
    bare = source_of(jdsearch, root)
    assert bare.catalog.digest == whole.catalog.digest
    assert bare.users == ("p1", "p2")
    (root / PEOPLE).rename(root / "user_behavior_data_sample.txt")
    (root / PRODUCTS).rename(root / "product_meta_data_sample.txt")
    assert source_of(jdsearch, root).lists[0].item.tolist() == whole.lists[0].item.tolist()


def test_bad_rows_are_left_out_with_their_line_and_the_rest_goes_on(root):
    lines = (
        "1\t456_457\t1.0\t-1\t889\tORD\t0_5\n"  # a label is missing
        "2\t456_457\t1.0_0.0\t-1\t889\tORD\t0_soon\n"
        "3\t456_457_789\t1.0_7.0_0.0\t-1_-1\t889_456\tORD_LIKE\t0_5_5\n"
        "4\t456_457\t1.0_0.0\t\t\t\t0\n"
        "5\t456\n"
    )
    source = source_of(jdsearch, with_people(root, lines))
    assert [str(found) for found in source.findings] == [
        f"{PEOPLE}, line 8: a row of 2 fields under a header of 7, left out",
        f"{PEOPLE}, line 4: lists that should be of one length are not; the person is left out",
        f"{PEOPLE}, line 5: column history_time_list: no seconds of at least 0, or more than since 1970; "
        "the person is left out",
        f"{PEOPLE}, line 6: column candidate_label_list: none of 0, 1, 2, 3; the product is left out",
        f"{PEOPLE}, line 6: column history_type_list: none of CLICK, CART, FLW, ORD; the act is left out",
        f"{PEOPLE}, line 3 and 1 more: a product that {PRODUCTS} lacks; it is left out of the list or the history",
    ]
    assert source.users == ("p2", "p3", "p6", "p7")
    lists = source.lists[0]
    assert [source.queries[code] for code in lists.query.tolist()] == ["648 602", "602", "3", "4"]
    assert np.diff(lists.start).tolist() == [3, 2, 2, 2]
    assert source.events.user.tolist() == [0, 0, 0, 1, 2]


def test_a_product_that_comes_twice_is_the_first(root):
    (root / PRODUCTS).write_text(JD_PRODUCTS + JD_PRODUCTS.splitlines()[0].replace("648", "777") + "\n", newline="")
    source = source_of(jdsearch, root)
    assert source.catalog.titles[0] == "648 602 469"
    assert f"{PRODUCTS}, line 6: a product that stands in an earlier row; the row is left out" in map(
        str, source.findings
    )


def test_files_that_are_none_are_refused_in_words(root):
    (root / PRODUCTS).write_text(JD_PRODUCTS.replace("\t", ","), newline="")
    with pytest.raises(DatasetError, match=f"{PRODUCTS}: none of the products that people saw"):
        source_of(jdsearch, root)
    (root / PEOPLE).write_text("\t".join(JD_COLUMNS) + "\n")
    with pytest.raises(DatasetError, match=f"{PEOPLE}: no person in it"):
        source_of(jdsearch, root)
    (root / PEOPLE).write_text("\t".join(JD_COLUMNS[:-1]) + "\n" + JD_PEOPLE)
    with pytest.raises(DatasetError, match="no column 'history_time_list'"):
        source_of(jdsearch, root)
    (root / PEOPLE).unlink()
    with pytest.raises(DatasetError, match=f"no file {PEOPLE}"):
        source_of(jdsearch, root)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"slates": "show"}, "Did you mean 'shown'"), ({"people": 0}, "people=0"), ({"people": True}, "people=True")],
)
def test_settings_that_are_none_are_refused(whole, wrong, words):
    with pytest.raises(ConfigError, match=words):
        source_of(jdsearch, whole, **wrong)


@given(file=st.sampled_from([PEOPLE, PRODUCTS]), injury=injuries(), slates=st.sampled_from(["shown", "behaviour"]))
@settings(max_examples=80)
def test_a_damaged_file_is_read_or_refused(whole, file, injury, slates):
    assert_survives(jdsearch, whole, file, injury, slates=slates)
