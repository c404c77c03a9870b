"""One secure sum over a messenger: five exchanges with a cohort, until the total or an error that ends the round."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mmrank.errors import ProtocolError, SecureSumError
from mmrank.protocol import NO_HEAD, Head, Step, SumReply, SumRequest, TrainRequest
from mmrank.secure_sum import arrays
from mmrank.secure_sum.server import SumServer
from mmrank.secure_sum.sum_round import SumRound
from mmrank.wire import sum_reply_fault
from server.measures import rolled_back

logger = logging.getLogger(__name__)

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


@dataclass(kw_only=True)
class SumExchange:
    """One secure sum over a messenger. A client that misses a step, or whose answer does not fit, is out of it.

    acknowledged: by client, the head of its ledger that its requests name.
    """

    messenger: SumMessenger
    round_: SumRound
    server: SumServer
    request: TrainRequest
    timeout_seconds: float
    on_client: OnClient | None
    acknowledged: Mapping[str, Head] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, str] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)
    epsilon: dict[str, float] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def replies(self) -> dict[str, Any]:
        """What server.rounds reports of the round."""
        names = ("codes", "dropped", "exhausted", "epsilon", "heads", "bytes_up", "bytes_down")
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
        requests = {client: self._request(step, client, given) for client, given in asked.items()}
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

    def _request(self, step: Step, client: str, given: Mapping[str, np.ndarray]) -> SumRequest:
        entries, head = self.acknowledged.get(client, NO_HEAD)
        return SumRequest(
            run=self.round_.run,
            round_number=self.round_.round_number,
            config_sha256=self.request.config_sha256,
            step=step,
            arrays=given,
            ledger_count=entries,
            ledger_head=head,
        )

    def _received(
        self, client: str, reply: SumReply | ProtocolError, request: SumRequest, receive: Receive
    ) -> str | None:
        """Why the answer can't be used, or None."""
        if isinstance(reply, ProtocolError):
            return str(reply).rstrip(".")
        self.bytes_up += sum(array.nbytes for array in reply.arrays.values())
        fault = sum_reply_fault(reply, request, client)
        charged = reply.code == "exhausted" or (reply.code == "ok" and reply.step == "mask")
        if fault is None and charged:
            fault = rolled_back(reply.head, request.acknowledged)
        if fault is not None:
            return fault
        if reply.code != "ok" or reply.step == "mask":
            self.codes[reply.code] += 1
        if reply.code == "exhausted":
            self.exhausted.add(client)
        if charged:
            self.epsilon[client], self.heads[client] = reply.epsilon, reply.head
        if reply.code != "ok":
            return f"it answered {reply.code}"
        try:
            receive(client, reply.arrays)
        except SecureSumError as error:
            return str(error).rstrip(".")
        return None
