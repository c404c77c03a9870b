"""The public side of H&M: the catalogue from articles.csv, the words one may ask in, and list prices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from client.datasets._hm_tables import Articles, Pictures, Purchases, codes
from mmrank.catalog import Catalog


def read_catalog(articles: Articles, by: str, folder: Path) -> Catalog:
    fields = ("prod_name", "product_type_name", "colour_group_name", "section_name", "detail_desc")
    titles = [". ".join(filter(None, parts)) for parts in zip(*(articles[name] for name in fields), strict=True)]
    merchants, merchant_names = codes(articles[by])
    categories, category_names = codes(articles["product_type_name"])
    return Catalog(
        name="hm",
        item_ids=articles["article_id"],
        titles=titles,
        prices=np.full(len(articles), np.nan, np.float32),
        merchants=merchants,
        merchant_names=_slugs(merchant_names),
        categories=categories,
        category_names=category_names,
        images=Pictures(folder=folder / "images", item_ids=articles["article_id"]),
    )


def _slugs(names: Sequence[str]) -> tuple[str, ...]:
    """Client ids that are safe in a path: 'Lingeries/Tights' is lingeries-tights."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
        slugs.append(slug if slug not in slugs else f"{slug}-{len(slugs)}")
    return tuple(slugs)


def query_texts(articles: Articles) -> tuple[Callable[[int], str], ...]:
    kind, colour, section = (articles[f] for f in ("product_type_name", "colour_group_name", "section_name"))
    return (
        lambda item: kind[item].lower(),
        lambda item: f"{colour[item]} {kind[item]}".lower(),
        lambda item: f"{section[item]} {kind[item]}".lower(),
    )


def first_prices(purchases: Purchases, items: int) -> np.ndarray:
    """float32 [items]: mean price on an item's first day; NaN for one that nobody bought."""
    first = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(first, purchases.item, purchases.day)
    early = purchases.day == first[purchases.item]
    count = np.bincount(purchases.item[early], minlength=items)
    total = np.bincount(purchases.item[early], weights=purchases.price[early], minlength=items)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
