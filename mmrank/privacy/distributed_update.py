"""A client's whole update as the unit, with noise that the devices add in shares: `client_update`, distributed.

A device trains as it likes, clips what it learned to norm C over all parameters, adds its share of discrete Gaussian
noise, and puts the result into a secure sum: the server learns the sum over those who are left, and no update. What
that sum costs is said in mmrank.privacy.distributed. Adjacency is zero-out; no sampling of clients counts, since the
server drew the cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmrank._secure_settings import largest_cohort, secure_threshold
from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event
from mmrank.privacy.client_update import participations
from mmrank.privacy.distributed import DistributedNoise, plan_distributed
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.no_privacy import NoPrivacy
from mmrank.privacy.noise import Noise
from mmrank.privacy.planning import calibrate
from mmrank.secure_sum.sum_round import SumRound
from mmrank.settings import FederationSettings, PrivacySettings, TrainingSettings

VALUES = "values"
"""The one array of a device's contribution, before it is masked."""
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class DistributedUpdate:
    """Both halves of a round, of public facts alone.

    shares: the plan of the noise; what it promises is said there. sampling_rate: q, with which each client enters a
    round. cohort_size: the public denominator. round_: the sum that an update is for, once there is one.

    Guarantee: the sums of k rounds, and so the models, are (epsilon, delta)-DP for epsilon([event] * k, delta) against
    everybody, whichever client's updates become zeros, as far as t - c survivors of each round are honest.
    """

    shares: DistributedNoise
    sampling_rate: float
    cohort_size: int
    steps: int
    batch_size: int
    round_: SumRound | None = None

    name: ClassVar[str] = "client_update"
    unit: ClassVar[str] = "client"
    grad_sample: ClassVar[None] = None
    micro_batch_size: ClassVar[int] = 1
    slates_per_unit: ClassVar[int] = 1
    adaptive: ClassVar[bool] = False

    @property
    def event(self) -> Event:
        """What one round costs the client that takes part: its own ledger's charge, unamplified."""
        return self.shares.event

    def for_round(self, round_: SumRound) -> DistributedUpdate:
        """The same, for the updates of one round."""
        return replace(self, round_=round_)

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """Plain local training: what protects is done to the whole update, in `release` and by the masks."""
        NoPrivacy(steps=self.steps, batch_size=self.batch_size).train(problem, noise=noise, shuffle=shuffle)

    def release(self, update: Mapping[str, np.ndarray], *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """{VALUES: residues [length]}: clipped to the plan's norm, with this device's share of the noise.

        One share is too little noise for one update: a mask has to be put on it before it leaves the client.
        Raises PrivacyError without a round, or for another clip than the plan's.
        """
        if self.round_ is None:
            raise PrivacyError(
                "An update under privacy.noise_at=distributed leaves its client in a secure sum alone; the server "
                "must ask for one, step by step."
            )
        if clip != self.shares.max_grad_norm:
            raise PrivacyError(
                f"Expected clip={clip} to be privacy.max_grad_norm={self.shares.max_grad_norm}, for which the noise "
                "is planned."
            )
        return {VALUES: self.shares.encode(flat(update), round_=self.round_, noise=noise)}

    def mean(self, total: np.ndarray, like: Mapping[str, np.ndarray], *, round_: SumRound) -> dict[str, np.ndarray]:
        """The noisy mean update, float64 by name, of a secure sum's total: divided by the public cohort_size."""
        return split(self.shares.decode(total, round_=round_) / self.cohort_size, like)


def flat(update: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [dimension]: the arrays one after the other, in the order of their names."""
    return np.concatenate([np.asarray(update[name], np.float64).ravel() for name in sorted(update)])


def split(values: np.ndarray, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `flat`, in the shapes of `like`."""
    ends = np.cumsum([like[name].size for name in sorted(like)])
    parts = np.split(values, ends[:-1])
    return {name: part.reshape(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)}


def dimension_of(parameters: Mapping[str, np.ndarray]) -> int:
    """Numbers in an update of those parameters."""
    return sum(array.size for array in parameters.values())


def from_settings(
    privacy: PrivacySettings,
    training: TrainingSettings,
    federation: FederationSettings,
    *,
    dimension: int | None,
    cache_dir: Path | None = None,
) -> DistributedUpdate:
    """The mechanism of those settings; a target epsilon is calibrated over a client's participations, by Renyi DP.

    Raises PrivacyError where no granularity keeps the noise that is asked for.
    """
    if dimension is None:
        raise PrivacyError("Expected the dimension of an update with privacy.noise_at=distributed; pass dimension.")

    def planned(noise_multiplier: float) -> DistributedNoise:
        return plan_distributed(
            noise_multiplier=noise_multiplier,
            max_grad_norm=privacy.max_grad_norm,
            dimension=dimension,
            threshold=secure_threshold(privacy, federation),
            colluders=privacy.colluders,
            cohort=largest_cohort(privacy, federation),
        )

    if privacy.noise_multiplier is not None:
        shares = planned(privacy.noise_multiplier)
    else:
        if privacy.epsilon is None:
            raise PrivacyError("Expected privacy.epsilon or privacy.noise_multiplier; set one of them.")
        wanted = calibrate(
            sampling_rate=1.0,
            steps=participations(privacy, federation.rounds),
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            accountant="rdp",  # a concentrated event is composed so
            cache_dir=cache_dir,
        )
        shares = planned(wanted)
        for attempt in range(_TRIES):  # rounding costs a part of the noise: at most a hundredth
            if shares.effective_noise_multiplier >= wanted:
                break
            # a little more each time: where more noise is rounded more coarsely, the missing part hardly shrinks
            more = 1 + 1e-9 * 2.0**attempt
            shares = planned(shares.noise_multiplier * wanted / shares.effective_noise_multiplier * more)
        else:
            raise PrivacyError(f"No noise multiplier near {wanted} keeps privacy.epsilon={privacy.epsilon}; lower it.")
    return DistributedUpdate(
        shares=shares,
        sampling_rate=privacy.sampling_rate,
        cohort_size=federation.cohort_size,
        steps=training.local_steps,
        batch_size=training.batch_size,
    )
