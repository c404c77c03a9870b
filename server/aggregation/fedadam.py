r"""FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2).

    d_t = beta_1 d_{t-1} + (1 - beta_1) mean(updates)
    v_t = beta_2 v_{t-1} + (1 - beta_2) d_t^2          v_0 = tau^2
    params += learning_rate d_t / (sqrt(v_t) + tau)

As in the paper, v takes the square of d (after momentum) and nothing corrects the bias of the first rounds: from a
small tau the first step is 10 times the later ones. `bias_correction` is Adam proper (Kingma and Ba 2015, Algorithm 1)
on the mean update instead: v takes its square, v_0 = 0, and d and v are divided by 1 - beta^t. `noise_std` takes the
known variance of noise off v (DP-AdamBC, Tang et al. 2024): where noise is most of v, Adam is little else than SGD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrank.errors import ConfigError
from server.aggregation import Parameters, Rule, State
from server.aggregation._low_rank import with_low_rank
from server.aggregation._mean import stepped, uniform_mean, within


@dataclass(frozen=True, kw_only=True)
class FedAdam:
    """See the module's docstring."""

    learning_rate: float
    beta_1: float
    beta_2: float
    tau: float
    bias_correction: bool
    noise_std: float = 0.0

    def init(self, params: Parameters) -> State:
        """d = 0 and v = tau^2 for each parameter; with bias correction v = 0, and the number of steps."""
        if self.bias_correction:
            zeros = {f"{part}/{name}": np.zeros(a.shape, np.float64) for part in "dv" for name, a in params.items()}
            return zeros | {"step": np.zeros(1, np.float64)}
        first = {f"d/{name}": np.zeros(array.shape, np.float64) for name, array in params.items()}
        second = {f"v/{name}": np.full(array.shape, self.tau**2, np.float64) for name, array in params.items()}
        return first | second

    def apply(
        self, state: Mapping[str, np.ndarray], params: Parameters, updates: Mapping[str, Parameters]
    ) -> tuple[State, dict[str, np.ndarray]]:
        """See server.aggregation.Rule."""
        number = state["step"] + 1 if self.bias_correction else np.full(1, np.inf)
        new_state: State = {"step": number} if self.bias_correction else {}
        step = {}
        for name, mean in uniform_mean(updates).items():
            first = self.beta_1 * state[f"d/{name}"] + (1 - self.beta_1) * mean
            squared = mean**2 if self.bias_correction else first**2
            second = self.beta_2 * state[f"v/{name}"] + (1 - self.beta_2) * squared
            new_state |= {f"d/{name}": first, f"v/{name}": second}
            unbiased = first / (1 - self.beta_1**number)
            # never below tau: a parameter that shows less than its noise would take a step without bounds
            scale = np.sqrt(np.maximum(second / (1 - self.beta_2**number) - self.noise_std**2, 0.0))
            step[name] = self.learning_rate * unbiased / (scale + self.tau)
        return new_state, stepped(params, step)


def build(
    *,
    server_learning_rate: float = 0.01,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    tau: float = 1e-3,
    bias_correction: bool = False,
    noise_std: float = 0.0,
    low_rank: Mapping[str, int] | None = None,
) -> Rule:
    """The rule, with the paper's beta_1, beta_2 and tau; tau is in the updates' units.

    noise_std: standard deviation of each number of the mean update's noise, which is taken off its second moment.
    low_rank: as for fedavg. Raises ConfigError for a value out of its bounds, and for noise_std without
    bias_correction: the paper's second moment is of d, which has less noise.
    """
    if noise_std > 0 and not bias_correction:
        raise ConfigError(
            f"Expected federation.aggregation.noise_std={noise_std} with bias_correction alone, whose second moment is "
            "of the updates themselves; set federation.aggregation.bias_correction: true."
        )
    rule = FedAdam(
        learning_rate=within("server_learning_rate", server_learning_rate, 0.0, math.inf, low_included=False),
        beta_1=within("beta_1", beta_1, 0.0, 1.0, low_included=True),
        beta_2=within("beta_2", beta_2, 0.0, 1.0, low_included=True),
        tau=within("tau", tau, 0.0, math.inf, low_included=False),
        bias_correction=bias_correction,
        noise_std=within("noise_std", noise_std, 0.0, math.inf, low_included=True),
    )
    return with_low_rank(rule, low_rank)
