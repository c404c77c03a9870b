"""What every mechanism is: public facts, the event that they cost, and local training that keeps them.

A mechanism is a frozen dataclass in a file of its own, named as in `privacy.mechanism`, with a function
`from_settings`. Its fields are public; the data, its size and the randomness are arguments. The event
that is charged is made from the very fields that run it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import nn

from mmrank.components import load
from mmrank.privacy._checks import Inputs, Losses
from mmrank.privacy.accountant import Event
from mmrank.privacy.noise import Noise
from mmrank.privacy.per_unit import PerUnitGradients
from mmrank.settings import PrivacySettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class LocalProblem:
    """What one client trains in one round. `size` and what `inputs` returns are private.

    model: at the round's parameters, trained in place. size: how many units the client holds.
    inputs: the tensors of some units [b] by row in [0, size), each tensor's first axis the unit.
    losses: (scores, inputs) -> one loss a unit [b]. optimizer: fresh, over the model's trainable parameters.
    adjust: called with the optimiser when each `p.grad` is final and, with privacy, already noisy (a proximal term).
    gradients: per-unit gradients of that very model and loss, for mechanisms that clip units.
    """

    model: nn.Module
    size: int
    inputs: Callable[[np.ndarray], Inputs]
    losses: Losses
    optimizer: torch.optim.Optimizer
    adjust: Callable[[object], None] | None = None
    gradients: PerUnitGradients | None = None


class Mechanism(Protocol):
    """A way to train on private units.

    unit: what is protected. steps: local steps in a round. event: what one round costs, under add/remove
    adjacency of the unit. grad_sample: which per-unit gradients `train` needs, or None.
    micro_batch_size: in batches of how many units.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def event(self) -> Event: ...
    @property
    def grad_sample(self) -> Literal["opacus", "vmap"] | None: ...
    @property
    def micro_batch_size(self) -> int: ...

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """One round: `steps` steps on `problem.model`, in place; zero units are no special case for the caller."""
        ...


def build_mechanism(
    privacy: PrivacySettings, training: TrainingSettings, *, rounds: int, cache_dir: Path | None = None
) -> Mechanism:
    """The mechanism of `privacy.mechanism` for a plan of `rounds` rounds; calibrated noise is kept in `cache_dir`.

    Raises PrivacyError or ConfigError where the settings can't keep their promise.
    """
    module = load("mmrank.privacy", privacy.mechanism)
    return module.from_settings(privacy, training, rounds=rounds, cache_dir=cache_dir)
