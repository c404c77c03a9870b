"""Pictures of any size as squares of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmrank.errors import ConfigError, DatasetError

SIZES = (16, 512)


def check_size(size: int) -> None:
    """Raises ConfigError for a side in pixels out of bounds."""
    if not SIZES[0] <= size <= SIZES[1]:
        raise ConfigError(f"Expected model.image.size={size} in [{SIZES[0]}, {SIZES[1]}]; set model.image.size.")


def square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: `image` uint8 [h, w, 3], padded with white to a square, then resized (bilinear).

    Shop pictures stand on white, so white padding adds no edge. Raises DatasetError for another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DatasetError(
            f"Expected a picture as uint8 [height, width, 3], not {image.dtype} {list(image.shape)}; "
            "let the data set's image source convert it to RGB."
        )
    height, width = image.shape[:2]
    if height == width == size:
        return image
    picture = Image.fromarray(image)
    if height != width:
        side = max(height, width)
        canvas = Image.new("RGB", (side, side), (255, 255, 255))
        canvas.paste(picture, ((side - width) // 2, (side - height) // 2))
        picture = canvas
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def channels_first(images: Sequence[np.ndarray | None], size: int) -> np.ndarray:
    """uint8 [len(images), 3, size, size]; zeros where there is no picture."""
    rows = np.zeros((len(images), 3, size, size), np.uint8)
    for row, image in zip(rows, images, strict=True):
        if image is not None:
            row[:] = square(image, size).transpose(2, 0, 1)
    return rows
