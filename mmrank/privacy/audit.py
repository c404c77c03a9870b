"""What an attack in one training run proves about epsilon: pure statistics, no training.

m canaries are each put in by a fair coin; the attacker scores all, guesses "in" for the highest and "out" for the
lowest, or "in" alone, and abstains on the rest. Two theorems say how many guesses may be right: for one (epsilon,
delta) (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846) and for the claimed events' whole curve (Mahloujifar, Melis
and Chaudhuri 2024, arXiv 2410.22235). Both hold for any adversary within the claim's threat model, whatever the scores
are made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.privacy._tradeoff import profile, refuted
from mmrank.privacy.accountant import Event, epsilon

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of the canaries, how many are guessed: the grid is fixed before any score is seen."""
SIDES = ("in and out", "in")
"""Half of the guesses "in" for the highest and half "out" for the lowest; or all "in": where few steps draw a unit, one
that was never drawn looks like one that is not there."""
METHODS = ("one (epsilon, delta)", "whole curve")
LARGEST = 50.0
"""Bounds are searched up to here."""
NOISE_FACTORS = tuple(2.0 ** (k / 16) for k in range(48, -97, -1))
"""The claim's noise times these is the family that the whole-curve bound is taken from, most noise first."""


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    r"""An upper bound of P[at least `correct` of `guesses` right] for any (epsilon, delta)-DP mechanism.

    Theorem 5.2 of Steinke et al.: with q = 1 / (1 + e^-epsilon) and B ~ Bin(guesses, q),

        p = min(1, P[B >= v] + 2 m delta max_{1 <= i <= v} P[v - i <= B < v] / i).

    Raises PrivacyError for counts out of 0 <= correct <= guesses <= canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise PrivacyError(
            f"Expected 0 <= correct={correct} <= guesses={guesses} <= canaries={canaries}; guess fewer, or add some."
        )
    q = 1 / (1 + math.exp(-epsilon))
    beta = float(stats.binom.sf(correct - 1, guesses, q))
    if correct == 0 or delta == 0:
        return min(1.0, beta)
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, q))
    alpha = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, significance: float) -> float:
    """The largest epsilon that so many right guesses refute at `significance`, to 1e-4 and rounded down; 0 for none."""

    def rejected(value: float) -> bool:
        p = p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=value, delta=delta)
        return p < significance

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, LARGEST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def curve_lower_bound(
    guessed: Sequence[Guessed], *, canaries: int, events: Sequence[Event], delta: float, significance: float
) -> tuple[float, Guessed | None]:
    """(epsilon at `delta` of the events with the most noise that one of `guessed` refutes, that one), or (0, None).

    The noise is the claim's times one of NOISE_FACTORS. The bound says: the mechanism has no more noise than that, were
    it of the claimed kind. `significance` is of one test.
    """
    most: dict[int, Guessed] = {}
    for test in guessed:  # of so many guesses, the score with the most right ones refutes what any score does
        if test.guesses not in most or test.correct > most[test.guesses].correct:
            most[test.guesses] = test

    def refuting(place: int) -> Guessed | None:
        curve = profile(_scaled(events, NOISE_FACTORS[place]))
        for test in most.values():
            if refuted(
                canaries=canaries, guesses=test.guesses, correct=test.correct, curve=curve, significance=significance
            ):
                return test
        return None

    found: Guessed | None = None
    place, last = NOISE_FACTORS.index(1.0), len(NOISE_FACTORS)
    low, high = -1, last  # what is refuted is all up to `low`, what is not all from `high` on
    step = 2
    while high - low > 1:  # from the claim outwards: the curves far below it are costly and seldom needed
        refuter = refuting(place)
        if refuter is not None:
            low, found = place, refuter
        else:
            high = place
        if high == last:
            place = min(low + step, last - 1)
        elif low == -1:
            place = max(high - step, 0)
        else:
            place = (low + high) // 2
        step *= 2
    return (0.0, None) if found is None else (epsilon(_scaled(events, NOISE_FACTORS[low]), delta), found)


def _scaled(events: Sequence[Event], factor: float) -> tuple[Event, ...]:
    return tuple(replace(event, noise_multiplier=event.noise_multiplier * factor) for event in events)


def guess_grid(canaries: int) -> tuple[int, ...]:
    """How many guesses are tried, of even numbers: by the number of canaries alone."""
    return tuple(sorted({2 * min(round(canaries * share / 2), canaries // 2) for share in SHARES} - {0}))


def right_guesses(scores: np.ndarray, included: np.ndarray, guesses: int, side: str = SIDES[0]) -> int:
    """How many of `guesses` are right, by one of SIDES; scores float [m], high for "in", included bool [m].

    A canary's place among equal scores is its place in the array, which the coins do not know.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2 if side == SIDES[0] else guesses
    return int(included[order[len(order) - half :]].sum() + (~included[order[: guesses - half]]).sum())


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """`correct` of `guesses` were right by one score, on one of SIDES."""

    score: str
    side: str
    guesses: int
    correct: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The test with the largest bound, and by which method."""

    guessed: Guessed
    method: str
    bound: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one run says of a claim, at `confidence`, all tests of the run together.

    claim: epsilon of the claimed events at delta. best: the test with the largest bound. refuted: whether a test
    refutes the claim. ceiling: what the bound would be, were every guess right. tests: how many the correction is for.
    """

    claim: float
    delta: float
    confidence: float
    canaries: int
    tests: int
    best: Finding
    refuted: bool
    ceiling: float

    @property
    def bound(self) -> float:
        """The lower bound of epsilon, wrong with probability at most 1 - confidence; by the whole curve, of mechanisms
        of the charged kind alone: another may break their curve at a smaller epsilon.
        """
        return self.best.bound

    @property
    def below_resolution(self) -> bool:
        """Whether so few canaries could not refute the claim, whatever the attacker guessed."""
        return self.ceiling < self.claim


def judge(
    scores: Mapping[str, np.ndarray],
    included: np.ndarray,
    *,
    events: Sequence[Event],
    delta: float,
    confidence: float,
) -> Verdict:
    """Test every score [m] of the canaries against their coins `included` (bool [m]), at `confidence` for all together.

    The correction is Bonferroni's, over scores, numbers of guesses, sides and methods; it needs no independence.
    Raises PrivacyError where there is no score, arrays differ in length, or a score is NaN.
    """
    _check(scores, included)
    canaries, claim = len(included), epsilon(events, delta)
    grid = guess_grid(canaries)
    gaussian = all(event.family == "gaussian" for event in events)  # the curve is composed for these alone
    methods = METHODS if gaussian and 0 < claim < math.inf else METHODS[:1]
    tests = len(scores) * len(grid) * len(SIDES) * len(methods)
    guessed = [
        Guessed(score=name, side=side, guesses=guesses, correct=right_guesses(values, included, guesses, side))
        for name, values in scores.items()
        for guesses in grid
        for side in SIDES
    ]
    all_right = [Guessed(score="", side=SIDES[0], guesses=guesses, correct=guesses) for guesses in grid[-1:]]
    best, ceiling = (
        _best(some, methods, canaries=canaries, events=events, delta=delta, significance=(1 - confidence) / tests)
        for some in (guessed, all_right)
    )
    return Verdict(
        claim=claim,
        delta=delta,
        confidence=confidence,
        canaries=canaries,
        tests=tests,
        best=best,
        refuted=best.bound > 0 and best.bound >= claim,
        ceiling=ceiling.bound,
    )


def _best(
    guessed: Sequence[Guessed],
    methods: Sequence[str],
    *,
    canaries: int,
    events: Sequence[Event],
    delta: float,
    significance: float,
) -> Finding:
    """The largest bound of all these tests."""
    found = [
        Finding(
            guessed=test,
            method=METHODS[0],
            bound=lower_bound(
                canaries=canaries, guesses=test.guesses, correct=test.correct, delta=delta, significance=significance
            ),
        )
        for test in guessed
    ]
    if METHODS[1] in methods:
        bound, refuting = curve_lower_bound(
            guessed, canaries=canaries, events=events, delta=delta, significance=significance
        )
        if refuting is not None:
            found.append(Finding(guessed=refuting, method=METHODS[1], bound=bound))
    return max(found, key=lambda finding: finding.bound)


def _check(scores: Mapping[str, np.ndarray], included: np.ndarray) -> None:
    if not scores or len(included) < 2:
        raise PrivacyError(
            f"Expected a score and at least 2 canaries, not {len(scores)} and {len(included)}; add them."
        )
    for name, values in scores.items():
        if values.shape != included.shape or np.isnan(values).any():
            raise PrivacyError(
                f"Expected score {name} to be a number for each of {len(included)} canaries, not {values.shape} with "
                f"{int(np.isnan(values).sum())} NaN; leave it out."
            )
