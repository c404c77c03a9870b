"""The bugs. Each takes pytest's MonkeyPatch, which fails where the place that it changes is gone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

import client.vault
from client.outbox import Outbox
from mmrank.privacy import _trial, noise, per_unit
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.dp_sgd import DpSgd, UnitOptimizer
from mmrank.privacy.ledger import Account
from mmrank.privacy.noise import SecureNoise, SeededNoise


def noise_times(factor: float):
    """The step's noise is `factor` of what is charged."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        add_noise = UnitOptimizer.add_noise

        def wrong(self: UnitOptimizer) -> None:
            honest = self.noise_multiplier
            self.noise_multiplier = honest * factor
            add_noise(self)
            self.noise_multiplier = honest

        patch.setattr(UnitOptimizer, "add_noise", wrong)

    return plant


def no_clip(patch: pytest.MonkeyPatch) -> None:
    """Units' gradients are summed as they are."""

    def wrong(self: UnitOptimizer) -> None:
        for parameter, rows in zip(self.params, self.grad_samples, strict=True):
            total = rows.sum(0)
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    patch.setattr(UnitOptimizer, "clip_and_accumulate", wrong)


def biases_not_clipped(patch: pytest.MonkeyPatch) -> None:
    """A parameter with one axis is in no norm, and is not scaled."""
    clip = UnitOptimizer.clip_and_accumulate

    def wrong(self: UnitOptimizer) -> None:
        biases = [(p, p.grad_sample) for p in self.params if p.dim() <= 1]
        for parameter, rows in biases:
            vars(parameter)["grad_sample"] = torch.zeros_like(rows)
        clip(self)
        for parameter, rows in biases:
            parameter.summed_grad += rows.sum(0)

    patch.setattr(UnitOptimizer, "clip_and_accumulate", wrong)


def scalars_let_through(patch: pytest.MonkeyPatch) -> None:
    """The model's check is left out: Opacus' clipping passes over a parameter without a dimension."""
    patch.setattr(per_unit, "check_model", lambda model: model.train())


def candidates_folded(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a layer's first axis, nor tries the model: each candidate would be clipped as a unit."""
    patch.setattr(per_unit.OpacusGradients, "_checker", lambda self, name: lambda module, args, kwargs: None)
    patch.setattr(per_unit, "compare", lambda alone, together: None)
    patch.setattr(per_unit, "compare_bits", lambda gradients, example, size: None)


def mean_for_sum(patch: pytest.MonkeyPatch) -> None:
    """The loss is a mean, whatever the hooks were told of its reduction: a unit's gradient shrinks with its company."""
    checked = per_unit.checked_losses
    patch.setattr(per_unit, "checked_losses", lambda losses, units: checked(losses, units) / units)
    patch.setattr(per_unit, "compare", lambda alone, together: None)


def reduced_loss_let_through(patch: pytest.MonkeyPatch) -> None:
    """One number for the whole batch passes for one a unit."""

    def wrong(losses: torch.Tensor, units: int) -> torch.Tensor:
        return losses if losses.shape == (units,) else losses.mean().expand(units)

    for module in (per_unit, _trial):
        patch.setattr(module, "checked_losses", wrong)


def charge_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The ledger says what the charge would come to, and writes nothing after its first."""
    for name in ("charge", "claim"):
        honest = getattr(Account, name)

        def wrong(self: Account, charges, event, honest=honest, **plan) -> float:
            if not self.events():
                return honest(self, charges, event, **plan)
            return epsilon((*self.events(), event), self.policy.delta)

        patch.setattr(Account, name, wrong)


def one_seed_for_all(patch: pytest.MonkeyPatch) -> None:
    """A client's seeded noise depends on the seed alone."""
    patch.setattr(client.vault, "SeededNoise", lambda seed, *names: SeededNoise(seed))


def one_key_for_all(patch: pytest.MonkeyPatch) -> None:
    """Secure noise under a key that is not from the operating system."""
    patch.setattr(noise, "Cipher", lambda algorithm, mode: Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), mode))


def noise_drawn_once(patch: pytest.MonkeyPatch) -> None:
    """Each step of a round meets the noise of its first."""
    kept: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    holders: list[object] = []  # an id is another's once its owner is gone

    for source in (SecureNoise, SeededNoise):
        normal = source.normal

        def wrong(self, shape, std, *, dtype=torch.float32, normal=normal):
            if (id(self), shape) not in kept:
                holders.append(self)
                kept[id(self), shape] = normal(self, shape, std, dtype=dtype)
            return kept[id(self), shape].clone()

        patch.setattr(source, "normal", wrong)


class _Shuffled:
    """Noise whose inclusion goes through shuffled epochs in blocks of a fixed size."""

    def __init__(self, source, rate: float) -> None:
        self.normal, self._source, self._rate, self._left = source.normal, source, rate, np.empty(0, np.int64)

    def uniform(self, n: int) -> np.ndarray:
        size = max(1, round(self._rate * n))
        if len(self._left) < size:
            self._left = np.argsort(self._source.uniform(n))
        block, self._left = self._left[:size], self._left[size:]
        drawn = np.full(n, 1.0 - 2.0**-53)
        drawn[block[block < n]] = 0.0
        return drawn


def shuffling(patch: pytest.MonkeyPatch) -> None:
    """Batches of a fixed size through a shuffled epoch, reported as Poisson."""
    train = DpSgd.train
    patch.setattr(
        DpSgd,
        "train",
        lambda self, problem, *, noise, shuffle: train(
            self, problem, noise=_Shuffled(noise, self.sampling_rate), shuffle=shuffle
        ),
    )


def private_denominator(patch: pytest.MonkeyPatch) -> None:
    """A step is divided by the number of units that it held."""
    accumulate, step = UnitOptimizer.accumulate, UnitOptimizer.step

    def counted(self, gradients, inputs, *, size, **units):
        vars(self)["held"] = vars(self).get("held", 0) + len(next(iter(inputs.values())))
        accumulate(self, gradients, inputs, size=size, **units)

    def divided(self, closure=None):
        self.expected_batch_size = max(vars(self).pop("held", 0), 1)
        step(self, closure)

    patch.setattr(UnitOptimizer, "accumulate", counted)
    patch.setattr(UnitOptimizer, "step", divided)


def recompute_on_retry(patch: pytest.MonkeyPatch) -> None:
    """A request that comes again is trained again, on the charge of the first."""
    claim = Account.claim

    def same_charge(self: Account, charges, event, **plan) -> float:
        first = next(iter(charges))
        return self.epsilon() if self.has(first) else claim(self, itertools.chain([first], charges), event, **plan)

    patch.setattr(Outbox, "get", lambda self, *kind, **key: None)
    patch.setattr(Outbox, "put", lambda self, reply, **key: reply)
    patch.setattr(Account, "claim", same_charge)


def clipped_by_slate(patch: pytest.MonkeyPatch) -> None:
    """Each of a person's slates is clipped and added, as though it were somebody's own."""
    accumulate = UnitOptimizer.accumulate

    def wrong(self: UnitOptimizer, gradients, inputs, *, size, unit_of=None) -> None:
        accumulate(self, gradients, inputs, size=size)

    patch.setattr(UnitOptimizer, "accumulate", wrong)
