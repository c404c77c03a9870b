"""Matrices of low rank: what is kept of a noisy sum is where it has most to say.

Noise spreads over all directions of a matrix alike, and what is learned does not (Gavish and Donoho 2014): the best
approximation of low rank drops most of the first and little of the second. It sees nothing but what is released
already, so it costs no privacy. The rule goes on from the whole matrix, which stays on the server; clients get the
approximation, so that a direction may still rise after many rounds (dual averaging, Nesterov 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrank.errors import ConfigError
from server.aggregation import Parameters, Rule, State

WHOLE = "whole/"


@dataclass(frozen=True)
class LowRank:
    """`rule`, with the best approximation of rank `ranks[beginning]` of each matrix whose name begins so."""

    rule: Rule
    ranks: Mapping[str, int]

    def init(self, params: Parameters) -> State:
        """The rule's state and each whole matrix. Raises ConfigError for a beginning that names no matrix."""
        for beginning in self.ranks:
            if not any(name.startswith(beginning) and array.ndim == 2 for name, array in params.items()):
                raise ConfigError(
                    f"Expected federation.aggregation.low_rank={beginning!r} to begin the name of a trained matrix, "
                    f"such as {', '.join(name for name, array in params.items() if array.ndim == 2)}."
                )
        whole = {f"{WHOLE}{name}": params[name].astype(np.float64) for name in params if self._rank(name, params[name])}
        return self.rule.init(params) | whole

    def apply(
        self, state: Mapping[str, np.ndarray], params: Parameters, updates: Mapping[str, Parameters]
    ) -> tuple[State, dict[str, np.ndarray]]:
        """See server.aggregation.Rule."""
        whole = {name: state[f"{WHOLE}{name}"] for name in params if f"{WHOLE}{name}" in state}
        inner = {name: array for name, array in state.items() if not name.startswith(WHOLE)}
        new_state, moved = self.rule.apply(inner, {**params, **whole}, updates)
        for name in whole:
            new_state[f"{WHOLE}{name}"] = moved[name].astype(np.float64)
            moved[name] = truncated(moved[name], self._rank(name, moved[name]))
        return new_state, moved

    def _rank(self, name: str, array: np.ndarray) -> int:
        """0 where the parameter is no matrix, or none of these."""
        ranks = [rank for beginning, rank in self.ranks.items() if name.startswith(beginning)]
        return ranks[0] if ranks and array.ndim == 2 else 0


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """float32: the nearest matrix of at most that rank, by the Frobenius norm (Eckart and Young 1936)."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).astype(np.float32)


def with_low_rank(rule: Rule, ranks: Mapping[str, int] | None) -> Rule:
    """The rule itself where `ranks` are None. Raises ConfigError for a rank that is no whole number above 0."""
    if ranks is None:
        return rule
    for beginning, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ConfigError(
                f"Expected federation.aggregation.low_rank.{beginning}={rank!r} to be a whole number of at least 1; "
                "set it, for example to 16."
            )
    return LowRank(rule, ranks)
