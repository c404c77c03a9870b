"""Small models with the ranker's interface (a dictionary of tensors -> scores [units, slate]), right and wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmrank.losses.softmax import softmax_cross_entropy
from mmrank.privacy.dp_sgd import DpSgd, UnitOptimizer
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.noise import Noise, SeededNoise
from mmrank.privacy.per_unit import PerUnitGradients, build_per_unit

LENGTH, WIDTH, IDS = 5, 4, 7


def losses(scores: Tensor, inputs) -> Tensor:
    """The default loss, one number a unit."""
    return softmax_cross_entropy(scores, inputs["relevance"], torch.ones_like(scores, dtype=torch.bool))


def examples(units: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Units that differ: x [units, LENGTH, WIDTH], ids [units, LENGTH], relevance [units, LENGTH]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(units, LENGTH, WIDTH, generator=generator),
        "ids": torch.randint(0, IDS, (units, LENGTH), generator=generator),
        "relevance": torch.randint(0, 3, (units, LENGTH), generator=generator).float(),
    }


class Scorer(nn.Module):
    """Linear layers, a layer used twice, an embedding and a norm; every first axis is the unit."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, 6)
        self.embedding = nn.Embedding(IDS, 6, padding_idx=padding_idx)
        self.norm = nn.LayerNorm(6)
        self.again = nn.Linear(6, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, inputs) -> Tensor:
        hidden = self.norm(torch.tanh(self.inner(inputs["x"])) + self.embedding(inputs["ids"]))
        return self.head(self.again(torch.tanh(self.again(hidden)))).squeeze(-1)


class Folded(nn.Module):
    """Wrong for hooks: candidates are folded into the batch axis, as picture towers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(WIDTH, 6), nn.Linear(6, 1)

    def forward(self, inputs) -> Tensor:
        x = inputs["x"]
        return self.head(torch.tanh(self.inner(x.reshape(-1, WIDTH)))).reshape(x.shape[0], -1)


class Mixing(nn.Module):
    """Wrong everywhere: a unit's scores depend on the other units."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, inputs) -> Tensor:
        scores = self.head(inputs["x"]).squeeze(-1)
        return scores * (1 + scores.mean())


class BehindTheBack(nn.Module):
    """Wrong for hooks: a weight is used outside of its layer's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, inputs) -> Tensor:
        return self.head(inputs["x"]).squeeze(-1) + nn.functional.linear(inputs["x"] ** 2, self.head.weight).squeeze(-1)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model with weights that depend on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def per_unit(kind: str, model: nn.Module | None = None) -> PerUnitGradients:
    """Per-unit gradients of a Scorer, or of `model`, for batches of the mechanism's size.

    Matrices this small are rounded by their place in a batch on some machines, which is another test's affair.
    """
    gradients = build_per_unit(kind, model or seeded(Scorer()), losses, example=examples(3, seed=99), size=1)
    gradients.size = 0
    return gradients


def mechanism(**changes) -> DpSgd:
    """One step, everything in the batch, no noise, clip 1, unless changed."""
    facts = {
        "sampling_rate": 1.0,
        "noise_multiplier": 0.0,
        "max_grad_norm": 1.0,
        "expected_batch_size": 8.0,
        "steps": 1,
        "micro_batch_size": 3,
    }
    return DpSgd(**{**facts, **changes})


def train(
    private: DpSgd,
    units: dict[str, Tensor],
    *,
    noise: Noise | None = None,
    model: nn.Module | None = None,
    owners: np.ndarray | None = None,
) -> np.ndarray:
    """What one round of plain SGD with learning rate 1 moves the parameters by: minus the noisy mean, flat."""
    gradients = per_unit(private.grad_sample, model)
    before = flat(gradients.model)
    problem = LocalProblem(
        model=gradients.model,
        size=len(units["x"]),
        inputs=lambda rows: {name: tensor[torch.from_numpy(rows)] for name, tensor in units.items()},
        losses=losses,
        optimizer=torch.optim.SGD(gradients.parameters.values(), lr=1.0),
        gradients=gradients,
        owners=owners,
    )
    private.train(problem, noise=noise or SeededNoise(0, "test"), shuffle=np.random.default_rng(0))
    return flat(gradients.model) - before


def flat(model: nn.Module) -> np.ndarray:
    """All trainable parameters in one array [p]."""
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters() if p.requires_grad])


def one_by_one(model: nn.Module, units: dict[str, Tensor]) -> list[np.ndarray]:
    """Each unit's gradient [p] by plain autograd in a batch of one: the reference."""
    rows = []
    for row in range(len(units["x"])):
        unit = {name: tensor[row : row + 1] for name, tensor in units.items()}
        grads = torch.autograd.grad(losses(model(unit), unit).sum(), list(model.parameters()))
        rows.append(np.concatenate([grad.numpy().ravel() for grad in grads]))
    return rows


def optimizer_of(gradients: PerUnitGradients, **changes) -> UnitOptimizer:
    """A UnitOptimizer over plain SGD, for tests that hand it gradients."""
    facts = {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": 1.0, "noise": SeededNoise(0)}
    return UnitOptimizer(torch.optim.SGD(gradients.parameters.values(), lr=1.0), **{**facts, **changes})
