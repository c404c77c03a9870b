"""Pictures in files under one root, decoded when asked for, none of them able to fill the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from client.datasets._reading.files import within
from mmrank._picture_limits import BROKEN, LARGEST_BYTES, LARGEST_PIXELS, known_formats


def decoded(path: Path) -> np.ndarray | str:
    """uint8 [height, width, 3], or why there is none. What is transparent is white, as on a shop's page."""
    try:
        with _opened(path) as picture:
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                page = Image.new("RGBA", picture.size, "white")
                return np.asarray(Image.alpha_composite(page, picture.convert("RGBA")).convert("RGB"))
            return np.asarray(picture.convert("RGB"))
    except BROKEN as error:
        return _fault(path, error)


def fault_of_picture(path: Path) -> str | None:
    """Why `decoded` would give no picture, or None; a JPEG is decoded at an eighth of its size, which is quicker."""
    try:
        with _opened(path) as picture:
            picture.draft("RGB", (picture.width // 8, picture.height // 8))
            picture.load()
    except BROKEN as error:
        return _fault(path, error)
    return None


class _TooLargeError(ValueError):
    """Nothing of the picture is decoded."""


def _opened(path: Path) -> Image.Image:
    """The picture, its header read alone. Raises what BROKEN names."""
    if path.stat().st_size > LARGEST_BYTES:
        raise _TooLargeError(f"larger than {LARGEST_BYTES >> 20} MB")
    picture = Image.open(path, formats=known_formats())
    if picture.width * picture.height <= LARGEST_PIXELS:
        return picture
    picture.close()
    raise _TooLargeError(f"{picture.width} x {picture.height} pixels, more than {LARGEST_PIXELS // 1_000_000} million")


def _fault(path: Path, error: Exception) -> str:
    told = str(error).replace(str(path), path.name)
    return told if isinstance(error, _TooLargeError) else f"can't be decoded ({told})"


@dataclass(eq=False)
class FolderPictures:
    """A mmrank.catalog.ImageSource over files. paths: by item, under the resolved `root`, '' where none is named.

    unreadable: why, by item, for those that were asked for so far.
    """

    root: Path
    paths: Sequence[str] = field(repr=False)
    unreadable: dict[int, str] = field(init=False, default_factory=dict, repr=False)

    def __call__(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where the file is absent, too large, outside of the root or broken."""
        path = self._file(index)
        if path is None:
            return None
        found = decoded(path)
        if isinstance(found, str):
            self.unreadable[index] = found
            return None
        return found

    def digest(self, index: int) -> str | None:
        """sha256 of the file, or None where there is none."""
        path = self._file(index)
        try:
            if path is None or path.stat().st_size > LARGEST_BYTES:
                return None
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:  # it may not be read, or is gone by now
            self.unreadable[index] = f"can't be read ({error.strerror})"
            return None

    def path(self, index: int) -> str | None:
        """Where the picture lies, or None."""
        path = self._file(index)
        return None if path is None else str(path)

    def _file(self, index: int) -> Path | None:
        relative = self.paths[index]
        if not relative or "\0" in relative or len(relative) > 4096:
            return None
        path = within(self.root, relative)
        try:
            return path if path is not None and path.is_file() else None
        except OSError:  # a name that is too long for the disk
            return None
