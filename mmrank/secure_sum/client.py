"""The client of a secure sum: a machine of five steps that goes forward only, and answers each of them once.

What a client must never do is say two things: both the seed and the mask key of one peer, two lists of survivors, two
vectors under one mask. So each step is refused when it was answered before, whether with the same request or another;
a lost answer is sent again from where the caller keeps it. Between steps the machine goes to disk by `save`: that state
has to be durable before the step's answer is sent, and an older one is never used again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NoReturn

import numpy as np

from mmrank.errors import BelowThresholdError, SecureSumError
from mmrank.secure_sum import masks
from mmrank.secure_sum._client_state import ADVERTISED, CONFIRMED, DONE, MASKED, NEW, SHARED, ClientState, dump, load
from mmrank.secure_sum.keys import Identity, Roster, agree, agreement_public, new_agreement_key, seal, unseal
from mmrank.secure_sum.messages import Advert, Reveal, Shares, Table, commitment, confirmation
from mmrank.secure_sum.shamir import SHARE_BYTES, element, split
from mmrank.secure_sum.sum_round import SumRound


class SumClient:
    """One client's part in one sum.

    round_: the facts as this client knows them: its own threshold, length and bits, never the server's. roster: from
    the client's operator. Make at most one for a (run, round), ever: that this is so, the caller's store must hold.
    Every step raises SecureSumError where it would reveal more than the sum, or where a message is not of this round
    (BelowThresholdError where too few are left). It then has told nothing, and stays where it was.
    """

    def __init__(self, round_: SumRound, *, client: str, identity: Identity, roster: Roster) -> None:
        if client not in round_.cohort:
            raise SecureSumError(
                f"{client} is not in the cohort of round {round_.round_number}: it takes no part in it."
            )
        if roster.identities.get(client) != identity.public:
            raise SecureSumError(
                f"The roster does not list this identity for {client}; ask the operator for a new roster."
            )
        self.round, self.client = round_, client
        self._identity, self._roster = identity, roster
        self._state = ClientState()

    def advertise(self) -> bytes:
        """Step 1: this round's public keys, signed; messages.ADVERT_BYTES for the server."""
        self._expect(NEW)
        cipher, mask = new_agreement_key(), new_agreement_key()
        public = (agreement_public(cipher), agreement_public(mask))
        signature = self._identity.sign(Advert.statement(self.round, self.client, *public))
        self._state = ClientState(stage=ADVERTISED, cipher_key=cipher, mask_key=mask)
        return Advert(cipher=public[0], mask=public[1], signature=signature).to_bytes()

    def share(self, adverts: Table) -> Shares:
        """Step 2: given the adverts of all who sent one, a share of seed and mask key for each of the others."""
        self._expect(ADVERTISED)
        known = self._checked_adverts(adverts)
        seed, names = os.urandom(32), sorted(known)
        points = [self.round.points[name] for name in names]
        of_seed = split(seed, points=points, threshold=self.round.threshold)
        of_key = split(self._state.mask_key, points=points, threshold=self.round.threshold)
        held = {name: a + b for name, a, b in zip(names, of_seed, of_key, strict=True)}
        sealed = {
            name: seal(self._cipher_key(known[name], self.client, name), held[name], self._sealing(self.client, name))
            for name in names
            if name != self.client
        }
        self._state = ClientState(
            stage=SHARED,
            cipher_key=self._state.cipher_key,
            mask_key=self._state.mask_key,
            seed=seed,
            adverts={name: adverts[name] for name in names},
            shares={self.client: held[self.client]},
        )
        return Shares(sealed=sealed, commitment=commitment(self.round, self.client, seed))

    def check_inbox(self, inbox: Table) -> None:
        """What `mask` would refuse of `inbox`, before anything is charged or trained for it. Nothing changes."""
        self._expect(SHARED)
        self._opened_all(inbox)

    def mask(self, values: np.ndarray, inbox: Table) -> np.ndarray:
        """Step 3: the vector under its masks. inbox: what each of the others sealed for this client.

        values: integers [length] in [0, 2^bits). Returns round.dtype [length], uniform to the server.
        """
        self._expect(SHARED)
        checked = self._checked_values(values)
        shares = self._opened_all(inbox)
        result = masks.masked(checked, self._masks(sorted(shares)), self.round)
        self._state = self._state.forward(MASKED, shares=shares)
        return result

    def confirm(self, survivors: Collection[str]) -> bytes:
        """Step 4: a signature of who is in the sum. Only one such list is ever signed in a round."""
        self._expect(MASKED)
        names = sorted(survivors)
        self._check_list(names, among=self._state.shares, what="survivors")
        self._state = self._state.forward(CONFIRMED, survivors=tuple(names))
        return self._identity.sign(confirmation(self.round, self._sharers(), tuple(names)))

    def unmask(self, confirmations: Table) -> Reveal:
        """Step 5: given that enough survivors signed this client's very list, the shares that open the sum's masks.

        Of a survivor the share of its seed, of a client that fell out the share of its mask key: never both.
        """
        self._expect(CONFIRMED)
        survivors = self._state.survivors
        self._check_list(sorted(confirmations), among=survivors, what="confirmations")
        statement = confirmation(self.round, self._sharers(), survivors)
        for name, signature in confirmations.items():
            self._roster.check(name, statement, signature)
        shares = self._state.shares
        self._state = ClientState(stage=DONE)  # the secrets are let go of
        return Reveal(
            seeds={name: shares[name][:SHARE_BYTES] for name in survivors},
            keys={name: shares[name][SHARE_BYTES:] for name in sorted(set(shares) - set(survivors))},
        )

    def save(self) -> bytes:
        """The state as bytes, secrets included: they belong in the client's own store."""
        return dump(self._state, self.round, self.client)

    @classmethod
    def restore(cls, data: bytes, round_: SumRound, *, client: str, identity: Identity, roster: Roster) -> SumClient:
        """From the newest `save` of this client and round. Raises SecureSumError for another's, or damaged bytes."""
        machine = cls(round_, client=client, identity=identity, roster=roster)
        machine._state = load(data, round_, client)
        return machine

    @property
    def stage(self) -> str:
        """new, advertised, shared, masked, confirmed or done."""
        return self._state.stage

    def __reduce__(self) -> NoReturn:
        raise SecureSumError("A SumClient can't be copied or pickled: its twin could answer what it refuses; use save.")

    def _expect(self, stage: str) -> None:
        if self._state.stage != stage:
            raise SecureSumError(
                f"{self.client} is {self._state.stage} in round {self.round.round_number}, and this step follows "
                f"{stage}: each step is answered once; send the kept answer again."
            )

    def _sharers(self) -> tuple[str, ...]:
        return tuple(sorted(self._state.shares))

    def _check_list(self, names: list[str], *, among: Collection[str], what: str) -> None:
        """`names` are sorted, distinct, known, enough, and this client is one of them."""
        strangers = sorted(set(names) - set(among))
        if strangers:
            raise SecureSumError(
                f"Expected {what} of {sorted(among)} alone; {strangers} fell out before, or were never in."
            )
        if len(set(names)) != len(names):
            raise SecureSumError(f"Expected each client once in the list of {what}.")
        if self.client not in names:
            raise SecureSumError(f"Expected {self.client} in the list of {what}: it was asked, and it answered.")
        if len(names) < self.round.threshold:
            raise BelowThresholdError(
                f"Expected {what} of at least threshold={self.round.threshold} clients, not {len(names)}; "
                "throw the round away."
            )

    def _checked_adverts(self, adverts: Table) -> dict[str, Advert]:
        self._check_list(sorted(adverts), among=self.round.cohort, what="adverts")
        known = {name: Advert.from_bytes(data) for name, data in adverts.items()}
        mine = (agreement_public(self._state.cipher_key), agreement_public(self._state.mask_key))
        if (known[self.client].cipher, known[self.client].mask) != mine:
            raise SecureSumError(f"Expected the advert of {self.client} as it was sent; another was put in its place.")
        public = [key for advert in known.values() for key in (advert.cipher, advert.mask)]
        if len(set(public)) != len(public):
            raise SecureSumError("Expected each public key once among the adverts; two clients sent the same.")
        for name, advert in known.items():
            self._roster.check(name, Advert.statement(self.round, name, advert.cipher, advert.mask), advert.signature)
        return known

    def _checked_values(self, values: np.ndarray) -> np.ndarray:
        whole = np.issubdtype(values.dtype, np.integer) and values.shape == (self.round.length,)
        if not whole or not 0 <= int(values.min()) <= int(values.max()) <= self.round.largest:
            raise SecureSumError(
                f"Expected integers of shape {(self.round.length,)} in [0, 2^{self.round.bits}), not {values.dtype} of "
                f"shape {values.shape}; take them modulo 2^{self.round.bits} first."
            )
        return values

    def _cipher_key(self, peer: Advert, sender: str, recipient: str) -> bytes:
        return agree(self._state.cipher_key, peer.cipher, self.round.statement("sealing key", sender, recipient))

    def _sealing(self, sender: str, recipient: str) -> bytes:
        return self.round.statement("sealed shares", sender, recipient)

    def _opened_all(self, inbox: Table) -> dict[str, bytes]:
        """The shares that this client holds of everybody who sent some, its own included."""
        self._check_list(sorted({*inbox, self.client}), among=self._state.adverts, what="sealed shares")
        return {**self._state.shares, **{name: self._opened(name, inbox[name]) for name in inbox}}

    def _opened(self, sender: str, sealed: bytes) -> bytes:
        advert = Advert.from_bytes(self._state.adverts[sender])
        both = unseal(self._cipher_key(advert, sender, self.client), sealed, self._sealing(sender, self.client))
        element(both[:SHARE_BYTES]), element(both[SHARE_BYTES:])
        return both

    def _masks(self, sharers: list[str]) -> Iterator[np.ndarray]:
        yield masks.self_mask(self._state.seed, self.round, self.client)
        for peer in sharers:
            if peer != self.client:
                public = Advert.from_bytes(self._state.adverts[peer]).mask
                yield masks.pair_mask(self._state.mask_key, public, self.round, self.client, peer)
