"""At stake: shops brought under one speech must stay the shops that they are: no price, category or client may slip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.datasets import tables
from client.datasets._shaping.harmonise import FEW, indexed_prices
from client.datasets._shaping.settings import shape_of
from mmrank.errors import ConfigError, DatasetError
from mmrank.features import standardised_log_prices
from simulations.config import load as load_settings
from simulations.data_check import check
from tests.client.datasets.shops import write_csv

ITEMS = {"file": "items.csv", "id": "id", "title": "title", "price": "price", "category": "category", "merchant": "m"}
EVENTS = {"file": "events.csv", "user": "user", "item": "item", "time": "time"}
KINDS = {"paris": ("Chaussures", "Sacs"), "berlin": ("Schuhe", "Taschen")}


def write_shops(root: Path, count: int = 40) -> None:
    """Items i0 ... of two shops, which have names of their own for shoes and bags; Paris costs ten times as much."""
    rows = []
    for n in range(count):
        shop = ("paris", "berlin")[n % 2]
        price = (10 + n) * (10 if shop == "paris" else 1)
        rows.append([f"i{n}", f"thing {n}", price, KINDS[shop][n // 2 % 2], shop])
    write_csv(root / "items.csv", ["id", "title", "price", "category", "m"], rows)
    acts = [[f"u{n % 4}", f"i{n}", 1_700_000_000 + n * 86_400] for n in range(count)]
    write_csv(root / "events.csv", ["user", "item", "time"], acts)


def write_map(root: Path, *rows: tuple[str, str, str]) -> None:
    write_csv(root / "map.csv", ["merchant", "from", "to"], rows)


def load(root: Path, harmonise=None, **shape):
    write_shops(root)
    return tables.load(root=root, items=ITEMS, events=EVENTS, harmonise=harmonise, **shape)


def categories(dataset) -> list[str]:
    return [dataset.catalog.category_names[index] for index in dataset.catalog.categories.tolist()]


def found(dataset, code: str):
    return next(found for found in dataset.findings if found.code == code)


def test_each_shops_categories_get_their_common_names_and_the_others_stay(tmp_path):
    write_map(tmp_path, ("paris", "Chaussures", "shoes"), ("", "Schuhe", "shoes"), ("berlin", "Taschen", "bags"))
    dataset = load(tmp_path, {"categories": "map.csv"})
    assert categories(dataset)[:4] == ["shoes", "shoes", "Sacs", "bags"]
    assert dataset.catalog.category_names == ("Sacs", "bags", "shoes")
    note = found(dataset, "unmapped")
    assert note.level == "note"
    assert "1 categories of shops, of 10 items" in note.text
    assert "'Sacs' of 'paris'" in note.text


def test_a_shops_own_line_goes_before_one_for_all(tmp_path):
    write_map(tmp_path, ("", "Sacs", "luggage"), ("paris", "Sacs", "bags"))
    assert categories(load(tmp_path, {"categories": "map.csv"}))[2] == "bags"


def test_what_a_map_names_and_the_catalogue_lacks_is_said_with_its_line(tmp_path):
    write_map(
        tmp_path,
        ("paris", "Sacs", "bags"),
        ("rome", "Scarpe", "shoes"),
        ("paris", "Schuhe", "shoes"),
        ("paris", "Sacs", "luggage"),
        ("paris", "Chaussures", ""),
    )
    dataset = load(tmp_path, {"categories": "map.csv"})
    lines = {code: found(dataset, code).lines for code in ("map-merchant", "map-category", "map-twice", "map-blank")}
    assert lines == {"map-merchant": (3,), "map-category": (4,), "map-twice": (5,), "map-blank": (6,)}
    assert {found(dataset, code).level for code in lines} == {"warning"}
    assert "bags" in categories(dataset)
    assert "luggage" not in categories(dataset)


def test_a_line_is_named_where_it_stands_behind_a_name_of_two_lines(tmp_path):
    write_shops(tmp_path)
    (tmp_path / "map.csv").write_text('merchant,from,to\nparis,Sacs,"two\nlines"\nrome,x,y\n')
    dataset = load(tmp_path, {"categories": "map.csv"})
    assert found(dataset, "map-merchant").lines == (4,)


@pytest.mark.parametrize("written", ["table", "setting"])
def test_rates_turn_prices_into_one_currency(tmp_path, written):
    write_csv(tmp_path / "rates.csv", ["merchant", "rate"], [["paris", 0.5], ["rome", 2], ["berlin", "x"]])
    rates = "rates.csv" if written == "table" else {"paris": 0.5, "rome": 2.0}
    dataset = load(tmp_path, {"currency": "EUR", "rates": rates})
    assert dataset.catalog.prices[:2].tolist() == [50.0, 11.0]
    assert found(dataset, "rate-merchant").level == "warning"
    assert "1 of 2 merchants have no rate; their prices are taken to be in EUR" in found(dataset, "no-rate").text
    if written == "table":
        assert found(dataset, "rate-merchant").lines == (3,)
        assert found(dataset, "rate").lines == (4,)


def test_a_blank_merchant_has_the_rate_of_all_others(tmp_path):
    write_csv(tmp_path / "rates.csv", ["merchant", "rate"], [["", 3], ["paris", 0.5]])
    dataset = load(tmp_path, {"currency": "EUR", "rates": "rates.csv"})
    assert dataset.catalog.prices[:2].tolist() == [50.0, 33.0]
    assert not [one for one in dataset.findings if one.code == "no-rate"]


def test_what_is_cheap_in_a_dear_shop_is_cheap(tmp_path):
    dataset = load(tmp_path, {"prices": "by_merchant"})
    z, known = standardised_log_prices(dataset.catalog.prices)
    shop = dataset.catalog.merchants
    assert known.all()
    for merchant in (0, 1):
        assert z[shop == merchant].mean() == pytest.approx(0, abs=1e-5)
        assert z[shop == merchant].std() == pytest.approx(1, abs=1e-5)
    paris = np.arange(40) % 2 == 0
    assert z[0] == z[paris].min() < -1
    assert standardised_log_prices(load(tmp_path).catalog.prices)[0][0] > 0  # as they are it is dear


def test_an_index_is_of_the_shop_alone_and_survives_the_features_standardisation():
    prices = np.exp(np.random.default_rng(0).normal(3, 1, 300)).astype(np.float32)
    prices[[3, 5, 7]] = np.nan, -1, np.inf
    groups = np.repeat([0, 1, 2], 100)
    together = indexed_prices(prices, groups)
    alone = indexed_prices(prices[:100], groups[:100])
    np.testing.assert_allclose(together[:100], alone, rtol=1e-5)
    assert np.isnan(together[[3, 5, 7]]).all()
    z, known = standardised_log_prices(together)
    logs = np.log1p(prices[:100][known[:100]].astype(np.float64))
    np.testing.assert_allclose(z[:100][known[:100]], ((logs - logs.mean()) / logs.std()).clip(-3, 3), atol=1e-4)


def test_a_group_of_few_prices_is_measured_by_all_and_no_index_is_negative():
    prices = np.r_[np.full(FEW, 10.0), np.full(FEW, 1000.0), 1000.0, 0.0].astype(np.float32)
    groups = np.r_[np.zeros(FEW), np.ones(FEW), 2, 2].astype(np.int64)
    found = indexed_prices(prices, groups)
    np.testing.assert_allclose(found[: 2 * FEW], np.expm1(5.0), rtol=1e-5)  # one price in the whole shop: usual
    assert found[-2] > found[0] > found[-1] >= 0
    assert np.isnan(indexed_prices(np.array([np.nan], np.float32), np.zeros(1, np.int64))).all()


def test_prices_by_category_use_the_common_names(tmp_path):
    pairs = [("paris", "Chaussures", "shoes"), ("berlin", "Schuhe", "shoes")]
    write_map(tmp_path, *pairs)
    dataset = load(tmp_path, {"categories": "map.csv", "prices": "by_category"})
    logs = np.log1p(dataset.catalog.prices)
    shoes = np.array(categories(dataset)) == "shoes"
    assert logs[shoes].mean() == pytest.approx(5.0, abs=1e-4)
    assert logs[shoes].std() == pytest.approx(0.5, abs=1e-4)


def test_a_version_changes_with_what_is_harmonised_and_only_then(tmp_path):
    write_map(tmp_path, ("paris", "Sacs", "bags"))
    plain, same = load(tmp_path), load(tmp_path, {"prices": "as_they_are"})
    assert plain.version == same.version
    others = {
        load(tmp_path, harmonise).version
        for harmonise in (
            {"categories": "map.csv"},
            {"prices": "by_merchant"},
            {"currency": "EUR", "rates": {"paris": 0.1}},
        )
    }
    assert len(others | {plain.version}) == 4


def test_identity_and_behaviour_stay_where_only_public_facts_change(tmp_path):
    plain, other = load(tmp_path, clients="merchant"), load(tmp_path, {"prices": "by_merchant"}, clients="merchant")
    assert plain.client_ids == other.client_ids
    for client in plain.client_ids:
        assert plain.data_identity(client) == other.data_identity(client)
        pairs = zip(plain.slates(client, "train"), other.slates(client, "train"), strict=True)
        assert all(np.array_equal(one.candidates, two.candidates) for one, two in pairs)


@pytest.mark.parametrize(
    ("harmonise", "message"),
    [
        ({"currency": "EUR"}, "currency=EUR and rates together"),
        ({"rates": {"paris": 2.0}}, "currency=None and rates together"),
        ({"currency": "EUR", "rates": {"paris": 0.0}}, r"rates\.paris"),
        ({"price": "by_merchant"}, "Did you mean 'prices'"),
        ({"prices": "by_shop"}, "one of as_they_are, by_merchant, by_category"),
    ],
)
def test_settings_that_make_no_sense_are_refused(harmonise, message):
    with pytest.raises(ConfigError, match=message):
        shape_of({"harmonise": harmonise})


def test_a_map_that_is_not_there_or_lacks_a_column_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no file map\.csv"):
        load(tmp_path, {"categories": "map.csv"})
    write_csv(tmp_path / "map.csv", ["shop", "from", "to"], [["paris", "Sacs", "bags"]])
    with pytest.raises(DatasetError, match="merchant"):
        load(tmp_path, {"categories": "map.csv"})


def test_the_check_of_a_data_set_says_what_the_map_lacks(tmp_path):
    write_shops(tmp_path)
    write_map(tmp_path, ("rome", "Scarpe", "shoes"))
    settings = tmp_path / "shop.yaml"
    settings.write_text(
        f"dataset: {{name: tables, root: {tmp_path}, items: {ITEMS}, events: {EVENTS}, "
        "harmonise: {categories: map.csv}}\n"
    )
    checked = check(load_settings(settings), pictures=False)
    assert "map-merchant" in {one.code for one in checked.findings.of("warning")}
