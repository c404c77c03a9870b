"""Sizes: rows, items, people, clients, slates, time span, languages."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from client.datasets import Dataset
from client.datasets._shaping.parts import SPLITS
from client.datasets._source import Source

SAMPLE_TITLES = 5000
SAMPLE_CLIENTS = 200
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
SCRIPTS = {
    "CJK": "Chinese characters",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "LATIN": "Latin letters",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "GREEK": "Greek",
    "THAI": "Thai",
    "DEVANAGARI": "Devanagari",
}
"""By the first word of a letter's Unicode name."""


def source_facts(source: Source) -> dict[str, Any]:
    """Rows by file, people, events by kind, and the time span, of what was read."""
    found: dict[str, Any] = {
        "rows": dict(source.findings.rows),
        "people": len(source.users) or None,
        "queries": len(source.queries),
        "timed": source.timed,
    }
    times = [source.events.time] if source.events is not None else []
    times += [lists.time for lists in source.lists if not lists.judged]
    spans = [(float(np.nanmin(time)), float(np.nanmax(time))) for time in times if np.isfinite(time).any()]
    if spans:
        found["span"] = [day(min(low for low, _ in spans)), day(max(high for _, high in spans))]
    if source.events is not None:
        found["events"] = {
            "all": len(source.events),
            "chosen": int((source.events.relevance > 0).sum()),
            "with a query": int((source.events.query >= 0).sum()),
        }
    if source.lists:
        found["lists"] = {
            "all": sum(len(lists) for lists in source.lists),
            "judged": sum(len(lists) for lists in source.lists if lists.judged),
        }
    return found


def facts_of(dataset: Dataset, counts: np.ndarray) -> dict[str, Any]:
    """Items, clients and slates; counts: see `slate_counts`."""
    catalog = dataset.catalog
    titled = [title for title in catalog.titles if title.strip()]
    prices = catalog.prices[np.isfinite(catalog.prices)]
    sizes = counts.sum(axis=1)
    return {
        "items": len(catalog),
        "items_without_title": len(catalog) - len(titled),
        "items_without_price": int(len(catalog) - len(prices)),
        "categories": len([name for name in catalog.category_names if name]),
        "merchants": len([name for name in catalog.merchant_names if name]),
        "languages": scripts(titled[:: max(1, len(titled) // SAMPLE_TITLES)]),
        "prices": quantiles(prices),
        "clients": len(dataset.client_ids),
        "kinds": sorted({dataset.kind(client) for client in dataset.client_ids[:SAMPLE_CLIENTS]}),
        "slates": int(sizes.sum()),
        "parts": dict(zip(SPLITS, counts.sum(axis=0).tolist(), strict=True)),
        "slates_of_a_client": quantiles(sizes),
        "simulation_only": dataset.simulation_only,
    }


def slate_counts(dataset: Dataset) -> np.ndarray:
    """int64 [clients, 3], by part: counted where the data set counts, else of the slates that it makes."""
    counted = getattr(dataset, "slate_counts", None)
    if counted is not None:
        return counted()
    made = [[len(dataset.slates(client, split)) for split in SPLITS] for client in dataset.client_ids]
    return np.array(made, np.int64).reshape(-1, len(SPLITS))


def scripts(titles: Iterable[str]) -> dict[str, float]:
    """The share of titles in which each script has letters, the most frequent first.

    >>> scripts(["Nike 男鞋", "boots"])
    {'Latin letters': 1.0, 'Chinese characters': 0.5}
    """
    found: Counter[str] = Counter()
    count = 0
    for title in titles:
        count += 1
        found.update({SCRIPTS.get(name, "other") for name in map(_script, set(title)) if name})
    return {name: round(times / count, 3) for name, times in found.most_common()}


def quantiles(values: Sequence[float] | np.ndarray) -> list[float]:
    """Least, quarter, median, three quarters, most; nothing of nothing."""
    return [round(float(value), 2) for value in np.quantile(values, QUANTILES)] if len(values) else []


def day(days: float) -> str:
    """A day since 1970 as people write it."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ", 1)[0].split("-", 1)[0] if letter.isalpha() else ""
