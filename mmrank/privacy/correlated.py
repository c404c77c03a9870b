"""Noise that is correlated over the rounds of a run: DP-FTRL by matrix factorisation, for cohorts nobody sampled.

It claims no amplification by sampling. What it needs instead is that no client takes part too often or too soon, which
`participation` enforces and the sensitivity counts. The whole run is one mechanism: it is charged once, before its
first round. `noise_file` keeps the state through a restart.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event
from mmrank.privacy.noise import Noise, snapped
from mmrank.privacy.toeplitz import BufferedToeplitz, check_participation, strategy_for


@dataclass(frozen=True, kw_only=True)
class CorrelatedNoise:
    """One run of `rounds` sums, each released with a share of C^-1 z; all fields are public and fixed beforehand.

    Guarantee: for taking out (zeroing) all that one client ever contributed, the released sums together are as
    private as `event`, one Gaussian mechanism, also where a round's sum depends on what was released before
    (Denisov et al. 2022, Theorem 2.1). It needs every contribution to have L2 norm at most max_grad_norm, and a
    client to take part in at most max_participations rounds, any two at least min_separation apart.

    noise_multiplier: standard deviation of an entry of z over max_grad_norm. strategy: C; the one of least error for
    these facts where None. Another one is as private, since its own sensitivity is what counts; a run that resumes
    needs the very same, so keep `matrix` with the plan where it is none of the shipped ones.
    Raises PrivacyError out of bounds.
    """

    rounds: int
    noise_multiplier: float
    max_participations: int
    min_separation: int
    max_grad_norm: float = 1.0
    strategy: BufferedToeplitz | None = None

    def __post_init__(self) -> None:
        check_participation(self.rounds, max_participations=self.max_participations, min_separation=self.min_separation)
        for name in ("noise_multiplier", "max_grad_norm"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise PrivacyError(f"Expected {name}={value} to be finite and above 0; set privacy.{name}.")

    @cached_property
    def matrix(self) -> BufferedToeplitz:
        """C."""
        return self.strategy or strategy_for(
            self.rounds, max_participations=self.max_participations, min_separation=self.min_separation
        )

    @cached_property
    def sensitivity(self) -> float:
        """Of C x, in multiples of max_grad_norm."""
        return self.matrix.sensitivity(
            self.rounds, max_participations=self.max_participations, min_separation=self.min_separation
        )

    @property
    def event(self) -> Event:
        """What the whole run costs each client, however often it takes part: charge it once, before round 1."""
        return Event(sampling_rate=1.0, noise_multiplier=self.noise_multiplier / self.sensitivity, steps=1)

    @cached_property
    def participation_event(self) -> Event:
        """A charge for each participation, such that those of any number of them together cost no less than they do.

        For the ledger of the client itself, which need not know how often it will be asked: of j participations the
        sensitivity is s_j, and the largest s_j / sqrt(j) bounds them all.
        """
        most = max(
            self.matrix.sensitivity(self.rounds, max_participations=taken, min_separation=self.min_separation)
            / math.sqrt(taken)
            for taken in range(1, self.max_participations + 1)
        )
        return Event(sampling_rate=1.0, noise_multiplier=self.noise_multiplier / most, steps=1)

    @property
    def std(self) -> float:
        """Of an entry of z, and of the part of each round's noise that no earlier round tells."""
        return self.noise_multiplier * self.max_grad_norm

    @property
    def rms_error(self) -> float:
        """Root mean square, over rounds, of the noise in an entry of the sum of all rounds so far."""
        return self.std * self.matrix.rms_error(self.rounds)


class NoiseStream:
    """Round by round, the rows of C^-1 z; float64 [size] each. Its state is a secret of the party that adds the noise.

    Whoever reads the state can subtract the noise from what was released. It is never part of a checkpoint that others
    may read, and a copy or pickle is refused; `state_dict` is the one door, and mmrank.privacy.noise_file the way to
    keep it.

    A round's noise is bound to one sum. Asked again for the last round with the same sum, the same noise comes back, so
    a release can be sent again; another sum under it is refused, since the difference of the two would be exact.
    A round whose sum is lost for good is given up: go on with the next, and count its participations.
    """

    def __init__(self, mechanism: CorrelatedNoise, *, size: int, run: str) -> None:
        self.mechanism, self.size, self.run = mechanism, size, run
        self.round_number = 0
        """The last round whose noise was drawn; rounds are numbered from 1."""
        self._digest = ""
        self._last = np.zeros(size)
        self._buffers = np.zeros((len(mechanism.matrix.decay), size))

    def next(self, noise: Noise, *, round_number: int, digest: str) -> np.ndarray:
        """The noise of that round for the sum of that digest, a new array. Write the state down before it is used.

        Raises PrivacyError for a round out of order or past the plan, and for a second sum in one round.
        """
        if round_number == self.round_number and digest == self._digest and round_number > 0:
            return self._last.copy()
        if round_number == self.round_number:
            raise PrivacyError(
                f"The noise of round {round_number} is bound to another sum, which may have been released; resend "
                f"that one, or give the round up and go on with round {round_number + 1}."
            )
        if round_number != self.round_number + 1:
            raise PrivacyError(
                f"Expected round {self.round_number + 1} after {self.round_number}, not {round_number}: the state of "
                "the noise is older or newer than the run; restore the newest state, or begin and charge a new run."
            )
        if round_number > self.mechanism.rounds:
            raise PrivacyError(
                f"Expected round={round_number} within the {self.mechanism.rounds} that were charged; plan more rounds."
            )
        # (C y)_t = y_t + sum_i weight_i s_i with s_i = sum_j decay_i^(t-1-j) y_j, solved for y_t
        decay, weight = np.array(self.mechanism.matrix.decay), np.array(self.mechanism.matrix.weight)
        drawn = noise.normal((self.size,), self.mechanism.std, dtype=torch.float64).numpy()
        self._last = drawn - weight @ self._buffers
        self._buffers = decay[:, None] * self._buffers + self._last
        self.round_number, self._digest = round_number, digest
        return self._last.copy()

    def state_dict(self) -> dict[str, Any]:
        """SECRET. Arrays `buffers` and `last`, and the words and numbers that bind them."""
        return {
            "buffers": self._buffers.copy(),
            "last": self._last.copy(),
            "round_number": self.round_number,
            "digest": self._digest,
            "run": self.run,
            "facts": self._facts(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises PrivacyError where it belongs to another run, plan or model."""
        for name, ours in (("run", self.run), ("facts", self._facts())):
            if state[name] != ours:
                raise PrivacyError(
                    f"Expected the state of the noise to have {name}={ours}, not {state[name]}; name this run's file."
                )
        buffers, last = np.array(state["buffers"], np.float64), np.array(state["last"], np.float64)
        if buffers.shape != self._buffers.shape or last.shape != self._last.shape:
            raise PrivacyError(f"Expected the state of the noise to be for {self.size} values, not {last.shape}.")
        self._buffers, self._last = buffers, last
        self.round_number, self._digest = int(state["round_number"]), str(state["digest"])

    def _facts(self) -> str:
        return repr(sorted({**asdict(self.mechanism), "strategy": self.mechanism.matrix}.items()))

    def __reduce__(self) -> NoReturn:
        raise PrivacyError(
            "A NoiseStream can't be copied or pickled: its twin would use the same noise; make a new one."
        )


def digest_of(total: np.ndarray) -> str:
    """What a round's noise is bound to: the sha256 of its exact sum, float64 [size]."""
    return hashlib.sha256(np.ascontiguousarray(total, "<f8").tobytes()).hexdigest()


def with_noise(total: np.ndarray, drawn: np.ndarray, std: float) -> np.ndarray:
    """float64 [size] on the public grid of `snapped`: what may be released of a round's sum."""
    return snapped(torch.from_numpy(total + drawn), std).numpy()
