"""FedProx (Li et al. 2020, Algorithm 2): FedAvg on the server, a proximal term on the client.

The client adds mu/2 |w - w_round|^2 to its loss; it reads mu from the same configuration,
which is why mu has no default here. With mu = 0 it is FedAvg.
"""

from __future__ import annotations

import math

from server.aggregation._mean import within
from server.aggregation.fedavg import FedAvg


def build(*, mu: float, server_learning_rate: float = 1.0, server_momentum: float = 0.0) -> FedAvg:
    """The server's half. Raises ConfigError for mu below 0, and for what FedAvg refuses."""
    within("mu", mu, 0.0, math.inf, low_included=True)
    return FedAvg(
        learning_rate=within("server_learning_rate", server_learning_rate, 0.0, math.inf, low_included=False),
        momentum=within("server_momentum", server_momentum, 0.0, 1.0, low_included=True),
    )
