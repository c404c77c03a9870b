"""The same product in two shops, recognised by its title and its picture: public facts of the catalogue alone.

Two items of different shops are a pair where each is the other's nearest in that shop, and they are near enough. No
matrix of all items by all is held: rows meet in blocks, one pair of shops (and one category) at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.settings import bounded

CHUNK = 1024
"""Rows of a block: a similarity matrix of 4 MB."""
FAR = np.float32(-2.0)
"""Of two items that have nothing to compare: farther than any cosine."""


@dataclass(frozen=True, kw_only=True)
class Near:
    """How near two items must be: cosines of rows of unit length, in [-1, 1].

    text, image: each at least so, where both items have one. both: and their mean. alone: where the two have only a
    title, or only a picture, in common, that one. margin: and nearer by so much than the next nearest in the other's
    shop, on either side (Lowe 2004, 7.1): in a crowd of relatives the nearest may be any of them. A product that one
    shop lists twice is thus not found.

    Chosen on a catalogue of known pairs (tests/simulations/test_same_products.py) with tfidf and histogram rows; other
    encoders have other cosines, and need other bounds.
    """

    text: float = 0.3
    image: float = 0.6
    both: float = 0.65
    alone: float = 0.95
    margin: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            bounded(f"near.{name}", value, -1.0 if name != "margin" else 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of items, the nearest first. first, second: int64 [P], first < second. text, image: float32 [P], cosines,
    NaN where one of the two has none. score: float32 [P], the mean of those that are there.
    """

    first: np.ndarray
    second: np.ndarray
    text: np.ndarray
    image: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class _Rows:
    """Unit rows of some items, and which of them have a title and a picture."""

    text: np.ndarray
    image: np.ndarray
    has_text: np.ndarray
    has_image: np.ndarray

    def of(self, items: np.ndarray) -> _Rows:
        return _Rows(self.text[items], self.image[items], self.has_text[items], self.has_image[items])


def same_products(
    features: FeatureTable,
    merchants: np.ndarray,
    *,
    near: Near | None = None,
    categories: np.ndarray | None = None,
    chunk: int = CHUNK,
) -> Pairs:
    """Pairs of items of different merchants that are one product, as far as titles and pictures tell.

    merchants: int64 [N]. categories: int64 [N], where given only items of one category are compared, which needs
    common names (dataset.harmonise.categories). Items with neither title nor picture are in no pair. Time grows with
    N², in multiplications of blocks; memory with N and chunk². Raises ConfigError for towers that are trained, whose
    rows are no vectors yet.
    """
    near = near or Near()
    if features.text.ndim != 2 or features.image.ndim != 2 or not features.text.dtype.is_floating_point:
        raise ConfigError(
            "Expected features of frozen encoders, whose rows can be compared; set model.towers: frozen, with a text "
            "and an image encoder that are not trained."
        )
    rows = _Rows(features.text.numpy(), features.image.numpy(), features.has_text.numpy(), features.has_image.numpy())
    found = [
        (first[left], second[right])
        for first, second in _blocks(merchants, categories)
        for left, right in [_mutual(rows.of(first), rows.of(second), near.margin, chunk)]
    ]
    left = np.concatenate([np.zeros(0, np.int64), *(pair[0] for pair in found)])
    right = np.concatenate([np.zeros(0, np.int64), *(pair[1] for pair in found)])
    return _near(rows, np.minimum(left, right), np.maximum(left, right), near)


def product_groups(pairs: Pairs, merchants: np.ndarray) -> np.ndarray:
    """int64 [N]: each item's product, numbered from 0 in the order of their first items; an item in no pair is alone.

    The nearest pairs join first. A pair that would bring two items of one shop into one product is left out: a shop
    lists a product once, so one of the chain's links is wrong.
    """
    parent = np.arange(len(merchants))
    shops: dict[int, set[int]] = {}

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = int(parent[item])
        return item

    for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        one, two = sorted((root(first), root(second)))
        here = shops.get(one, {int(merchants[one])})
        there = shops.get(two, {int(merchants[two])})
        if one != two and not here & there:
            parent[two] = one  # the smaller stays: a root is its product's first item
            shops[one] = here | there
    return np.unique([root(item) for item in range(len(merchants))], return_inverse=True)[1].astype(np.int64)


def _blocks(merchants: np.ndarray, categories: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(items of one merchant, items of another), within each category where there are any."""
    kinds: Sequence[np.ndarray] = [np.arange(len(merchants))]
    if categories is not None:
        kinds = _parts(categories, kinds[0])
    for items in kinds:
        shops = _parts(merchants, items)
        for place, first in enumerate(shops):
            for second in shops[place + 1 :]:
                yield first, second


def _parts(codes: np.ndarray, items: np.ndarray) -> list[np.ndarray]:
    """`items` by their code."""
    order = items[np.argsort(codes[items], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []


@dataclass
class _Best:
    """Of each of n rows the nearest so far, where that stands, and how near the next is; FAR where there is none."""

    value: np.ndarray
    place: np.ndarray
    second: np.ndarray

    @classmethod
    def none(cls, count: int) -> _Best:
        return cls(np.full(count, FAR), np.zeros(count, np.int64), np.full(count, FAR))

    def meet(self, rows: slice, scores: np.ndarray, first: int) -> None:
        """Similarities [n, m] of `rows` to others that stand at `first` and behind."""
        place, here = scores.argmax(axis=1), np.arange(len(scores))
        value = scores[here, place]
        rest = scores.copy()
        rest[here, place] = FAR
        known, next_known = self.value[rows], self.second[rows]
        better = value > known
        self.second[rows] = np.maximum.reduce([np.minimum(known, value), next_known, rest.max(axis=1)])
        self.place[rows] = np.where(better, place + first, self.place[rows])
        self.value[rows] = np.where(better, value, known)


def _mutual(first: _Rows, second: _Rows, margin: float, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [P] each: rows of `first` and of `second` that are each other's nearest, by `margin` before the next."""
    count, others = len(first.has_text), len(second.has_text)
    there, back = _Best.none(count), _Best.none(others)
    for low in range(0, count, chunk):
        rows = slice(low, low + chunk)
        for left in range(0, others, chunk):
            columns = slice(left, left + chunk)
            scores = _scores(first, rows, second, columns)
            there.meet(rows, scores, left)
            back.meet(columns, scores.T, low)
    near = there.place
    sure = (there.value - there.second >= margin) & (back.value - back.second >= margin)[near]
    those = np.flatnonzero((there.value > FAR) & (back.place[near] == np.arange(count)) & sure)
    return those, near[those]


def _scores(first: _Rows, rows: slice, second: _Rows, columns: slice) -> np.ndarray:
    """float32 [n, m]: the mean cosine of what both have, FAR where they have nothing in common."""
    text = first.has_text[rows, None] & second.has_text[None, columns]
    image = first.has_image[rows, None] & second.has_image[None, columns]
    total = np.where(text, first.text[rows] @ second.text[columns].T, 0.0)
    total += np.where(image, first.image[rows] @ second.image[columns].T, 0.0)
    sides = text.astype(np.float32) + image
    return np.where(sides > 0, total / np.maximum(sides, 1), FAR).astype(np.float32)


def _near(rows: _Rows, first: np.ndarray, second: np.ndarray, near: Near) -> Pairs:
    """Those that are near enough, the nearest first."""
    text = np.where(rows.has_text[first] & rows.has_text[second], _cosines(rows.text, first, second), np.nan)
    image = np.where(rows.has_image[first] & rows.has_image[second], _cosines(rows.image, first, second), np.nan)
    known = np.stack([~np.isnan(text), ~np.isnan(image)])
    score = np.nansum([text, image], axis=0) / np.maximum(known.sum(axis=0), 1)
    both = known.all(axis=0)
    with np.errstate(invalid="ignore"):  # what is absent is near to nothing
        kept = np.where(both, (text >= near.text) & (image >= near.image) & (score >= near.both), score >= near.alone)
    order = np.flatnonzero(kept)[np.argsort(-score[kept], kind="stable")]
    columns = {"text": text, "image": image, "score": score}
    return Pairs(
        first=first[order],
        second=second[order],
        **{name: one[order].astype(np.float32) for name, one in columns.items()},
    )


def _cosines(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows[first], rows[second])
