"""FedAvg (McMahan et al. 2017, Algorithm 1) with equal weights, a server learning rate and server momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from server.aggregation import Parameters, Rule, State
from server.aggregation._low_rank import with_low_rank
from server.aggregation._mean import stepped, uniform_mean, within


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """v' = momentum v + mean(updates); params' = params + learning_rate v' (FedAvgM, Hsu et al. 2019)."""

    learning_rate: float
    momentum: float

    def init(self, params: Parameters) -> State:
        """v = 0 for each parameter, or nothing without momentum."""
        if self.momentum == 0:
            return {}
        return {f"v/{name}": np.zeros(array.shape, np.float64) for name, array in params.items()}

    def apply(
        self, state: Mapping[str, np.ndarray], params: Parameters, updates: Mapping[str, Parameters]
    ) -> tuple[State, dict[str, np.ndarray]]:
        """See server.aggregation.Rule."""
        velocity = uniform_mean(updates)
        if self.momentum:
            velocity = {name: self.momentum * state[f"v/{name}"] + mean for name, mean in velocity.items()}
        new_state = {f"v/{name}": array for name, array in velocity.items()} if self.momentum else {}
        return new_state, stepped(params, {name: self.learning_rate * array for name, array in velocity.items()})


def build(
    *, server_learning_rate: float = 1.0, server_momentum: float = 0.0, low_rank: Mapping[str, int] | None = None
) -> Rule:
    """The rule. Raises ConfigError for a learning rate not above 0 or a momentum outside [0, 1), and as LowRank does.

    low_rank: the rank of the matrices whose names begin so; see server.aggregation._low_rank.
    """
    rule = FedAvg(
        learning_rate=within("server_learning_rate", server_learning_rate, 0.0, math.inf, low_included=False),
        momentum=within("server_momentum", server_momentum, 0.0, 1.0, low_included=True),
    )
    return with_low_rank(rule, low_rank)
