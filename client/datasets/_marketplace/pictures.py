"""Product pictures drawn from signed distances, in numpy alone.

Only + - * / sqrt, minimum and maximum touch the pixels, all of them exactly rounded by IEEE 754, so that a picture
has the same bytes on every machine. One picture of 64 x 64 costs about half a millisecond.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from client.datasets._marketplace.items import Items
from client.datasets._marketplace.silhouettes import SILHOUETTES
from client.datasets._marketplace.vocabulary import ATTRIBUTES, TYPES

RENDERER = "silhouettes-1"
"""Part of each picture's digest: it changes with whatever changes a pixel."""

COLOURS = np.array(
    [
        (206, 36, 40),
        (240, 128, 32),
        (244, 206, 60),
        (44, 140, 76),
        (40, 88, 190),
        (126, 66, 168),
        (242, 152, 182),
        (128, 82, 48),
        (144, 148, 154),
        (42, 42, 48),
    ],
    np.float32,
)
ACCENTS = np.array([(0, 0, 0), (250, 250, 246), (222, 172, 40), (24, 186, 180), (226, 30, 140)], np.float32)
BACKDROPS = np.array([(250, 250, 250), (247, 230, 208), (212, 228, 245)], np.float32)
METAL, BLACK, WHITE, EDGE = np.array([(168, 172, 178), (34, 34, 38), (248, 248, 246), (150, 150, 152)], np.float32)
CUTS = ((0.80, 1.04), (0.96, 0.97), (1.08, 0.80))
"""Width and height factors of slim, regular and chunky."""

VISIBLE = tuple(attribute for attribute in ATTRIBUTES if attribute.modality != "text")
"""What a picture shows."""

Grid = tuple[np.ndarray, np.ndarray]


def render(items: Items, index: int, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the picture of item `index`, whether or not the shop shows it."""
    code = {name: int(column[index]) for name, column in items.codes.items()}
    colour = COLOURS[code["colour"]] * np.float32(items.shade[index])
    dark = colour * np.float32(0.62) if code["colour"] != 9 else colour * np.float32(1.0) + np.float32(46)
    accent = dark if code["accent"] == 0 else ACCENTS[code["accent"]]
    roles = {"D": dark, "A": accent, "M": METAL, "K": BLACK, "W": WHITE}
    grid = _posed(size, items.pose[index], code["cut"])
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKDROPS[code["backdrop"]]
    _floor(canvas, size)
    layers, outline = _distances(TYPES[items.types[index]].name, grid)
    soft = np.float32(size)
    width, edge = (0.030, BLACK) if code["finish"] == 2 else (0.010, EDGE)
    _paint(canvas, edge, np.clip(np.float32(0.5) - (outline - np.float32(width)) * soft, 0, 1))
    body = _body(grid, colour, dark, code["pattern"])
    for role, distance in layers:
        cover = np.clip(np.float32(0.5) - distance * soft, 0, 1)
        _paint(canvas, body if role == "B" else roles[role], cover)
    if code["finish"] == 1:
        _gloss(canvas, grid, outline, soft)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def _paint(canvas: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
    canvas += (colour - canvas) * cover[:, :, None].astype(np.float32)


@lru_cache(maxsize=4)
def _pixels(size: int) -> Grid:
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return np.broadcast_to(centre, (size, size)), np.broadcast_to(centre[:, None], (size, size))


def _posed(size: int, pose: np.ndarray, cut: int) -> Grid:
    """Coordinates of each pixel in the silhouette's own square: shifted, turned, scaled, mirrored."""
    shift_x, shift_y, turn, scale, mirror = (float(number) for number in pose)
    x, y = _pixels(size)
    x, y = x - np.float32(0.5 + shift_x), y - np.float32(0.5 + shift_y)
    cosine, sine = np.float32(round(math.cos(turn), 5)), np.float32(round(math.sin(turn), 5))
    wide, high = CUTS[cut]
    across = (cosine * x + sine * y) / np.float32(0.92 * scale * wide * mirror)
    down = (cosine * y - sine * x) / np.float32(0.92 * scale * high)
    return across + np.float32(0.5), down + np.float32(0.5)


def _floor(canvas: np.ndarray, size: int) -> None:
    """The table's edge: a slightly darker lower quarter, as in a shop's photograph."""
    canvas[size * 4 // 5 :] *= np.float32(0.95)


def _distances(name: str, grid: Grid) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """Distance of each pixel to each run of shapes of one role, and to the whole silhouette."""
    layers: list[tuple[str, np.ndarray]] = []
    for role, kind, numbers in SILHOUETTES[name]:
        distance = _distance(kind, numbers, *grid)
        if layers and layers[-1][0] == role:
            layers[-1] = (role, np.minimum(layers[-1][1], distance))
        else:
            layers.append((role, distance))
    outline = layers[0][1]
    for _, distance in layers[1:]:
        outline = np.minimum(outline, distance)
    return layers, outline


def _distance(kind: str, numbers: tuple[float, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance, negative inside, of each pixel to one shape (Quilez, '2D distance functions')."""
    if kind == "poly":
        return _polygon(numbers, x, y)
    if kind == "line":
        x0, y0, x1, y1, width = (np.float32(number) for number in numbers)
        along_x, along_y = x1 - x0, y1 - y0
        share = np.clip(((x - x0) * along_x + (y - y0) * along_y) / (along_x * along_x + along_y * along_y), 0, 1)
        return np.sqrt((x - x0 - share * along_x) ** 2 + (y - y0 - share * along_y) ** 2) - width / 2
    centre_x, centre_y, first, second, *rest = (np.float32(number) for number in numbers)
    if kind == "box":
        corner = min(rest[0], first, second)
        over_x = np.abs(x - centre_x) - (first - corner)
        over_y = np.abs(y - centre_y) - (second - corner)
        outside = np.sqrt(np.maximum(over_x, 0) ** 2 + np.maximum(over_y, 0) ** 2)
        return outside + np.minimum(np.maximum(over_x, over_y), 0) - corner
    if kind == "oval":
        radius = np.sqrt(((x - centre_x) / first) ** 2 + ((y - centre_y) / second) ** 2)
        return (radius - 1) * min(first, second)
    ring = np.abs(np.sqrt((x - centre_x) ** 2 + (y - centre_y) ** 2) - first) - second / 2
    if kind == "arch":
        return np.maximum(ring, y - centre_y)
    return np.maximum(ring, centre_y - y) if kind == "cup" else ring


def _polygon(numbers: tuple[float, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to a polygon with corners rounded by 0.012; inside is decided by crossings."""
    points = np.array(numbers, np.float32).reshape(-1, 2)
    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, 1, axis=0), strict=True):
        edge_x, edge_y = x1 - x0, y1 - y0
        from_x, from_y = x - x0, y - y0
        share = np.clip((from_x * edge_x + from_y * edge_y) / (edge_x * edge_x + edge_y * edge_y), 0, 1)
        nearest = np.minimum(nearest, (from_x - share * edge_x) ** 2 + (from_y - share * edge_y) ** 2)
        if edge_y != 0:
            inside ^= ((y0 > y) != (y1 > y)) & (from_x < edge_x * from_y / edge_y)
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest) - np.float32(0.012)


def _body(grid: Grid, colour: np.ndarray, dark: np.ndarray, pattern: int) -> np.ndarray:
    """The body's colour at each pixel [size, size, 3], with its pattern in a lighter or darker shade."""
    x, y = grid
    flat = np.broadcast_to(colour, (*x.shape, 3))
    if pattern == 0:
        return flat
    bright = float(colour.sum()) > 400
    second = dark * np.float32(0.8) if bright else colour * np.float32(0.25) + np.float32(188)
    strength = _pattern(pattern, x, y)
    return flat + (second - colour) * strength[:, :, None].astype(np.float32)


def _pattern(pattern: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the second shade each pixel has, in [0, 1]."""
    if pattern == 1:
        return _wave(y * 7)
    if pattern == 2:
        row = np.floor(y * 7)
        across = (x * 7 + row * 0.5) % 1 - 0.5
        down = (y * 7) % 1 - 0.5
        return np.clip((0.32 - np.sqrt(across**2 + down**2)) * 8, 0, 1)
    if pattern == 3:
        return (_wave(x * 5) + _wave(y * 5)) * 0.5
    if pattern == 4:
        return _wave((y + np.abs((x * 5) % 1 - 0.5) * 0.22) * 6.5)
    return np.clip((y - 0.52) * 64 + 0.5, 0, 1)


def _wave(phase: np.ndarray) -> np.ndarray:
    """Bands of period 1, half on and half off, with soft edges."""
    return np.clip((np.abs(phase % 1 - 0.5) - 0.25) * 8 + 0.5, 0, 1)


def _gloss(canvas: np.ndarray, grid: Grid, outline: np.ndarray, soft: np.float32) -> None:
    """Two bright streaks across the product."""
    x, y = grid
    slant = x + y * np.float32(0.7)
    streak = np.maximum(
        np.clip((0.055 - np.abs(slant - 0.62)) * 40, 0, 1), np.clip((0.02 - np.abs(slant - 0.76)) * 40, 0, 1)
    )
    inside = np.clip(np.float32(0.5) - (outline + np.float32(0.02)) * soft, 0, 1)
    _paint(canvas, np.full(3, 255, np.float32), streak * inside * np.float32(0.75))


@dataclass(frozen=True)
class Pictures:
    """The catalogue's pictures: rendered on each call, None for the few items whose merchant sent none."""

    items: Items
    size: int

    def __call__(self, index: int) -> np.ndarray | None:
        """uint8 [size, size, 3]."""
        return None if self.items.lacks_picture[index] else self.pixels(index)

    def pixels(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3], even where the merchant sent no picture."""
        return render(self.items, index, self.size)

    def digest(self, index: int) -> str | None:
        """Hash of what decides the pixels, without rendering them."""
        if self.items.lacks_picture[index]:
            return None
        shown = (RENDERER, self.size, TYPES[self.items.types[index]].name)
        visible = tuple(int(self.items.codes[attribute.name][index]) for attribute in VISIBLE)
        numbers = (*self.items.pose[index].tolist(), float(self.items.shade[index]))
        return hashlib.sha256(repr((shown, visible, numbers)).encode()).hexdigest()

    def path(self, index: int) -> str | None:
        """None: nothing lies on disk."""
        return None
