"""Measures that may leave a client: a noised sum over clipped units, charged as the mechanism that it is.

One vector goes out, of public length and type: for each measure the sum over units of (measure - 1/2), and the
number of units times a public weight. Nothing else does, and a client without a slate answers with the same noise on
zeros. Ratios and their intervals are computed from it by whoever holds it: post-processing, free of charge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.metrics import METRICS
from mmrank.privacy.accountant import Event
from mmrank.privacy.noise import Noise, noisy_sum
from mmrank.settings import PrivacySettings

Unit = Literal["slate", "user", "client"]
NoiseAt = Literal["sum", "local"]

CENTRE = 0.5
"""Measures lie in [0, 1]: about their middle a unit moves a sum by half as much."""
GRID = 2.0**-24
"""Contributions are whole multiples of it, and sums of up to 2^25 of them are exact in any order: the rounding of a sum
would otherwise tell of the units beside one."""
LARGEST_COUNT_WEIGHT = 16.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over units, and an interval that holds the exact one with the stated probability over the noise alone.

    It says nothing of other units than these. mean is NaN where the noisy count is not above 0.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MetricRelease:
    """One noised sum of the units' measures, of L2 sensitivity `sensitivity`.

    Guarantee: with noise that nobody else knows, `release` is (epsilon, delta)-DP for epsilon([event], delta), for
    adding or removing one unit (noise_at=sum), or for replacing all that a client holds (noise_at=local), whatever
    the measures are and however many units there are, none included. It is over the reals: see
    mmrank.privacy.noise on floats.

    noise_multiplier: standard deviation of each coordinate's noise over the sensitivity. measures: names of
    mmrank.metrics.METRICS. unit: a slate; a user, whose measure is the mean over at most max_slates of theirs;
    or a client, the mean over at most max_slates of all. count_weight: a unit's part in the count; where the noise
    goes, not how much privacy there is. noise_at: `sum`, one noise on a sum over units (a merchant's own slates, or
    a cohort's vectors), or `local`, each client on its one vector, charged as twice the sensitivity.
    Raises PrivacyError out of bounds.
    """

    noise_multiplier: float
    measures: tuple[str, ...] = ("ndcg@10", "mrr")
    unit: Unit = "slate"
    max_slates: int = 20
    count_weight: float = 0.5
    noise_at: NoiseAt = "sum"

    def __post_init__(self) -> None:
        _ = self.event  # its bounds are these
        if not self.measures or len(set(self.measures)) < len(self.measures) or set(self.measures) - set(METRICS):
            raise PrivacyError(f"Expected measures={self.measures} to be different ones of {', '.join(METRICS)}.")
        if self.unit not in ("slate", "user", "client"):
            raise PrivacyError(f"Expected unit={self.unit!r} to be one of slate, user, client.")
        if isinstance(self.max_slates, bool) or not isinstance(self.max_slates, int) or self.max_slates < 1:
            raise PrivacyError(f"Expected max_slates={self.max_slates!r} to be a whole number of at least 1.")
        if not GRID <= self.count_weight <= LARGEST_COUNT_WEIGHT or self.count_weight % GRID:
            raise PrivacyError(
                f"Expected count_weight={self.count_weight} in (0, {LARGEST_COUNT_WEIGHT:g}], a multiple of 2^-24; "
                "for example 0.5."
            )
        if self.noise_at not in ("sum", "local"):
            raise PrivacyError(f"Expected noise_at={self.noise_at!r} to be one of sum, local.")
        if self.noise_at == "local" and self.unit != "client":
            raise PrivacyError(f"Expected unit={self.unit!r} to be client where noise_at=local; set unit: client.")

    @property
    def event(self) -> Event:
        """What one release costs, its sum unsampled; local: replace-one, so twice the sensitivity."""
        part = 2 if self.noise_at == "local" else 1
        return Event(sampling_rate=1.0, noise_multiplier=self.noise_multiplier / part, steps=1)

    @property
    def sensitivity(self) -> float:
        """The L2 norm of the largest contribution of a unit: sqrt(measures / 4 + count_weight^2)."""
        return math.sqrt(len(self.measures) * CENTRE**2 + self.count_weight**2)

    @property
    def std(self) -> float:
        """Of the noise on each coordinate."""
        return self.noise_multiplier * self.sensitivity

    @property
    def length(self) -> int:
        """Of the vector: the measures in their order, then the count."""
        return len(self.measures) + 1

    def total(self, values: Mapping[str, np.ndarray], owner: np.ndarray | None = None) -> np.ndarray:
        """The exact sum, float64 [length]. PRIVATE: for `release`, or for a sum that is noised elsewhere.

        values: float [slates] by measure, as mmrank.metrics.slate_metrics gives them; owner: int [slates], whose each
        slate is, for the unit user. Measures are clipped to [0, 1]; a slate with one that is not finite (nothing
        relevant in it, or a model that diverged) adds nothing, to the count neither, and a unit of such slates too.
        With the unit client its norm is at most `sensitivity`. Raises PrivacyError where shapes differ.
        """
        table = self._table(values)
        counted = np.isfinite(table).all(axis=1)
        # whole numbers from here on; the bounds -1/2 and 1/2 are on the grid
        steps = np.rint((np.clip(table[counted], 0.0, 1.0) - CENTRE) / GRID).astype(np.int64)
        if self.unit == "user":
            if owner is None or np.shape(owner) != (len(table),):
                raise PrivacyError(f"Expected the owner of each of {len(table)} slates with unit=user; pass owner.")
            steps = _means(steps, np.asarray(owner)[counted], self.max_slates)
        elif self.unit == "client":
            steps = _means(steps, np.zeros(len(steps), np.int64), self.max_slates)
        return np.append(steps.sum(axis=0) * GRID, self.count_weight * len(steps))

    def release(self, values: Mapping[str, np.ndarray], noise: Noise, *, owner: np.ndarray | None = None) -> np.ndarray:
        """The noised sum, float32 [length]: what may be sent once `event` is charged. See `total`."""
        return self.noised(self.total(values, owner), noise)

    def noised(self, total: np.ndarray, noise: Noise) -> np.ndarray:
        """float32 [length]: a sum of `total`s with one noise, on a public grid."""
        if np.shape(total) != (self.length,):
            raise PrivacyError(f"Expected a total of shape ({self.length},), not {np.shape(total)}.")
        return noisy_sum(total, self.std, noise).astype(np.float32)

    def beside(self, update: Event) -> Event:
        """What a cohort's round costs where this vector is summed over the same cohort beside its updates, each sum
        with its own noise; `update` is what the updates alone cost.

        Two Gaussian releases are one with 1/z^2 = 1/z_u^2 + 1/z_m^2 (Andrew et al. 2021, Theorem 1, for their count).
        Raises PrivacyError for more than one step: the vector is summed once a round.
        """
        if update.steps != 1:
            raise PrivacyError(f"Expected an update of steps=1, not {update.steps}; charge the release's own event.")
        noises = (update.noise_multiplier, self.event.noise_multiplier)
        joint = 0.0 if 0.0 in noises else sum(noise**-2 for noise in noises) ** -0.5
        return replace(update, noise_multiplier=joint)

    def estimates(self, vector: np.ndarray, *, releases: int = 1, confidence: float = 0.95) -> dict[str, Estimate]:
        """Each measure's mean over the units, from one noised vector or the sum of `releases` of them.

        The interval is Fieller's (1954) for a ratio of two independent normals, cut to [0, 1]: all of [0, 1] where
        the noise drowns the count. Its width comes from the public noise alone.
        """
        if np.shape(vector) != (self.length,) or releases < 1 or not 0 < confidence < 1:
            raise PrivacyError(
                f"Expected a vector of shape ({self.length},), not {np.shape(vector)}, releases={releases} of at least "
                f"1 and confidence={confidence} in (0, 1)."
            )
        std, sums = self.std * math.sqrt(releases), np.asarray(vector, np.float64)
        count, count_std = float(sums[-1]) / self.count_weight, std / self.count_weight
        width = NormalDist().inv_cdf((1 + confidence) / 2)
        return {
            name: _ratio(float(value), std, count, count_std, width)
            for name, value in zip(self.measures, sums, strict=False)
        }

    def count(self, vector: np.ndarray, *, releases: int = 1) -> tuple[float, float]:
        """(the number of units, the standard deviation of its noise); may be below 0."""
        return float(vector[-1]) / self.count_weight, self.std * math.sqrt(releases) / self.count_weight

    def _table(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 [slates, measures]."""
        missing = [name for name in self.measures if name not in values]
        if missing:
            raise PrivacyError(f"Expected values of {', '.join(self.measures)}; {', '.join(missing)} are missing.")
        columns = [np.asarray(values[name], np.float64) for name in self.measures]
        if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
            raise PrivacyError(f"Expected one value a slate of each measure, not {[c.shape for c in columns]}.")
        return np.stack(columns, axis=1)


def from_settings(privacy: PrivacySettings) -> MetricRelease | None:
    """The release of those settings, for the unit that training protects; None where clients tell nothing."""
    metrics = privacy.metrics
    if metrics is None:
        return None
    return MetricRelease(
        noise_multiplier=metrics.noise_multiplier,
        measures=metrics.measures,
        unit=privacy.unit,
        max_slates=metrics.max_slates,
        noise_at="local" if privacy.unit == "client" else "sum",
    )


def planned_events(privacy: PrivacySettings, *, rounds: int) -> tuple[Event, ...]:
    """What one client's releases of a whole run cost: one after every `metrics.every` rounds, where it is asked.

    Of a cohort, a client is asked no more often than it takes part.
    """
    release = from_settings(privacy)
    if release is None or privacy.metrics is None:
        return ()
    times = rounds // privacy.metrics.every
    if privacy.metrics.asked == "cohort" and privacy.mechanism == "client_update":
        times = min(times, privacy.participations or rounds)
    return (replace(release.event, steps=times),) if times else ()


def _means(steps: np.ndarray, owner: np.ndarray, at_most: int) -> np.ndarray:
    """int64 [owners, measures]: the mean over the first `at_most` rows of each owner, rounded to whole steps.

    A sum of whole numbers is exact, so an owner's mean is a function of that owner's rows alone, to the last bit.
    """
    names, place = np.unique(owner, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(names)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - starts[place[order]]
    kept = rank < at_most
    sums = np.zeros((len(names), steps.shape[1]), np.int64)
    np.add.at(sums, place[kept], steps[kept])
    return np.rint(sums / np.bincount(place[kept], minlength=len(names))[:, None]).astype(np.int64)


def _ratio(value: float, std: float, count: float, count_std: float, width: float) -> Estimate:
    """The mean is 1/2 + value / count. Its interval is 1/2 plus the hull of every t in [-1/2, 1/2] with
    |value - t count| <= width sqrt(std^2 + t^2 count_std^2)."""
    mean = min(max(CENTRE + value / count, 0.0), 1.0) if count > 0 else math.nan
    a = count**2 - (width * count_std) ** 2
    b = value * count
    c = value**2 - (width * std) ** 2
    root = b * b - a * c
    inside = [t for t in (-CENTRE, CENTRE) if a * t * t - 2 * b * t + c <= 0]
    if root >= 0 and a != 0:
        roots = ((b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a)
        inside += [t for t in roots if -CENTRE <= t <= CENTRE]
    if not inside:  # the noise threw both beyond what a mean can be: nothing is ruled out
        return Estimate(mean=mean, low=0.0, high=1.0)
    return Estimate(mean=mean, low=CENTRE + min(inside), high=CENTRE + max(inside))
