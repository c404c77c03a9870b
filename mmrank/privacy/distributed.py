"""Noise in shares: each device adds a little discrete Gaussian noise, and the server sees nothing but a masked sum.

The distributed discrete Gaussian mechanism (Kairouz, Liu, Steinke 2021). One frozen object of public facts encodes a
device's update, decodes the sum, and says what the sum costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrank.errors import PrivacyError, SecureSumError
from mmrank.privacy import encoding
from mmrank.privacy.accountant import Event
from mmrank.privacy.discrete import MAX_VARIANCE, concentrated_epsilon, discrete_gaussian
from mmrank.privacy.noise import Noise
from mmrank.secure_sum.sum_round import SumRound, check_threshold

LARGEST_WRAP_PROBABILITY = 2.0**-20
MAX_SCALED_NORM = 2.0**29
_SLACK = 1e-9
"""Kept from every limit that a plan is fitted to, for what float64 rounds."""


@dataclass(frozen=True, kw_only=True)
class DistributedNoise:
    """The public facts of one distributed mechanism, refused where they can't hold together.

    noise_multiplier z: standard deviation of the noise that is counted over max_grad_norm C, the clip norm of a whole
    update. granularity: what one unit of the integers stands for. dimension: numbers in an update.
    threshold t: the smallest cohort that is accepted. colluders c: clients that may tell the server their share of the
    noise. cohort: the largest. bits: sums are taken modulo 2^bits. rotated: whether vectors are flattened before they
    are rounded. beta: in (0, 1), the largest chance that one rounding is drawn again.

    Guarantee: the sum over any set of survivors that holds t - c honest clients, and whatever is computed of it, is
    rho-zCDP with rho = 1 / (2 effective_noise_multiplier^2) against everybody who sees it, the server and c clients
    included, for an update replaced by zeros (zero-out: who takes part is public); computationally, as far as the
    masked sum hides what is not the sum. It is never amplified by the sampling of clients, whom the server drew.
    Raises PrivacyError out of its bounds.
    """

    noise_multiplier: float
    max_grad_norm: float
    granularity: float
    dimension: int
    threshold: int
    colluders: int
    cohort: int
    bits: int
    rotated: bool = True
    beta: float = math.exp(-0.5)

    def __post_init__(self) -> None:
        _check_positive(
            noise_multiplier=self.noise_multiplier, max_grad_norm=self.max_grad_norm, granularity=self.granularity
        )
        _check_counts(
            dimension=self.dimension,
            threshold=self.threshold,
            colluders=self.colluders,
            cohort=self.cohort,
            bits=self.bits,
        )
        if not 0 < self.beta < 1:
            raise PrivacyError(f"Expected beta={self.beta} in (0, 1); exp(-1/2) is usual.")
        if self.scaled_norm > MAX_SCALED_NORM:
            raise PrivacyError(
                f"Expected granularity={self.granularity} to be at least max_grad_norm / 2^29; raise it."
            )
        if not 0.5 <= self.share_variance <= MAX_VARIANCE:
            raise PrivacyError(
                f"Expected each share of the noise to have a variance in [1/2, 2^60], not {self.share_variance:.3g} "
                f"squared units of granularity={self.granularity}: the bound on their sum holds there; lower it."
            )
        if self.wrap_probability > LARGEST_WRAP_PROBABILITY:
            raise PrivacyError(
                f"Expected a sum to wrap around with probability at most 2^-20 a round, not {self.wrap_probability:.3g}"
                f": bits={self.bits} are too few for granularity={self.granularity}; raise one of them."
            )

    @property
    def scaled_norm(self) -> float:
        """C over the granularity."""
        return self.max_grad_norm / self.granularity

    @property
    def length(self) -> int:
        """Integers in an encoded update."""
        return encoding.padded(self.dimension) if self.rotated else self.dimension

    @cached_property
    def norm_bound_squared(self) -> int:
        """The largest squared norm of a rounded update, in squared units: its sensitivity under zero-out."""
        return encoding.norm_bound_squared(scaled_norm=self.scaled_norm, dimension=self.length, beta=self.beta)

    @property
    def share_variance(self) -> float:
        """z^2 C^2 / (t - c) of each device's noise, in squared units."""
        return (self.noise_multiplier * self.scaled_norm) ** 2 / (self.threshold - self.colluders)

    @cached_property
    def effective_noise_multiplier(self) -> float:
        """What the accountant counts, a "concentrated" event of sampling rate 1: below z, by rounding and by tau."""
        bound = concentrated_epsilon(
            norm_squared=self.norm_bound_squared,
            share_variance=self.share_variance,
            shares=self.threshold - self.colluders,
            dimension=self.length,
        )
        return 1 / bound

    @property
    def rho(self) -> float:
        """The zCDP of one round."""
        return 0.5 / self.effective_noise_multiplier**2

    @property
    def event(self) -> Event:
        """What one round costs each client that takes part, without any gain of sampling."""
        return Event(
            sampling_rate=1.0, noise_multiplier=self.effective_noise_multiplier, steps=1, family="concentrated"
        )

    @cached_property
    def wrap_probability(self) -> float:
        """A bound on the chance that any coordinate of a round's sum leaves [-2^(bits - 1), 2^(bits - 1)).

        Where it does, the model is harmed, and no one's privacy: reducing modulo 2^bits is post-processing.
        """
        linear, proxy = self._spread()
        room = 2.0 ** (self.bits - 1) - 1 - self.cohort - linear * self.scaled_norm
        if room <= 0:
            return 1.0
        return min(1.0, 2 * self.length * math.exp(-(room**2) / (2 * proxy * self.scaled_norm**2)))

    def _spread(self) -> tuple[float, float]:
        """(a, v): for clip norm r in units, a coordinate's sum is a r plus sub-Gaussian of variance proxy v r^2.

        Besides, rounding moves it by at most 1 a client. Rotated, N updates add up to a norm of at most N r, whose
        coordinate is a sum of block-many terms of random sign: proxy N^2 r^2 / block. Not rotated, it can be N r.
        A discrete Gaussian's proxy is its variance parameter s^2: E exp(aX) is exp(a^2 s^2 / 2) times the ratio of a
        shifted sum of exp(-x^2 / (2 s^2)) over the integers to the one that is not shifted, which is the largest.
        """
        noise = self.cohort * self.noise_multiplier**2 / (self.threshold - self.colluders)
        if self.rotated:
            return 0.0, self.cohort**2 / encoding.block_size(self.dimension) + noise
        return float(self.cohort), noise

    def sum_round(self, *, run: str, round_number: int, cohort: Iterable[str], agreed: str = "") -> SumRound:
        """The secure sum of one round with this mechanism's threshold, length and bits. agreed: see SumRound.

        Raises SecureSumError for a cohort that is larger than was planned, too small, or not of distinct clients.
        """
        names = tuple(cohort)
        if len(names) > self.cohort:
            raise SecureSumError(
                f"Expected a cohort of at most {self.cohort} clients, as was planned, not {len(names)}."
            )
        return SumRound(
            run=run,
            round_number=round_number,
            cohort=names,
            threshold=self.threshold,
            colluders=self.colluders,
            length=self.length,
            bits=self.bits,
            agreed=agreed,
        )

    def encode(self, update: np.ndarray, *, round_: SumRound, noise: Noise) -> np.ndarray:
        """round_.dtype [length]: the update clipped, rotated, rounded, with this device's noise, modulo 2^bits.

        update: float [dimension]; zeros stand for a device that has nothing to say. One charge pays for one call.
        Raises PrivacyError for another shape.
        """
        self._check_round(round_)
        rounded = self.rounded(update, round_=round_, noise=noise)
        rounded += discrete_gaussian(noise, self.share_variance, self.length)
        return (rounded & round_.largest).astype(round_.dtype)

    def rounded(self, update: np.ndarray, *, round_: SumRound, noise: Noise) -> np.ndarray:
        """int64 [length], without noise, of squared norm at most norm_bound_squared. It must not leave the device."""
        if update.shape != (self.dimension,):
            raise PrivacyError(f"Expected an update of shape {(self.dimension,)}, not {update.shape}; flatten it.")
        values = encoding.clipped(update, self.max_grad_norm)
        if self.rotated:
            values = encoding.rotate(values, round_.context)
        return encoding.round_within(values / self.granularity, self.norm_bound_squared, noise)

    def decode(self, total: np.ndarray, *, round_: SumRound) -> np.ndarray:
        """float64 [dimension]: the sum of updates and noise of `total`, int64 [length] as SumServer.total gives it.

        It is a sum: divide by a public constant, never by the number of survivors' examples.
        """
        self._check_round(round_)
        values = total.astype(np.float64) * self.granularity
        return encoding.unrotate(values, round_.context, self.dimension) if self.rotated else values

    def _check_round(self, round_: SumRound) -> None:
        facts = (round_.threshold, round_.colluders, round_.length, round_.bits)
        if facts != (self.threshold, self.colluders, self.length, self.bits) or len(round_.cohort) > self.cohort:
            raise PrivacyError(
                "Expected a round of this mechanism's threshold, colluders, length and bits; use sum_round."
            )


def plan_distributed(
    *,
    noise_multiplier: float,
    max_grad_norm: float,
    dimension: int,
    threshold: int,
    colluders: int,
    cohort: int,
    bits: int | None = None,
    rotated: bool = True,
    wrap_probability: float = 2.0**-40,
    largest_loss: float = 0.01,
) -> DistributedNoise:
    """Granularity and bits for the other facts: the finest that wraps around with at most `wrap_probability` a round.

    bits: None takes 16 where the effective noise multiplier then is at most `largest_loss` below z, else 32.
    Raises PrivacyError where neither is enough.
    """

    _check_positive(noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm, wrap_probability=wrap_probability)
    honest, failures = threshold - colluders, []
    for width in (16, 32) if bits is None else (bits,):
        _check_counts(dimension=dimension, threshold=threshold, colluders=colluders, cohort=cohort, bits=width)
        length, block = (encoding.padded(dimension), encoding.block_size(dimension)) if rotated else (dimension, 1)
        # the largest clip norm in units with which wrap_probability is kept, but no needless one
        proxy = cohort * noise_multiplier**2 / honest + (cohort**2 / block if rotated else 0.0)
        spread = (0.0 if rotated else cohort) + math.sqrt(2 * proxy * math.log(2 * length / wrap_probability))
        room = (2.0 ** (width - 1) - 1 - cohort) * (1 - _SLACK) / spread
        fine = 2**10 * max(math.sqrt(length), math.sqrt(honest) / noise_multiplier)
        scaled_norm = min(room, fine, MAX_SCALED_NORM * (1 - _SLACK))
        if scaled_norm <= 0 or (noise_multiplier * scaled_norm) ** 2 < honest / 2:
            failures.append(f"with bits={width} a sum of {cohort} updates and their noise has no room")
            continue
        plan = DistributedNoise(
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            granularity=max_grad_norm / scaled_norm,
            dimension=dimension,
            threshold=threshold,
            colluders=colluders,
            cohort=cohort,
            bits=width,
            rotated=rotated,
        )
        loss = 1 - plan.effective_noise_multiplier / noise_multiplier
        if loss <= largest_loss:
            return plan
        failures.append(f"with bits={width} rounding costs {loss:.1%} of the noise")
    raise PrivacyError(
        f"No granularity keeps the noise multiplier within {largest_loss:.1%}: {'; '.join(failures)}; "
        "set bits=32, a smaller cohort, or fewer trainable parameters."
    )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise PrivacyError(f"Expected {name}={value} to be finite and above 0; set privacy.{name}.")


def _check_counts(*, dimension: int, threshold: int, colluders: int, cohort: int, bits: int) -> None:
    if dimension < 1:
        raise PrivacyError(f"Expected dimension={dimension} to be at least 1: an update of no numbers.")
    if not 8 <= bits <= 32:
        raise PrivacyError(f"Expected bits={bits} in [8, 32]; 16 and 32 fill whole words.")
    try:
        check_threshold(cohort=cohort, threshold=threshold, colluders=colluders)
    except SecureSumError as error:
        raise PrivacyError(str(error)) from error
