"""Which items a client's people can be shown: the whole shop for a device, its own goods for a merchant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._marketplace.items import Items
from client.datasets._marketplace.settings import FULL_LIST, Shop
from mmrank.randomness import numpy_generator

SPARE = 60
"""Items of a shelf beyond a full list, for those that the person has opened already."""


@dataclass(frozen=True, eq=False)
class Shelves:
    """items: int64 [n], everything that can be shown. types: int64, the product types among them.

    of_type: int64 [types, width], the items of each type, padded with -1. A shelf shorter than a full list is followed
    by other products, drawn once.
    """

    items: np.ndarray
    types: np.ndarray
    of_type: np.ndarray

    def browsing(self, rng: np.random.Generator) -> np.ndarray:
        """int64 [width]: a draw of everything, padded with -1."""
        width = self.of_type.shape[1]
        drawn = rng.choice(self.items, min(width, len(self.items)), replace=False)
        return np.pad(drawn, (0, width - len(drawn)), constant_values=-1)


def make_shelves(shop: Shop, items: Items, merchant: int | None) -> Shelves:
    """The shelves of one merchant, or of the whole shop where `merchant` is None."""
    here = np.flatnonzero(items.merchants == merchant) if merchant is not None else np.arange(len(items))
    rng = numpy_generator(shop.seed, "marketplace", "shelves", shop.variant, -1 if merchant is None else merchant)
    rows: dict[int, np.ndarray] = {}
    for product in np.unique(items.types[here]):
        own = here[items.types[here] == product]
        missing = max(0, FULL_LIST + SPARE - len(own))
        if missing:
            others = here[items.types[here] != product]
            own = np.concatenate([own, rng.choice(others, min(missing, len(others)), replace=False)])
        rows[int(product)] = own
    of_type = np.full((shop.types, max(len(row) for row in rows.values())), -1, np.int64)
    for product, row in rows.items():
        of_type[product, : len(row)] = row
    return Shelves(items=here, types=np.array(sorted(rows)), of_type=of_type)
