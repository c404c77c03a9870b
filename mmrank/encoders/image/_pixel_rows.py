"""The public half of the trainable image encoders: pictures as pixels of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from torch import Tensor, nn

from mmrank.encoders.image import _pixels


class PixelRows:
    """A trainable image encoder; rows are uint8 [3, size, size]. Nothing is fitted.

    The version names the size alone, so that trainable encoders of one size share a cache.
    """

    trainable = True
    row_dtype = "uint8"

    def __init__(self, *, size: int, network: Callable[..., nn.Module]) -> None:
        _pixels.check_size(size)
        self.version = f"pixels-1/{_pixels.VERSION}/{size}"
        self.row_shape = (3, size, size)
        self.size = size
        self._network = network

    def fit(self, images: Sequence[np.ndarray | None]) -> Self:
        return self

    def rows(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        return _pixels.channels_first(images, self.size)

    def tower(self, dim: int) -> nn.Module:
        return EachItem(self._network(dim=dim))


class EachItem(nn.Module):
    """[batch, item, 3, size, size] uint8 -> [batch, item, dim], by a network of [n, 3, size, size] -> [n, dim].

    A convolution knows one batch axis, so items and units share it here. Hooks on such a layer would clip each item
    on its own: per-unit gradients of these towers come from torch.func.vmap (`privacy.grad_sample: vmap`), where one
    call sees one unit, and the shared axis holds its items alone.
    """

    folds_items = True
    """Tells whoever hooks layers that axis 0 inside is not the unit."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        pixels = rows.to(next(self.network.parameters()).dtype) / 127.5 - 1.0
        return self.network(pixels.flatten(0, 1)).unflatten(0, rows.shape[:2])
