"""What of a picture's file may be decoded: its size, its formats, and what a broken one raises."""

from __future__ import annotations

import struct
from functools import cache

from PIL import Image

LARGEST_BYTES = 64 << 20
LARGEST_PIXELS = 50_000_000
"""A phone's picture has 12 to 50 million. While the largest is decoded it takes 0.2 to 0.8 GB, by format."""
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000", "TIFF", "BMP", "ICO", "PPM", "TGA")
"""What shops have. Whatever a file is called, Pillow would know forty more; one of them, EPS, is a program to run."""
BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, RuntimeError, ArithmeticError, LookupError, struct.error),
    *(Image.DecompressionBombError, Warning),
)
"""What Pillow raises for broken files, by format; a warning where the process makes errors of them."""


@cache
def known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
