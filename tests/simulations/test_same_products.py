"""At stake: two shops' listings of one product must be found, and no two products taken for one."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.datasets import marketplace
from client.datasets._marketplace.vocabulary import brand
from mmrank.catalog import Catalog
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable, build_features
from mmrank.randomness import numpy_generator
from mmrank.settings import ModelSettings
from simulations.same_products import Near, Pairs, product_groups, same_products
from tests.toys import toy_catalog

MODEL = ModelSettings(text={"name": "tfidf"}, image={"name": "histogram"}, use_looks=False)
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Retaken:
    """The pictures of a shop, then of each re-listed item the same one cropped, brightened and of another size."""

    def __init__(self, images, origin: np.ndarray, count: int, seed: int) -> None:
        self.images, self.origin, self.count, self.seed = images, origin, count, seed

    def __call__(self, index: int) -> np.ndarray | None:
        picture = self.images(int(self.origin[index]))
        if picture is None or index < self.count:
            return picture
        draw = numpy_generator(self.seed, "retaken", index)
        left, top, right, bottom = (int(edge) for edge in draw.integers(0, 7, 4))
        cut = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
        size = int(draw.integers(48, 96))
        resized = np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR), np.float32)
        return (resized * draw.uniform(0.9, 1.15)).clip(0, 255).astype(np.uint8)

    def digest(self, index: int) -> str | None:
        picture = self(index)
        return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()

    def path(self, index: int) -> str | None:
        return None


def relisted(*, items: int = 140, again: int = 60, seed: int = 0) -> tuple[Catalog, set[tuple[int, int]]]:
    """A marketplace of which `again` items stand in another shop as well, and the true pairs.

    A re-listed title has the other shop's brand, its words in another order and, of a bilingual one, half of the time
    one language alone. Two shops sell each type, so that every item has near relatives in the other shop.
    """
    shop = marketplace.load(items=max(items, 1600), types=8, merchants=8, devices=0, seed=seed).catalog
    draw = numpy_generator(seed, "relisted")
    origin = np.r_[np.arange(items), draw.choice(items, again, replace=False)]
    merchants = shop.merchants[origin].copy()
    titles = [shop.titles[index] for index in origin]
    for index in range(items, items + again):
        old = int(merchants[index])
        sellers = np.unique(shop.merchants[shop.categories == shop.categories[origin[index]]])
        merchants[index] = draw.choice(sellers[sellers != old])
        titles[index] = reworded(titles[index], old, int(merchants[index]), draw)
    catalog = dataclasses.replace(
        shop,
        item_ids=[f"x{index}" for index in range(len(origin))],
        titles=titles,
        prices=shop.prices[origin],
        merchants=merchants,
        categories=shop.categories[origin],
        images=Retaken(shop.images, origin, items, seed),
    )
    return catalog, {(int(origin[index]), index) for index in range(items, len(origin))}


def reworded(title: str, old: int, new: int, draw: np.random.Generator) -> str:
    for before, after in zip(brand(old), brand(new), strict=True):
        title = title.replace(before, after)
    words = title.replace(",", " ").split()
    chinese = [word for word in words if CHINESE.search(word)]
    english = [word for word in words if not CHINESE.search(word)]
    if chinese and english and draw.random() < 0.5:
        words = chinese if draw.random() < 0.5 else english
    return " ".join(words[place] for place in draw.permutation(len(words)))


def quality(pairs: Pairs, truth: set[tuple[int, int]]) -> tuple[float, float]:
    """(precision, recall)."""
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    right = len(found & truth)
    return right / max(len(found), 1), right / len(truth)


def table(catalog: Catalog, cache: Path) -> FeatureTable:
    return build_features(catalog, MODEL, cache_dir=cache)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, set[tuple[int, int]], FeatureTable]:
    catalog, truth = relisted(seed=1)  # the bounds were chosen with seed 0
    return catalog, truth, table(catalog, tmp_path_factory.mktemp("cache"))


def test_most_relisted_products_are_found_and_hardly_any_other(shops):
    catalog, truth, features = shops
    precision, recall = quality(same_products(features, catalog.merchants), truth)
    assert precision >= 0.95
    assert recall >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_among_many_relatives_most_are_found_still(tmp_path, seed):
    catalog, truth = relisted(items=1500, again=300, seed=seed)
    precision, recall = quality(same_products(table(catalog, tmp_path), catalog.merchants), truth)
    assert precision >= 0.9
    assert recall >= 0.75


def test_blocks_of_any_size_find_the_same(shops):
    catalog, _, features = shops
    whole = same_products(features, catalog.merchants)
    for chunk in (1, 7, 64):
        parts = same_products(features, catalog.merchants, chunk=chunk)
        assert parts.first.tolist() == whole.first.tolist()
        assert parts.second.tolist() == whole.second.tolist()


def test_pairs_are_those_of_the_whole_matrix(shops):
    """By the definition: each the other's nearest of its shop, by the margin, and near enough."""
    catalog, _, features = shops
    near, shop = Near(), catalog.merchants
    text, image = features.text.numpy(), features.image.numpy()
    sides = [
        np.where(flag[:, None] & flag[None], rows @ rows.T, np.nan)
        for rows, flag in ((text, features.has_text.numpy()), (image, features.has_image.numpy()))
    ]
    known = sum(~np.isnan(side) for side in sides)
    score = np.where(known > 0, np.nansum(sides, axis=0) / np.maximum(known, 1), -2.0)

    def is_nearest(one: int, other: int) -> bool:
        row = score[one, (shop == shop[other]) & (np.arange(len(shop)) != other)]
        return bool(score[one, other] >= row.max(initial=-2.0) + near.margin - 1e-6)

    def is_near(one: int, other: int) -> bool:
        if known[one, other] < 2:
            return bool(score[one, other] >= near.alone)
        enough = sides[0][one, other] >= near.text and sides[1][one, other] >= near.image
        return bool(enough and score[one, other] >= near.both)

    every = [(one, two) for one in range(len(shop)) for two in range(one + 1, len(shop)) if shop[one] != shop[two]]
    expected = {pair for pair in every if is_near(*pair) and is_nearest(*pair) and is_nearest(*pair[::-1])}
    pairs = same_products(features, shop)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    assert (np.diff(pairs.score) <= 0).all()


def test_within_categories_fewer_are_compared_and_none_crosses(shops):
    catalog, truth, features = shops
    pairs = same_products(features, catalog.merchants, categories=catalog.categories)
    assert (catalog.categories[pairs.first] == catalog.categories[pairs.second]).all()
    assert quality(pairs, truth)[1] >= 0.7


def test_one_side_alone_needs_to_be_nearer(shops):
    catalog, _, features = shops
    blind = dataclasses.replace(features, has_image=torch.zeros_like(features.has_image))
    pairs = same_products(blind, catalog.merchants)
    assert np.isnan(pairs.image).all()
    assert (pairs.text >= Near().alone).all()
    nothing = dataclasses.replace(blind, has_text=torch.zeros_like(features.has_text))
    assert len(same_products(nothing, catalog.merchants)) == 0


def test_one_shop_has_no_pairs(tmp_path):
    catalog = toy_catalog()
    pairs = same_products(table(catalog, tmp_path), catalog.merchants)
    assert len(pairs) == 0
    assert product_groups(pairs, catalog.merchants).tolist() == list(range(len(catalog)))


def pairs_of(*rows: tuple[int, int]) -> Pairs:
    scores = np.linspace(1, 0.9, len(rows)).astype(np.float32)
    first, second = np.array(rows).T
    return Pairs(first=first, second=second, text=scores, image=scores, score=scores)


def test_a_product_of_three_shops_is_one_group():
    assert product_groups(pairs_of((0, 2), (2, 4)), np.array([0, 0, 1, 1, 2])).tolist() == [0, 1, 0, 2, 0]


def test_no_product_holds_two_items_of_one_shop():
    """0 and 1 are of one shop: the weaker link 1-3 would bring them together over 2 and 3."""
    groups = product_groups(pairs_of((0, 2), (2, 3), (1, 3)), np.array([0, 0, 1, 2]))
    assert groups.tolist() == [0, 1, 0, 0]


def test_towers_that_are_trained_have_no_rows_to_compare(tmp_path):
    model = ModelSettings(towers="end_to_end", text={"name": "bilstm"}, image={"name": "cnn"}, use_looks=False)
    catalog = toy_catalog()
    features = build_features(catalog, model, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match="frozen"):
        same_products(features, catalog.merchants)
