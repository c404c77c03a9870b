"""What the smaller commands look up: data sets, features."""

from __future__ import annotations

import inspect
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from mmrank import components
from mmrank.features import Work
from mmrank.settings import Settings, parse
from simulations import config as configs
from simulations._stage import Shared, encoded, resolve_device
from simulations.progress import Display
from simulations.same_products import product_groups, same_products

DATASETS = "client.datasets"
SAMPLE = 200
"""Clients whose slates are counted."""


def datasets() -> dict[str, Any]:
    """Each data set's first paragraph, what its folder must hold, its size, licence with citation, and settings."""
    found = {}
    for name in components.available(DATASETS):
        module = components.load(DATASETS, name)
        parameters = inspect.signature(module.load).parameters.values()
        found[name] = {
            "summary": " ".join((module.__doc__ or "").strip().split("\n\n")[0].split()),
            "needs": getattr(module, "HOLDS", None),
            "size": getattr(module, "SIZE", None),
            "licence": _licence(module.__doc__ or ""),
            "settings": {item.name: None if item.default is item.empty else item.default for item in parameters},
        }
    return found


def _licence(doc: str) -> str | None:
    """What a docstring says from the word Licence on, to the end of the paragraph.

    >>> _licence("Rows.\\n\\nMore. Licence: MIT, with\\ncitation (A 2020).\\n\\nLast.")
    'MIT, with citation (A 2020).'
    """
    found = re.search(r"Licence(?::| and citation are)\s+(.*?)(?:\n\n|$)", doc.strip(), re.DOTALL)
    return None if found is None else " ".join(found[1].split())


def describe(name: str, overrides: Iterable[str]) -> dict[str, Any]:
    """Sizes of a data set, by its name or by a configuration that names it."""
    if name.endswith((".yaml", ".yml")):
        settings = configs.load(name, overrides)
    else:
        settings = parse(configs.with_overrides({"dataset": {"name": name}}, overrides))
        configs.check_components(settings)
    dataset = components.build(DATASETS, settings.dataset, entry="load")
    catalog, clients = dataset.catalog, list(dataset.client_ids[:SAMPLE])
    found: dict[str, Any] = {
        "name": dataset.name,
        "version": dataset.version,
        "synthetic": dataset.synthetic,
        "simulation_only": dataset.simulation_only,
        "items": len(catalog),
        "items_without_title": sum(not title.strip() for title in catalog.titles),
        "items_without_price": int((catalog.prices != catalog.prices).sum()),
        "categories": len(catalog.category_names),
        "merchants": len(catalog.merchant_names),
        "clients": len(dataset.client_ids),
        "kinds": dict(Counter(dataset.kind(client) for client in dataset.client_ids)),
        "clients_counted": len(clients),
    }
    for split in ("train", "validation", "test"):
        slates = [slate for client in clients for slate in dataset.slates(client, split)]
        found[split] = {
            "slates": len(slates),
            "candidates (median)": statistics.median(len(slate.candidates) for slate in slates) if slates else 0,
            "with a query": sum(bool(slate.query) for slate in slates),
            "nothing relevant": sum(not (slate.relevance > 0).any() for slate in slates),
        }
    notes = getattr(dataset, "notes", ())
    return found | ({"notes": "; ".join(notes)} if notes else {})


def same(config: Path, overrides: Iterable[str], *, console: Console | None) -> dict[str, Any]:
    """Pairs of items of different merchants that are one product, the nearest first; how many products there are."""
    settings = configs.load(config, overrides)
    dataset = components.build(DATASETS, settings.dataset, entry="load")
    table = encoded(settings, dataset, resolve_device(settings.device), Display(console), Shared())
    catalog = dataset.catalog
    pairs = same_products(table, catalog.merchants)
    told = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.text.tolist(), pairs.image.tolist(), strict=True)
    return {
        "items": len(catalog),
        "products": int(product_groups(pairs, catalog.merchants).max(initial=-1)) + 1,
        "pairs": [
            {
                "item": catalog.item_ids[first],
                "other": catalog.item_ids[second],
                "title": catalog.titles[first],
                "other_title": catalog.titles[second],
                "text": None if text != text else round(text, 3),
                "image": None if image != image else round(image, 3),
            }
            for first, second, text, image in told
        ],
    }


def encode(config: Path, overrides: Iterable[str], *, workers: int | None, console: Console | None) -> dict[str, Any]:
    """Fill the feature cache of a configuration, with so many threads; by default one for each core."""
    settings = configs.load(config, overrides)
    dataset = components.build(DATASETS, settings.dataset, entry="load")
    display = Display(console)
    table = encoded(settings, dataset, resolve_device(settings.device), display, Shared(), workers=workers)
    return {
        "dataset": dataset.name,
        "items": len(table),
        "text": _encoder(settings, "text"),
        "image": _encoder(settings, "image"),
        "titles": _work(table.work["text"]),
        "pictures": _work(table.work["image"]),
        "local": dict(table.local),
        "missing": dict(table.missing),
        "digest": table.digest,
        "cache": str(Path(settings.features_cache).expanduser()),
        "seconds": round(sum(display.seconds.values()), 2),
    }


def _work(work: Work) -> dict[str, Any]:
    rate = None if work.per_second is None else round(work.per_second, 1)
    return vars(work) | {"seconds": round(work.seconds, 2), "per_second": rate}


def _encoder(settings: Settings, kind: str) -> str | None:
    model = settings.model
    used = model.use_text if kind == "text" else model.use_image
    return str((model.text if kind == "text" else model.image)["name"]) if used else None
