"""The public side: what each item is, costs and is called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._marketplace.settings import Shop
from client.datasets._marketplace.vocabulary import ATTRIBUTES, TYPES
from mmrank.randomness import numpy_generator


@dataclass(frozen=True, eq=False)
class Items:
    """N items in columns.

    types, merchants: int64 [N]. codes: int64 [N] by attribute name, index of the value.
    shade, pose: how the picture differs from others of its kind, float [N] and [N, 5].
    quality: float32 [N], what everybody likes. prices: float32 [N] yuan. dearness: float32 [N], standardised
    log price within the type. lacks_picture, lacks_title: bool [N], never both.
    attributes: float32 [N, D], centred one-hot columns of every value, the true content of an item.
    spread: float64 [D, D], their covariance over the catalogue.
    """

    types: np.ndarray
    merchants: np.ndarray
    codes: dict[str, np.ndarray]
    shade: np.ndarray
    pose: np.ndarray
    quality: np.ndarray
    prices: np.ndarray
    dearness: np.ndarray
    lacks_picture: np.ndarray
    lacks_title: np.ndarray
    attributes: np.ndarray
    spread: np.ndarray

    def __len__(self) -> int:
        return len(self.types)


def columns() -> list[tuple[str, str, str]]:
    """(attribute, value, modality) of each of the D columns of `Items.attributes`."""
    return [(attribute.name, value.name, attribute.modality) for attribute in ATTRIBUTES for value in attribute.values]


def sellers(product: int, merchants: int) -> tuple[int, ...]:
    """The one or two merchants that sell a type: with two, a merchant's shelf of one type is long enough to rank.

    >>> sellers(0, 8), sellers(9, 8), sellers(3, 1)
    ((0, 1), (1, 3), (0,))
    """
    if merchants == 1:
        return (0,)
    first = product % merchants
    return first, (first + 1 + (product // merchants) % (merchants - 1)) % merchants


def make_items(shop: Shop) -> Items:
    """Every item of the shop; the same settings give the same items."""
    rng = numpy_generator(shop.seed, "marketplace", "items", shop.variant)
    number = np.arange(shop.items)
    types = number % shop.types
    places = [sellers(product, shop.merchants) for product in range(shop.types)]
    merchants = np.array([places[t][(i // shop.types) % len(places[t])] for i, t in zip(number, types, strict=True)])
    order = rng.permutation(shop.items)
    types, merchants = types[order].astype(np.int64), merchants[order].astype(np.int64)
    codes = _codes(shop, merchants, rng)
    quality = rng.standard_normal(shop.items).astype(np.float32)
    prices = _prices(types, codes, quality, rng)
    gap = rng.random(shop.items)
    attributes = _one_hot(codes)
    pose = np.column_stack(
        [
            rng.uniform(-0.03, 0.03, (shop.items, 2)).round(3),
            rng.uniform(-0.10, 0.10, shop.items).round(3),
            rng.uniform(0.93, 1.05, shop.items).round(3),
            rng.choice([-1.0, 1.0], shop.items),
        ]
    )
    return Items(
        types=types,
        merchants=merchants,
        codes=codes,
        shade=rng.uniform(0.90, 1.06, shop.items).round(3),
        pose=pose,
        quality=quality,
        prices=prices,
        dearness=_dearness(types, prices, shop.types),
        lacks_picture=gap < 0.01,
        lacks_title=gap > 0.99,
        attributes=attributes,
        spread=np.cov(attributes.astype(np.float64), rowvar=False),
    )


def _codes(shop: Shop, merchants: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Values drawn by their shares; with `style_spread` each merchant has shares of its own."""
    codes = {}
    for attribute in ATTRIBUTES:
        share = np.array([value.share for value in attribute.values])
        tilt = rng.standard_normal((shop.merchants, len(share)))
        weight = share * np.exp(shop.style_spread * tilt)
        edges = np.cumsum(weight / weight.sum(1, keepdims=True), axis=1)
        drawn = (rng.random(shop.items)[:, None] > edges[merchants]).sum(1)
        codes[attribute.name] = np.minimum(drawn, len(share) - 1).astype(np.int64)
    return codes


def _prices(
    types: np.ndarray, codes: dict[str, np.ndarray], quality: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Yuan, ending in 9: the type's usual price, dearer for premium and luxe, and by luck."""
    usual = np.log([TYPES[t].price for t in types])
    dearer = 0.3 * (codes["material"] == 1) + 0.25 * (codes["tone"] == 2) + 0.1 * quality
    raw = np.exp(usual + dearer + 0.4 * rng.standard_normal(len(types)))
    return np.maximum(np.round(raw / 10) * 10 - 1, 9).astype(np.float32)


def _dearness(types: np.ndarray, prices: np.ndarray, kinds: int) -> np.ndarray:
    logarithm = np.log(prices.astype(np.float64))
    out = np.zeros(len(prices), np.float32)
    for product in range(kinds):
        here = types == product
        out[here] = (logarithm[here] - logarithm[here].mean()) / max(float(logarithm[here].std()), 1e-6)
    return out


def _one_hot(codes: dict[str, np.ndarray]) -> np.ndarray:
    blocks = []
    for attribute in ATTRIBUTES:
        block = np.eye(len(attribute.values), dtype=np.float32)[codes[attribute.name]]
        blocks.append(block - block.mean(0, dtype=np.float64).astype(np.float32))
    return np.concatenate(blocks, axis=1)
