"""If a label's worth, a locale's product or the authors' test part is read wrong, no figure compares with others'."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import esci
from client.datasets._shaping.parts import Parts
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets.fixtures_search import (
    ESCI_EXAMPLES,
    ESCI_PRODUCTS,
    EXAMPLE_COLUMNS,
    EXAMPLES,
    PRODUCT_COLUMNS,
    PRODUCTS,
    assert_survives,
    injuries,
    named,
    slates_of,
    source_of,
    write_esci,
    write_parquet,
)

FEW = {"clients": {"clients": 1}, "split": {"validation_fraction": 0.0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("esci")
    write_esci(folder, queries=0)
    return folder


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("esci-larger")
    write_esci(folder)
    return folder


def rewritten(folder, *, products=ESCI_PRODUCTS, examples=ESCI_EXAMPLES):
    write_parquet(folder / PRODUCTS, PRODUCT_COLUMNS, products)
    write_parquet(folder / EXAMPLES, EXAMPLE_COLUMNS, examples)
    return folder


def test_the_catalogue_is_what_was_judged_in_that_locale_and_version(root):
    source = source_of(esci, root)
    assert source.catalog.item_ids == ("B00005U9CH", "0545310261", "B07ABCDEFG")
    assert source.catalog.titles == ("Wireless Mouse. Logi. Grey", "Mouse Tales", "USB Cable. Acme")
    assert list(source.fields["product_brand"]) == ["Logi", "", "Acme"]
    assert not list(source.findings)
    assert "B0LONELY00" in source_of(esci, root, products="all").catalog.item_ids
    assert source_of(esci, root, locale="es").catalog.titles == ("Ratón inalámbrico. Logi. Gris",)


def test_an_id_of_two_locales_is_two_products(root):
    source = source_of(esci, root, locale="all", version="large")
    assert source.catalog.item_ids[:3] == ("us:B00005U9CH", "us:0545310261", "es:B00005U9CH")
    assert list(source.fields["product_locale"]) == ["us", "us", "es", "us", "jp"]
    lists = source.lists[0]
    spanish = lists.query_id.index("8")
    assert lists.item[lists.start[spanish]] == 2
    assert source_of(esci, root).queries[0] == "wireless mouse"
    assert "easy one" in source.queries
    assert "easy one" not in source_of(esci, root, locale="all").queries  # in the large version alone


@pytest.mark.parametrize(("gains", "worth"), [("kdd", [1.0, 0.0, 0.01]), ("graded", [3.0, 0.0, 1.0])])
def test_a_query_is_a_slate_of_its_judged_products(root, gains, worth):
    dataset = esci.load(root=root, gains=gains, **FEW)
    found = slates_of(dataset)
    split, slate = found["wireless mouse"]
    assert split == "train"
    assert named(dataset, slate.candidates) == ["B00005U9CH", "0545310261", "B07ABCDEFG"]
    np.testing.assert_allclose(slate.relevance, worth)
    assert slate.position.tolist() == [-1, -1, -1]
    assert len(slate.history) == 0
    assert found["usb cable"][0] == "test"
    assert dataset.split_by == "column"


def test_validation_is_taken_out_of_train_by_the_words(larger):
    rows = pyarrow.parquet.read_table(larger / EXAMPLES).to_pylist()
    rows = [row for row in rows if row["product_locale"] == "us" and row["small_version"]]
    asked = {row["query"] for row in rows if row["split"] == "train"}
    parts = Parts(by="query", edges=(0, 0, 0, 0), shares=(0.4, 0.0), public=True)
    dataset = esci.load(root=larger, split={"validation_fraction": 0.4}, clients={"clients": 1})
    found = {words: split for words, (split, _) in slates_of(dataset).items()}
    assert {words for words, split in found.items() if split == "validation"} == {w for w in asked if parts.of_query(w)}
    assert {words for words, split in found.items() if split != "test"} == asked
    assert 20 < sum(split == "validation" for split in found.values()) < 50  # of 91


def test_what_is_for_test_is_no_training(tmp_path):
    again = (9, "usb cable", 10, "0545310261", "us", "E", 1, 1, "train")
    source = source_of(esci, rewritten(tmp_path, examples=[*ESCI_EXAMPLES, again]))
    lists = source.lists[0]
    place = lists.query_id.index("10")
    assert lists.start[place + 1] - lists.start[place] == 2
    assert lists.part[place] == 2
    assert [str(found) for found in source.findings] == [
        f"{EXAMPLES}, line 10: column split: train, of a query that is for test too; the row is left out"
    ]


def test_bad_rows_are_left_out_with_their_line_and_the_rest_goes_on(tmp_path):
    examples = [
        *ESCI_EXAMPLES,
        (9, "wireless mouse", 7, "B0NOWHERE0", "us", "E", 1, 1, "train"),
        (10, "wireless mouse", 7, "B07ABCDEFG", "us", "X", 1, 1, "train"),
        (11, None, 12, "B07ABCDEFG", "us", "E", 1, 1, "train"),
        (12, "lamp", 13, "B07ABCDEFG", "us", "E", 1, 1, "dev"),
    ]
    products = [*ESCI_PRODUCTS, ("B07ABCDEFG", "Another cable", None, None, None, None, "us")]
    rewritten(tmp_path, products=products, examples=examples)
    source = source_of(esci, tmp_path)
    assert {found.code: (found.file, found.lines) for found in source.findings} == {
        "grade": (EXAMPLES, (11,)),
        "query_join": (EXAMPLES, (12,)),
        "split": (EXAMPLES, (13,)),
        "item_join": (EXAMPLES, (10,)),
        "duplicate_item": (PRODUCTS, (7,)),
    }
    assert f"{EXAMPLES}, line 11: column esci_label: none of E, S, C, I; the row is left out" in map(
        str, source.findings
    )
    assert source.catalog.titles[2] == "USB Cable. Acme"
    assert source.lists[0].query_id == ("7", "10")
    assert len(source.lists[0].item) == 5
    with pytest.raises(DatasetError, match="4 of 13 rows are left out"):
        esci.load(root=tmp_path, **FEW)


def test_files_that_are_none_are_refused_in_words(tmp_path):
    with pytest.raises(DatasetError, match=f"no file {EXAMPLES}"):
        source_of(esci, tmp_path)
    rewritten(tmp_path)
    with pytest.raises(DatasetError, match="no row of small_version 1 and locale jp; set dataset.locale"):
        source_of(esci, tmp_path, locale="jp")
    (tmp_path / PRODUCTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(DatasetError, match="pointer of Git LFS.*git lfs pull"):
        source_of(esci, tmp_path)
    write_parquet(tmp_path / PRODUCTS, PRODUCT_COLUMNS[1:], [row[1:] for row in ESCI_PRODUCTS])
    with pytest.raises(DatasetError, match="no column 'product_id'"):
        source_of(esci, tmp_path)
    rewritten(tmp_path, products=ESCI_PRODUCTS[-1:])
    with pytest.raises(DatasetError, match="none of the products that"):
        source_of(esci, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"locale": "uk"}, "dataset.locale='uk' to be one of us, es, jp, all"),
        ({"version": "tiny"}, "small, large"),
        ({"gains": "kd"}, "Did you mean 'kdd'"),
        ({"text": ["product_titel"]}, "Did you mean 'product_title'"),
        ({"text": 5}, r"dataset\.text=5"),
        ({"products": None}, "judged, all"),
    ],
)
def test_settings_that_are_none_are_refused(root, wrong, words):
    with pytest.raises(ConfigError, match=words):
        source_of(esci, root, **wrong)


@given(file=st.sampled_from([EXAMPLES, PRODUCTS]), injury=injuries())
@settings(max_examples=60)
def test_a_damaged_file_is_read_or_refused(root, file, injury):
    assert_survives(esci, root, file, injury, locale="all", version="large")
