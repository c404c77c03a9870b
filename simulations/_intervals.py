"""Means and ratios with 95% bootstrap intervals, resampled by client."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmrank.randomness import numpy_generator

LEVEL = (2.5, 97.5)
"""Percentiles of a 95% interval."""


def ci95(values: np.ndarray, *, samples: int, seed: int) -> dict[str, Any]:
    """{"mean", "ci95": [low, high]} of one number a client, float [C]; NaN is a client that has none.

    Percentile bootstrap (Efron 1979) over clients, which are independent where their slates are not. With no
    client at all every number is None; with one, the interval is that point and says nothing.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, "ci95": [None, None]}
    means = _resampled_means(known[None], samples=samples, seed=seed)[0]
    return {"mean": float(known.mean()), "ci95": [float(bound) for bound in np.percentile(means, LEVEL)]}


def difference(row: np.ndarray, base: np.ndarray, *, samples: int, seed: int) -> dict[str, Any]:
    """`ci95` of row - base, paired by client; float [C] each."""
    return ci95(row - base, samples=samples, seed=seed)


def ratio(value: np.ndarray, weight: np.ndarray, *, samples: int, seed: int) -> dict[str, Any]:
    """The mean of `value` over that of `weight`, float [C] each, resampled together by client; as `ci95`."""
    both = np.stack([value, weight])
    both = both[:, ~np.isnan(both).any(axis=0)]
    if not both.shape[1] or not both[1].any():
        return {"mean": None, "ci95": [None, None]}
    means = _resampled_means(both, samples=samples, seed=seed)
    found = means[0] / np.where(means[1] > 0, means[1], np.nan)
    return {
        "mean": float(both[0].mean() / both[1].mean()),
        "ci95": [float(bound) for bound in np.nanpercentile(found, LEVEL)],
    }


def gain_ratio(
    row: np.ndarray, content: np.ndarray, centralised: np.ndarray, *, samples: int, seed: int
) -> dict[str, Any] | str:
    """(row - content) / (centralised - content) of means over clients, paired; float [C] each.

    Each bootstrap sample draws clients once and takes all three means over them. Returns the measure, or a sentence
    that says why there is none: a ratio over a gain that may be nothing has no interval (Fieller 1954).
    """
    values = np.stack([row, content, centralised])
    values = values[:, ~np.isnan(values).any(axis=0)]
    if not values.shape[1]:
        return "no client has a value in all three rows"
    means = _resampled_means(values, samples=samples, seed=seed)
    gain = means[2] - means[1]
    low, high = np.percentile(gain, LEVEL)
    total = values.mean(axis=1)
    if low <= 0 or total[2] <= total[1]:
        gains = f"row - content is {total[0] - total[1]:.4f} and centralised - content {total[2] - total[1]:.4f}"
        return (
            f"{gains} with 95% interval [{low:.4f}, {high:.4f}] over {values.shape[1]} clients: "
            "not surely above 0, so a share of it is not defined"
        )
    ratio = (means[0] - means[1]) / np.where(gain > 0, gain, np.nan)
    bounds = np.nanpercentile(ratio, LEVEL)
    return {
        "mean": float((total[0] - total[1]) / (total[2] - total[1])),
        "ci95": [float(bound) for bound in bounds],
    }


def _resampled_means(values: np.ndarray, *, samples: int, seed: int) -> np.ndarray:
    """Means [K, samples] of `values` [K, C] over C clients drawn with replacement, the same draw for each of the K."""
    clients = values.shape[1]
    generator = numpy_generator(seed, "bootstrap", clients)
    means = np.empty((len(values), samples))
    for start in range(0, samples, 256):  # bounds memory at many clients
        drawn = generator.integers(clients, size=(min(256, samples - start), clients))
        means[:, start : start + len(drawn)] = values[:, drawn].mean(axis=2)
    return means
