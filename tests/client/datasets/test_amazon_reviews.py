"""If one of three layouts is misread, prices, pictures or whole years of reviews are lost without a word."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.datasets import amazon_reviews
from client.datasets._source import CLICK, PURCHASE
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets import fixtures_amazon as amazon
from tests.client.datasets.fixtures_amazon import asin, meta_2023, review_2023
from tests.client.datasets.fixtures_logs import ITEMS, found, ratings, read_logs, write_lines
from tests.client.datasets.injured_logs import INJURIES, read_injured

MIDNIGHT = 1_572_566_400
"""2019-11-01."""
REVIEWS = (
    review_2023(1, 1, 5, MIDNIGHT),
    review_2023(1, 3, 4, MIDNIGHT + 3600),  # not bought: see fixtures_amazon
    review_2023(1, 2, 2, MIDNIGHT + 7200),
    review_2023(2, 1, 4, MIDNIGHT + 86_400),
    review_2023(1, 4, 5, MIDNIGHT + 10 * 86_400),
)
PLAIN = partial(amazon.write_amazon_reviews, packing="")


METAS = tuple(meta_2023(item) for item in range(1, 8))


def write(root: Path, reviews=REVIEWS, metas=METAS) -> Path:
    write_lines(root / "All_Beauty.jsonl", [row if isinstance(row, str) else json.dumps(row) for row in reviews])
    write_lines(root / "meta_All_Beauty.jsonl", [row if isinstance(row, str) else json.dumps(row) for row in metas])
    return root


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(path)


def names(catalog, what: str) -> list[str]:
    codes, words = (catalog.merchants, catalog.merchant_names)
    if what == "category":
        codes, words = (catalog.categories, catalog.category_names)
    return [words[code] for code in codes.tolist()]


def test_the_items_of_2023(tmp_path):
    source = read_logs(amazon_reviews, write(tmp_path))
    catalog = source.catalog
    assert catalog.item_ids == tuple(asin(item) for item in range(1, 8))
    assert catalog.titles[0] == "Hydra Cream 1"
    np.testing.assert_array_equal(
        catalog.prices, np.float32([17.5, 14.99, np.nan, np.nan, 17.5, 14.99, np.nan])
    )  # 17.5, "from 14.99", "—", null
    assert names(catalog, "merchant") == ["Store 1", "Store 2", "Store 0", "Store 1", "Store 2", "Store 0", ""]
    assert names(catalog, "category") == [
        *("Hair Care", "Skin Care", "Hair Care", "Skin Care", "All Beauty", "Skin Care", "Hair Care")
    ]
    assert set(source.fields["main_category"]) == {"All Beauty"}
    assert not found(source, "price")
    root = read_logs(amazon_reviews, tmp_path, category_level=0).catalog
    assert names(root, "category")[0] == "Beauty & Personal Care"
    assert names(read_logs(amazon_reviews, tmp_path, category_level=9).catalog, "category")[0] == "Face"


def test_a_days_reviews_are_one_slate_and_a_verified_one_is_a_purchase(tmp_path):
    split = {"validation_from": "2019-11-05", "test_from": "2019-11-06"}
    shop = amazon_reviews.load(root=write(tmp_path), split=split, candidates={"from": "catalogue", "negatives": 3})
    assert list(shop.source.users) == ["AG0001", "AG0002"]
    client = shop.client_ids[0]
    (slate,) = shop.slates(client, "train")
    assert slate.time_days == pytest.approx(MIDNIGHT / 86_400, abs=1e-4)
    assert sorted(slate.candidates[slate.relevance > 0].tolist()) == [0, 2]
    assert {0, 1, 2} < set(slate.candidates.tolist())
    assert len(slate.candidates) == 5
    assert len(slate.history) == 0
    (last,) = shop.slates(client, "test")
    np.testing.assert_array_equal(last.candidates[last.relevance > 0], [3])
    np.testing.assert_array_equal(last.history, [0, 2, 1])
    np.testing.assert_array_equal(last.event_type, [PURCHASE, CLICK, PURCHASE])
    np.testing.assert_allclose(last.age_days, [10, 10 - 1 / 24, 10 - 2 / 24], atol=1e-4)


def test_pictures_are_found_by_their_address_or_by_asin(tmp_path):
    write(tmp_path)
    for name, shade in (("51.jpg", 10), ("71._SL1500_.jpg", 20), ("52.jpg", 30), ("other.jpg", 40), ("53.jpg", 50)):
        picture(tmp_path / "images" / name, shade)
    picture(tmp_path / "images" / f"{asin(1)}.jpg", 60)
    catalog = read_logs(amazon_reviews, tmp_path).catalog
    assert [int(catalog.images(item)[0, 0, 0]) for item in range(3)] == pytest.approx([20, 30, 50], abs=2)
    assert catalog.images(3) is None
    columns = [
        row | {"images": {key: [image[key] for image in row["images"]] for key in row["images"][0]}} for row in METAS
    ]
    again = read_logs(amazon_reviews, write(tmp_path, metas=columns)).catalog  # as Hugging Face's datasets writes them
    assert [again.images.path(item) for item in range(4)] == [catalog.images.path(item) for item in range(4)]
    by_id = read_logs(amazon_reviews, tmp_path, pictures="asin").catalog
    assert by_id.images(0) is not None
    assert by_id.images(0)[0, 0, 0] == pytest.approx(60, abs=2)
    assert by_id.images(1) is None


def test_the_layout_of_2018_is_cleaned_of_its_page(tmp_path):
    amazon.write_amazon_2018(tmp_path)
    picture(tmp_path / "images" / "51.jpg", 10)
    source = read_logs(amazon_reviews, tmp_path)
    catalog = source.catalog
    assert len(catalog) == ITEMS
    assert catalog.titles[0] == 'Day "Planner" 1'
    assert catalog.titles[8] == ""
    assert found(source, "title") == [
        "meta_Gift_Cards.json, line 9: a page's script in place of a title; it is left blank"
    ]
    assert set(names(catalog, "merchant")) == {"Paulo Coelho", "Acme"}
    assert set(names(catalog, "category")) == {"Calendars"}
    assert set(names(read_logs(amazon_reviews, tmp_path, category_level=0).catalog, "category")) == {"Office & School"}
    assert set(source.fields["main_category"]) == {"Digital Music"}
    np.testing.assert_array_equal(catalog.prices[:4], np.float32([np.nan, 18.99, np.nan, 1299.0]))
    assert found(source, "price") == [
        "meta_Gift_Cards.json, lines 3, 7, 11, 15, 19 and 10 more: no price of at least 0; the item has none"
    ]
    assert found(source, "duplicate_item")[0].startswith("meta_Gift_Cards.json, line 61: an item whose id")
    assert catalog.images(0) is not None
    assert source.user_column == "reviewerID"
    assert set(source.events.kind) == {CLICK, PURCHASE}
    assert len(source.events) == len(list(ratings()))


def test_the_layout_of_2014_is_python(tmp_path):
    amazon.write_amazon_2014(tmp_path)
    picture(tmp_path / "images" / "31JI+1._SX300_.jpg", 10)
    picture(tmp_path / "images" / "31JI%2B2._SX300_.jpg", 20)
    source = read_logs(amazon_reviews, tmp_path)
    assert source.catalog.titles[0] == "Pr45\" White 1's Laces"
    assert set(names(source.catalog, "category")) == {"Shoe Care"}
    assert source.catalog.prices[0] == pytest.approx(3.17)
    assert source.catalog.images(0) is not None
    assert source.catalog.images(1) is not None
    assert set(source.events.kind) == {CLICK}
    assert source.events.time.max() == pytest.approx(max(row[3] for row in ratings()) // 86_400)


def test_a_benchmarks_csv_stands_for_the_reviews(tmp_path):
    write(tmp_path)
    (tmp_path / "All_Beauty.jsonl").unlink()
    rows = [
        "user_id,parent_asin,rating,timestamp",
        f"AGK,{asin(1)},3.0,1452647382000",
        f"AGK,{asin(2)},4.0,1454675785000",
    ]
    write_lines(tmp_path / "All_Beauty.csv", rows)
    source = read_logs(amazon_reviews, tmp_path)
    np.testing.assert_array_equal(source.events.relevance, [0, 1])
    np.testing.assert_allclose(source.events.time, [1_452_647_382 / 86_400, 1_454_675_785 / 86_400])


def test_several_categories_are_read_by_a_pattern(tmp_path):
    for kind, items in (("Baby", (1, 2)), ("Toys", (2, 3))):
        write_lines(
            tmp_path / "reviews" / f"{kind}.jsonl", [json.dumps(review_2023(1, item, 5, MIDNIGHT)) for item in items]
        )
        write_lines(tmp_path / "meta" / f"{kind}.jsonl", [json.dumps(meta_2023(item)) for item in items])
    source = read_logs(amazon_reviews, tmp_path, reviews="reviews/*.jsonl", meta="meta")
    assert source.catalog.item_ids == (asin(1), asin(2), asin(3))
    assert len(source.events) == 4


def test_a_bad_row_is_named_and_the_rest_goes_on(tmp_path):
    good = review_2023(3, 5, 5, MIDNIGHT)
    reviews = [
        *REVIEWS,
        json.dumps(good)[:-9],
        good | {"parent_asin": "B0NOWHERE"},
        good | {"rating": "five"},
        good | {"timestamp": None},
        good | {"user_id": ""},
        good | {"verified_purchase": None},
    ]
    metas = [*(meta_2023(item) for item in range(1, 8)), "[1, 2]", meta_2023(8) | {"parent_asin": None}, meta_2023(9)]
    metas.append(meta_2023(10) | {"parent_asin": "B0\0"})
    metas[6]["price"] = "call us"
    source = read_logs(amazon_reviews, write(tmp_path, reviews, metas))
    assert len(source.catalog) == 8
    assert len(source.events) == 6
    assert source.events.kind[-1] == CLICK
    assert found(source, "price") == ["meta_All_Beauty.jsonl, line 7: no price of at least 0; the item has none"]
    assert found(source, "id") == ["meta_All_Beauty.jsonl, lines 9, 11: no parent_asin or asin; the row is left out"]
    assert found(source, "json")[0] == (
        "meta_All_Beauty.jsonl, line 8: neither JSON nor a Python literal in braces, left out; each line is one object"
    )
    assert found(source, "json")[1].startswith("All_Beauty.jsonl, line 6: not JSON")
    assert found(source, "item_join") == [
        "All_Beauty.jsonl, line 7: column parent_asin: an item that meta_All_Beauty.jsonl lacks; the row is left out"
    ]
    assert found(source, "number") == ["All_Beauty.jsonl, line 8: column rating: no number; the row is left out"]
    assert found(source, "time") == ["All_Beauty.jsonl, line 9: column timestamp: no time; the row is left out"]
    assert found(source, "user") == ["All_Beauty.jsonl, line 10: column user_id: no person; the row is left out"]


def test_what_can_not_be_used_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"no file of meta in it; it should hold CATEGORY\.jsonl\.gz"):
        read_logs(amazon_reviews, tmp_path)
    write(tmp_path)
    write_lines(tmp_path / "All_Beauty_5.jsonl", ["{}"])
    with pytest.raises(
        DatasetError, match=r"several files may be the reviews: .*All_Beauty_5\.jsonl.*dataset\.reviews"
    ):
        read_logs(amazon_reviews, tmp_path)
    with pytest.raises(DatasetError, match=r"All_Beauty_5\.jsonl: no reviews in its first lines; expected user_id"):
        read_logs(amazon_reviews, tmp_path, reviews="All_Beauty_5.jsonl")
    with pytest.raises(DatasetError, match="All_Beauty_5.jsonl: no item in it"):
        read_logs(amazon_reviews, tmp_path, meta="All_Beauty_5.jsonl", reviews="All_Beauty.jsonl")
    with pytest.raises(ConfigError, match=r"dataset\.pictures='name' to be one of basename, asin"):
        read_logs(amazon_reviews, tmp_path, pictures="name")
    with pytest.raises(ConfigError, match=r"dataset\.liked=9"):
        read_logs(amazon_reviews, tmp_path, liked=9)


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path):
    amazon.write_amazon_reviews(tmp_path)
    path = tmp_path / "All_Beauty.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"All_Beauty\.jsonl\.gz: can't be read to its end"):
        read_logs(amazon_reviews, tmp_path)


@pytest.mark.parametrize(
    "write_year", [PLAIN, amazon.write_amazon_reviews, amazon.write_amazon_2018, amazon.write_amazon_2014]
)
@settings(max_examples=30, deadline=None)
@given(file=st.integers(0, 1), injuries=INJURIES)
def test_injured_files_are_read_or_refused(write_year, file, injuries):
    made = read_injured(amazon_reviews, write_year, file, injuries)
    if not isinstance(made, Exception):
        assert len(made.events.item) == len(made.events.user) == len(made.events.time)
        assert (made.events.item < len(made.catalog)).all()
