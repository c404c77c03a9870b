"""A few test queries, ranked for a stranger and for the person who asked: what personalisation changed, to look at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mmrank.catalog import Catalog
from mmrank.metrics import slate_metrics
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker
from mmrank.slates import Slate, collate
from simulations._stage import Stage
from simulations.rows._ranker import ranker_scores

COUNT = 6
TOP = 8
HISTORY = 10
CLIENTS = 40
"""Clients that are looked through for queries: enough to find some, few enough to be quick."""

Thumbnail = Callable[[np.ndarray | None], str | None]


def examples(stage: Stage, ranker: Ranker, thumbnail: Thumbnail) -> list[dict[str, Any]]:
    """COUNT random test slates with a history and something relevant, as plain values; searches before browsing."""
    found = [
        (client, slate)
        for client in stage.evaluator.client_ids("test")[:CLIENTS]
        for slate in stage.dataset.slates(client, "test")
        if len(slate.history) >= 3 and (slate.relevance > 0).any()
    ]
    order = numpy_generator(stage.settings.seed, "report-examples").permutation(len(found))
    drawn = [found[place] for place in order]
    asked = [(client, slate) for client, slate in drawn if slate.query]
    browsed = [(client, slate) for client, slate in drawn if not slate.query]
    chosen = _varied(asked + browsed)[:COUNT]
    return [_example(stage, ranker, client, slate, thumbnail) for client, slate in chosen]


def _varied(drawn: list[tuple[str, Slate]]) -> list[tuple[str, Slate]]:
    """In the order given, but a query or a person that was there before comes after all that are new."""
    new: list[tuple[str, Slate]] = []
    again: list[tuple[str, Slate]] = []
    queries: set[str] = set()
    people: set[tuple[str, int]] = set()
    for client, slate in drawn:
        seen = (slate.query and slate.query in queries) or (client, slate.user) in people
        (again if seen else new).append((client, slate))
        queries.add(slate.query)
        people.add((client, slate.user))
    return new + again


def _example(stage: Stage, ranker: Ranker, client: str, slate: Slate, thumbnail: Thumbnail) -> dict[str, Any]:
    catalog = stage.dataset.catalog
    batch = collate([slate], history_length=stage.settings.model.history_length)
    entry: dict[str, Any] = {
        "client": client,
        "query": slate.query,
        "candidates": len(slate.candidates),
        "history": [item(catalog, int(index), thumbnail) for index in _newest(slate)],
    }
    for name, empty in (("before", True), ("after", False)):
        scores = ranker_scores(ranker, stage.features, batch, empty_history=empty, device=stage.device)
        values = slate_metrics(scores, batch.relevance.numpy(), batch.candidate_mask.numpy())
        best = np.argsort(-scores[0], kind="stable")[:TOP]
        entry[name] = [
            item(catalog, int(slate.candidates[place]), thumbnail) | {"relevance": float(slate.relevance[place])}
            for place in best
        ]
        entry[f"{name}_ndcg"] = float(values["ndcg@10"][0])
    return entry


def _newest(slate: Slate) -> list[int]:
    """The last events' items, newest first, each once."""
    return list(dict.fromkeys(int(index) for index in slate.history[::-1]))[:HISTORY]


def item(catalog: Catalog, index: int, thumbnail: Thumbnail) -> dict[str, Any]:
    """What a person sees of a product."""
    price = float(catalog.prices[index])
    return {
        "item_id": catalog.item_ids[index],
        "title": catalog.titles[index],
        "price": price if math.isfinite(price) else None,
        "picture": thumbnail(catalog.images(index)),
    }
