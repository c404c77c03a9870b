"""What every mechanism is: public facts, the event that they cost, and local training that keeps them.

A mechanism is a frozen dataclass in a file of its own, named as in `privacy.mechanism`, with a function
`from_settings`. Its fields are public; the data, its size and the randomness are arguments. The event
that is charged is made from the very fields that run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from mmrank.settings import FederationSettings, PrivacySettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class LocalProblem:
    """What one client trains in one round. `size`, `owners` and what `inputs` returns are private.

    model: at the round's parameters, trained in place. size: how many slates the client holds.
    inputs: the tensors of some slates [b] by row in [0, size), each tensor's first axis the slate.
    losses: (scores, inputs) -> one loss a slate [b]. optimizer: fresh, over the model's trainable parameters.
    adjust: called with the optimiser when each `p.grad` is final and, with privacy, already noisy (a proximal term).
    gradients: per-unit gradients of that very model and loss, for mechanisms that clip units.
    owners: int64 [size], the person of each slate, counted within the client; None where that is not known.
    """

    model: nn.Module
    size: int
    inputs: Callable[[np.ndarray], Inputs]
    losses: Losses
    optimizer: torch.optim.Optimizer
    adjust: Callable[[object], None] | None = None
    gradients: PerUnitGradients | None = None
    owners: np.ndarray | None = None


class Mechanism(Protocol):
    """A way to train on private units.

    unit: what is protected. steps: local steps in a round. event: what one round costs the client's own ledger.
    grad_sample: which per-slate gradients `train` needs, or None. micro_batch_size: in batches of how many slates.
    slates_per_unit: the most of one unit that enter a step.
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
    @property
    def slates_per_unit(self) -> int: ...

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """One round: `steps` steps on `problem.model`, in place; zero units are no special case for the caller."""
        ...

    def release(self, update: Mapping[str, np.ndarray], *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """What leaves the client, float32 by name, of new minus old parameters. clip: this round's, public."""
        ...


def build_mechanism(
    privacy: PrivacySettings,
    training: TrainingSettings,
    federation: FederationSettings,
    *,
    cache_dir: Path | None = None,
    dimension: int | None = None,
) -> Mechanism:
    """The mechanism of `privacy.mechanism` for the federation's rounds; calibrated noise is kept in `cache_dir`.

    dimension: numbers in an update, on which the cost of distributed noise depends; the others leave it alone.
    Raises PrivacyError or ConfigError where the settings can't keep their promise.
    """
    if privacy.distributed:
        planned = load("mmrank.privacy", "distributed_update").from_settings
        return planned(privacy, training, federation, dimension=dimension, cache_dir=cache_dir)
    module = load("mmrank.privacy", privacy.mechanism)
    return module.from_settings(
        privacy, training, rounds=federation.rounds, cohort_size=federation.cohort_size, cache_dir=cache_dir
    )
