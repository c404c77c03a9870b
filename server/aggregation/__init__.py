"""Aggregation rules, one a file: how a round's updates move the model.

A rule is two pure functions: `init(params) -> State` and `apply(state, params, updates) -> (State, params)`.
A State is arrays by name, so that a checkpoint holds it without knowing the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Parameters = Mapping[str, np.ndarray]
State = dict[str, np.ndarray]


class Rule(Protocol):
    """What `server.aggregation.NAME.build(**settings)` returns."""

    def init(self, params: Parameters) -> State:
        """The state before the first round: float64 arrays by name, empty where the rule remembers nothing."""
        ...

    def apply(
        self, state: Mapping[str, np.ndarray], params: Parameters, updates: Mapping[str, Parameters]
    ) -> tuple[State, dict[str, np.ndarray]]:
        """The next state and the next model, float32; nothing that is passed in changes.

        updates: by client, each new minus old with the names and shapes of `params`; at least one.
        Every client weighs the same. The order of `updates` does not matter, bit for bit.
        """
        ...
