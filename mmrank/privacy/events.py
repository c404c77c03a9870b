"""What a history is made of: mechanism events of public parameters alone, and the deltas that can be promised.

Events are kept and composed anew (see mmrank.privacy.accountant); epsilons are never added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mmrank.errors import PrivacyError
from mmrank.settings import SMALLEST_DELTA

Family = Literal["gaussian", "concentrated"]


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """`steps` equal mechanisms, of public parameters alone.

    sampling_rate: in (0, 1], with which each unit takes part in a step. noise_multiplier: standard deviation
    over sensitivity, 0 for a release without privacy. steps: at least 1.
    family: "gaussian" is a Poisson-sampled Gaussian under add/remove. "concentrated" is whatever satisfies
    rho-zCDP a step with rho = 1 / (2 noise_multiplier^2), as sums of discrete Gaussians do; nothing is known of
    it under sampling, so that its sampling_rate is 1.
    Raises PrivacyError out of these bounds.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    family: Family = "gaussian"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"Expected sampling_rate={self.sampling_rate} in (0, 1]; set privacy.sampling_rate.")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise PrivacyError(
                f"Expected noise_multiplier={self.noise_multiplier} to be finite and at least 0; "
                "set privacy.noise_multiplier."
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not self.steps >= 1:
            raise PrivacyError(
                f"Expected steps={self.steps!r} to be a whole number of at least 1; set training.local_steps."
            )
        if self.family not in get_args(Family):
            raise PrivacyError(f"Expected family={self.family!r} to be one of {', '.join(get_args(Family))}.")
        if self.family == "concentrated" and self.sampling_rate != 1:
            raise PrivacyError(
                f"Expected sampling_rate={self.sampling_rate} to be 1 with family='concentrated': zCDP alone gains "
                "nothing from sampling; charge it unamplified."
            )


SMALLEST_NOISE = 1e-3
"""Less than this is charged as none: its losses, above 500,000 nats, are past all numbers computed here."""


class Relation(NamedTuple):
    """How neighbours differ: `own` units there or not, and `changed` units that stand in both, with other contents."""

    own: int = 1
    changed: int = 0

    @property
    def distance(self) -> int:
        """The sum's change over the clipping norm when all of them are sampled."""
        return self.own + 2 * self.changed


UNIT = Relation()


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same history with steps of equal parameters counted together, in a fixed order: composition commutes.

    >>> merged([Event(sampling_rate=0.1, noise_multiplier=1.0, steps=2)] * 3)
    (Event(sampling_rate=0.1, noise_multiplier=1.0, steps=6, family='gaussian'),)
    """
    steps: dict[tuple[float, float, Family], int] = {}
    for event in events:
        key = (float(event.sampling_rate), float(event.noise_multiplier), event.family)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(
        Event(sampling_rate=rate, noise_multiplier=noise, steps=count, family=family)
        for (rate, noise, family), count in sorted(steps.items())
    )


def check_delta(delta: float) -> None:
    """Raise PrivacyError for a delta that can't be promised."""
    if not SMALLEST_DELTA <= delta < 1:
        raise PrivacyError(
            f"Expected delta={delta} in [{SMALLEST_DELTA}, 1), where epsilon can be computed; set privacy.delta, "
            "for example 1e-6."
        )


def without_noise(history: Iterable[Event]) -> bool:
    """Whether an event has no noise to speak of, so that epsilon is infinite."""
    return any(event.noise_multiplier < SMALLEST_NOISE for event in history)
