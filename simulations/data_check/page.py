"""What a check found as one page: figures, findings in plain words, distributions, a few pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from client.datasets import Dataset
from client.datasets._reading.findings import Finding
from simulations.data_check import Checked
from simulations.report import _page
from simulations.report._pictures import thumbnail

HEADINGS = {"error": "What must be mended first", "warning": "What to look at", "note": "Good to know"}
FACTS = (
    ("span", "From, to"),
    ("languages", "Letters in titles, share of titles"),
    ("items_without_title", "Items without a title"),
    ("items_without_price", "Items without a price"),
    ("categories", "Categories"),
    ("merchants", "Merchants"),
    ("events", "Events"),
    ("lists", "Lists that were shown or judged"),
    ("parts", "Slates by part, about"),
    ("kinds", "Kinds of clients"),
    ("slates_of_a_person", "Slates of a person: least, quarter, median, three quarters, most"),
    ("histories_of_an_event", "Histories that an event stands in: least, quarter, median, three quarters, most"),
    ("units_of_a_client", "Units of a client: least, quarter, median, three quarters, most"),
)
CLIENTS_SHOWN, CATEGORIES_SHOWN = 24, 8
PRIVATE = "This page tells of people's behaviour in numbers. Keep it with the data that it came from."


def page(checked: Checked) -> str:
    """The whole HTML document."""
    facts, name = checked.facts, checked.settings.name
    verdict = "can be used" if checked.usable else "can't be used yet"
    cards = [(_figure(facts.get(key)), key) for key in ("items", "people", "clients", "slates")]
    body = [
        f"<h1>{escape(name)}: {verdict}</h1>",
        _page.paragraph(PRIVATE, kind="banner"),
        _page.cards(cards),
        *(_findings(checked, level) for level in HEADINGS),
        _page.section("What is there", _page.facts(_lines(facts))),
        _page.section("Rows read", _page.facts((file, f"{rows:,}") for file, rows in facts.get("rows", {}).items())),
        _page.section("Labels", _page.facts((key, _value(value)) for key, value in facts.get("labels", {}).items())),
    ]
    if checked.dataset is not None and checked.counts is not None:
        dataset = checked.dataset
        body += [
            _distributions(dataset, checked.counts.sum(axis=1)),
            _partition(dataset),
            _pictures(dataset, facts.get("pictures", {})),
        ]
    return _page.page(f"mmrank data check: {name}", body)


def _findings(checked: Checked, level: Any) -> str:
    found: Sequence[Finding] = checked.findings.of(level)
    lines = "".join(f"<li>{escape(str(one))}</li>" for one in found)
    return _page.section(HEADINGS[level], f"<ul>{lines}</ul>") if found else ""


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(said, _value(facts[key])) for key, said in FACTS if facts.get(key) not in (None, [], {})]


def _figure(value: Any) -> str:
    return "unknown" if value is None else f"{value:,}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _distributions(dataset: Dataset, sizes: np.ndarray) -> str:
    try:
        from simulations.report._plots import counts_plot
    except ModuleNotFoundError:  # matplotlib comes with [sim], and a merchant's node does without
        return ""
    plots = [counts_plot(sizes[sizes > 0].tolist(), label="slates of a client", of="clients")]
    prices = dataset.catalog.prices[np.isfinite(dataset.catalog.prices) & (dataset.catalog.prices > 0)]
    if len(prices):
        plots.append(counts_plot(prices, label="price", of="items"))
    return _page.section("Distributions", *plots)


def _partition(dataset: Dataset) -> str:
    """What people of the first clients chose in training, by category: whether clients are alike."""
    try:
        from simulations.report._plots import shares_plot
    except ModuleNotFoundError:
        return ""
    catalog, clients = dataset.catalog, list(dataset.client_ids[:CLIENTS_SHOWN])
    counts = np.zeros((len(clients), len(catalog.category_names)))
    for row, client in enumerate(clients):
        for slate in dataset.slates(client, "train"):
            np.add.at(counts[row], catalog.categories[slate.candidates[slate.relevance > 0]], 1)
    if len(catalog.category_names) < 2 or len(clients) < 2 or not counts.any():
        return ""
    most = np.argsort(-counts.sum(axis=0))[:CATEGORIES_SHOWN]
    shares = {catalog.category_names[index] or "none": counts[:, index].tolist() for index in most.tolist()}
    shares["others"] = (counts.sum(axis=1) - counts[:, most].sum(axis=1)).tolist()
    return _page.section("What each client has", shares_plot(clients, shares, label="items chosen in training"))


def _pictures(dataset: Dataset, found: Mapping[str, Any]) -> str:
    tiles = []
    for item in found.get("examples", ()):
        shown = thumbnail(dataset.catalog.images(item))
        if shown is not None:
            title = escape(dataset.catalog.titles[item] or dataset.catalog.item_ids[item])
            tiles.append(f'<div class="item"><img src="{shown}" alt=""><div class="title">{title}</div></div>')
    if not tiles:
        return ""
    words = {key: value for key, value in found.items() if key != "examples"}
    return _page.section("Pictures", _page.paragraph(_value(words)), f'<div class="strip">{"".join(tiles)}</div>')
