"""Choosing hyper-parameters on private data: a random number of independent private runs, and the best of them alone.

Papernot and Steinke 2022, "Hyperparameter Tuning with Renyi Differential Privacy" (arXiv 2110.03620). Who sees the
winner and nothing else pays little more than for one run. Who sees every trial (the server that ran them) pays for
every trial: the theorem hides nothing from it, and here it is charged by plain composition.

What must stay out of sight for the first promise: the number of runs, every trial but the winner, the winner's place
among them, and the clock, since the time that a search takes tells how many runs it had.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import dp_accounting
import numpy as np
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, check_delta, epsilon, merged
from mmrank.privacy.run_counts import ORDERS, RunCount

View = Literal["released", "server"]
History = tuple[Event, ...]
"""What one trial costs: its events."""


@dataclass(frozen=True, kw_only=True)
class PrivateSelection:
    """The promise of one search, of public facts alone.

    Guarantee (`released`): whoever learns the winner's model, choices and score and nothing else of the search has
    (epsilon(delta), delta) of the trials' adjacency. It takes: K from `runs` by a source that nobody can replay, once;
    trials independent and alike (choices from one public distribution, each with noise of its own), none stopped in
    view of another; the winner the best by score, ties to whoever came first. `server`: every trial is seen, and the
    drawn trials compose.

    training: every history that a trial's training may have, one for each public choice that moves the charge; the
    bound is the largest at each order (Renyi divergence is quasi-convex, and the choice may be shown).
    score: the event of the private release by which trials are compared, or "public" where they are compared on
    public data. A score of private data that nobody paid for can't be said here.
    Raises PrivacyError without a history, and for a fixed number of runs with the view `released`.
    """

    runs: RunCount
    training: tuple[History, ...]
    score: Event | Literal["public"]
    view: View

    def __post_init__(self) -> None:
        if self.view not in ("released", "server"):
            raise PrivacyError(f"Expected view={self.view!r} to be one of released, server.")
        if not isinstance(self.score, Event) and self.score != "public":
            raise PrivacyError(f"Expected score={self.score!r} to be the event of a private release, or 'public'.")
        if not self.training or not all(self.training):
            raise PrivacyError("Expected at least one history of events for a trial; pass what its training costs.")
        if self.view == "released":
            self.runs.best_of(ORDERS, np.zeros_like(ORDERS))

    def history(self, training: History) -> History:
        """A whole trial with that training. Raises PrivacyError for one that was not declared."""
        if merged(training) not in {merged(known) for known in self.training}:
            raise PrivacyError(
                f"A trial would cost {training}, which the search did not declare; "
                "list every choice that moves a charge."
            )
        return (*training, *(() if self.score == "public" else (self.score,)))

    def rdp(self, orders: np.ndarray = ORDERS) -> np.ndarray:
        """Renyi DP of the released winner at `orders`. Raises PrivacyError with the view `server`."""
        if self.view == "server":
            raise PrivacyError(
                "Who sees every trial pays for every trial: the best-of bound holds for view=released alone."
            )
        one = np.max([history_rdp(self.history(training), orders) for training in self.training], axis=0)
        return self.runs.best_of(orders, one)

    def epsilon(self, delta: float, drawn: Sequence[History] = ()) -> float:
        """What the search costs at `delta`. drawn: the trainings of all trials, for the view `server` alone.

        `released` is a function of the declared facts, so it may be shown; `server` tells the number of runs.
        """
        check_delta(delta)
        if self.view == "server":  # all trials were drawn before the first began: one plan, so PLD may compose it
            return epsilon(chain.from_iterable(self.history(training) for training in drawn), delta)
        return rdp_epsilon(self.rdp(), delta)


def history_rdp(history: History, orders: np.ndarray = ORDERS) -> np.ndarray:
    """Renyi DP of a composed history at each order > 1, float [orders]; inf where an event has no noise.

    Poisson-sampled Gaussians (Mironov et al. 2019), or rho-zCDP with rho = 1/(2 noise_multiplier^2), unsampled.
    """
    if any(event.noise_multiplier == 0 for event in history):
        return np.full(len(orders), math.inf)
    accountant = RdpAccountant(list(orders))
    total = np.zeros(len(orders))
    for event in history:
        if event.family == "concentrated":
            total += event.steps * orders / (2 * event.noise_multiplier**2)
        else:
            gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            with _silent():
                accountant.compose(dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian), event.steps)
    return total + _filled(orders, accountant.rdp)


def rdp_epsilon(rdp: np.ndarray, delta: float, orders: np.ndarray = ORDERS) -> float:
    """The least epsilon at `delta` that the curve promises (Canonne et al. 2020, Proposition 12); inf for none."""
    known = np.isfinite(rdp)
    return float(compute_epsilon(orders[known], rdp[known], delta)[0]) if known.any() else math.inf


def best_index(scores: Sequence[float]) -> int | None:
    """The first of the highest scores; None of none. A score that is not a number is the lowest of all.

    Trials are alike and independent, so "the first of equals" is "any of equals by lot", a total order.
    """
    order = [-math.inf if math.isnan(score) else score for score in scores]
    return order.index(max(order)) if order else None


def _filled(orders: np.ndarray, rdp: np.ndarray) -> np.ndarray:
    """`rdp`, and a bound where dp-accounting's series for a broken order did not converge and gave inf.

    (order - 1) rdp is convex in the order (van Erven and Harremoes 2014, Corollary 2), and 0 at 1: a chord is above it.
    """
    known = np.isfinite(rdp)
    if known.all() or not known.any():
        return rdp
    at, above = np.append(1.0, orders[known]), np.append(0.0, (orders[known] - 1) * rdp[known])
    return np.where(known, rdp, np.interp(orders, at, above, right=math.inf) / (orders - 1))


@contextmanager
def _silent() -> Iterator[None]:
    """What dp-accounting says of the orders that `_filled` fills is no news."""

    def news(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(news)
    try:
        yield
    finally:
        logger.removeFilter(news)
