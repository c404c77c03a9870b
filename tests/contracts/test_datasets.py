"""At stake: a data set that shows the future in a history, or answers twice differently, voids every figure."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from client.datasets import Dataset
from mmrank import components
from mmrank.errors import MmrankError
from mmrank.slates import EVENT_TYPES
from tests.client.datasets import fixtures_amazon, fixtures_judged, fixtures_logs, fixtures_search, shops

FAMILY = "client.datasets"
SPLITS = ("train", "validation", "test")
HM_ROOT = Path(__file__).parents[3] / "shared/data/hm"
VARIANTS: dict[str, tuple[dict, ...]] = {
    "hm": ({"root": str(HM_ROOT)}, {"root": str(HM_ROOT), "clients": "merchants"}),
    "marketplace": ({"devices": 30, "merchants": 2},),
    "tables": (
        {"items": shops.ITEMS, "events": shops.EVENTS},
        {"items": shops.ITEMS, "events": shops.EVENTS, "clients": "merchant", "queries": "derive"},
        {"items": shops.ITEMS, "impressions": shops.IMPRESSIONS, "events": shops.EVENTS},
        {"items": shops.ITEMS, "judgments": shops.JUDGMENTS},
        {"items": shops.ITEMS},
    ),
    "recbole": ({}, {"clients": "release_year", "queries": "derive", "candidates": "catalogue"}),
    "amazon_reviews": ({}, {"clients": "merchant", "queries": "derive"}),
    "mind": (
        {},
        {"split": {"validation_from": "2019-11-14", "test_from": "2019-11-15"}},
        {"clients": "category", "candidates": {"fill": True, "from": "catalogue"}},
    ),
    "movielens": ({}, {"clients": {"partition": "dirichlet", "clients": 4}, "queries": "derive"}),
    "esci": ({}, {"locale": "all", "version": "large", "gains": "graded", "clients": {"clients": 5}}),
    "wands": ({}, {"clients": {"clients": 5}, "gains": "exact"}),
    "jdsearch": (
        {"clients": {"partition": "iid", "clients": 4}},
        {"slates": "behaviour"},
        {"slates": "behaviour", "split": {"validation_from": "2022-09-17", "test_from": "2022-10-17"}},
    ),
    "metarank": (
        {"types": {"like": "cart"}},
        {"types": {"like": "cart"}, "clients": {"partition": "iid", "clients": 4}},
    ),
    "svmlight": ({}, {"edges": "train"}, {"split": "query"}),
    "trec": ({"rows": {"mybaseline": "baseline.run"}}, {"candidates": {"from": "bm25", "fill": True}}),
}
"""Settings under which a data set is tried; one that is not listed is tried with its defaults."""
WRITTEN = {
    "tables": shops.write_shop,
    "recbole": fixtures_logs.write_recbole,
    "amazon_reviews": fixtures_amazon.write_amazon_reviews,
    "mind": fixtures_logs.write_mind,
    "movielens": fixtures_logs.write_movielens,
    "esci": fixtures_search.write_esci,
    "wands": fixtures_search.write_wands,
    "jdsearch": fixtures_search.write_jdsearch,
    "metarank": fixtures_search.write_metarank,
    "svmlight": fixtures_judged.write_letor,
    "trec": fixtures_judged.write_trec,
}
"""What writes the files of a data set into a folder, its root."""
CASES = [
    pytest.param(
        (name, index),
        id=f"{name}-{index}",
        marks=pytest.mark.skipif(
            name == "hm" and not HM_ROOT.is_dir(), reason=f"hm needs its data, and there is none at {HM_ROOT}"
        ),
    )
    for name in components.available(FAMILY)
    for index in range(len(VARIANTS.get(name, ({},))))
]


@cache
def written(name: str) -> dict:
    """Where the files of that data set were written, for as long as the tests run."""
    if name not in WRITTEN:
        return {}
    folder = tempfile.TemporaryDirectory(prefix=f"mmrank-{name}-")
    atexit.register(folder.cleanup)
    WRITTEN[name](Path(folder.name))
    return {"root": folder.name}


def open_dataset(case: tuple[str, int]) -> Dataset:
    name, index = case
    return components.build(FAMILY, {"name": name, **written(name), **VARIANTS.get(name, ({},))[index]}, entry="load")


@cache
def opened(case: tuple[str, int]) -> Dataset:
    return open_dataset(case)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def dataset(case):
    return opened(case)


def some_clients(dataset, count=4):
    step = max(1, len(dataset.client_ids) // count)
    return [dataset.client_ids[index] for index in range(0, len(dataset.client_ids), step)][:count]


def some_slates(dataset):
    return [
        (client, split, slate)
        for client in some_clients(dataset)
        for split in SPLITS
        for slate in dataset.slates(client, split)[:40]
    ]


def acted(dataset):
    """Whether people did something in it: judged queries have no history, and lie in parts by their words."""
    return getattr(dataset, "split_by", "time") == "time"


def test_the_data_sets_are_there():
    assert {"hm", "marketplace", "tables"} <= set(components.available(FAMILY))


def test_registry_and_catalogue_are_public_facts(case, dataset):
    assert dataset.name == case[0]
    assert dataset.version
    assert isinstance(dataset.synthetic, bool)
    assert dataset.simulation_only is None or len(dataset.simulation_only.split()) > 5
    clients = some_clients(dataset)
    assert len({dataset.data_identity(client) for client in clients}) == len(clients) > 1
    assert {dataset.kind(client) for client in clients} <= {"merchant", "device"}
    assert all(client and set(client) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for client in clients)
    catalog, items = dataset.catalog, len(dataset.catalog)
    assert len(set(catalog.item_ids)) == items
    for column in (catalog.titles, catalog.prices, catalog.merchants, catalog.categories):
        assert len(column) == items
    assert catalog.merchants.max() < len(catalog.merchant_names)
    assert catalog.categories.max() < len(catalog.category_names)
    picture = catalog.images(items // 2)
    assert picture is None or (picture.dtype == np.uint8 and picture.shape[2] == 3)
    assert catalog.images.digest(items // 2) == catalog.images.digest(items // 2)


def test_shapes_and_ranges_of_slates(dataset):
    found = some_slates(dataset)
    assert {split for _, split, _ in found} == set(SPLITS)
    items = len(dataset.catalog)
    for _, _, slate in found:
        length, events = len(slate.candidates), len(slate.history)
        assert length >= 2
        assert len(np.unique(slate.candidates)) == length
        assert (
            slate.candidates.dtype == slate.history.dtype == slate.event_type.dtype == slate.position.dtype == np.int64
        )
        assert slate.relevance.dtype == slate.age_days.dtype == np.float32
        assert len(slate.relevance) == len(slate.position) == length
        assert len(slate.event_type) == len(slate.age_days) == events
        for index in (slate.candidates, slate.history):
            assert ((index >= 0) & (index < items)).all()
        assert ((slate.relevance >= 0) & np.isfinite(slate.relevance)).all()
        assert ((slate.event_type >= 0) & (slate.event_type < len(EVENT_TYPES))).all()
        assert slate.user >= 0
        if slate.propensity is not None:
            assert len(slate.propensity) == length
        if slate.oracle is not None:
            assert len(slate.oracle) == length
    assert any((slate.relevance > 0).any() for _, _, slate in found)


def test_histories_precede_their_slates_oldest_first(dataset):
    found = some_slates(dataset)
    assert any(len(slate.history) for _, _, slate in found) or not acted(dataset)
    for _, _, slate in found:
        assert (slate.age_days >= 0).all()
        assert (np.diff(slate.age_days) <= 1e-4).all()


def test_a_query_lies_in_one_part(dataset):
    if acted(dataset):
        pytest.skip("its parts are by time")
    found = some_slates(dataset)
    parts = {slate.query: {split for _, split, other in found if other.query == slate.query} for _, _, slate in found}
    assert all(len(splits) == 1 for splits in parts.values())


def test_parts_are_ordered_by_global_time(dataset):
    if not acted(dataset):
        pytest.skip("its parts are by query")
    last = -np.inf
    for split in SPLITS:
        times = [slate.time_days for client in some_clients(dataset) for slate in dataset.slates(client, split)]
        assert min(times) > last, split
        last = max(times)
    for client in some_clients(dataset):
        for split in SPLITS:
            own = [slate.time_days for slate in dataset.slates(client, split)]
            assert own == sorted(own)


def test_a_later_history_tells_the_same_of_the_past(dataset):
    """What stood in an earlier slate's history stands in the later one's, at the same time: nothing is rewritten."""
    if not acted(dataset):
        pytest.skip("nobody did anything in it")
    compared = 0
    for client in some_clients(dataset, 3):
        last = {}
        for slate in dataset.slates(client, "train")[:200] + dataset.slates(client, "test")[:50]:
            before = last.get(slate.user)
            if before is not None and len(before.history):
                times = slate.time_days - slate.age_days.astype(np.float64)
                past = slate.history[times < before.time_days - 1e-3][-len(before.history) :]
                np.testing.assert_array_equal(past, before.history[len(before.history) - len(past) :])
                compared += len(past)
            last[slate.user] = slate
    assert compared > 0


def test_slates_repeat_in_another_process_like_opening(case, dataset):
    again = open_dataset(case)
    assert again.version == dataset.version
    assert again.catalog.digest == dataset.catalog.digest
    for client in reversed(some_clients(dataset, 2)):  # the order of asking must not matter
        for split in reversed(SPLITS):
            first, second = dataset.slates(client, split), again.slates(client, split)
            assert len(first) == len(second)
            for one, two in zip(first, second, strict=True):
                assert (one.query, one.time_days, one.user) == (two.query, two.time_days, two.user)
                for name in ("candidates", "relevance", "history", "event_type", "age_days", "position"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_what_a_caller_does_to_its_list_changes_nothing(dataset):
    client = some_clients(dataset)[0]
    before = len(dataset.slates(client, "train"))
    dataset.slates(client, "train").clear()
    assert len(dataset.slates(client, "train")) == before


def test_an_unknown_client_is_refused(dataset):
    with pytest.raises(MmrankError):
        dataset.slates("nobody-of-that-name", "train")
