"""Matrices of low rank: what is kept of a noisy sum is where it has most to say.

Noise spreads over all directions of a matrix alike, and what is learned does not (Gavish and Donoho 2014): the best
approximation of low rank drops most of the first and little of the second. It sees nothing but what is released
already, so it costs no privacy. The rule goes on from the whole matrix, which stays on the server; clients get the
approximation, so that a direction may still rise after many rounds (dual averaging, Nesterov 2009). What a matrix was
before the first round is public, and is kept as it is: the approximation is of what was learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrank.errors import ConfigError
from server.aggregation import Parameters, Rule, State

WHOLE, START = "whole/", "start/"


@dataclass(frozen=True)
class LowRank:
    """`rule`, with the best approximation of rank `ranks[beginning]` of what each matrix whose name begins so learned.

    Of several beginnings of a name the longest counts.
    """

    rule: Rule
    ranks: Mapping[str, int]

    def init(self, params: Parameters) -> State:
        """The rule's state, and each matrix as it is. Raises ConfigError for a beginning that names no matrix."""
        for beginning in self.ranks:
            if not any(name.startswith(beginning) and array.ndim == 2 for name, array in params.items()):
                raise ConfigError(
                    f"Expected federation.aggregation.low_rank={beginning!r} to begin the name of a trained matrix, "
                    f"such as {', '.join(name for name, array in params.items() if array.ndim == 2)}."
                )
        state = self.rule.init(params)
        for name, array in params.items():
            if self._rank(name, array):
                state |= {f"{part}{name}": array.astype(np.float64) for part in (WHOLE, START)}
        return state

    def apply(
        self, state: Mapping[str, np.ndarray], params: Parameters, updates: Mapping[str, Parameters]
    ) -> tuple[State, dict[str, np.ndarray]]:
        """See server.aggregation.Rule."""
        whole = {name: state[f"{WHOLE}{name}"] for name in params if f"{WHOLE}{name}" in state}
        inner = {name: array for name, array in state.items() if not name.startswith((WHOLE, START))}
        new_state, moved = self.rule.apply(inner, {**params, **whole}, updates)
        for name in whole:
            now, start = moved[name].astype(np.float64), state[f"{START}{name}"]
            new_state |= {f"{WHOLE}{name}": now, f"{START}{name}": start}
            moved[name] = (start + truncated(now - start, self._rank(name, now))).astype(np.float32)
        return new_state, moved

    def _rank(self, name: str, array: np.ndarray) -> int:
        """0 where the parameter is no matrix, or none of these."""
        named = [beginning for beginning in self.ranks if name.startswith(beginning)]
        return self.ranks[max(named, key=len)] if named and array.ndim == 2 else 0


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """float64: the nearest matrix of at most that rank, by the Frobenius norm (Eckart and Young 1936)."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def with_low_rank(rule: Rule, ranks: Mapping[str, int] | None) -> Rule:
    """The rule itself where `ranks` are None. Raises ConfigError for a rank that is no whole number above 0."""
    if ranks is None:
        return rule
    if not isinstance(ranks, Mapping):
        raise ConfigError(
            f"Expected federation.aggregation.low_rank={ranks!r} to be a rank for each beginning of a matrix's name; "
            "set it, for example to {query_style: 16}."
        )
    for beginning, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ConfigError(
                f"Expected federation.aggregation.low_rank.{beginning}={rank!r} to be a whole number of at least 1; "
                "set it, for example to 16."
            )
    return LowRank(rule, ranks)
