r"""A client's whole update as the unit (McMahan et al. 2018, "Learning DP Recurrent Language Models").

A device trains as it likes, clips what it learned to norm C over all parameters, and sends that once a round.
Where the noise is added decides who must be trusted:

    central      the server adds N(0, z^2 C^2) to the cohort's sum: it sees each clipped update, and is trusted
    local        each device adds N(0, z^2 C^2) to its own update: nobody outside of it is
    distributed  each device adds a share, and the server sees a masked sum: see mmrank.privacy.distributed_update

Adjacency is zero-out: a client's updates become zero. The registry and the expected cohort are public, so under Poisson
sampling of clients the sum's sensitivity is C and one round is a Poisson-sampled Gaussian. Local noise stands
between any two updates (replace-one, sensitivity 2C) and no sampling counts.

Adaptive clipping (Andrew et al. 2021, Algorithm 1): each update brings the bit b = [norm <= C]; the server adds
N(0, s^2) to the sum of b - 1/2 and moves C towards the public quantile. A round then releases both sums, and
costs what one Gaussian of multiplier z does where the update's own is (z^-2 - (2 s)^-2)^(-1/2) (their Theorem 1).
Zero-out makes the bit's half nothing as well: an update of zeros brings b = 1/2, and moves neither sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event
from mmrank.privacy.correlated import CorrelatedNoise
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.metrics_release import planned_events
from mmrank.privacy.no_privacy import NoPrivacy
from mmrank.privacy.noise import Noise, noisy_sum
from mmrank.privacy.planning import calibrate
from mmrank.settings import PrivacySettings, TrainingSettings

BELOW = 1 - 1e-6
"""A clipped update is a little shorter than the clip, so that rounding to float32 does not pass it."""
CLIP = "privacy/clip"
"""With adaptive clipping one more array, float32 [1]: a request brings the round's clip in it, an update the bit."""
CLIP_BOUNDS = (1e-9, 1e9)
FAR = 0.75
"""Nearly all norms on one side: the clip is far off, and moves by the whole rate. The paper's step, rate x error, is at
most rate x (1 - quantile) downwards, and takes 60 rounds from ten times the 0.8 quantile."""

Update = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """Both halves of a round, of public facts alone.

    Guarantee, with noise that nobody else knows. central: the models after T rounds are (epsilon, delta)-DP for
    epsilon([population_event] * T, delta) against whoever sees them but not the updates, whichever client's data become
    empty. local: what one client sends in k rounds is so for epsilon([event] * k, delta), against everybody.

    noise_multiplier: z. stream: noise correlated over a whole run in place of each round's own, for cohorts that
    nobody sampled. max_grad_norm: C, in the first round where it adapts. sampling_rate: q, with which each client
    enters a round, independently. cohort_size: the public denominator. count_noise: s, None with a fixed clip.
    """

    noise_multiplier: float
    max_grad_norm: float
    sampling_rate: float
    cohort_size: int
    steps: int
    batch_size: int
    noise_at: Literal["central", "local"] = "central"
    count_noise: float | None = None
    clip_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    noise_cohort_size: int | None = None
    stream: CorrelatedNoise | None = None

    name: ClassVar[str] = "client_update"
    unit: ClassVar[str] = "client"
    grad_sample: ClassVar[None] = None
    micro_batch_size: ClassVar[int] = 1
    slates_per_unit: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _ = self.event, self.population_event  # their bounds are these
        if not 0 < self.max_grad_norm < math.inf:
            raise PrivacyError(
                f"Expected max_grad_norm={self.max_grad_norm} to be finite and above 0; set privacy.max_grad_norm."
            )
        if self.count_noise is None:
            return
        if self.noise_at != "central":
            raise PrivacyError(
                f"Expected privacy.clipping=adaptive with noise_at=central, not {self.noise_at}: a bit under local "
                "noise says nothing of a quantile; set privacy.clipping: fixed."
            )
        if not 2 * self.count_noise > self.noise_multiplier:
            raise PrivacyError(
                f"Expected twice clip_count_noise={self.count_noise} above noise_multiplier={self.noise_multiplier}: "
                "the count alone would cost more than the round may; raise privacy.clip_count_noise."
            )

    @property
    def adaptive(self) -> bool:
        """Whether the clip follows a quantile."""
        return self.count_noise is not None

    @property
    def event(self) -> Event:
        """What one round costs the client that takes part: its own ledger's charge, unamplified.

        In a stream, see CorrelatedNoise.participation_event.
        """
        if self.stream is not None:
            return self.stream.participation_event
        distance = 2 if self.noise_at == "local" else 1  # replace-one against zero-out
        return Event(sampling_rate=1.0, noise_multiplier=self.noise_multiplier / distance, steps=1)

    @property
    def population_event(self) -> Event:
        """What one round costs every registered client, drawn or not, against those who see the models (central).

        In a stream, what the whole run does.
        """
        if self.stream is not None:
            return self.stream.event
        return Event(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier, steps=1)

    @property
    def update_noise(self) -> float:
        """The multiplier of the noise on the sum of updates: above z where the count takes a part of the promise."""
        if self.count_noise is None:
            return self.noise_multiplier
        return (self.noise_multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5

    def train(self, problem: LocalProblem, *, noise: Noise, shuffle: np.random.Generator) -> None:
        """Plain local training: what protects is done to the whole update, in `release`."""
        NoPrivacy(steps=self.steps, batch_size=self.batch_size).train(problem, noise=noise, shuffle=shuffle)

    def release(self, update: Update, *, clip: float, noise: Noise) -> dict[str, np.ndarray]:
        """What leaves the client: the update clipped to norm `clip`, with local noise or the bit where they belong.

        float32 by name. An update that is not finite is zero: it would show what it was made of.
        """
        total = norm_of(update)
        finite = math.isfinite(total)
        factor = BELOW * clip / max(total, clip) if finite else 0.0
        sent = {
            name: array.astype(np.float64) * factor if finite else np.zeros(array.shape)
            for name, array in update.items()
        }
        if self.noise_at == "local":
            sent = _noisy(sent, self.update_noise * clip, noise)
        if self.adaptive:
            silent = not finite or total == 0  # sends zeros: a whole bit would be as far as 1 from one that is clipped
            sent[CLIP] = np.array([0.5 if silent else float(total <= clip)])
        return {name: array.astype(np.float32) for name, array in sent.items()}

    def fault(self, update: Update, *, clip: float) -> str | None:
        """Why the server can't count `update` (names and shapes were checked), or None.

        Under central noise the promise to everybody rests on it: what is longer than the clip is left out.
        """
        if self.noise_at != "central":
            return None
        bit = update.get(CLIP)
        if bit is not None and bit.item() not in (0.0, 0.5, 1.0):
            return f"its {CLIP} is {bit.item()}, none of 0, 1/2 and 1"
        norm = norm_of({name: array for name, array in update.items() if name != CLIP})
        return None if norm <= clip else f"its norm {norm:.6g} is above the clip {clip:.6g}"

    def aggregate(
        self, updates: Mapping[str, Update], like: Update, *, clip: float, noise: Noise
    ) -> tuple[dict[str, np.ndarray], float]:
        """(the cohort's noisy mean float64, the clip of the next round). `updates` by client, each without a fault.

        The sum gets its noise whatever it holds, nothing included, and is divided by the public cohort_size.
        """
        total = sum_of(updates, like)
        if self.stream is not None:
            raise PrivacyError("The noise of a stream is kept by its server alone; add the sum's there.")
        if self.noise_at == "central":
            shrunk = self.cohort_size / self.noise_cohort_size if self.noise_cohort_size else 1.0
            total = _noisy(total, self.update_noise * clip * shrunk, noise)
            clip = self._next_clip(updates, clip, noise, shrunk)
        return {name: array / self.cohort_size for name, array in total.items()}, clip

    def _next_clip(self, updates: Mapping[str, Update], clip: float, noise: Noise, shrunk: float) -> float:
        if self.count_noise is None:
            return clip
        # b - 1/2 in place of b: one client moves the sum by at most 1/2 from what it is without it
        below = sum(float(update[CLIP][0]) - 0.5 for update in updates.values())
        share = float(noisy_sum(np.array([below]), self.count_noise * shrunk, noise)[0]) / self.cohort_size + 0.5
        error = share - self.clip_quantile
        if abs(error) > FAR * ((1 - self.clip_quantile) if error > 0 else self.clip_quantile):
            error = math.copysign(1.0, error)
        moved = clip * math.exp(-self.clip_learning_rate * error)
        return float(np.float32(min(max(moved, CLIP_BOUNDS[0] * 2), CLIP_BOUNDS[1] / 2)))  # as it travels


def sum_of(updates: Mapping[str, Update], like: Update) -> dict[str, np.ndarray]:
    """The exact sum, float64 with the names and shapes of `like`; a fixed order of clients gives the same bits."""
    total = {name: np.zeros(array.shape) for name, array in like.items()}
    for client in sorted(updates):
        for name in total:
            total[name] += updates[client][name]
    return total


def norm_of(update: Update) -> float:
    """L2 norm over all arrays, in float64; inf or NaN where one is not finite."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in update.values()))


def _noisy(arrays: Mapping[str, np.ndarray], std: float, noise: Noise) -> dict[str, np.ndarray]:
    """Each array plus its own noise, drawn in the order of their names."""
    return {name: noisy_sum(arrays[name], std, noise) for name in sorted(arrays)}


def participations(privacy: PrivacySettings, rounds: int) -> int:
    """How often, for the calibration, one client takes part in a run: a public number; the ledger ends it earlier."""
    return min(privacy.participations or rounds, rounds)


def from_settings(
    privacy: PrivacySettings,
    training: TrainingSettings,
    *,
    rounds: int,
    cohort_size: int = 1,
    cache_dir: Path | None = None,
) -> ClientUpdate:
    """The mechanism of those settings; a target epsilon is calibrated once, and kept.

    Under central noise over `rounds` sampled rounds; under local noise over a client's participations, unamplified.
    """
    if privacy.noise_at == "distributed":
        raise PrivacyError("privacy.noise_at=distributed has a mechanism of its own; use build_mechanism.")
    noise_multiplier = privacy.noise_multiplier
    if privacy.stream:
        noise_multiplier = _stream(privacy, rounds, 1.0).sensitivity * (
            calibrate(sampling_rate=1.0, steps=1, epsilon=privacy.epsilon, delta=privacy.delta, cache_dir=cache_dir)
            if privacy.epsilon is not None
            else privacy.noise_multiplier or 0.0
        )
    if noise_multiplier is None:
        if privacy.epsilon is None:
            raise PrivacyError("Expected privacy.epsilon or privacy.noise_multiplier; set one of them.")
        central = privacy.noise_at == "central"
        calibrated = calibrate(
            sampling_rate=privacy.sampling_rate if central else 1.0,
            steps=rounds if central else participations(privacy, rounds),
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            cache_dir=cache_dir,
            beside=planned_events(privacy, rounds=rounds),
        )
        noise_multiplier = calibrated if central else 2 * calibrated
    count_noise = None
    if privacy.clipping == "adaptive":
        count_noise = privacy.clip_count_noise or (privacy.noise_cohort_size or cohort_size) / 20
    return ClientUpdate(
        noise_multiplier=noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        sampling_rate=privacy.sampling_rate,
        cohort_size=cohort_size,
        steps=training.local_steps,
        batch_size=training.batch_size,
        noise_at=privacy.noise_at,
        count_noise=count_noise,
        clip_quantile=privacy.clip_quantile,
        clip_learning_rate=privacy.clip_learning_rate,
        noise_cohort_size=privacy.noise_cohort_size,
        stream=_stream(privacy, rounds, noise_multiplier) if privacy.stream else None,
    )


def _stream(privacy: PrivacySettings, rounds: int, noise_multiplier: float) -> CorrelatedNoise:
    """A device takes part in at most k rounds, any two at least rounds // k apart."""
    most = participations(privacy, rounds)
    return CorrelatedNoise(
        rounds=rounds,
        noise_multiplier=noise_multiplier,
        max_participations=most,
        min_separation=max(rounds // most, 1),
        max_grad_norm=privacy.max_grad_norm,
    )
