"""Colours and edges counted by hand: no weights, no network, thousands of pictures a second.

Where no pretrained encoder is installed it still tells a red floral dress from black jeans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from PIL import Image
from torch import nn

from mmrank.encoders._linear import Projection, unit_length
from mmrank.encoders.image import _pixels

_HUES, _SATURATIONS, _VALUES = 12, 3, 3
_CELLS, _DIRECTIONS = 4, 8
_COLOURS = _HUES * _SATURATIONS * _VALUES
_WHITE = 245


class Histogram:
    """A frozen image encoder; rows are float32 [236] of unit length.

    Half is a histogram of hue, saturation and value (12 x 3 x 3) over the pixels that are not the white ground;
    half a grid of 4 x 4 cells with gradient strengths in 8 directions (Dalal and Triggs 2005, without overlap).
    Counts are square-rooted: a product of roots compares distributions (Bhattacharyya).
    """

    trainable = False
    row_dtype = "float32"
    row_shape = (_COLOURS + _CELLS * _CELLS * _DIRECTIONS,)

    def __init__(self, *, size: int) -> None:
        self.version = f"histogram-1/{_pixels.VERSION}/{size}"
        self.size = size

    def fit(self, images: Sequence[np.ndarray | None]) -> Self:
        return self

    def rows(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        rows = np.zeros((len(images), *self.row_shape), np.float32)
        for row, image in zip(rows, images, strict=True):
            if image is not None:
                pixels = _pixels.square(image, self.size)
                row[:] = np.concatenate([_colours(pixels), _edges(pixels)])
        return unit_length(rows)

    def tower(self, dim: int) -> nn.Module:
        return Projection(self.row_shape[0], dim)


def _colours(pixels: np.ndarray) -> np.ndarray:
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV"), np.int64).reshape(-1, 3)
    shown = hsv[(pixels.reshape(-1, 3) < _WHITE).any(axis=1)]
    hue, saturation, value = (shown[:, axis] * bins // 256 for axis, bins in enumerate((_HUES, _SATURATIONS, _VALUES)))
    counts = np.bincount((hue * _SATURATIONS + saturation) * _VALUES + value, minlength=_COLOURS)
    return unit_length(np.sqrt(counts))


def _edges(pixels: np.ndarray) -> np.ndarray:
    size = len(pixels)
    down, across = np.gradient(pixels.mean(axis=2))
    direction = ((np.arctan2(down, across) % np.pi) / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS
    cell = np.arange(size) * _CELLS // size
    place = (cell[:, None] * _CELLS + cell[None, :]) * _DIRECTIONS + direction
    strength = np.hypot(down, across)
    counts = np.bincount(place.ravel(), weights=strength.ravel(), minlength=_CELLS * _CELLS * _DIRECTIONS)
    return unit_length(np.sqrt(counts))


def build(*, size: int = 64) -> Histogram:
    """size: side in pixels that pictures are brought to. Raises ConfigError where it is out of bounds."""
    _pixels.check_size(size)
    return Histogram(size=size)
