"""Rounds in which the server sees a masked sum and no update: `client_update` with noise_at distributed.

The server draws a cohort, plays the five steps of mmrank.secure_sum with it over a messenger, and decodes the total.
It adds no noise and keeps no ledger: the devices do both. Whatever ends a sum before its total (too few are left, a
share that opens nothing) throws the round away: the model is kept, and what was charged stays charged. Nothing of a sum
survives a crash of the server, and none is ever taken up again.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from mmrank.errors import ConfigError, PrivacyError, ProtocolError, SecureSumError
from mmrank.privacy.distributed_update import DistributedUpdate, dimension_of
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise, poisson
from mmrank.protocol import Step, SumReply, SumRequest, TrainRequest
from mmrank.secure_sum import arrays
from mmrank.secure_sum.keys import Roster
from mmrank.secure_sum.server import SumServer
from mmrank.secure_sum.sum_round import SumRound
from mmrank.settings import Settings
from mmrank.wire import input_hash, sum_reply_fault

logger = logging.getLogger(__name__)

DRAWS = 100
"""A cohort that the plan of the noise does not bear is drawn again, at most so often."""

OnClient = Callable[[int, int], None]
Receive = Callable[[str, Mapping[str, np.ndarray]], None]


class SumMessenger(Protocol):
    """How a secure sum reaches its clients."""

    def ask(
        self, requests: Mapping[str, SumRequest], timeout_seconds: float
    ) -> Iterator[tuple[str, SumReply | ProtocolError]]:
        """Send each client its request; yield the answers as they come, until all are in or the time is up.

        A ProtocolError says, in the server's own words, why an answer can't be read.
        """
        ...


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

    def charge(self, request: TrainRequest) -> bool:
        """Nothing: each device charges its own ledger."""
        return True

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
        self, messenger: SumMessenger, cohort: Sequence[str], request: TrainRequest, on_client: OnClient | None
    ) -> Summed:
        """Play the round with `cohort`."""
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
        round_ = self.mechanism.shares.sum_round(run=run, round_number=request.round_number, cohort=cohort)
        played = _Round(
            messenger=messenger,
            round_=round_,
            server=SumServer(round_, roster=self.roster),
            request=request,
            timeout_seconds=self.settings.federation.reply_timeout_seconds,
            on_client=on_client,
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


@dataclass(kw_only=True)
class _Round:
    """One secure sum over a messenger. A client that misses a step, or whose answer does not fit, is out of it."""

    messenger: SumMessenger
    round_: SumRound
    server: SumServer
    request: TrainRequest
    timeout_seconds: float
    on_client: OnClient | None
    codes: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, str] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)
    epsilon: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def replies(self) -> dict[str, Any]:
        """What server.rounds reports of the round."""
        names = ("codes", "dropped", "exhausted", "epsilon", "bytes_up", "bytes_down")
        return {name: getattr(self, name) for name in names}

    def total(self) -> np.ndarray:
        """int64 [length]: the survivors' sum. Raises SecureSumError where the round can't be ended."""
        server, round_ = self.server, self.round_
        asked = arrays.cohort_to(round_.cohort)
        self._step(
            "advertise",
            dict.fromkeys(round_.cohort, asked),
            lambda client, got: server.receive_advert(client, arrays.advert_from(got)),
        )
        adverts = server.close_adverts()
        asked = arrays.adverts_to(adverts, round_)
        self._step(
            "share",
            dict.fromkeys(sorted(adverts), asked),
            lambda client, got: server.receive_shares(client, arrays.shares_from(got, round_)),
        )
        inboxes = server.close_shares()
        model = self.request.parameters
        self._step(
            "mask",
            {client: arrays.inbox_to(inboxes[client], round_, model) for client in sorted(inboxes)},
            lambda client, got: server.receive_masked(client, arrays.masked_from(got)),
        )
        survivors = server.close_masked()
        asked = arrays.survivors_to(survivors, round_)
        self._step(
            "confirm",
            dict.fromkeys(survivors, asked),
            lambda client, got: server.receive_confirmation(client, arrays.signature_from(got)),
        )
        confirmations = server.close_confirmations()
        asked = arrays.confirmations_to(confirmations, round_)
        self._step(
            "unmask",
            dict.fromkeys(sorted(confirmations), asked),
            lambda client, got: server.receive_reveal(client, arrays.reveal_from(got, round_)),
        )
        return server.total()

    def _step(self, step: Step, asked: Mapping[str, Mapping[str, np.ndarray]], receive: Receive) -> None:
        """Ask each client for its part; the order of the answers decides nothing."""
        requests = {
            client: SumRequest(
                run=self.round_.run,
                round_number=self.round_.round_number,
                config_sha256=self.request.config_sha256,
                step=step,
                arrays=given,
            )
            for client, given in asked.items()
        }
        self.bytes_down += sum(array.nbytes for given in asked.values() for array in given.values())
        waiting = set(requests)
        for client, reply in self.messenger.ask(requests, self.timeout_seconds):
            if client not in waiting:
                logger.warning("An answer from %r, who was not asked for %s or has answered.", client, step)
                continue
            waiting.remove(client)
            fault = self._received(client, reply, requests[client], receive)
            if fault is not None:
                self.dropped[client] = f"at {step} {fault}"
            if self.on_client is not None and step == "mask":
                self.on_client(len(requests) - len(waiting), len(self.round_.cohort))
        for client in waiting:
            self.dropped[client] = f"at {step} no answer within {self.timeout_seconds} s"

    def _received(
        self, client: str, reply: SumReply | ProtocolError, request: SumRequest, receive: Receive
    ) -> str | None:
        """Why the answer can't be used, or None."""
        if isinstance(reply, ProtocolError):
            return str(reply).rstrip(".")
        self.bytes_up += sum(array.nbytes for array in reply.arrays.values())
        fault = sum_reply_fault(reply, request, client)
        if fault is not None:
            return fault
        if reply.code != "ok" or reply.step == "mask":
            self.codes[reply.code] += 1
        if reply.code == "exhausted":
            self.exhausted.add(client)
        if reply.code == "exhausted" or (reply.code == "ok" and reply.step == "mask"):
            self.epsilon[client] = reply.epsilon
        if reply.code != "ok":
            return f"it answered {reply.code}"
        try:
            receive(client, reply.arrays)
        except SecureSumError as error:
            return str(error).rstrip(".")
        return None


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
