"""FedProx (Li et al. 2020, Algorithm 2): FedAvg on the server, a proximal term on the client.

The client adds mu/2 |w - w_round|^2 to its loss; it reads mu from the same configuration,
which is why mu has no default here. With mu = 0 it is FedAvg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from server.aggregation import Rule, fedavg
from server.aggregation._mean import within


def build(
    *,
    mu: float,
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
    low_rank: Mapping[str, int] | None = None,
) -> Rule:
    """The server's half. Raises ConfigError for mu below 0, and for what FedAvg refuses."""
    within("mu", mu, 0.0, math.inf, low_included=True)
    return fedavg.build(server_learning_rate=server_learning_rate, server_momentum=server_momentum, low_rank=low_rank)
