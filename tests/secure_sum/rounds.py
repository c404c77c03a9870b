"""A whole secure sum in one process, with clients that fall out where a test says, and all that the server saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmrank.secure_sum.client import SumClient
from mmrank.secure_sum.keys import Identity, Roster
from mmrank.secure_sum.messages import Reveal, Shares
from mmrank.secure_sum.server import SumServer
from mmrank.secure_sum.sum_round import SumRound

STEPS = ("advert", "shares", "masked", "confirmation", "reveal")


def facts(size: int = 5, threshold: int = 3, **changes) -> SumRound:
    values = {"run": "run", "round_number": 1, "colluders": 0, "length": 8, "bits": 16} | changes
    return SumRound(**{"cohort": tuple(f"c{i:02d}" for i in range(size)), "threshold": threshold} | values)


@dataclass(kw_only=True)
class Party:
    """The members of a cohort, each with an identity that the roster lists."""

    round_: SumRound
    identities: dict[str, Identity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identities = self.identities or {name: Identity() for name in self.round_.cohort}
        self.roster = Roster({name: identity.public for name, identity in self.identities.items()})
        self.clients = {name: self.client(name) for name in self.round_.cohort}

    def client(self, name: str, round_: SumRound | None = None) -> SumClient:
        return SumClient(round_ or self.round_, client=name, identity=self.identities[name], roster=self.roster)


@dataclass(kw_only=True)
class View:
    """Everything that the server received in a round, in the order of the steps."""

    adverts: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, Shares] = field(default_factory=dict)
    masked: dict[str, np.ndarray] = field(default_factory=dict)
    confirmations: dict[str, bytes] = field(default_factory=dict)
    reveals: dict[str, Reveal] = field(default_factory=dict)
    late: dict[str, np.ndarray] = field(default_factory=dict)
    survivors: tuple[str, ...] = ()
    total: np.ndarray | None = None


def play(
    party: Party,
    values: Mapping[str, np.ndarray] | Callable[[str], np.ndarray],
    *,
    lost: Mapping[str, Collection[str]] | None = None,
    between: Callable[[str], None] = lambda step: None,
) -> View:
    """The round, each client that `lost` names falling out before that step's message; `between` runs after each step.

    A masked vector that is lost comes late: the server sees it all the same, and does not add it.
    """
    lost = {step: set((lost or {}).get(step, ())) for step in STEPS}
    value_of = values if callable(values) else values.__getitem__
    server, view = SumServer(party.round_, roster=party.roster), View()
    live = set(party.round_.cohort) - lost["advert"]
    for name in sorted(live):
        view.adverts[name] = party.clients[name].advertise()
        server.receive_advert(name, view.adverts[name])
    adverts = server.close_adverts()
    between("advert")
    live -= lost["shares"]
    for name in sorted(live):
        view.shares[name] = party.clients[name].share(adverts)
        server.receive_shares(name, view.shares[name])
    inboxes = server.close_shares()
    between("shares")
    for name in sorted(live):
        vector = party.clients[name].mask(value_of(name), inboxes[name])
        if name in lost["masked"]:
            view.late[name] = vector
        else:
            view.masked[name] = vector
            server.receive_masked(name, vector)
    live -= lost["masked"]
    view.survivors = server.close_masked()
    between("masked")
    live -= lost["confirmation"]
    for name in sorted(live):
        view.confirmations[name] = party.clients[name].confirm(view.survivors)
        server.receive_confirmation(name, view.confirmations[name])
    confirmations = server.close_confirmations()
    between("confirmation")
    live -= lost["reveal"]
    for name in sorted(live):
        view.reveals[name] = party.clients[name].unmask(confirmations)
        server.receive_reveal(name, view.reveals[name])
    view.total = server.total()
    return view
