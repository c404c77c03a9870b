"""A catalogue's pictures as an encoder takes them, one at a time: none of them can fill the memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmrank._picture_limits import BROKEN, LARGEST_BYTES, LARGEST_PIXELS, known_formats
from mmrank.catalog import ImageSource
from mmrank.encoders.image import _pixels

_ORIENTATION = 0x0112


class _UnreadError(Exception):
    """One picture counts as missing: why."""


@dataclass(frozen=True, eq=False)
class PictureReader:
    """Pictures by item index, as squares of side `size` where it is given: what an encoder that takes squares sees.

    digests: by item, as `images` gives them. unread: why, by item, for those that were asked for and can't be read.
    Threads may ask at once.

    A picture that lies where `images.path` says, and whose SHA-256 is its digest, is decoded here, a large JPEG in
    reduced size, unless its colours or its EXIF orientation leave open how it is shown; `images` decodes all others. No
    file of more than 50 million pixels or 64 MB is decoded: what it decodes to could be a thousand times as large.
    """

    images: ImageSource
    digests: Sequence[str | None] = field(repr=False)
    size: int | None
    unread: dict[int, str] = field(default_factory=dict, repr=False)

    def __call__(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where there is no picture or it can't be read."""
        path, digest = self.images.path(index), self.digests[index]
        if digest is None:
            return None
        try:
            found = self._decoded_here(Path(path), digest) if path is not None else None
            if found is None and (found := self.images(index)) is None:
                raise _UnreadError("can't be decoded")
        except _UnreadError as error:
            self.unread[index] = f"{path or f'item {index}'} {error}"
            return None
        return found if self.size is None else _pixels.square(found, self.size)

    def _decoded_here(self, path: Path, digest: str) -> np.ndarray | None:
        """The picture, or None where the source must decode it. Raises _UnreadError."""
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # not a file's name, perhaps an address
            return None
        if size > LARGEST_BYTES:
            raise _UnreadError(f"has {size:,} bytes, and at most {LARGEST_BYTES:,} are read")
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content), formats=known_formats()) as picture:
                _check_pixels(picture)
                if not _plain(picture) or hashlib.sha256(content).hexdigest() != digest:
                    return None
                return np.asarray(picture.convert("RGB")) if self.size is None else _pixels.drafted(picture, self.size)
        except UnidentifiedImageError:
            return None  # of a format that the source may know
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _UnreadError(f"is too large: {error}") from None
        except BROKEN as error:
            raise _UnreadError(f"can't be decoded ({error})") from None


def _check_pixels(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > LARGEST_PIXELS:
        raise _UnreadError(f"has {width:,} x {height:,} pixels, and at most {LARGEST_PIXELS:,} are decoded")


def _plain(picture: Image.Image) -> bool:
    """Whether there is one way to show it, as far as one can tell: opaque, and not turned."""
    if picture.mode not in ("RGB", "L") or "transparency" in picture.info:
        return False
    try:
        return "exif" not in picture.info or picture.getexif().get(_ORIENTATION, 1) == 1
    except BROKEN:
        return False
