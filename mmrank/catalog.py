"""The public side: what every merchant shows to everyone. Nothing here was learned from a shopper."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np


class ImageSource(Protocol):
    """Pictures by item index; decoded or rendered only when asked for."""

    def __call__(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where the item has no readable picture."""
        ...

    def digest(self, index: int) -> str | None:
        """A hash of the picture's content (bytes of the file or of the pixels), or None."""
        ...

    def path(self, index: int) -> str | None:
        """Where a person can open the picture, or None where it is rendered on demand."""
        ...


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """N items in columns; everywhere else an item is its index in [0, N).

    item_ids: N strings, unique. titles: N strings, '' where absent.
    prices: float32 [N], NaN where absent, in the shop's currency.
    merchants, categories: int64 [N], indices into their names.
    images: pictures by index.
    """

    name: str
    item_ids: Sequence[str]
    titles: Sequence[str]
    prices: np.ndarray
    merchants: np.ndarray
    merchant_names: Sequence[str]
    categories: np.ndarray
    category_names: Sequence[str]
    images: ImageSource = field(repr=False)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Item index by item id."""
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    @cached_property
    def digest(self) -> str:
        """sha256 over ids, titles, prices, merchants and categories; pictures have digests of their own."""
        sha = hashlib.sha256()
        for column in (self.item_ids, self.titles, self.merchant_names, self.category_names):
            sha.update("\x1f".join(column).encode())
            sha.update(b"\x1e")
        for array in (self.prices.astype("<f4"), self.merchants.astype("<i8"), self.categories.astype("<i8")):
            sha.update(array.tobytes())
        return sha.hexdigest()
