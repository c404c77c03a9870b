"""Encoders, one a file: text, image and behaviour.

A text or image encoder has two halves. `rows` is public preprocessing: it turns texts or pictures into
one fixed-size array each (feature vectors of a frozen encoder, token ids or pixels of a trainable one),
which is cached by content. `tower` is the module that turns rows into vectors during training. A frozen
encoder's tower is a projection; a trainable one's is the network.

The first axis of everything a tower sees is the privacy unit: [batch, item, *row] -> [batch, item, dim].
Items are never folded into the batch axis of a layer that Opacus hooks, or clipping would be per item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from torch import nn


class TextEncoder(Protocol):
    """`build(**settings)` of mmrank.encoders.text.NAME returns one.

    trainable: whether its tower must be trained to be of use (needs `towers: end_to_end`).
    version: names weights and preprocessing; part of the cache's key.
    row_shape, row_dtype: of one text's row.
    """

    trainable: bool
    version: str
    row_shape: tuple[int, ...]
    row_dtype: str

    def fit(self, texts: Sequence[str]) -> Self:
        """Take vocabulary, IDF or projection from the *public* catalogue; deterministic. Returns itself, fitted."""
        ...

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """row_dtype [len(texts), *row_shape]; an empty text gives a row of zeros."""
        ...

    def tower(self, dim: int) -> nn.Module:
        """A new module: [batch, item, *row_shape] -> [batch, item, dim]; a row of zeros may give anything finite."""
        ...


class ImageEncoder(Protocol):
    """`build(**settings)` of mmrank.encoders.image.NAME returns one; as TextEncoder, for pictures."""

    trainable: bool
    version: str
    row_shape: tuple[int, ...]
    row_dtype: str

    def fit(self, images: Sequence[np.ndarray | None]) -> Self:
        """Most have nothing to fit."""
        ...

    def rows(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """row_dtype [len(images), *row_shape]; uint8 [h, w, 3] pictures of any size; None gives zeros."""
        ...

    def tower(self, dim: int) -> nn.Module:
        """A new module: [batch, item, *row_shape] -> [batch, item, dim]."""
        ...
