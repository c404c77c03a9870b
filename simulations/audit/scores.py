"""What an attacker reads of the canaries: each noisy step or round, and the model.

The ledger's claim holds against whoever sees every noisy step, so a score may be made of them; everybody sees the
model, and the server what moved it. All of it is had after the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmrank.errors import ConfigError
from mmrank.privacy.accountant import Event
from mmrank.privacy.dp_sgd import DpSgd
from mmrank.privacy.mechanism import LocalProblem, Mechanism
from mmrank.privacy.noise import Noise
from mmrank.privacy.per_unit import padded
from mmrank.settings import Settings
from simulations.audit.canaries import PARAMETER, CanarySlates


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One training run as its attacker saw it.

    included: the coins, bool [m]. scores: float64 [m] by name, high for "in". events: what the ledger behind the
    promise holds after the run, and epsilon what it said last. share: of the clip, what a canary filled of its own
    entry (median).
    """

    included: np.ndarray
    scores: Mapping[str, np.ndarray]
    events: tuple[Event, ...]
    epsilon: float
    rounds: int
    share: float


@dataclass(kw_only=True)
class Reading:
    """steps: sums over a run so far, by canary, float64 [m]. shares: how much of the clip they filled, by round."""

    steps: np.ndarray
    shares: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The mechanism itself, with an attacker who reads each step's gradient when it is noisy.

    on_round: called with the problem before its steps; on_step: with the noisy gradients by name.
    """

    mechanism: Mechanism
    on_round: Callable[[LocalProblem], None]
    on_step: Callable[[Mapping[str, Tensor]], None]

    @property
    def name(self) -> str:
        return self.mechanism.name

    @property
    def unit(self) -> str:
        return self.mechanism.unit

    @property
    def steps(self) -> int:
        return self.mechanism.steps

    @property
    def event(self) -> Event:
        return self.mechanism.event

    @property
    def grad_sample(self) -> Literal["opacus", "vmap"] | None:
        return self.mechanism.grad_sample

    @property
    def micro_batch_size(self) -> int:
        return self.mechanism.micro_batch_size

    @property
    def slates_per_unit(self) -> int:
        return self.mechanism.slates_per_unit

    def release(self, update: Mapping[str, np.ndarray], *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """The mechanism's own."""
        return self.mechanism.release(update, clip=clip, noise=noise)

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """The mechanism's own round, on the same problem."""
        self.on_round(problem)
        parameters = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}

        def adjust(optimizer: object) -> None:
            self.on_step({name: p.grad for name, p in parameters.items() if p.grad is not None})
            if problem.adjust is not None:
                problem.adjust(optimizer)

        self.mechanism.train(replace(problem, adjust=adjust), noise=noise, shuffle=shuffle)


def watch(mechanism: Mechanism, canaries: CanarySlates, settings: Settings) -> tuple[Watched, Reading]:
    """A mechanism to put in the place of `mechanism`, and where its readings go.

    Raises ConfigError for a mechanism whose steps are not those of DP-SGD.
    """
    if not isinstance(mechanism, DpSgd):
        raise ConfigError(
            f"Expected privacy.mechanism={mechanism.name} to be dp_sgd, whose canaries are slates or people; audit "
            "such a run."
        )
    reading = Reading(steps=np.zeros(len(canaries)))
    own = np.zeros(len(canaries))

    def on_round(problem: LocalProblem) -> None:
        own[:] = own_signals(mechanism, canaries, problem, settings)
        reading.shares.append(float(np.median(own)))

    def on_step(gradients: Mapping[str, Tensor]) -> None:
        seen = canaries.signals(gradients) * mechanism.expected_batch_size / mechanism.max_grad_norm
        reading.steps += log_likelihood_ratio(seen, own, mechanism.noise_multiplier, mechanism.sampling_rate)

    return Watched(mechanism=mechanism, on_round=on_round, on_step=on_step), reading


def own_signals(mechanism: DpSgd, canaries: CanarySlates, problem: LocalProblem, settings: Settings) -> np.ndarray:
    """float64 [m] in [0, 1]: what each canary adds to its own entry of a step's sum, over the clip, at this model.

    A person's slates are alike, so that the mean of their gradients is that of one.
    """
    gradients = problem.gradients
    if gradients is None:
        raise ConfigError("Expected per-unit gradients with dp_sgd; set privacy.grad_sample.")
    size, device = mechanism.micro_batch_size, next(problem.model.parameters()).device
    found = np.zeros(len(canaries))
    for start in range(0, len(canaries), size):
        rows = np.arange(start, min(start + size, len(canaries)))
        values = gradients(padded(canaries.inputs(slice(start, start + size), settings, device), size))
        norms = torch.stack([value.flatten(1).norm(dim=1) for value in values.values()]).norm(dim=0)
        looks, words = torch.from_numpy(canaries.entries[rows]).unbind(1)
        entries = -values[PARAMETER][torch.arange(len(rows)), looks, words]
        found[rows] = (entries / norms[: len(rows)].clamp(min=mechanism.max_grad_norm)).cpu().double().numpy()
    return found


def log_likelihood_ratio(seen: np.ndarray, own: np.ndarray, noise_multiplier: float, rate: float) -> np.ndarray:
    """log of the density of `seen` with the canary in over that without: of a Poisson-sampled Gaussian, sum over clip.

    (1 - q) + q exp((own seen - own^2 / 2) / sigma^2), in logarithms.
    """
    if noise_multiplier == 0:
        return seen
    exponent = (own * seen - own**2 / 2) / noise_multiplier**2
    return np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + exponent)


def log_likelihood_ratio_of_opposites(seen: float, own: float, noise_multiplier: float) -> float:
    """log of the density of `seen` with the canary over that with its opposite: N(own, sigma^2), N(-own, sigma^2)."""
    return 2 * own * seen / noise_multiplier**2 if noise_multiplier > 0 else seen
