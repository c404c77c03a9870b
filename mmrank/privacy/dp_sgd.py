"""DP-SGD inside a client (Abadi et al. 2016): Poisson sampling, per-unit clipping, Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from opacus.optimizers import DPOptimizer

from mmrank.errors import PrivacyError
from mmrank.privacy._checks import Inputs, units_of
from mmrank.privacy.accountant import Event
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.metrics_release import planned_events
from mmrank.privacy.noise import Noise, poisson, snapped
from mmrank.privacy.per_unit import PerUnitGradients, padded
from mmrank.privacy.planning import calibrate
from mmrank.settings import PrivacySettings, TrainingSettings

BELOW = 1 - 1e-6
"""A clipped gradient is a little shorter than the clip, so that rounding to float32 does not pass it."""
SMALLEST_CLIP = 1e-6
_COLUMNS = 2**20
"""Numbers that are held in float64 at once, to add them up."""
LONGEST = 1e30
"""A longer gradient counts as zero: the factor that clips it would be too small a number for float32."""


@dataclass(frozen=True, kw_only=True)
class DpSgd:
    """One round of `steps` Poisson-sampled Gaussian mechanisms, each of L2 sensitivity max_grad_norm.

    Guarantee: with noise that nobody else knows, the parameters after a round are (epsilon, delta)-DP for
    epsilon([event], delta), for adding or removing one unit, whatever the unit and the others hold; a client
    may hold any number of units, 0 included. It is over the reals: mmrank.privacy.noise.snapped bounds what
    floats add to it.

    sampling_rate: q, with which each unit enters a step, independently of all others. noise_multiplier: standard
    deviation of a sum's noise over max_grad_norm. expected_batch_size: the public denominator; it scales the
    step, and no privacy depends on it. slates_per_unit: K, the most slates of a user that enter a step, drawn anew in
    each; a user's gradient is the mean of theirs, clipped once. micro_batch_size: slates held at once, a multiple of K,
    and the size of every batch that a gradient is computed in: memory and time depend on it, nothing else.
    """

    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: float
    steps: int
    unit: str = "slate"
    grad_sample: Literal["opacus", "vmap"] = "opacus"
    micro_batch_size: int = 64
    slates_per_unit: int = 1

    name: ClassVar[str] = "dp_sgd"

    def __post_init__(self) -> None:
        _ = self.event  # its bounds are these
        for field, value in (
            ("max_grad_norm", self.max_grad_norm),
            ("expected_batch_size", self.expected_batch_size),
            ("micro_batch_size", self.micro_batch_size),
        ):
            if not 0 < value < float("inf"):
                raise PrivacyError(f"Expected {field}={value} to be finite and above 0; set privacy.{field}.")
        if self.max_grad_norm < SMALLEST_CLIP:
            raise PrivacyError(
                f"Expected max_grad_norm={self.max_grad_norm} of at least {SMALLEST_CLIP}, which float32 can clip to; "
                "set privacy.max_grad_norm."
            )
        if self.slates_per_unit < 1 or self.micro_batch_size % self.slates_per_unit:
            raise PrivacyError(
                f"Expected micro_batch_size={self.micro_batch_size} to be a multiple of slates_per_user="
                f"{self.slates_per_unit}, so that a user's slates stay in one batch; set privacy.micro_batch_size."
            )
        if self.unit == "slate" and self.slates_per_unit > 1:
            raise PrivacyError(
                f"Expected slates_per_unit={self.slates_per_unit} to be 1 where the unit is the slate; "
                "set privacy.unit: user."
            )

    @property
    def event(self) -> Event:
        """What one round costs."""
        return Event(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier, steps=self.steps)

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """`steps` steps, in place; `shuffle` is not used.

        Raises PrivacyError without per-unit gradients, or where the unit is a person and owners are unknown.
        """
        gradients = problem.gradients
        if gradients is None or gradients.model is not problem.model:
            raise PrivacyError("dp_sgd needs the per-unit gradients of the model that it trains; see build_per_unit.")
        if self.unit == "user" and problem.owners is None:
            raise PrivacyError("Expected the person of each slate with unit=user; give the problem's owners.")
        people = None if self.unit == "slate" else slates_by_owner(problem.owners)
        optimizer = UnitOptimizer(
            problem.optimizer,
            noise=noise,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=self.expected_batch_size,
        )
        if problem.adjust is not None:
            optimizer.attach_step_hook(problem.adjust)
        size = gradients.size or self.micro_batch_size
        together = max(size // self.slates_per_unit, 1)
        for _ in range(self.steps):
            units = poisson(noise, problem.size if people is None else len(people), self.sampling_rate)
            for start in range(0, len(units), together):
                taken = units[start : start + together]
                rows, unit_of = (taken, None) if people is None else self._bundles([people[u] for u in taken], noise)
                optimizer.accumulate(gradients, problem.inputs(rows), size=size, unit_of=unit_of)
            optimizer.step()

    def release(self, update: Mapping[str, np.ndarray], *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """The update as it is: every step of it was private."""
        return dict(update)

    def _bundles(self, slates: Sequence[np.ndarray], noise: Noise) -> tuple[np.ndarray, np.ndarray]:
        """(rows [n], the unit [n] of each): at most slates_per_unit of each person's slates, any of them alike."""
        kept = [
            rows
            if len(rows) <= self.slates_per_unit
            else rows[np.argsort(noise.uniform(len(rows)))[: self.slates_per_unit]]
            for rows in slates
        ]
        return np.concatenate(kept), np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])


def slates_by_owner(owners: np.ndarray | None) -> list[np.ndarray]:
    """Rows of each person's slates, persons in the order of their numbers; `owners`: int64 [slates]."""
    if owners is None or not len(owners):
        return []
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)


class UnitOptimizer(DPOptimizer):
    """Opacus' DPOptimizer with what is unsafe in a federation replaced.

    The noise comes from `noise`, not from a torch generator (32 effective bits, and equal for every client
    that makes a new one). A unit whose gradient is not finite adds zero. An empty Poisson batch is a zero sum,
    which gets its noise as any other. The denominator is the public expected_batch_size, whatever the
    batch was and however many micro-batches it came in.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise: Noise,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,  # type: ignore[arg-type]  # q times a size need not be whole
            loss_reduction="mean",
        )
        self._noise = noise
        self.zero_grad(set_to_none=True)

    def accumulate(
        self, gradients: PerUnitGradients, inputs: Inputs, *, size: int, unit_of: np.ndarray | None = None
    ) -> None:
        """Add the clipped sum of some units' gradients, at most `size` slates, to the step's.

        unit_of: the unit of each slate, int64 from 0 and rising; each its own where None. A unit's gradient is the mean
        of its slates'. They are computed in a batch of exactly `size`: a matrix product rounds in another way for
        another number of rows, so in a batch that shrinks a unit's gradient would tell of the units beside it.
        """
        slates = units_of(inputs)
        rows = gradients(padded(inputs, size))
        for name, parameter in gradients.parameters.items():
            # A parameter that took no part for these units has gradient zero. That it takes part at all was
            # seen when the model was tried: to refuse here would tell of the data.
            taken = rows[name] if name in rows else parameter.new_zeros(size, *parameter.shape)
            taken[slates:] = 0
            vars(parameter)["grad_sample"] = taken
        zero_non_finite(self.grad_samples)
        if unit_of is not None:
            for parameter in gradients.parameters.values():
                vars(parameter)["grad_sample"] = _means(vars(parameter)["grad_sample"][:slates], unit_of)
        self.clip_and_accumulate()
        for parameter in gradients.parameters.values():
            vars(parameter)["grad_sample"] = None

    def clip_and_accumulate(self) -> None:
        """Add each unit's gradient, scaled to norm at most max_grad_norm over all parameters; norms in float64."""
        rows = self.grad_samples
        norms = torch.stack([torch.linalg.vector_norm(r.flatten(1), dim=1, dtype=torch.float64) for r in rows]).norm(
            dim=0
        )
        scales = self.max_grad_norm * BELOW / norms.clamp(min=self.max_grad_norm)
        factors = torch.where(norms <= LONGEST, scales, 0.0)
        for parameter, of_units in zip(self.params, rows, strict=True):
            clipped = _weighted_sum(factors, of_units)
            total = parameter.summed_grad
            parameter.summed_grad = clipped if total is None else total.add_(clipped)

    def add_noise(self) -> None:
        """`p.grad` = clipped sum + N(0, (noise_multiplier * max_grad_norm)^2), added in float64, on a public grid."""
        parameters, std = self.params, self.noise_multiplier * self.max_grad_norm
        sizes = [parameter.numel() for parameter in parameters]
        noise = self._noise.normal((sum(sizes),), std, dtype=torch.float64).to(parameters[0].device)
        for parameter, part in zip(parameters, noise.split(sizes), strict=True):
            total = part.view_as(parameter)
            if parameter.summed_grad is not None:
                total = total + parameter.summed_grad.double()
            parameter.grad, parameter.summed_grad = snapped(total, std).to(parameter.dtype), None

    def scale_grad(self) -> None:
        """Divide by the public denominator."""
        for parameter in self.params:
            parameter.grad /= self.expected_batch_size

    def step(self, closure: Any = None) -> None:
        """Release one step: noise once, whatever was accumulated. Raises PrivacyError for a closure."""
        if closure is not None:
            raise PrivacyError("A closure computes gradients that nobody clips; use accumulate before the step.")
        self.add_noise()
        self.scale_grad()
        if self.step_hook is not None:
            self.step_hook(self)
        self.original_optimizer.step()
        self.zero_grad(set_to_none=True)


def _weighted_sum(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """float64 [...] of factors float64 [units] and rows [units, ...].

    In float64, a few columns at a time: roundings of float32 sums of many units would add up beyond BELOW.
    """
    columns = rows.flatten(1).split(max(_COLUMNS // max(len(rows), 1), 1), dim=1)
    return torch.cat([factors @ part.double() for part in columns]).view(rows.shape[1:])


def _means(rows: torch.Tensor, unit_of: np.ndarray) -> torch.Tensor:
    """[units, ...] of rows [slates, ...], added up in their order; unit_of as in `add_units`.

    In float64: the sum of two finite float32 may be none, and a mean that is not finite would show through any noise.
    The first slates of all units, then the second ones: so no two meet in one cell, and a GPU adds in this order too.
    """
    sizes = np.bincount(unit_of)
    place = np.arange(len(unit_of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    totals = torch.zeros(len(sizes), *rows.shape[1:], dtype=torch.float64, device=rows.device)
    for slot in range(int(sizes.max(initial=0))):
        here = torch.from_numpy(np.flatnonzero(place == slot)).to(rows.device)
        units = torch.from_numpy(unit_of[place == slot]).to(rows.device)
        totals.index_add_(0, units, rows[here].double())
    counts = torch.from_numpy(sizes).to(rows.device, torch.float64)
    return (totals / counts.view(-1, *[1] * (rows.dim() - 1))).to(rows.dtype)


def zero_non_finite(grad_samples: list[torch.Tensor]) -> None:
    """Zero, in place, a unit's rows in every tensor [units, ...] where any of them holds an inf or NaN.

    Clipping alone would turn one inf into NaN weights, which shows that the unit was there.
    """
    # the sum of finite numbers may overflow, but never is one finite that has an inf or NaN in it: most end here
    if all(bool(torch.isfinite(rows.sum())) for rows in grad_samples):
        return
    finite = torch.stack([torch.isfinite(rows.flatten(1)).all(1) for rows in grad_samples]).all(0)
    for rows in grad_samples:
        rows[~finite] = 0


def from_settings(
    privacy: PrivacySettings,
    training: TrainingSettings,
    *,
    rounds: int,
    cohort_size: int = 1,
    cache_dir: Path | None = None,
) -> DpSgd:
    """The mechanism of those settings; a target epsilon is calibrated over rounds x local_steps and the
    measures that are released beside them, once, and kept."""
    noise_multiplier = privacy.noise_multiplier
    if noise_multiplier is None:
        if privacy.epsilon is None:
            raise PrivacyError("Expected privacy.epsilon or privacy.noise_multiplier with dp_sgd; set one of them.")
        noise_multiplier = calibrate(
            sampling_rate=privacy.sampling_rate,
            steps=training.local_steps * rounds,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            cache_dir=cache_dir,
            beside=planned_events(privacy, rounds=rounds),
        )
    bundle = privacy.slates_per_user if privacy.unit == "user" else 1
    return DpSgd(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        expected_batch_size=privacy.expected_batch_size,
        steps=training.local_steps,
        unit=privacy.unit,
        grad_sample=privacy.grad_sample,
        micro_batch_size=max(privacy.micro_batch_size // bundle, 1) * bundle,
        slates_per_unit=bundle,
    )
