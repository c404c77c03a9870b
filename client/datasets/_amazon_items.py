"""One row of Amazon's metadata, of 2023, 2018 or 2014, as a product; what is page script or markup in it is cleaned."""

from __future__ import annotations

import ast
import html
import math
import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from client.datasets._reading.items import LONGEST_ID, LONGEST_TITLE

IMAGES = "images"
SIZES = ("hi_res", "large", "thumb")
LARGEST_PRICE = 1e9
_PRICE = re.compile(r"(?:from )?[$£€]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s*(?:- .*)?")
_NO_PRICE = ("", "None", "null", "—", "-")
_ALT = re.compile(r'alt="([^"]*)"')
_SCRIPT = "getTime"
"""Of the page's script that stands in place of some titles of 2018."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """item_id, price: '' and NaN where there is none. faults: (code, what it is and what became of it)."""

    item_id: str
    title: str
    merchant: str
    category: str
    main_category: str
    price: float
    picture: str
    faults: tuple[tuple[str, str], ...]


def product_of(row: Mapping[str, Any], folder: str | None, *, by: str, level: int) -> Product:
    """folder: of pictures, None where there is none. by: basename or asin. level: the step of the path to take."""
    item_id = _text(row.get("parent_asin") or row.get("asin"))
    if len(item_id) > LONGEST_ID or not item_id.isprintable():
        item_id = ""
    faults = []
    title, path, main = _text(row.get("title")), _path(row), _main(row)
    if _SCRIPT in title:
        faults.append(("title", "a page's script in place of a title; it is left blank"))
        title = ""
    price = _price(row.get("price"))
    if price is None:
        faults.append(("price", "no price of at least 0; the item has none"))
    return Product(
        item_id=item_id,
        title=title[:LONGEST_TITLE],
        merchant=sys.intern(_brand(row.get("store") or row.get("brand"))),
        category=sys.intern(path[min(level, len(path) - 1)] if path else main),
        main_category=sys.intern(main or (path[0] if path else "")),
        price=math.nan if price is None else price,
        picture=_picture(folder, item_id, row, by),
        faults=tuple(faults),
    )


def object_of(text: str) -> dict[str, Any] | None:
    """What is between braces, as JSON or as the Python literals of 2014; None where it is neither."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            with warnings.catch_warnings():  # of backslashes that escape nothing
                warnings.simplefilter("ignore")
                found = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, dict) else None


def _text(value: Any) -> str:
    """Without entities and breaks; '' for what is no text.

    >>> _text("Pr45&quot; White\\n Laces"), _text(["a"]), _text(None)
    ('Pr45" White Laces', '', '')
    """
    if not isinstance(value, str):
        return ""
    whole = value.encode("utf-8", "replace").decode()  # half a pair of UTF-16 can be no text
    return " ".join(html.unescape(whole).split())


def _brand(value: Any) -> str:
    """
    >>> _brand("Visit Amazon's Paulo Coelho Page"), _brand("by\\n    \\n    Acme")
    ('Paulo Coelho', 'Acme')
    """
    text = _text(value).removeprefix("by ")
    return text.removeprefix("Visit Amazon's ").removesuffix(" Page") if text.startswith("Visit Amazon's ") else text


def _path(row: Mapping[str, Any]) -> list[str]:
    """From the root to the item's own shelf; of several paths the first. In 2018 features follow, behind a tag."""
    value = row.get("categories") or row.get("category")
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    steps = [step for step in value if isinstance(step, str)] if isinstance(value, list) else []
    end = next((place for place, step in enumerate(steps) if "</span>" in step), len(steps))
    return [text for text in map(_text, steps[:end]) if text]


def _main(row: Mapping[str, Any]) -> str:
    """The shop's department; in 2018 it may be a logo, whose text names it."""
    text = row.get("main_category") or row.get("main_cat")
    logo = _ALT.search(text) if isinstance(text, str) and "<img" in text else None
    return _text(logo[1] if logo else text)


def _price(value: Any) -> float | None:
    """In dollars; NaN where there is none, None where it is no price.

    >>> _price(17.5), _price("$1,299.00 - $1,500.00"), _price("from 14.99"), _price("—"), _price("-3")
    (17.5, 1299.0, 14.99, nan, None)
    """
    text = "" if value is None else str(value).strip()
    if text in _NO_PRICE:
        return math.nan
    found = _PRICE.fullmatch(text)
    price = float(found[1].replace(",", "")) if found else math.inf
    return price if price <= LARGEST_PRICE else None


def _picture(folder: str | None, item_id: str, row: Mapping[str, Any], by: str) -> str:
    """The path under the root of the item's picture; the first of its addresses whose file is there."""
    if by == "asin":
        return f"{IMAGES}/{item_id}.jpg"
    if folder is None:
        return ""
    for address in _addresses(row):
        name = address.split("?")[0].rsplit("/", 1)[-1]
        for written in dict.fromkeys((name, unquote(name))):
            if written.strip(".") and "/" not in written and os.path.isfile(f"{folder}/{written}"):
                return f"{IMAGES}/{written}"
    return ""


def _addresses(row: Mapping[str, Any]) -> list[str]:
    """Of the main picture, the largest first: 2023, 2018, 2014."""
    images = row.get("images")
    if isinstance(images, dict):  # as Hugging Face's datasets writes it
        images = [dict(zip(images, parts, strict=False)) for parts in zip(*map(_list, images.values()), strict=False)]
    images = [image for image in _list(images) if isinstance(image, dict)]
    images.sort(key=lambda image: image.get("variant") != "MAIN")
    found = [image.get(size) for image in images[:1] for size in SIZES]
    found += [value for name in ("imageURLHighRes", "imageURL", "imUrl") for value in _list(row.get(name))[:1]]
    return [address for address in found if isinstance(address, str) and address]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
