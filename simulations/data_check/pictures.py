"""Pictures: which are missing, can't be decoded, or are the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from client.datasets._reading.findings import PLACES, Findings
from client.datasets._reading.pictures import fault_of_picture
from mmrank.catalog import Catalog

THREADS = 4
"""Pillow decodes without Python's lock."""
CHUNK = 256


def check_pictures(catalog: Catalog, findings: Findings, update: Callable[..., None]) -> dict[str, Any]:
    """Counts, a few examples for the page, and a warning for each kind of fault. Every file is decoded once, small."""
    items = len(catalog)
    digests: Counter[bytes] = Counter()
    broken: list[tuple[int, str]] = []
    missing = 0
    shown: list[int] = []
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, items, CHUNK):
            rows = range(start, min(start + CHUNK, items))
            for item, found in zip(rows, threads.map(lambda item: _look(catalog, item), rows), strict=True):
                if found is None:
                    missing += 1
                elif isinstance(found, str):
                    broken.append((item, found))
                else:
                    digests[found] += 1
                    if digests[found] == 1 and len(shown) < 24:
                        shown.append(item)
            update(rows.stop)
    doubled = sum(count for count in digests.values() if count > 1)
    if broken:
        examples = "; ".join(f"{catalog.item_ids[item]}: {reason}" for item, reason in broken[:PLACES])
        text = f"pictures that can't be read, their items count as without one: {examples}"
        findings.add("warning", "pictures_unreadable", "pictures", text, count=len(broken))
    if missing == items:
        findings.add("note", "pictures_none", "pictures", "no item has a picture; the ranker reads titles alone")
    elif missing:
        findings.add("warning", "pictures_missing", "pictures", "items without a picture", count=missing)
    if doubled:
        text = f"items share {sum(count > 1 for count in digests.values())} pictures between them"
        findings.add("note", "pictures_duplicate", "pictures", text, count=doubled)
    return {
        "read": items - missing - len(broken),
        "missing": missing,
        "unreadable": len(broken),
        "duplicate": doubled,
        "examples": shown,
    }


def _look(catalog: Catalog, item: int) -> bytes | str | None:
    """A hash of the picture, why it can't be read, or None where there is none."""
    path = catalog.images.path(item)
    if path is None:
        pixels = catalog.images(item)
        return None if pixels is None else _hash(pixels)
    fault = fault_of_picture(Path(path))
    return fault if fault is not None else hashlib.sha256(Path(path).read_bytes()).digest()


def _hash(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
