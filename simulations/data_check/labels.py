"""Labels: what popularity alone explains, what stands in training and test alike, slates that say nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from client.datasets import Dataset, Split
from client.datasets._reading.findings import Findings
from mmrank.metrics import slate_metrics
from mmrank.randomness import numpy_generator
from mmrank.slates import Slate

CLIENTS, SLATES = 500, 5000
"""Looked at, at most."""
EXPLAINED = 0.9
"""From this nDCG@10 of popularity on, there is little left to learn."""
MEASURE = "ndcg@10"


def check_labels(dataset: Dataset, findings: Findings, *, seed: int) -> dict[str, Any]:
    """Facts of a sample of slates, and warnings of labels that say little or tell what they should not."""
    order = numpy_generator(seed, "check-clients").permutation(len(dataset.client_ids))[:CLIENTS]
    clients = [dataset.client_ids[index] for index in order.tolist()]
    train = _some(dataset, clients, "train")
    test = _some(dataset, clients, "test") or _some(dataset, clients, "validation")
    slates = train + test
    if not slates:
        findings.add("error", "no_slates", dataset.name, "not one slate could be made; nothing can be trained on")
        return {}
    length = [len(slate.candidates) for slate in slates]
    found: dict[str, Any] = {
        "slates looked at": len(slates),
        "candidates (median)": float(np.median(length)),
        "with a query": round(float(np.mean([bool(slate.query) for slate in slates])), 3),
        "with a history": round(float(np.mean([len(slate.history) > 0 for slate in slates])), 3),
        "nothing relevant": round(float(np.mean([not (slate.relevance > 0).any() for slate in slates])), 3),
        "relevant of a slate (mean)": round(float(np.mean([(slate.relevance > 0).sum() for slate in slates])), 2),
    }
    if found["nothing relevant"] > 0.5:
        text = f"{found['nothing relevant']:.0%} of the slates have nothing relevant, and say nothing"
        findings.add("warning", "nothing_relevant", dataset.name, text)
    _popularity(dataset, train, test, findings, found)
    _leakage(dataset, train, test, findings, found)
    return found


def _some(dataset: Dataset, clients: list[str], split: Split) -> list[Slate]:
    found: list[Slate] = []
    for client in clients:
        found += dataset.slates(client, split)
        if len(found) >= SLATES:
            break
    return found[:SLATES]


def _popularity(
    dataset: Dataset, train: list[Slate], test: list[Slate], findings: Findings, found: dict[str, Any]
) -> None:
    """nDCG@10 of ranking by how often an item was chosen in training, beside that of chance."""
    counts = np.zeros(len(dataset.catalog))
    for slate in train:
        np.add.at(counts, slate.candidates[slate.relevance > 0], 1.0)
    measured = [slate for slate in test if (slate.relevance > 0).any()]
    if not measured or not counts.any():
        return
    by_popularity = _mean(measured, [counts[slate.candidates] for slate in measured])
    draw = numpy_generator(0, "check-chance")
    by_chance = _mean(measured, [draw.random(len(slate.candidates)) for slate in measured])
    found |= {f"{MEASURE} by popularity": round(by_popularity, 4), f"{MEASURE} by chance": round(by_chance, 4)}
    if by_popularity >= EXPLAINED > by_chance:
        findings.add(
            "warning",
            "popularity",
            dataset.name,
            f"popularity alone ranks the test slates at nDCG@10 {by_popularity:.2f}: the candidates are too easy to "
            "tell from what was chosen; draw them in proportion "
            "(candidates.from: others_same_window), or bring impressions",
        )


def _mean(slates: list[Slate], scores: list[np.ndarray]) -> float:
    values = [
        slate_metrics(score[None], slate.relevance[None], np.ones((1, len(score)), bool))[MEASURE][0]
        for slate, score in zip(slates, scores, strict=True)
    ]
    return float(np.nanmean(values))


def _leakage(
    dataset: Dataset, train: list[Slate], test: list[Slate], findings: Findings, found: dict[str, Any]
) -> None:
    """Slates of training that stand in test again; judged queries in both parts."""
    seen = Counter(_name(slate) for slate in train)
    again = sum(_name(slate) in seen for slate in test)
    if test:
        found["test slates that stand in training"] = again
    if again:
        text = f"{again} of {len(test)} test slates stand in training with the same words and the same items"
        findings.add("warning", "leakage", dataset.name, text, count=1)
    if getattr(dataset, "split_by", "time") != "time":
        asked = {slate.query.strip().lower() for slate in train} - {""}
        both = {slate.query.strip().lower() for slate in test} & asked
        if both:
            text = (
                f"{len(both)} queries of the test part are asked in training as well; split by query to tell them apart"
            )
            findings.add("warning", "query_in_both", dataset.name, text)


def _name(slate: Slate) -> tuple[str, bytes, bytes]:
    order = np.argsort(slate.candidates)
    return slate.query, slate.candidates[order].tobytes(), (slate.relevance[order] > 0).tobytes()
