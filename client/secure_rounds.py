"""A client's part in secure sums: five requests, each answered once, durable before it is sent.

From the server come a run, a round and names; what a sum hides (threshold, length, modulus, the noise) the client takes
from its own settings. Before the third step nothing private is touched; that step charges, trains, adds this device's
share of the noise and masks the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from client.secure_keys import SecureKeys
from client.secure_store import Row, SecureStore
from mmrank.errors import BudgetExhaustedError, SecureSumError
from mmrank.privacy.distributed_update import DistributedUpdate
from mmrank.protocol import NO_HEAD, Head, SumReply, SumRequest
from mmrank.secure_sum import arrays
from mmrank.secure_sum.client import SumClient
from mmrank.secure_sum.sum_round import SumRound
from mmrank.wire import input_hash

Contribution = Callable[[SumRequest, SumRound], tuple[np.ndarray, float, Head]]
"""(request, round) -> (this device's noisy residues [length], its ledger's epsilon and head): charged, then trained."""
Arrays = Mapping[str, np.ndarray]
Standing = tuple[float, Head]
UNCHARGED: Standing = (0.0, NO_HEAD)
"""What the steps say that charge nothing."""


@dataclass(frozen=True, kw_only=True)
class SecureRounds:
    """One client's part in all of them.

    affords: whether the ledger would pay for a round; one that it would not is not begun. contribute: called once a
    round at most, unless a process died in it.
    """

    client: str
    mechanism: DistributedUpdate
    keys: SecureKeys
    store: SecureStore
    affords: Callable[[], bool]
    contribute: Contribution

    def answer(self, request: SumRequest) -> SumReply:
        """The answer, kept before it is returned; the kept one where the same was asked before.

        Raises SecureSumError where an answer would tell more than the sum, and whatever `contribute` raises: nothing
        is then told, and the client stays where it was in that round.
        """
        kept = self.store.answer(request, self.client)
        if kept is not None:
            return kept
        row = self.store.find(request.run, self.client, request.round_number)
        if request.step == "advertise":
            return self._advertise(request, row)
        if row is None:
            raise SecureSumError(f"{self.client} did not enter round {request.round_number}; it begins with advertise.")
        round_ = self._round(request, row.cohort)
        machine = SumClient.restore(row.state, round_, **self._self())
        reply = self._reply(request, *self._step(request, round_, machine))
        # at the end the secrets are let go of; the row stays, and with it the refusal of another such round
        self.store.advance(row.stage, machine.stage, machine.save(), request, reply)
        return reply

    def _advertise(self, request: SumRequest, row: Row | None) -> SumReply:
        if row is not None:
            raise SecureSumError(f"{self.client} entered round {request.round_number} before, and its answer is gone.")
        if not self.affords():
            raise BudgetExhaustedError(f"{self.client} can't pay for another round; it is not begun.")
        round_ = self._round(request, arrays.cohort_from(request.arrays))
        machine = SumClient(round_, **self._self())
        reply = self._reply(request, arrays.advert_to(machine.advertise()), UNCHARGED)
        self.store.enter(round_, machine.stage, machine.save(), request, reply)
        return reply

    def _step(self, request: SumRequest, round_: SumRound, machine: SumClient) -> tuple[Arrays, Standing]:
        given = request.arrays
        if request.step == "share":
            return arrays.shares_to(machine.share(arrays.adverts_from(given, round_)), round_), UNCHARGED
        if request.step == "mask":
            inbox = arrays.inbox_from(given, round_)
            machine.check_inbox(inbox)  # what could refuse does so before the charge
            values, epsilon, head = self.contribute(request, round_)
            return arrays.masked_to(machine.mask(values, inbox)), (epsilon, head)
        if request.step == "confirm":
            return arrays.signature_to(machine.confirm(arrays.survivors_from(given, round_))), UNCHARGED
        return arrays.reveal_to(machine.unmask(arrays.confirmations_from(given, round_)), round_), UNCHARGED

    def _round(self, request: SumRequest, cohort: tuple[str, ...]) -> SumRound:
        return self.mechanism.shares.sum_round(
            run=request.run, round_number=request.round_number, cohort=cohort, agreed=request.config_sha256
        )

    def _self(self) -> dict[str, Any]:
        return {"client": self.client, "identity": self.keys.identity(self.client), "roster": self.keys.roster}

    def _reply(self, request: SumRequest, answered: Arrays, standing: Standing) -> SumReply:
        epsilon, (entries, head) = standing
        return SumReply(
            code="ok",
            client=self.client,
            round_number=request.round_number,
            step=request.step,
            epsilon=epsilon,
            arrays=answered,
            ledger_count=entries,
            ledger_head=head,
        )


def round_hash(parameters: Arrays, round_: SumRound) -> str:
    """sha256 of all that decides one contribution, the data apart: another cohort or model is another charge."""
    return hashlib.sha256(round_.context + bytes.fromhex(input_hash(parameters))).hexdigest()
