"""The server of a secure sum: it collects, routes what it can't read, and ends with the sum alone.

Five times: `receive_...` what each client sends, then `close_...` for what goes back. What `receive_...` raises is
about that one message: drop it and go on. What `close_...` and `total` raise ends the round. Nothing here needs to
survive a crash: a server that lost its state throws the round away, and must not ask for it again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mmrank.errors import BelowThresholdError, SecureSumError
from mmrank.secure_sum import masks
from mmrank.secure_sum.keys import Roster, agreement_public
from mmrank.secure_sum.messages import (
    COMMITMENT_BYTES,
    SEALED_SHARES_BYTES,
    Advert,
    Reveal,
    Shares,
    Table,
    commitment,
    confirmation,
)
from mmrank.secure_sum.shamir import element, join, weights_at_zero
from mmrank.secure_sum.sum_round import SumRound

_STEPS = ("adverts", "shares", "masked vectors", "confirmations", "reveals", "the end")


class SumServer:
    """One sum. roster: with it, the server drops what the clients would refuse, in place of losing the round."""

    def __init__(self, round_: SumRound, *, roster: Roster) -> None:
        self.round, self._roster = round_, roster
        self._step = 0
        self._adverts: dict[str, bytes] = {}
        self._shares: dict[str, Shares] = {}
        self._total = np.zeros(round_.length, dtype=round_.dtype)
        self._survivors: list[str] = []
        self._confirmations: dict[str, bytes] = {}
        self._reveals: dict[str, Reveal] = {}

    def receive_advert(self, client: str, advert: bytes) -> None:
        """Step 1, from each of the cohort."""
        self._expect("adverts", client, among=self.round.cohort, so_far=self._adverts)
        parsed = Advert.from_bytes(advert)
        statement = Advert.statement(self.round, client, parsed.cipher, parsed.mask)
        self._roster.check(client, statement, parsed.signature)
        self._adverts[client] = advert

    def close_adverts(self) -> Table:
        """All adverts, for each client that sent one."""
        self._close("adverts", self._adverts)
        return dict(self._adverts)

    def receive_shares(self, client: str, shares: Shares) -> None:
        """Step 2."""
        self._expect("shares", client, among=self._adverts, so_far=self._shares)
        if set(shares.sealed) != set(self._adverts) - {client}:
            raise SecureSumError(f"Expected from {client} one share for each other client that sent an advert.")
        widths = {len(sealed) for sealed in shares.sealed.values()}
        if widths != {SEALED_SHARES_BYTES} or len(shares.commitment) != COMMITMENT_BYTES:
            raise SecureSumError(f"Expected from {client} sealed shares of {SEALED_SHARES_BYTES} bytes, not {widths}.")
        self._shares[client] = shares

    def close_shares(self) -> dict[str, Table]:
        """By recipient, what the others sealed for it; for each client that sent shares."""
        self._close("shares", self._shares)
        return {
            recipient: {
                sender: self._shares[sender].sealed[recipient] for sender in self._shares if sender != recipient
            }
            for recipient in self._shares
        }

    def receive_masked(self, client: str, vector: np.ndarray) -> None:
        """Step 3."""
        self._expect("masked vectors", client, among=self._shares, so_far=self._survivors)
        if vector.dtype != self.round.dtype or vector.shape != (self.round.length,):
            raise SecureSumError(
                f"Expected from {client} {self.round.dtype} of shape {(self.round.length,)}, "
                f"not {vector.dtype} of shape {vector.shape}."
            )
        if int(vector.max()) > self.round.largest:
            raise SecureSumError(f"Expected from {client} residues below 2^{self.round.bits}.")
        self._total += vector
        self._survivors.append(client)

    def close_masked(self) -> tuple[str, ...]:
        """The survivors, sorted; for each of them. A vector that comes later is not added."""
        self._close("masked vectors", self._survivors)
        return self._sorted_survivors()

    def receive_confirmation(self, client: str, signature: bytes) -> None:
        """Step 4, from the survivors."""
        self._expect("confirmations", client, among=self._survivors, so_far=self._confirmations)
        statement = confirmation(self.round, tuple(sorted(self._shares)), self._sorted_survivors())
        self._roster.check(client, statement, signature)
        self._confirmations[client] = signature

    def close_confirmations(self) -> Table:
        """The signatures, for each client that sent one."""
        self._close("confirmations", self._confirmations)
        return dict(self._confirmations)

    def receive_reveal(self, client: str, reveal: Reveal) -> None:
        """Step 5, from those who confirmed."""
        self._expect("reveals", client, among=self._confirmations, so_far=self._reveals)
        if set(reveal.seeds) != set(self._survivors) or set(reveal.keys) != set(self._fallen()):
            raise SecureSumError(
                f"Expected from {client} seeds' shares of the survivors and keys' shares of the others."
            )
        for share in (*reveal.seeds.values(), *reveal.keys.values()):
            element(share)
        self._reveals[client] = reveal

    def total(self) -> np.ndarray:
        """int64 [length]: the sum of the survivors' vectors, in [-2^(bits - 1), 2^(bits - 1)).

        Raises BelowThresholdError where too few revealed, and SecureSumError where a client's shares don't open what
        it committed to.
        """
        self._close("reveals", self._reveals)
        helpers = sorted(self._reveals)[: self.round.threshold]
        weights = weights_at_zero([self.round.points[name] for name in helpers])
        total = self._total
        for client in self._sorted_survivors():
            seed = join([self._reveals[name].seeds[client] for name in helpers], weights)
            if commitment(self.round, client, seed) != self._shares[client].commitment:
                raise SecureSumError(
                    f"The shares of {client}'s seed don't open it: one was damaged; the round is lost."
                )
            total = total - masks.self_mask(seed, self.round, client)
        for client in self._fallen():
            key = join([self._reveals[name].keys[client] for name in helpers], weights)
            for mask in self._left_by(client, key):
                total = total + mask
        return masks.centred(total, self.round)

    def _left_by(self, client: str, key: bytes) -> Iterable[np.ndarray]:
        """What a client that fell out would have added: its masks towards each survivor."""
        if agreement_public(key) != Advert.from_bytes(self._adverts[client]).mask:
            raise SecureSumError(
                f"The shares of {client}'s mask key don't open it: one was damaged; the round is lost."
            )
        for peer in self._survivors:
            yield masks.pair_mask(key, Advert.from_bytes(self._adverts[peer]).mask, self.round, client, peer)

    def _sorted_survivors(self) -> tuple[str, ...]:
        return tuple(sorted(self._survivors))

    def _fallen(self) -> tuple[str, ...]:
        """Those who shared keys, and whose vector is not in the sum: the others count on their masks."""
        return tuple(sorted(set(self._shares) - set(self._survivors)))

    def _expect(self, step: str, client: str, *, among: Iterable[str], so_far: Iterable[str]) -> None:
        if _STEPS[self._step] != step:
            raise SecureSumError(f"{client} came with {step}, while the round waits for {_STEPS[self._step]}.")
        if client not in among:
            raise SecureSumError(f"{client} came with {step}, and was not asked for any.")
        if client in so_far:
            raise SecureSumError(f"{client} came with {step} twice.")

    def _close(self, step: str, senders: Iterable[str]) -> None:
        if _STEPS[self._step] != step:
            raise SecureSumError(f"{step} can't be closed: the round waits for {_STEPS[self._step]}.")
        count = len(list(senders))
        if count < self.round.threshold:
            raise BelowThresholdError(
                f"Expected {step} of at least threshold={self.round.threshold} clients, got {count}; "
                "the round is thrown away, and its charge stays."
            )
        self._step += 1
