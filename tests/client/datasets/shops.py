"""Small shops written to disk in the forms that people have: items with pictures, events, impressions, judgments."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DAY = 86_400
FIRST = 1_700_000_000
CATEGORIES = ("shoes", "bags", "hats", "coats")
BRANDS = ("acme", "bolt", "伊利")
WORDS = ("red", "warm", "light", "运动", "复古")
ITEMS = {
    "file": "items.csv",
    "id": "item_id",
    "title": ["title", "description"],
    "image": "images/{item_id}.png",
    "merchant": "brand",
    "price": "price",
    "category": "category",
}
EVENTS = {
    "file": "events.csv",
    "user": "user_id",
    "item": "item_id",
    "time": "timestamp",
    "type": "event_type",
    "query": "query",
}
IMPRESSIONS = {
    "file": "impressions.jsonl",
    "items": "shown",
    "clicked": "clicked",
    "user": "user",
    "time": "time",
    "query": "query",
    "id": "id",
    "propensity": "propensity",
    "score": "score",
}
JUDGMENTS = {"file": "judgments.tsv", "query": "query", "item": "item", "grade": "grade"}


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    """A table with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


def write_shop(root: Path, *, items: int = 150, people: int = 40, pictures: int = 20) -> None:
    """Tables for ITEMS, EVENTS, IMPRESSIONS and JUDGMENTS; some prices and most pictures are missing."""
    draw = random.Random(5)
    rows = []
    for index in range(items):
        category, brand, word = draw.choice(CATEGORIES), draw.choice(BRANDS), draw.choice(WORDS)
        price = "" if index % 9 == 0 else f"{draw.uniform(5, 90):.2f}"
        rows.append(
            [f"{index:05d}", f"{brand} {word} {category} {index}", 'says "nice",\nwarm', brand, price, category]
        )
        if index < pictures:
            pixels = np.random.default_rng(index).integers(0, 255, (12, 9, 3), dtype=np.uint8)
            (root / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "images" / f"{index:05d}.png")
    write_csv(root / "items.csv", ["item_id", "title", "description", "brand", "price", "category"], rows)
    write_csv(
        root / "events.csv", ["user_id", "item_id", "timestamp", "event_type", "query"], _events(draw, items, people)
    )
    with (root / "impressions.jsonl").open("w", encoding="utf-8") as file:
        for row in _impressions(draw, items, people):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    judged = [
        [f"{word} {category}", f"{draw.randrange(items):05d}", draw.randrange(4)]
        for word in WORDS
        for category in CATEGORIES
        for _ in range(8)
    ]
    write_csv(root / "judgments.tsv", ["query", "item", "grade"], judged, delimiter="\t")


def _events(draw: random.Random, items: int, people: int) -> list[list[Any]]:
    rows = []
    for person in range(people):
        for _ in range(draw.randint(8, 30)):
            time = FIRST + draw.randint(0, 120) * DAY + draw.randint(0, 80_000)
            kind = draw.choice(["view", "click", "purchase"])
            query = draw.choice(["", "", "red shoes", "bags"])
            rows.append([f"u{person}", f"{draw.randrange(items):05d}", time, kind, query])
    return rows


def _impressions(draw: random.Random, items: int, people: int) -> list[Mapping[str, Any]]:
    rows = []
    for number in range(people * 8):
        shown = draw.sample(range(items), 10)
        rows.append(
            {
                "id": f"i{number}",
                "user": f"u{draw.randrange(people)}",
                "time": FIRST + draw.randint(0, 120) * DAY,
                "query": draw.choice(["", "red shoes", "复古 bags"]),
                "shown": [f"{item:05d}" for item in shown],
                "clicked": [int(draw.random() < 0.2) for _ in shown],
                "propensity": [round(1 / (place + 1), 3) for place in range(10)],
                "score": [round(draw.random(), 3) for _ in shown],
            }
        )
    return rows
