"""Declared size classes: a merchant's sampling rate from a number that it says aloud, and never from its count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmrank.errors import PrivacyError
from mmrank.privacy.plans import Plan

WHY = (
    "Why q may not come from the count n of a merchant's records: q, sigma and epsilon are public, and q = batch / n "
    "would print n, exactly, which no noise covers. Worse, the proof would fail: epsilon is computed for two data sets "
    "that differ in one record and are sampled at the same rate, while with q = batch / n one record more changes how "
    "often every other record is drawn. So a merchant declares a class, in public and once, as it declares its opening "
    "hours; q, the steps and sigma follow from the class alone, and a wrong declaration costs accuracy, never privacy."
)


@dataclass(frozen=True, kw_only=True)
class SizeClass:
    """One class of a public table.

    size: the declared number of records, by which the batch is divided. low, high: where the neighbouring classes
    begin (geometric means), for which the table says what a merchant there gets. plan: its q, steps and sigma.
    batch: the expected number of records in a step of a merchant of exactly `size`.
    """

    size: float
    low: float
    high: float
    batch: float
    plan: Plan

    def expected_batch(self, records: float) -> float:
        """Records in a step of a merchant that holds `records` of them."""
        return self.plan.sampling_rate * records

    def signal_to_noise(self, records: float, *, parameters: int = 1) -> float:
        """At most: the norm of a step's clipped sum (batch x C, where all agree) over its noise's (sigma C sqrt(d))."""
        return self.expected_batch(records) / (self.plan.noise_multiplier * math.sqrt(parameters))


def edges(sizes: Sequence[float]) -> list[tuple[float, float]]:
    """(low, high) of each class: the geometric means with its neighbours; the outer ones reach as far outwards.

    >>> edges([100.0, 10_000.0])
    [(10.0, 1000.0), (1000.0, 100000.0)]
    """
    check_sizes(sizes)
    ordered = sorted(float(size) for size in sizes)
    if len(ordered) == 1:
        return [(ordered[0] / math.sqrt(10), ordered[0] * math.sqrt(10))]
    inner = [math.sqrt(a * b) for a, b in pairwise(ordered)]
    outer = [ordered[0] ** 2 / inner[0], *inner, ordered[-1] ** 2 / inner[-1]]
    return list(pairwise(outer))


def class_rates(sizes: Sequence[float], batch: float) -> list[float]:
    """q = batch / class size, smallest class first. Raises PrivacyError where the batch is above a class."""
    check_sizes(sizes)
    if not (math.isfinite(batch) and batch > 0):
        raise PrivacyError(f"Expected batch={batch} to be finite and above 0; give the expected records of a step.")
    for size in sizes:
        if batch > size:
            raise PrivacyError(
                f"Expected batch={batch:g} to be at most the smallest class, {min(sizes):g} records: a sampling rate "
                "is at most 1; take a smaller batch, or leave that class out."
            )
    return [batch / size for size in sorted(float(size) for size in sizes)]


def check_sizes(sizes: Sequence[float]) -> None:
    """Raise PrivacyError for no classes, classes alike, or one that is no size."""
    if not sizes or len(set(sizes)) < len(sizes):
        raise PrivacyError(f"Expected sizes={list(sizes)} to be classes of different size; give some, as 1e3,1e4,1e5.")
    for size in sizes:
        if not (math.isfinite(size) and 1 <= size <= 1e12):
            raise PrivacyError(f"Expected a class of {size} records in [1, 1e12]; give sizes such as 1e3,1e4,1e5.")
