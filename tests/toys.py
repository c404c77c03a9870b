"""A shop of a few items, and slates over it, for tests that need a whole ranker in milliseconds."""

from __future__ import annotations

import hashlib

import numpy as np

from mmrank.catalog import Catalog
from mmrank.randomness import numpy_generator
from mmrank.settings import ModelSettings
from mmrank.slates import Slate

TYPES = ("running shoes 运动鞋", "shirt 衬衫", "lamp 台灯", "mug 马克杯")
COLOURS = ("red 红色", "blue 蓝色", "green 绿色")


class ToyImages:
    """16 x 16 pictures in the item's colour; item 3 has none."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, index: int) -> np.ndarray | None:
        if index == 3:
            return None
        picture = numpy_generator(0, "toy-picture", index).integers(0, 120, (16, 16, 3)).astype(np.uint8)
        picture[..., index % 3] += 120
        return picture

    def digest(self, index: int) -> str | None:
        picture = self(index)
        return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()

    def path(self, index: int) -> str | None:
        return None


def toy_catalog(items: int = 40) -> Catalog:
    """Items of four types and three colours; item 2 has no title, item 3 no picture, item 4 no price."""
    titles = [f"{COLOURS[i % 3]} {TYPES[i % 4]} no {i}" for i in range(items)]
    titles[2] = ""
    prices = np.linspace(5, 90, items).astype(np.float32)
    prices[4] = np.nan
    return Catalog(
        name="toy",
        item_ids=[f"item-{i}" for i in range(items)],
        titles=titles,
        prices=prices,
        merchants=np.zeros(items, np.int64),
        merchant_names=["shop"],
        categories=np.arange(items) % 4,
        category_names=list(TYPES),
        images=ToyImages(items),
    )


def toy_slates(count: int, *, items: int = 40, length: int = 8, history: int = 5, seed: int = 0) -> list[Slate]:
    """Slates whose person likes one colour; every third has no history, every fourth no query."""
    slates = []
    for row in range(count):
        draw = numpy_generator(seed, "toy-slate", row)
        candidates = draw.choice(items, length, replace=False)
        liked = row % 3
        relevance = (candidates % 3 == liked).astype(np.float32) * draw.integers(1, 3, length)
        past = 0 if row % 3 == 2 else history
        slates.append(
            Slate(
                query="" if row % 4 == 3 else ("running shoes", "运动鞋", "red shirt")[row % 3],
                candidates=candidates,
                relevance=relevance.astype(np.float32),
                position=np.arange(length),
                history=draw.choice(np.arange(liked, items, 3), past),
                event_type=draw.integers(0, 4, past),
                age_days=np.sort(draw.uniform(0, 60, past))[::-1].astype(np.float32),
                time_days=float(row),
                user=row % 5,
            )
        )
    return slates


def toy_model(**changes) -> ModelSettings:
    """Small frozen towers without pretrained weights."""
    settings = {
        "text": {"name": "hashing"},
        "image": {"name": "histogram"},
        "dim": 8,
        "feature_dim": 12,
        "history_length": 8,
    }
    return ModelSettings(**{**settings, **changes})
