"""At stake: the shop whose truth is known. If its generator leaks or changes, every figure measured on it is void."""

from __future__ import annotations

import hashlib
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from client.datasets import Split, marketplace
from client.datasets._marketplace import people as people_module
from client.datasets._marketplace.behaviour import PROPENSITY, attractions
from client.datasets._marketplace.pictures import render
from client.datasets._marketplace.silhouettes import SILHOUETTES
from client.datasets._marketplace.vocabulary import ATTRIBUTES, MATERIALS, TYPES, Attribute
from client.datasets.marketplace import Marketplace, fingerprint
from mmrank.errors import ConfigError, DatasetError
from mmrank.slates import Slate

Lists = list[tuple[str, Slate]]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALL = {"items": 1600, "types": 8, "merchants": 4, "devices": 20, "people_per_merchant": 12}


@pytest.fixture(scope="module")
def shop() -> Marketplace:
    return marketplace.load(people_per_merchant=60)


@pytest.fixture(scope="module")
def full_lists(shop: Marketplace) -> Lists:
    clients = ["merchant-0", "merchant-5", *(f"device-{number:06d}" for number in range(40))]
    return [(client, slate) for client in clients for slate in shop.slates(client, "test")]


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> float:
    """nDCG@10 with gains 2^r - 1, by the book."""
    discount = 1 / np.log2(np.arange(2, 12))
    gain = 2.0**relevance - 1
    found = (gain[np.argsort(-scores, kind="stable")[:10]] * discount).sum()
    return float(found / (np.sort(gain)[::-1][:10] * discount).sum())


def test_catalogue_has_twenty_thousand_items_of_five_hundred_intents(shop: Marketplace) -> None:
    catalog = shop.catalog
    assert len(catalog) == 20_000 == len(set(catalog.item_ids)) == len(catalog.titles) == len(catalog.prices)
    assert len(shop.intents) >= 500
    assert len(set(shop.intents)) == len(shop.intents)
    for intent in shop.intents:
        of_type = shop.items.types == intent.product
        if intent.attribute:
            of_type &= shop.items.codes[intent.attribute] == intent.value
        assert of_type.any(), f"nothing in the shop is {intent}"
    assert (catalog.prices > 0).all()
    assert set(np.unique(catalog.merchants)) == set(range(8))
    assert set(np.unique(catalog.categories)) == set(range(50))


def test_every_type_is_drawn_and_every_group_has_materials() -> None:
    assert {kind.name for kind in TYPES} == set(SILHOUETTES)
    assert len({SILHOUETTES[kind.name] for kind in TYPES}) == len(TYPES)
    materials = next(attribute for attribute in ATTRIBUTES if attribute.name == "material")
    assert {kind.group for kind in TYPES} == set(MATERIALS)
    assert all(len(words) == len(materials.values) for words in MATERIALS.values())


def test_no_two_intents_share_a_phrase_and_both_languages_name_running_shoes(shop: Marketplace) -> None:
    written = sum(len(set(marketplace.phrases(intent))) for intent in shop.intents)
    assert len(shop.intent_of) == written
    assert shop.intent_of["运动鞋"] == shop.intent_of["running shoes"] == shop.intents[0]
    assert shop.intent_of["红色运动鞋"] == shop.intent_of["red running shoes"] != shop.intents[0]
    queries = {slate.query for m in (0, 1) for slate in shop.slates(f"merchant-{m}", "train")}
    assert {"运动鞋", "running shoes", ""} <= queries
    assert queries - {""} <= set(shop.intent_of)


def test_titles_mix_languages_and_never_name_what_only_pictures_show(shop: Marketplace) -> None:
    titles = [title for title in shop.catalog.titles if title]
    chinese = np.array([any("\u4e00" <= letter <= "\u9fff" for letter in title) for title in titles])
    english = np.array([any("a" <= letter.lower() <= "z" for letter in title) for title in titles])
    assert (chinese & english).mean() > 0.6
    assert (chinese & ~english).mean() > 0.08
    assert (english & ~chinese).mean() > 0.08
    hidden = [w for a in ATTRIBUTES if a.modality == "picture" for v in a.values for w in (*v.zh, *v.en)]
    text = "\n".join(titles).lower()
    assert [word for word in hidden if word.lower() in text] == ["solid"]  # of "solid wood", a material


def test_about_one_item_in_a_hundred_lacks_its_picture_or_its_title(shop: Marketplace) -> None:
    no_title = np.array([title == "" for title in shop.catalog.titles])
    no_picture = np.array([shop.catalog.images.digest(index) is None for index in range(len(shop.catalog))])
    assert 0.006 < no_title.mean() < 0.014
    assert 0.006 < no_picture.mean() < 0.014
    assert not (no_title & no_picture).any()
    assert shop.catalog.images(int(np.flatnonzero(no_picture)[0])) is None


def test_pictures_are_repeatable_and_differ_by_what_they_show(shop: Marketplace) -> None:
    images = shop.catalog.images
    shown = [index for index in range(300) if images.digest(index) is not None]
    pixels = {index: images(index) for index in shown}
    first = pixels[shown[0]]
    assert first is not None
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert all(np.array_equal(pixels[i], images(i)) for i in shown[:5])
    assert len({picture.tobytes() for picture in pixels.values() if picture is not None}) == len(shown)
    assert len({images.digest(i) for i in shown}) == len(shown)
    assert images.path(0) is None


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.name)
def test_an_attribute_changes_the_picture_exactly_where_it_is_visual(shop: Marketplace, attribute: Attribute) -> None:
    codes = shop.items.codes[attribute.name]
    before = render(shop.items, 3, 64)
    kept = codes[3]
    try:
        codes[3] = (kept + 1) % len(attribute.values)
        after = render(shop.items, 3, 64)
    finally:
        codes[3] = kept
    changed = (np.abs(before.astype(int) - after).max(axis=2) > 20).sum()
    assert (changed > 15) == (attribute.modality != "text")


def test_slates_hold_the_contract(shop: Marketplace) -> None:
    for client in ("device-000003", "merchant-2"):
        for split in SPLITS:
            for slate in shop.slates(client, split):
                length = 20 if split == "train" else 100
                assert slate.candidates.dtype == slate.history.dtype == slate.event_type.dtype == np.int64
                assert slate.relevance.dtype == slate.oracle.dtype == slate.propensity.dtype == np.float32
                assert slate.age_days.dtype == np.float32
                for column in (slate.candidates, slate.relevance, slate.position, slate.propensity, slate.oracle):
                    assert column.shape == (length,)
                assert len(set(slate.candidates.tolist())) == length
                assert set(slate.relevance.tolist()) <= {0.0, 1.0, 2.0}
                assert slate.history.shape == slate.event_type.shape == slate.age_days.shape
                assert (slate.position == (np.arange(20) if split == "train" else -1)).all()


def test_parts_are_ordered_in_time_and_histories_lie_strictly_before(shop: Marketplace) -> None:
    edges = dict(zip(SPLITS, pairwise((0.0, 42.0, 48.0, 60.0)), strict=True))
    for client in ("device-000001", "device-000002", "merchant-1"):
        for split, (start, end) in edges.items():
            slates = shop.slates(client, split)
            times = [slate.time_days for slate in slates]
            assert times == sorted(times)
            assert all(start <= time < end for time in times)
            for slate in slates:
                assert (slate.age_days > 0).all()
                assert (np.diff(slate.age_days) <= 0).all()


def test_histories_are_the_persons_own_earlier_clicks(shop: Marketplace) -> None:
    slates = [slate for split in SPLITS for slate in shop.slates("merchant-4", split)]
    checked = 0
    for person in range(60):
        mine = [slate for slate in slates if slate.user == person]
        for earlier, later in pairwise(mine):
            if later.time_days - earlier.time_days < 0.05:
                continue
            opened = set(earlier.candidates[earlier.relevance > 0].tolist())
            assert opened <= set(later.history[later.event_type > 0].tolist())
            assert len(later.history) >= len(earlier.history)
            checked += len(opened)
    assert checked > 300


def test_full_lists_hold_nothing_the_person_opened_and_betray_nothing_by_order(
    full_lists: list[tuple[str, Slate]],
) -> None:
    places = []
    for _, slate in full_lists:
        opened = slate.history[slate.event_type > 0]
        assert not np.isin(slate.candidates, opened).any()
        places.append(np.flatnonzero(slate.relevance > 0))
    place = np.concatenate(places)
    assert abs(place.mean() - 49.5) < 5 * 28.9 / np.sqrt(len(place))
    counts = np.array([len(relevant) for relevant in places])
    assert (counts == 0).mean() < 0.1
    assert 1.5 < counts.mean() < 5


def test_full_lists_are_of_the_asked_type_with_and_without_what_was_asked(
    shop: Marketplace, full_lists: list[tuple[str, Slate]]
) -> None:
    modified = 0
    for client, slate in full_lists:
        if client.startswith("merchant-"):
            assert set(shop.catalog.merchants[slate.candidates]) == {int(client.removeprefix("merchant-"))}
        if slate.query == "":
            continue
        intent = shop.intent_of[slate.query]
        assert (shop.catalog.categories[slate.candidates] == intent.product).all()
        if intent.attribute:
            modified += 1
            matching = (shop.items.codes[intent.attribute][slate.candidates] == intent.value).mean()
            assert 0.02 <= matching < 0.8
    assert modified > 50


def test_the_truth_ranks_best_the_query_alone_less_and_chance_worst(
    shop: Marketplace, full_lists: list[tuple[str, Slate]]
) -> None:
    rng = np.random.default_rng(0)
    rows: dict[str, list[float]] = {name: [] for name in ("random", "query", "no picture", "no text", "oracle")}
    modality = np.array([column[2] for column in shop.columns()])
    tastes = {client: shop.tastes(client) for client in {client for client, _ in full_lists}}
    for client, slate in full_lists:
        if slate.relevance.max() == 0 or slate.query == "":
            continue
        intent = shop.intent_of[slate.query]
        wanted = shop.items.codes[intent.attribute][slate.candidates] == intent.value if intent.attribute else 0.0
        taste = tastes[client][slate.user]
        attributes = shop.items.attributes[slate.candidates]
        scores = {
            "random": rng.random(100),
            "query": people_module.MATCH * wanted + people_module.QUALITY * shop.items.quality[slate.candidates],
            "oracle": slate.oracle,
        }
        for name, hidden in (("no picture", "picture"), ("no text", "text")):
            part = attributes[:, modality == hidden] @ taste[modality == hidden]
            scores[name] = slate.oracle - people_module.TASTE * part
        for name, score in scores.items():
            rows[name].append(ndcg(score, slate.relevance))
    mean = {name: float(np.mean(values)) for name, values in rows.items()}
    assert len(rows["oracle"]) > 150
    assert mean["random"] < 0.12
    assert mean["random"] + 0.1 < mean["query"] < mean["oracle"] - 0.3
    assert mean["oracle"] < 0.95
    for without in ("no picture", "no text"):
        assert mean["query"] + 0.1 < mean[without] < mean["oracle"] - 0.1


def test_clicks_follow_the_stated_position_bias(shop: Marketplace) -> None:
    clicks, attraction = np.zeros(20), np.zeros(20)
    for merchant in (0, 3, 6):
        client = f"merchant-{merchant}"
        appetite = shop._world(client)[0].people.appetite
        for slate in shop.slates(client, "train"):
            clicks += slate.relevance > 0
            attraction += attractions(slate.oracle[None], appetite[[slate.user]], 0.32, 0.05)[0]
            assert np.array_equal(slate.propensity, PROPENSITY)
    expected = PROPENSITY * attraction
    assert (np.abs(clicks - expected) < 4.5 * np.sqrt(expected)).all()
    assert clicks[:3].sum() > 1.5 * clicks[-3:].sum()
    # the same test must see a bias that is not the stated one
    assert (np.abs(clicks - PROPENSITY**2 * attraction) > 4.5 * np.sqrt(expected)).any()


def test_attractions_of_a_list_sum_to_the_appetite_wherever_the_shelf_stands() -> None:
    liking = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    for shift in (0.0, 7.0):
        total = attractions(liking + np.float32(shift), np.array([2.0, 3.0, 4.5]), 0.32, 0.05).sum(1)
        np.testing.assert_allclose(total, [2.0, 3.0, 4.5], rtol=1e-4)


def test_a_client_is_the_same_whenever_and_in_whichever_company_it_is_asked_for() -> None:
    first = marketplace.load(**SMALL)
    second = marketplace.load(**{**SMALL, "devices": 5000}, clients="devices")
    second.slates("device-000004", "test")
    for split in SPLITS:
        one, other = (fingerprint(shop.slates("device-000003", split)) for shop in (first, second))
        assert one == other
        assert one != fingerprint(first.slates("device-000004", split))
    assert first.data_identity("device-000003") == second.data_identity("device-000003")
    assert first.version == second.version


def test_people_behind_devices_and_merchants_are_different(shop: Marketplace) -> None:
    clients = ["device-000000", "device-000001", "merchant-0", "merchant-1"]
    tastes = np.concatenate([shop.tastes(client) for client in clients])
    assert tastes.shape[1] >= 16
    assert len({row.tobytes() for row in tastes}) == len(tastes) == 122
    assert (np.count_nonzero(tastes, axis=1) >= 16).all()


def test_data_identity_follows_the_seed_and_the_settings_that_matter_alone() -> None:
    base = marketplace.load(**SMALL)
    device, merchant = base.data_identity("device-000001"), base.data_identity("merchant-1")
    assert base.data_identity("device-000002") != device
    for change in ({"seed": 1}, {"variant": "hard"}, {"items": 1800}, {"impressions_per_person": 9}):
        other = marketplace.load(**{**SMALL, **change})
        assert other.data_identity("device-000001") != device
        assert other.version != base.version
    bigger = marketplace.load(**{**SMALL, "people_per_merchant": 13, "image_size": 32, "devices": 21})
    assert bigger.data_identity("device-000001") == device
    assert fingerprint(bigger.slates("device-000001", "test")) == fingerprint(base.slates("device-000001", "test"))
    assert bigger.data_identity("merchant-1") != merchant


def test_a_hundred_thousand_clients_cost_nothing() -> None:
    shop = marketplace.load(**{**SMALL, "devices": 100_000})
    tracemalloc.start()
    try:
        assert len(shop.client_ids) == 100_004
        assert shop.client_ids[0] == "merchant-0"
        assert shop.client_ids[-1] == "device-099999"
        assert "device-099999" in shop.client_ids
        assert shop.client_ids[4:6] == ["device-000000", "device-000001"]
        for number in range(0, 100_000, 2000):
            shop.slates(f"device-{number:06d}", "train")
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert shop.kind("device-099999") == "device"
    assert shop.kind("merchant-3") == "merchant"


@pytest.mark.parametrize("client", ["device-100000", "device-3", "merchant-4", "merchant-01", "device--00001", "x", ""])
def test_an_unknown_client_is_refused_by_name(client: str) -> None:
    shop = marketplace.load(**SMALL)
    assert client not in shop.client_ids
    with pytest.raises(DatasetError, match=f"'{client}' among the 24"):
        shop.slates(client, "train")
    with pytest.raises(IndexError):
        shop.client_ids[24]


def test_the_registry_holds_the_chosen_clients() -> None:
    assert list(marketplace.load(**SMALL, clients="merchants").client_ids) == [f"merchant-{m}" for m in range(4)]
    assert len(marketplace.load(**SMALL, clients="devices").client_ids) == 20


def test_hard_has_drift_merchants_of_their_own_style_and_more_noise() -> None:
    easy, hard = (marketplace.load(**SMALL, variant=variant) for variant in ("standard", "hard"))

    def drift(shop: Marketplace) -> float:
        people = shop._world("merchant-0")[0].people
        return float(np.abs(people.taste - people.later_taste).mean())

    def style_gap(shop: Marketplace) -> float:
        tables = [np.bincount(shop.items.codes["pattern"][shop.items.merchants == m], minlength=6) for m in range(4)]
        shares = np.array([table / table.sum() for table in tables])
        return float(np.abs(shares - shares.mean(0)).sum(1).mean())

    def english_gap(shop: Marketplace) -> float:
        english = np.array([title.isascii() for title in shop.catalog.titles])
        return float(np.std([english[shop.items.merchants == m].mean() for m in range(4)]))

    def oracle(shop: Marketplace) -> float:
        slates = [slate for m in range(4) for slate in shop.slates(f"merchant-{m}", "test")]
        return float(np.mean([ndcg(slate.oracle, slate.relevance) for slate in slates if slate.relevance.max() > 0]))

    assert drift(easy) == 0 < 0.05 < drift(hard)
    assert style_gap(hard) > 3 * style_gap(easy)
    assert english_gap(hard) > 2 * english_gap(easy)
    assert oracle(hard) < oracle(easy) - 0.05
    assert easy.version != hard.version


def test_some_people_are_cold(shop: Marketplace) -> None:
    lengths = np.array([len(s.history) for m in range(3) for s in shop.slates(f"merchant-{m}", "test")])
    assert (lengths == 0).any()
    assert (lengths < 10).mean() > 0.03
    assert np.median(lengths) > 15


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"items": 399}, r"dataset.items=399 in \[400, 1000000\]"),
        ({"items": 1599}, r"dataset.items=1599 to be at least 1600, .* raise dataset.items"),
        ({"merchants": 51}, r"dataset.merchants=51 in \[1, 50\]"),
        ({"merchants": 6, "types": 5}, r"dataset.merchants=6 in \[1, 5\]"),
        ({"devices": -1}, r"dataset.devices=-1 in \[0"),
        ({"devices": 2.5}, r"dataset.devices=2.5 to be a whole number"),
        ({"seed": True}, r"dataset.seed=True to be a whole number"),
        ({"variant": "hrad"}, r"dataset.variant='hrad' .* Did you mean 'hard'\?"),
        ({"clients": "people"}, r"dataset.clients='people' to be one of mixed, devices, merchants"),
        ({"image_size": 8}, r"dataset.image_size=8 in \[16, 512\]"),
    ],
)
def test_a_bad_setting_names_value_bound_and_remedy(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        marketplace.load(**setting)


@pytest.mark.parametrize(("items", "types", "merchants"), [(400, 2, 1), (400, 2, 2), (800, 7, 4), (600, 50, 3)])
def test_small_shops_still_have_full_lists(items: int, types: int, merchants: int) -> None:
    shop = marketplace.load(items=items, types=types, merchants=merchants, people_per_merchant=4, devices=1)
    for client in shop.client_ids:
        slates = shop.slates(client, "test")
        assert all(len(set(slate.candidates.tolist())) == 100 for slate in slates)
        assert all(slate.candidates.min() >= 0 for slate in slates)


def test_the_generator_is_frozen() -> None:
    """Whoever must change one of these renames settings.GENERATOR, and says so in the changelog."""
    shop = marketplace.load()
    text = "\n".join(shop.catalog.titles[:200]) + repr(shop.catalog.prices[:200].tolist())
    pixels = b"".join(render(shop.items, index, 64).tobytes() for index in range(20))
    slates = [slate for split in SPLITS for slate in shop.slates("device-000017", split)]
    found = {
        "text": hashlib.sha256(text.encode()).hexdigest()[:16],
        "pixels": hashlib.sha256(pixels).hexdigest()[:16],
        "slates": fingerprint(slates)[:16],
        "version": shop.version,
    }
    assert found == {
        "text": "dad089c6e9566d86",
        "pixels": "1fbed6862ebdc46b",
        "slates": "3f2780aca489e18d",
        "version": "marketplace-1/e2d7cba84b515c49",
    }
