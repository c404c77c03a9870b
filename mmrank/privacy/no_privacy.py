"""No mechanism: plain minibatch training, epsilon infinite. For comparison, and for data that is nobody's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmrank.privacy._checks import checked_losses
from mmrank.privacy.accountant import Event
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.noise import Noise
from mmrank.settings import PrivacySettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class NoPrivacy:
    """`steps` steps on shuffled minibatches of `batch_size` units, or of all where there are fewer."""

    steps: int
    batch_size: int
    unit: str = "slate"

    name: ClassVar[str] = "no_privacy"
    grad_sample: ClassVar[None] = None
    micro_batch_size: ClassVar[int] = 1
    slates_per_unit: ClassVar[int] = 1

    @property
    def event(self) -> Event:
        """A release without noise: epsilon is inf from here on."""
        return Event(sampling_rate=1.0, noise_multiplier=0.0, steps=self.steps)

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """In place; `noise` is not used. Without units nothing changes."""
        if problem.size == 0:
            return
        batches = minibatches(problem.size, self.batch_size, shuffle)
        for _ in range(self.steps):
            rows = next(batches)
            inputs = problem.inputs(rows)
            problem.optimizer.zero_grad(set_to_none=True)
            losses = problem.losses(problem.model(inputs), inputs)
            # By the public batch size, not the number of rows: a client with few slates speaks softly.
            (checked_losses(losses, len(rows)).sum() / self.batch_size).backward()
            if problem.adjust is not None:
                problem.adjust(problem.optimizer)
            problem.optimizer.step()

    def release(self, update: Mapping[str, np.ndarray], *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """The update as it is."""
        return dict(update)


def minibatches(size: int, batch_size: int, shuffle: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows int64 [min(batch_size, size)] without end, shuffled each epoch, whose rest is left out."""
    width = min(batch_size, size)
    while True:
        order = shuffle.permutation(size)
        for start in range(0, size - width + 1, width):
            yield order[start : start + width]


def from_settings(
    privacy: PrivacySettings,
    training: TrainingSettings,
    *,
    rounds: int,
    cohort_size: int = 1,
    cache_dir: Path | None = None,
) -> NoPrivacy:
    """Steps and batches of `training`; the rest is for mechanisms that plan."""
    return NoPrivacy(steps=training.local_steps, batch_size=training.batch_size, unit=privacy.unit)
