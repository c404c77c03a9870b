"""Rounds in which the server sees a masked sum and no update: `client_update` with noise_at distributed.

The server draws a cohort, plays the five steps of mmrank.secure_sum with it over a messenger, and decodes the total.
It adds no noise and keeps no ledger: the devices do both. Whatever ends a sum before its total (too few are left, a
share that opens nothing) throws the round away: the model is kept, and what was charged stays charged. Nothing of a sum
survives a crash of the server.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmrank.errors import ConfigError, PrivacyError, SecureSumError
from mmrank.privacy.distributed_update import DistributedUpdate, dimension_of
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise, poisson
from mmrank.protocol import Head, TrainRequest
from mmrank.secure_sum.keys import Roster
from mmrank.secure_sum.server import SumServer
from mmrank.settings import Settings
from mmrank.wire import input_hash
from server.secure_exchange import OnClient, SumExchange, SumMessenger

logger = logging.getLogger(__name__)

DRAWS = 100
"""A cohort that the plan of the noise does not bear is drawn again, at most so often."""


@dataclass(frozen=True, kw_only=True)
class Summed:
    """mean: float64 by name, None where the round was thrown away. replies: what else it brought in, by name."""

    mean: Mapping[str, np.ndarray] | None
    replies: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SecurePopulation:
    """The server's half of a run under distributed noise. session: ends the name of each sum of this process."""

    settings: Settings
    mechanism: DistributedUpdate
    roster_path: Path
    session: str
    account: ClassVar[None] = None

    @property
    def fewest(self) -> int:
        """Clients without whom no round can end."""
        return self.mechanism.shares.threshold

    @cached_property
    def roster(self) -> Roster:
        """Who signs for whom, as the server's operator has it. Raises ConfigError."""
        return Roster.read(self.roster_path)

    def asks(self, parameters: Mapping[str, np.ndarray], clip_norm: float) -> dict[str, np.ndarray]:
        """The model, and nothing beside it."""
        return dict(parameters)

    def charge(self, request: TrainRequest) -> None:
        """Nothing: each device charges its own ledger."""

    def draw(self, clients: Sequence[str], request: TrainRequest) -> list[str]:
        """The round's cohort: each of `clients` with probability q, drawn until the plan bears it; empty where none is.

        A cohort below the threshold or above the planned size is thrown away before anybody is asked. That makes it
        no Poisson sample, which is allowed here because no amplification is claimed: each device is charged with
        q = 1, and the server knows the cohort anyway.
        """
        noise, shares = self._noise(request), self.mechanism.shares
        for _ in range(DRAWS):
            rows = poisson(noise, len(clients), self.mechanism.sampling_rate).tolist()
            if shares.threshold <= len(rows) <= shares.cohort:
                return [clients[row] for row in rows]
        return []

    def sum(
        self,
        messenger: SumMessenger,
        cohort: Sequence[str],
        request: TrainRequest,
        on_client: OnClient | None,
        acknowledged: Mapping[str, Head] | None = None,
    ) -> Summed:
        """Play the round with `cohort`. acknowledged: by client, the head of its ledger that was acknowledged last."""
        if not cohort:
            logger.warning(
                "Round %d: none of %d draws had %d to %d clients; it is thrown away before anybody is asked. Set "
                "privacy.sampling_rate and federation.cohort_size to the clients that are there.",
                request.round_number,
                DRAWS,
                self.mechanism.shares.threshold,
                self.mechanism.shares.cohort,
            )
            return Summed(mean=None, replies={})
        run = f"{request.run}-{self.session}" if self.session else request.run
        round_ = self.mechanism.shares.sum_round(
            run=run, round_number=request.round_number, cohort=cohort, agreed=request.config_sha256
        )
        played = SumExchange(
            messenger=messenger,
            round_=round_,
            server=SumServer(round_, roster=self.roster),
            request=request,
            timeout_seconds=self.settings.federation.reply_timeout_seconds,
            on_client=on_client,
            acknowledged=acknowledged or {},
        )
        mean: dict[str, np.ndarray] | None = None
        try:
            mean = self.mechanism.mean(played.total(), request.parameters, round_=round_)
        except SecureSumError as error:
            logger.warning(
                "Round %d is thrown away, the model is kept and the charges stay: %s", request.round_number, error
            )
        for client, reason in sorted(played.dropped.items()):
            logger.warning("Round %d: %s fell out: %s.", request.round_number, client, reason)
        return Summed(mean=mean, replies=played.replies)

    def _noise(self, request: TrainRequest) -> Noise:
        if self.settings.privacy.noise == "secure":
            return SecureNoise()
        digest = input_hash(request.parameters)
        return SeededNoise(self.settings.seed, "population", "cohort", request.run, request.round_number, digest)


def open_secure(
    settings: Settings, *, parameters: Mapping[str, np.ndarray], state_dir: Path, roster: Path | None
) -> SecurePopulation:
    """The server's half; `parameters` are the model's, of any values.

    With secure noise every start of a server names its sums anew: a sum that a crash cut short is not taken up, and
    its clients would refuse another cohort under the same name. A seeded run repeats, and its clients answer as before.
    """
    if roster is None:
        raise ConfigError("Expected a roster with privacy.noise_at: distributed; pass the path of the file as roster.")
    mechanism = build_mechanism(
        settings.privacy,
        settings.training,
        settings.federation,
        cache_dir=state_dir,
        dimension=dimension_of(parameters),
    )
    if not isinstance(mechanism, DistributedUpdate):
        raise PrivacyError(f"Expected privacy.noise_at={settings.privacy.noise_at} to be distributed.")
    return SecurePopulation(
        settings=settings,
        mechanism=mechanism,
        roster_path=roster,
        session=secrets.token_hex(8) if settings.privacy.noise == "secure" else "",
    )
