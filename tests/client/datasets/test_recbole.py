"""If a field is taken for another, or nan for a title, a ranker learns rubbish and nobody is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import recbole
from client.datasets._source import CLICK
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets.fixtures_logs import found, read_logs, write_lines, write_recbole
from tests.client.datasets.injured_logs import INJURIES, read_injured

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ACTS = (
    "u1\t01\t5\t1572566400",  # 2019-11-01, midnight
    "u1\t02\t2\t1572570000",  # an hour later
    "u1\t03\t4.0\t1572656400",  # the next day at one
    "u2\t01\t4\t1572656400",
    "u1\t01\t5\t1573171200",  # 2019-11-08
)
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\tbrand:token"
ITEMS = (
    "01\tToy Story\t1995\tAnimation Children's Comedy\t9.5\tacme",
    '02\t"Great Performances" Cats\t1998\tMusical\tnan\tnan',
    "03\tnan\t1995\tDrama, Romance\t7\tacme",
    "04\tHeat\t1995\t\t3\tbolt",
    "05\tSabrina\t1995\tComedy\t3\tbolt",
)
SPLIT = {"validation_from": "2019-11-05", "test_from": "2019-11-06"}


def write(root: Path, *, inter=INTER, acts=ACTS, item=ITEM, items=ITEMS) -> Path:
    write_lines(root / "shop.inter", [inter, *acts])
    write_lines(root / "shop.item", [item, *items])
    return root


def test_items_are_what_their_header_says(tmp_path):
    source = read_logs(recbole, write(tmp_path))
    catalog = source.catalog
    assert catalog.item_ids == ("01", "02", "03", "04", "05")
    assert catalog.titles == ("Toy Story", '"Great Performances" Cats', "", "Heat", "Sabrina")
    assert [catalog.category_names[code] for code in catalog.categories] == [
        *("Animation", "Musical", "Drama", "", "Comedy")
    ]
    assert [catalog.merchant_names[code] for code in catalog.merchants] == ["acme", "", "acme", "bolt", "bolt"]
    np.testing.assert_array_equal(catalog.prices, np.float32([9.5, np.nan, 7, 3, 3]))
    assert source.fields == {"release_year": ["1995", "1998", "1995", "1995", "1995"]}
    assert found(source, "price") == [
        "shop.item, line 3: column price:float: no price of at least 0; the item has none"
    ]


def test_a_days_ratings_are_one_slate_against_what_was_seen_and_not_liked(tmp_path):
    shop = recbole.load(root=write(tmp_path), split=SPLIT, candidates={"from": "catalogue", "negatives": 2})
    assert shop.client_ids == ("u1", "u2")
    assert shop.kind("u1") == "device"
    first, second = shop.slates("u1", "train")
    assert first.time_days == 18_201.0
    assert len(first.candidates) == 3
    assert {0, 1} < set(first.candidates.tolist())
    np.testing.assert_array_equal(first.candidates[first.relevance > 0], [0])
    assert len(first.history) == 0
    assert (first.position == -1).all()
    np.testing.assert_array_equal(second.candidates[second.relevance > 0], [2])
    np.testing.assert_array_equal(second.history, [0, 1])
    np.testing.assert_array_equal(second.event_type, [CLICK, CLICK])
    np.testing.assert_allclose(second.age_days, [25 / 24, 1.0], atol=1e-6)
    assert shop.slates("u1", "validation") == []
    (last,) = shop.slates("u1", "test")
    np.testing.assert_array_equal(last.history, [0, 1, 2])
    assert shop.slates("u2", "test") == []


@pytest.mark.parametrize(("liked", "relevance"), [(5.0, [1, 0, 0, 0, 1]), (2.0, [1, 1, 1, 1, 1])])
def test_liked_says_from_which_rating_on(tmp_path, liked, relevance):
    source = read_logs(recbole, write(tmp_path), liked=liked)
    np.testing.assert_array_equal(source.events.relevance, relevance)


def test_a_label_says_what_was_clicked_of_what_was_shown(tmp_path):
    acts = ("u1\t01\t1.0\t1572566400", "u1\t02\t0.0\t1572570000")
    source = read_logs(recbole, write(tmp_path, inter=INTER.replace("rating", "label"), acts=acts))
    np.testing.assert_array_equal(source.events.relevance, [1, 0])


def test_without_rating_and_time_rows_are_clicks_in_the_order_of_the_file(tmp_path):
    write(tmp_path, inter="user_id:token\titem_id:token", acts=("u1\t03", "u1\t01", "u1\t02", "u1\t04"))
    shop = recbole.load(root=tmp_path, candidates={"negatives": 1})
    assert not shop.source.timed
    slates = [slate for part in ("train", "validation", "test") for slate in shop.slates("u1", part)]
    assert [slate.candidates[slate.relevance > 0].tolist() for slate in slates] == [[2], [0], [1], [3]]
    np.testing.assert_array_equal(slates[3].history, [2, 0, 1])


def test_fields_have_any_name(tmp_path):
    write(
        tmp_path,
        inter="who:token\tproduct_id:token\tstars:float\twhen:float",
        item="product_id:token\theading:token\tkind:token",
        items=("01\tBoots\tshoes", "02\tBag\tbags", "03\tHat\thats"),
    )
    named = {"user": "who", "item": "product_id", "rating": "stars", "time": "when", "category": "kind"}
    source = read_logs(recbole, tmp_path, **named, title=["heading", "kind"])
    assert source.catalog.titles == ("Boots. shoes", "Bag. bags", "Hat. hats")
    assert source.catalog.category_names == ("bags", "hats", "shoes")
    np.testing.assert_array_equal(source.events.relevance, [1, 0, 1, 1, 1])
    assert source.timed
    untitled = read_logs(recbole, tmp_path, **named)
    assert untitled.catalog.titles == ("", "", "")
    assert found(untitled, "title") == [
        "shop.item: no field of titles, so they are blank; name one with title: product_id | heading | kind"
    ]


def test_separators_are_those_of_the_configuration(tmp_path):
    write(
        tmp_path,
        inter=INTER.replace("\t", ","),
        acts=[act.replace("\t", ",") for act in ACTS],
        item="item_id:token,title:token_seq,genre:token_seq",
        items=("01,Toy|Story,Sci Fi|War", "02,Heat,War", "03,Up,War"),
    )
    source = read_logs(recbole, tmp_path, field_separator=",", seq_separator="|")
    assert source.catalog.titles == ("Toy Story", "Heat", "Up")
    assert source.catalog.category_names == ("Sci Fi", "War")


def test_the_parts_of_a_benchmark_are_read_as_one_and_other_files_are_named(tmp_path):
    write_lines(tmp_path / "shop.train.inter", [INTER, *ACTS[:3]])
    write_lines(tmp_path / "shop.valid.inter", [INTER, ACTS[3]])
    write_lines(tmp_path / "shop.test.inter", [INTER, ACTS[4]])
    write_lines(tmp_path / "shop.item", [ITEM, *ITEMS])
    write_lines(tmp_path / "shop.net", ["source:token\ttarget:token", "u1\tu2"])
    source = read_logs(recbole, tmp_path)
    assert len(source.events) == 5
    assert found(source, "unused") == ["shop.net: who knows whom, not read"]


def test_a_bad_row_is_named_and_the_rest_goes_on(tmp_path):
    bad = ("u1\t02", "u1\t99\t5\t1572570000", "u1\t02\tgood\t1572570000", "\t02\t5\t1572570000", "u1\t02\t5\t4e9")
    source = read_logs(recbole, write(tmp_path, acts=(*ACTS, *bad), items=(*ITEMS, ITEMS[0], "06\tno")))
    assert len(source.events) == 5
    assert len(source.catalog) == 5
    assert found(source, "ragged") == [
        "shop.item, line 8: a row of 2 fields under a header of 6, left out",
        "shop.inter, line 7: a row of 2 fields under a header of 4, left out",
    ]
    assert found(source, "item_join") == [
        "shop.inter, line 8: column item_id:token: an item that shop.item lacks; the row is left out"
    ]
    assert found(source, "number") == ["shop.inter, line 9: column rating:float: no number; the row is left out"]
    assert found(source, "user") == ["shop.inter, line 10: column user_id:token: no person; the row is left out"]
    assert found(source, "time_future") == [
        "shop.inter, line 11: column timestamp:float: a time in the future, or in another unit than s; "
        "the row is left out"
    ]
    assert len(found(source, "duplicate_item")) == 1


def test_what_is_no_data_set_of_recbole_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"no file NAME\.inter in it"):
        read_logs(recbole, tmp_path)
    write(tmp_path, inter=INTER.replace("rating:float", "rating:number"))
    with pytest.raises(DatasetError, match=r"shop\.inter, line 1: the column 'rating:number' is no field:type"):
        read_logs(recbole, tmp_path)
    write(tmp_path)
    with pytest.raises(DatasetError, match=r"shop\.inter, line 1: no field 'ratings'; .*Did you mean 'rating'"):
        read_logs(recbole, tmp_path, rating="ratings")
    write_lines(tmp_path / "other.inter", [INTER, *ACTS])
    with pytest.raises(DatasetError, match=r"several data sets in it \(other, shop\); set dataset\.stem"):
        read_logs(recbole, tmp_path)
    assert len(read_logs(recbole, tmp_path, stem="shop").events) == 5
    with pytest.raises(DatasetError, match=r"there is no file other\.item, and other\.inter alone"):
        read_logs(recbole, tmp_path, stem="other")
    with pytest.raises(DatasetError, match=r"there is no file shopp\.inter; .*Did you mean 'shop'"):
        read_logs(recbole, tmp_path, stem="shopp")
    with pytest.raises(ConfigError, match=r"dataset\.liked='much' to be a number"):
        read_logs(recbole, tmp_path, liked="much")
    with pytest.raises(ConfigError, match=r"dataset\.seq_separator"):
        read_logs(recbole, tmp_path, seq_separator="")


@settings(max_examples=80, deadline=None)
@given(file=st.integers(0, 2), injuries=INJURIES)
def test_injured_files_are_read_or_refused(file, injuries):
    made = read_injured(recbole, write_recbole, file, injuries)
    if not isinstance(made, Exception):
        assert len(made.events.item) == len(made.events.user) == len(made.events.time)
        assert (made.events.item < len(made.catalog)).all()
