"""An audit that takes a second: one weight for each canary, through the real mechanism, optimiser and hooks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mmrank.privacy.accountant import Event
from mmrank.privacy.audit import Verdict, judge
from mmrank.privacy.dp_sgd import DpSgd
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.noise import SeededNoise
from mmrank.privacy.per_unit import PerUnitGradients, build_per_unit

CANARIES = 500
STEEPNESS = 5.0
"""A canary's gradient over the clip."""
CLIP = 0.5


class Weights(nn.Module):
    """One weight a canary, from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(CANARIES, 1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def forward(self, inputs) -> torch.Tensor:
        return self.weights(inputs["x"])


def steep(scores: torch.Tensor, inputs) -> torch.Tensor:
    """One loss a unit, whose gradient is beyond the clip whatever was learned."""
    return -STEEPNESS * CLIP * scores.squeeze(-1) * inputs["sign"]


def units(rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Each canary is one of the weights, pushed up or down by turns."""
    return {
        "x": nn.functional.one_hot(torch.from_numpy(rows), CANARIES).float(),
        "sign": torch.from_numpy(1.0 - 2.0 * (rows % 2)).float(),
    }


def gradients() -> PerUnitGradients:
    """Hooked, and tried on four units."""
    return build_per_unit("opacus", Weights(), steep, example=units(np.arange(4)), size=128)


def weak(**changes) -> DpSgd:
    """Epsilon 1.99 at delta 1e-5, unless changed."""
    facts = {"sampling_rate": 1.0, "noise_multiplier": 10.0, "steps": 25}
    return DpSgd(
        **{**facts, **changes}, max_grad_norm=CLIP, expected_batch_size=1.0, grad_sample="opacus", micro_batch_size=128
    )


def audit(
    private: DpSgd,
    seed: int,
    *,
    confidence: float = 0.999,
    events: tuple[Event, ...] | None = None,
    hooked: PerUnitGradients | None = None,
) -> Verdict:
    """Half of the canaries by a coin, one round of `private`, and what the model shows against `events`, its own.

    Where the unit is the user, canaries have 1 to slates_per_unit slates by turns.
    """
    hooked = hooked or gradients()
    with torch.no_grad():
        for parameter in hooked.parameters.values():
            parameter.zero_()
    included = np.random.default_rng([seed, 1]).random(CANARIES) < 0.5
    there = np.flatnonzero(included)
    slates = np.repeat(there, 1 + there % private.slates_per_unit)
    problem = LocalProblem(
        model=hooked.model,
        size=len(slates),
        inputs=lambda rows: units(slates[rows]),
        losses=steep,
        optimizer=torch.optim.SGD(hooked.parameters.values(), lr=1.0),
        gradients=hooked,
        owners=slates,
    )
    private.train(problem, noise=SeededNoise(seed, "audit"), shuffle=np.random.default_rng(0))
    moved = hooked.parameters["weights.weight"].detach().double().numpy()[0]
    scores = moved * (1.0 - 2.0 * (np.arange(CANARIES) % 2))
    return judge({"model": scores}, included, events=events or (private.event,), delta=1e-5, confidence=confidence)
