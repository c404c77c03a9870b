"""What a point of the curve is worth, and which point is recommended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulations._intervals import ci95, gain_ratio

RETAINED = 0.9
"""Of the non-private federation's gain: what a recommended point keeps, at the lower end of its interval."""
RULE = (
    "Rule: the smallest epsilon of the grid that keeps at least 90% of the non-private federation's gain over content, "
    "at the lower end of the 95% interval; where none does, the knee: the point of the grid furthest above the "
    "straight line from its first to its last finite point, epsilon taken by its logarithm."
)


def measured(
    values: np.ndarray, base: Mapping[str, np.ndarray], *, samples: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """(measures of one point, why some are absent); float64 [clients] each, the same clients in `values` and `base`.

    Keys: ndcg@10, gain_ratio (over centralised), share_of_non_private, retained_over_unpersonalised; a ratio over a
    gain that may be nothing is None, and its reason is told.
    """
    ratios = {
        "gain_ratio": ("content", "centralised"),
        "share_of_non_private": ("content", "federated"),
        "retained_over_unpersonalised": ("unpersonalised", "federated"),
    }
    found: dict[str, Any] = {"ndcg@10": ci95(values, samples=samples, seed=seed)}
    told = []
    for name, (floor, top) in ratios.items():
        ratio = gain_ratio(values, base[floor], base[top], samples=samples, seed=seed)
        if isinstance(ratio, str):
            # the share's own denominator is one for all points: said once, without this point's figures
            told.append(f"{name} is not shown: {top} - {floor} is not surely above 0 on these clients.")
        found[name] = None if isinstance(ratio, str) else ratio
    return found, told


def recommend(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"epsilon" or None, "rule", "why"} by RULE."""
    finite = sorted((p for p in points if math.isfinite(float(p["epsilon"]))), key=lambda p: float(p["epsilon"]))
    for point in finite:
        share = point["share_of_non_private"]
        if share is not None and share["ci95"][0] >= RETAINED:
            low, high = share["ci95"]
            return _answer(
                float(point["epsilon"]),
                f"it keeps {share['mean']:.0%} [{low:.0%}, {high:.0%}] of the non-private federation's gain",
            )
    shares = [point["share_of_non_private"] for point in finite]
    if any(share is None for share in shares):
        return _answer(
            None, "the non-private federation has no sure gain over content on these clients to keep a part of"
        )
    knee = _knee([float(p["epsilon"]) for p in finite], [share["mean"] for share in shares])
    if knee is None:
        best = max(shares, key=lambda share: share["ci95"][0])
        return _answer(
            None,
            f"no epsilon of the grid surely keeps 90% (the best keeps {best['mean']:.0%}, interval "
            f"[{best['ci95'][0]:.0%}, {best['ci95'][1]:.0%}]) and the curve has no knee between them; try larger "
            "epsilons, more clients, or less noise for the same promise",
        )
    return _answer(
        float(finite[knee]["epsilon"]),
        f"none surely keeps 90%, and here the curve bends: {shares[knee]['mean']:.0%} of the non-private federation's "
        "gain, above the line between its neighbours at the ends",
    )


def _knee(epsilons: Sequence[float], values: Sequence[float]) -> int | None:
    """The inner point furthest above the chord in log epsilon (Satopaa et al. 2011); None where none is above it."""
    if len(epsilons) < 3:
        return None
    places = np.log(np.asarray(epsilons))
    heights = np.asarray(values, dtype=float)
    chord = heights[0] + (heights[-1] - heights[0]) * (places - places[0]) / (places[-1] - places[0])
    above = (heights - chord)[1:-1]
    best = int(np.argmax(above))
    rise = heights[-1] - heights[0]
    return best + 1 if rise > 0 and above[best] > 0.05 * rise else None


def _answer(epsilon: float | None, why: str) -> dict[str, Any]:
    head = "No epsilon is recommended" if epsilon is None else f"Recommended: epsilon {epsilon:g}"
    return {"epsilon": epsilon, "rule": RULE, "why": f"{head}: {why}."}
