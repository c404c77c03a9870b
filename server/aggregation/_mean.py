"""What the rules share: the uniform mean over clients, in an order that the arrival of replies can't change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmrank.errors import ConfigError
from server.aggregation import Parameters


def uniform_mean(updates: Mapping[str, Parameters]) -> dict[str, np.ndarray]:
    """The mean update, float64, added up in the order of the clients' names.

    Addition of floats is not associative: a fixed order makes the same cohort give the same bits.
    Weights are equal: a client's claim about its number of examples would let it take the model over.
    """
    clients = sorted(updates)
    if not clients:
        raise ValueError("Expected at least 1 update to aggregate, got 0; keep the model of the round before.")
    total = {name: np.array(array, dtype=np.float64) for name, array in updates[clients[0]].items()}
    for client in clients[1:]:
        for name, array in updates[client].items():
            total[name] += array
    return {name: array / len(clients) for name, array in total.items()}


def stepped(params: Parameters, step: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """params + step, added in float64 and stored as float32."""
    return {name: (array.astype(np.float64) + step[name]).astype(np.float32) for name, array in params.items()}


def within(name: str, value: float, low: float, high: float, *, low_included: bool) -> float:
    """`value` where it lies in [low, high) or (low, high); ConfigError with the bound otherwise."""
    if not (low <= value if low_included else low < value) or not value < high:
        bracket = "[" if low_included else "("
        raise ConfigError(
            f"Expected federation.aggregation.{name}={value} in {bracket}{low}, {high}); "
            f"set federation.aggregation.{name}."
        )
    return value
