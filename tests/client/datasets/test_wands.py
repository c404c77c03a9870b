"""If a quote or an inch sign shifts a column, products get other products' judgments and nobody sees it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import wands
from client.datasets._shaping.parts import Parts
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets.fixtures_search import (
    WANDS_LABELS,
    WANDS_PRODUCTS,
    WANDS_QUERIES,
    assert_survives,
    injuries,
    named,
    slates_of,
    source_of,
    write_wands,
)

ONE = {"clients": {"clients": 1}}


@pytest.fixture
def root(tmp_path):
    write_wands(tmp_path, queries=0)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wands")
    write_wands(folder, queries=2)
    return folder


def test_tabs_quotes_and_line_breaks_are_those_of_the_file(root):
    catalog = source_of(wands, root).catalog
    assert catalog.item_ids[:4] == ("0", "1", "2", "3")
    assert catalog.titles[:4] == (
        "solid wood platform bed. Beds. good , deep sleep",
        "fletcher 27.5 '' armchair. Teen Lounge Furniture|Accent Chairs",
        '48" barn door. Barn Door Hardware. two\nlines',
        "all-clad pizza cutter",
    )
    kinds = [catalog.category_names[index] for index in catalog.categories[:4].tolist()]
    assert kinds == ["Beds", "Teen Lounge Furniture", "Barn Door Hardware", ""]


def test_a_product_may_be_grouped_by_its_department(root):
    source = source_of(wands, root)
    assert source.fields["department"][:4] == ["Furniture", "Furniture", "Home Improvement", ""]
    assert source.fields["category_hierarchy"][2] == "Home Improvement / Doors"
    (root / "product.csv").write_text(WANDS_PRODUCTS.replace("category hierarchy", "category_hierarchy"))
    assert source_of(wands, root).fields["department"][:2] == ["Furniture", "Furniture"]


@pytest.mark.parametrize(("gains", "worth"), [("graded", [1.0, 0.0, 2.0]), ("exact", [0.0, 0.0, 1.0])])
def test_a_query_is_a_slate_of_its_judged_products(root, gains, worth):
    dataset = wands.load(root=root, gains=gains, **ONE)
    found = slates_of(dataset)
    assert set(found) == {"salon chair", '48" sliding single track , barn door', "desk for kids tjat ate 10 year old"}
    split, slate = found["salon chair"]
    assert named(dataset, slate.candidates) == ["1", "0", "3"]
    assert slate.relevance.tolist() == worth
    assert len(slate.history) == 0
    assert set(slate.position.tolist()) == {-1}
    parts = Parts(by="query", edges=(0, 0, 0, 0), shares=(0.1, 0.2), public=True)
    assert split == ("train", "validation", "test")[parts.of_query("salon chair")]
    np.testing.assert_array_equal(found["desk for kids tjat ate 10 year old"][1].relevance > 0, gains == "graded")


def test_bad_rows_are_left_out_with_their_line_and_the_rest_goes_on(root):
    rest = "7\t0\t77777\tExact\n8\t999\t1\tExact\n9\t0\t2\tGreat\n10\t0\n11\t0\t2\tExact\n"
    (root / "label.csv").write_text(WANDS_LABELS + rest)
    (root / "product.csv").write_text(WANDS_PRODUCTS + "3\tanother cutter\t\t\t\t\t\t\t\n")
    source = source_of(wands, root)
    assert {found.code: (found.file, found.lines) for found in source.findings} == {
        "item_join": ("label.csv", (9,)),
        "query_join": ("label.csv", (10,)),
        "grade": ("label.csv", (11,)),
        "ragged": ("label.csv", (12,)),
        "duplicate_item": ("product.csv", (7,)),
    }
    assert "label.csv, line 12: a row of 2 fields under a header of 4, left out" in map(str, source.findings)
    assert source.lists[0].query_id == ("0", "283", "197")
    assert source.lists[0].item.tolist() == [1, 0, 3, 2, 2, 1, 0, 3]
    with pytest.raises(DatasetError, match="rows are left out"):
        wands.load(root=root, **ONE)


def test_files_that_are_none_are_refused_in_words(root):
    (root / "label.csv").write_text(WANDS_LABELS.replace("\t", ","))
    with pytest.raises(DatasetError, match=r"label\.csv, line 1: no column 'query_id'"):
        source_of(wands, root)
    (root / "query.csv").write_text(WANDS_QUERIES.replace("query_class", "class").replace("query\t", "words\t"))
    (root / "label.csv").write_text(WANDS_LABELS)
    with pytest.raises(DatasetError, match=r"query\.csv, line 1: no column 'query'"):
        source_of(wands, root)
    (root / "product.csv").unlink()
    with pytest.raises(DatasetError, match=r"no file product\.csv"):
        source_of(wands, root)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gains": "grades"}, "Did you mean 'graded'"),
        ({"gains": {"Exact": 1}}, "to be one of graded, exact"),
        ({"text": "name"}, "dataset.text='name'"),
    ],
)
def test_settings_that_are_none_are_refused(whole, wrong, words):
    with pytest.raises(ConfigError, match=words):
        source_of(wands, whole, **wrong)


@given(file=st.sampled_from(["product.csv", "query.csv", "label.csv"]), injury=injuries())
@settings(max_examples=60)
def test_a_damaged_file_is_read_or_refused(whole, file, injury):
    assert_survives(wands, whole, file, injury)
