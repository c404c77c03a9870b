"""Small pictures inside a page, and the queries that show what personalisation changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

THUMBNAIL = 96
"""Pixels of the longer side of an embedded picture."""


def thumbnail(picture: np.ndarray | None) -> str | None:
    """A data: URL of a small JPEG of uint8 [height, width, 3], or None where there is no picture."""
    if picture is None:
        return None
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def examples_html(examples: Sequence[Mapping[str, Any]]) -> str:
    """Queries with the top results of the same model without and with the person's history."""
    return "".join(_example(example) for example in examples)


def _example(example: Mapping[str, Any]) -> str:
    query = example["query"] or "(browsing, no query)"
    parts = [
        f'<div class="query"><h3>{escape(query)}</h3>'
        f'<p class="soft">{escape(_short(example["client"]))} · {int(example["candidates"])} products on offer · '
        f"nDCG@10 {example['before_ndcg']:.2f} without the history, {example['after_ndcg']:.2f} with it</p>"
    ]
    if example["history"]:
        parts.append(
            '<p class="soft">What the person did before, newest first</p>' + _strip(example["history"], small=True)
        )
    parts.append('<p class="soft">Top results for a stranger</p>' + _strip(example["before"]))
    parts.append('<p class="soft">Top results for this person</p>' + _strip(example["after"]))
    return "".join(parts) + "</div>"


def _short(client: str) -> str:
    """Names that are hashes are cut."""
    return client if len(client) <= 20 else f"{client[:10]}…"


def _strip(items: Sequence[Mapping[str, Any]], *, small: bool = False) -> str:
    return f'<div class="strip{" small" if small else ""}">{"".join(_item(item, small) for item in items)}</div>'


def _item(item: Mapping[str, Any], small: bool) -> str:
    picture = item["picture"]
    image = (
        f'<img src="{picture}" alt="{escape(item["title"])}" loading="lazy">'
        if picture
        else '<div class="none">no picture</div>'
    )
    if small:
        return f'<div class="item" title="{escape(item["title"])}">{image}</div>'
    chosen = {1: "<em>clicked</em>", 2: "<em>bought</em>"}.get(min(int(item["relevance"]), 2), "")
    price = "" if item["price"] is None else f"{item['price']:,.2f}" if item["price"] >= 1 else f"{item['price']:.3f}"
    return (
        f'<div class="item{" hit" if chosen else ""}">{image}<div><span class="title">{escape(item["title"])}</span>'
        f'<span class="soft">{price}</span> {chosen}</div></div>'
    )
