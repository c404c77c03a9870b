"""What a ranking would be worth if it were shown, from clicks on what another ranker showed: IPS and SNIPS.

A click at a place that is looked at with propensity p stands for 1 / p of them (Joachims, Swaminathan and Schnabel
2017, Eq. 4, with the discount of DCG as the value of a rank); divided by the sum of these weights it is self-normalised
(Swaminathan and Joachims 2015), which is biased a little and varies less. Slates without propensities do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmrank.slates import Slate

VALUE, WEIGHT = "ips", "ips_weight"


def weighted_clicks(scores: np.ndarray, slates: Sequence[Slate]) -> dict[str, np.ndarray]:
    """float64 [B]: by VALUE the sum over clicked items of discount / propensity, by WEIGHT that of 1 / propensity; NaN
    for a slate without propensities. scores: float [B, L], padded.
    """
    value, weight = np.full(len(slates), np.nan), np.full(len(slates), np.nan)
    for row, slate in enumerate(slates):
        if slate.propensity is None:
            continue
        clicked = (slate.relevance > 0) & np.isfinite(slate.propensity)
        each = np.where(clicked, 1.0, 0.0) / np.where(clicked, slate.propensity, 1.0)
        value[row] = float(each @ expected_discounts(scores[row, : len(slate.candidates)]))
        weight[row] = float(each.sum())
    return {VALUE: value, WEIGHT: weight}


def expected_discounts(scores: np.ndarray) -> np.ndarray:
    """float64 [L]: 1 / log2(1 + rank) of each item, rank 1 the top; the mean over its places where scores are tied.

    >>> expected_discounts(np.array([0.5, 2.0])).round(3).tolist()
    [0.631, 1.0]
    """
    place = 1 / np.log2(np.arange(len(scores)) + 2.0)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    _, group = np.unique(-scores[order], return_inverse=True)
    means = np.bincount(group, weights=place) / np.bincount(group)
    found = np.empty(len(scores))
    found[order] = means[group]
    return found


def weighted(values: Mapping[str, np.ndarray]) -> bool:
    """Whether anything was clicked where propensities are known."""
    return WEIGHT in values and bool((np.nan_to_num(values[WEIGHT]) > 0).any())
