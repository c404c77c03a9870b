"""Strategy matrices for noise that is correlated over rounds, and how often a client may then take part.

A strategy C is lower triangular, [rounds, rounds]. Releasing A C^-1 (C x + z), A the prefix sums, gives every sum of
the first t rounds with noise that partly cancels (Denisov et al. 2022; Choquette-Choo et al. 2023). Here C is a
buffered linear Toeplitz matrix (Dvijotham et al. 2024): a few numbers describe it, and C^-1 z needs a few vectors of
memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

from mmrank.errors import PrivacyError

MAX_ROUNDS = 100_000
MAX_BUFFERS = 3
"""More buffers lower the error by less than 0.1% at up to 1,000 rounds, and each is a vector of the model's size."""
_ROUNDED_UP = 1 + 1e-9


@dataclass(frozen=True, kw_only=True)
class BufferedToeplitz:
    """C = I + the matrix of c_j = sum_i weight_i decay_i^(j-1) on the j-th diagonal below, j >= 1. Public.

    decay: in [0, 1), one a buffer. weight: at least 0, one a buffer, together at most 1: so the diagonals
    1, c_1, c_2, ... are not negative and never grow, which `sensitivity` rests on. Raises PrivacyError otherwise.
    """

    decay: tuple[float, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.decay) != len(self.weight):
            raise PrivacyError(f"Expected as many decays as weights, not {len(self.decay)} and {len(self.weight)}.")
        if not all(0 <= decay < 1 for decay in self.decay):
            raise PrivacyError(f"Expected decay={self.decay} in [0, 1); take the strategy from strategy_for.")
        if not (all(weight >= 0 for weight in self.weight) and sum(self.weight) <= 1):
            raise PrivacyError(
                f"Expected weight={self.weight} to be at least 0 and at most 1 together; take it from strategy_for."
            )

    def coefficients(self, rounds: int) -> np.ndarray:
        """float64 [rounds]: the first column of C."""
        powers = np.power.outer(np.array(self.decay), np.arange(rounds - 1))
        return np.concatenate([[1.0], np.array(self.weight) @ powers]) if self.decay else np.eye(1, rounds)[0]

    def inverse_coefficients(self, rounds: int) -> np.ndarray:
        """float64 [rounds]: the first column of C^-1, lower triangular Toeplitz as well.

        As series, C = 1 + sum_i weight_i s / (1 - decay_i s), so C^-1 is a ratio of two polynomials in s.
        """
        whole = _product(self.decay)
        total = whole.copy()
        for index, weight in enumerate(self.weight):
            others = _product(self.decay[:index] + self.decay[index + 1 :])
            total += weight * np.concatenate([[0.0], others])
        return lfilter(whole, total, np.eye(1, rounds)[0])

    def sensitivity(self, rounds: int, *, max_participations: int, min_separation: int) -> float:
        """How far C x can move, in L2, where one client's contributions of norm at most 1 are taken out of x.

        The client takes part in at most max_participations rounds, any two at least min_separation apart. With
        diagonals that are not negative and never grow the worst case is rounds 0, b, 2b, ... in one direction (Kalinin
        and Lampert 2024, Theorem 2; for one participation, the norm of the first column). Rounded up.
        """
        check_participation(rounds, max_participations=max_participations, min_separation=min_separation)
        column, moved = self.coefficients(rounds), np.zeros(rounds)
        for first in range(0, min(rounds, max_participations * min_separation), min_separation):
            moved[first:] += column[: rounds - first]
        return float(np.linalg.norm(moved)) * _ROUNDED_UP

    def rms_error(self, rounds: int) -> float:
        """Root mean square over t <= rounds of the noise in the sum of the first t rounds, for z of variance 1."""
        rows = np.cumsum(self.inverse_coefficients(rounds))
        return float(np.sqrt((np.arange(rounds, 0, -1) * rows**2).mean()))


def check_participation(rounds: int, *, max_participations: int, min_separation: int) -> None:
    """Raise PrivacyError for facts that no run can have."""
    for name, value, largest in (
        ("rounds", rounds, MAX_ROUNDS),
        ("max_participations", max_participations, rounds),
        ("min_separation", min_separation, rounds),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise PrivacyError(f"Expected {name}={value!r} to be a whole number in [1, {largest}]; set {name}.")


def strategy_for(rounds: int, *, max_participations: int, min_separation: int) -> BufferedToeplitz:
    """The strategy of least error for these facts: of the shipped ones, or computed (at most seconds) and kept.

    Whichever it is, its sensitivity is computed anew where it is used: a strategy that was made for other facts has
    more noise, and never a weaker guarantee. Raises PrivacyError for facts that no run can have.
    """
    check_participation(rounds, max_participations=max_participations, min_separation=min_separation)
    largest = -(-rounds // min_separation)
    # participations that the separation rules out anyway, and a separation that one participation does not meet
    participations = min(max_participations, largest)
    separation = rounds if participations == 1 else min_separation
    shipped = _shipped().get((rounds, participations, separation))
    return shipped or optimise(rounds, max_participations=participations, min_separation=separation)


@lru_cache(maxsize=1)
def _shipped() -> dict[tuple[int, int, int], BufferedToeplitz]:
    text = (files("mmrank.privacy") / "data" / "strategies.json").read_text(encoding="utf-8")
    return {
        (entry["rounds"], entry["max_participations"], entry["min_separation"]): BufferedToeplitz(
            decay=tuple(entry["decay"]), weight=tuple(entry["weight"])
        )
        for entry in json.loads(text)["strategies"]
    }


@lru_cache(maxsize=64)
def optimise(rounds: int, *, max_participations: int, min_separation: int) -> BufferedToeplitz:
    """The least sensitivity x rms_error by L-BFGS from two starts, with as few buffers as come within 0.1% of it."""

    def loss(parameters: np.ndarray) -> float:
        strategy = _strategy(parameters)
        sensitivity = strategy.sensitivity(rounds, max_participations=max_participations, min_separation=min_separation)
        return float(np.log(sensitivity * strategy.rms_error(rounds)))

    best: dict[int, tuple[float, np.ndarray]] = {}
    for buffers in range(1, MAX_BUFFERS + 1):
        for slowest in (rounds, 4 * rounds):
            memory = np.geomspace(2.0, max(slowest, 4.0), buffers)
            start = np.concatenate([np.log(memory - 1), np.zeros(buffers)])
            found = minimize(loss, start, method="L-BFGS-B", bounds=[(-20, 20)] * len(start))
            if buffers not in best or found.fun < best[buffers][0]:
                best[buffers] = (float(found.fun), found.x)
    least = min(value for value, _ in best.values())
    return next(_strategy(found) for value, found in best.values() if value <= least + 1e-3)


def _strategy(parameters: np.ndarray) -> BufferedToeplitz:
    """Any real vector [2 buffers] to a valid strategy: logits of the decays, and of the weights against a slack."""
    logits, shares = np.split(parameters, 2)
    weights = np.exp(shares) / (1 + np.exp(shares).sum())
    order = np.argsort(logits)
    decay, weight = 1 / (1 + np.exp(-logits[order])), weights[order] * (1 - 1e-12)
    return BufferedToeplitz(decay=tuple(decay.tolist()), weight=tuple(weight.tolist()))


def _product(decays: tuple[float, ...]) -> np.ndarray:
    """The coefficients of prod_i (1 - decay_i s)."""
    product = np.ones(1)
    for decay in decays:
        product = np.convolve(product, [1.0, -decay])
    return product
