"""Rounds in which whole clients are the privacy unit: the ledger, the cohort and the noise of `client_update`.

Under central noise the server is the party that promises: before a round's cohort is drawn it charges every
registered client, drawn or not, in one population ledger. The cohort is a Poisson sample from a secret stream, whoever
replies in time is counted, and the sum gets its noise whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event
from mmrank.privacy.client_update import CLIP, ClientUpdate
from mmrank.privacy.ledger import Account, Ledger, Policy, charge_id
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise, poisson
from mmrank.protocol import TrainRequest
from mmrank.settings import Settings
from mmrank.wire import input_hash
from server.streams import Stream, open_stream

POPULATION = "population/"
"""How the key of a people's ledger begins."""
LEDGER = "population.sqlite"
"""A throwaway population ledger, in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """The server's half of `client_update`. account: the population ledger's, None where devices add the noise."""

    settings: Settings
    mechanism: ClientUpdate
    account: Account | None
    fewest: ClassVar[int] = 1

    def asks(self, parameters: Mapping[str, np.ndarray], clip_norm: float) -> dict[str, np.ndarray]:
        """What the cohort is sent: the model, and the round's clip where it adapts."""
        clip = {CLIP: np.array([clip_norm], np.float32)} if self.mechanism.adaptive else {}
        return {**parameters, **clip}

    def charge(self, request: TrainRequest) -> None:
        """Charge the round to everybody who is registered. Raises BudgetExhaustedError where it can't be paid.

        A round that is done again (after a crash, from an older checkpoint, in a copied folder) draws other secret
        noise: nobody can say that its first model was never seen, so it is another charge. Seeded noise is the same.
        """
        if self.account is None:
            return
        charges = self._charges(self.account.key, request)
        event = self.mechanism.population_event
        if self.settings.privacy.noise == "secure":
            self.account.claim(charges, event)
        else:
            self.account.charge(next(charges), event)

    @staticmethod
    def _charges(name: str, request: TrainRequest) -> Iterator[str]:
        digest = input_hash(request.parameters)
        for attempt in count():
            yield charge_id(name, request.run, request.round_number, name, digest, attempt)

    def draw(self, clients: Sequence[str], request: TrainRequest) -> list[str]:
        """The round's cohort: each of `clients` with probability q, independently; it may be empty."""
        rate = self.mechanism.sampling_rate
        if self.mechanism.noise_cohort_size is not None:  # the simulated few stand for many: q is the many's
            rate = min(self.mechanism.cohort_size / max(len(clients), 1), 1.0)
        return [clients[row] for row in poisson(self._noise("cohort", request), len(clients), rate).tolist()]

    def aggregate(
        self,
        updates: Mapping[str, Mapping[str, np.ndarray]],
        parameters: Mapping[str, np.ndarray],
        clip_norm: float,
        request: TrainRequest,
    ) -> tuple[dict[str, np.ndarray], float]:
        """(the noisy mean update float64, the next round's clip)."""
        noise = self._noise("sum", request)
        return self.mechanism.aggregate(updates, parameters, clip=clip_norm, noise=noise)

    def _noise(self, purpose: str, request: TrainRequest) -> Noise:
        """A stream of its own for each purpose, bound to the run, the round and the model where it is seeded."""
        if self.settings.privacy.noise == "secure":
            return SecureNoise()
        digest = input_hash(request.parameters)
        return SeededNoise(self.settings.seed, "population", purpose, request.run, request.round_number, digest)


def open_population(settings: Settings, *, state_dir: Path) -> Population | Stream | None:
    """The server's half of a run whose unit is the client; None for every other mechanism."""
    privacy = settings.privacy
    if privacy.mechanism == "no_privacy" and privacy.ledger != "throwaway":
        _remember_unprotected(settings, state_dir)
    if privacy.mechanism != "client_update":
        return None
    mechanism = build_mechanism(privacy, settings.training, settings.federation, cache_dir=state_dir)
    if not isinstance(mechanism, ClientUpdate):
        raise PrivacyError(f"Expected privacy.mechanism={privacy.mechanism} to be client_update.")
    account = None
    if privacy.central:
        account = population_ledger(settings, state_dir=state_dir).account(
            population_key(settings), policy_of(settings)
        )
    if mechanism.stream is not None and account is not None:
        return open_stream(settings, mechanism=mechanism, account=account, state_dir=state_dir)
    return Population(settings=settings, mechanism=mechanism, account=account)


def _remember_unprotected(settings: Settings, state_dir: Path) -> None:
    """What the same people released without noise stands in their ledger: nobody promises them anything after it."""
    policy = Policy(mechanism="no_privacy", unit="client", delta=settings.privacy.delta, budget_epsilon=math.inf)
    account = population_ledger(settings, state_dir=state_dir).account(population_key(settings), policy)
    charge = charge_id(account.key, settings.sha256, 0, account.key, "unprotected", 0)
    account.charge(charge, Event(sampling_rate=1.0, noise_multiplier=0.0, steps=settings.federation.rounds))


def population_ledger(settings: Settings, *, state_dir: Path) -> Ledger:
    """The file that `privacy.ledger` names, or one that dies with the run."""
    if settings.privacy.ledger == "throwaway":
        return Ledger(state_dir / LEDGER, durable=False)
    return Ledger(Path(settings.privacy.ledger).expanduser(), durable=True)


def population_key(settings: Settings) -> str:
    """The key of the people's ledger: every run over the same people draws on the same budget."""
    return f"{POPULATION}{settings.privacy.population}"


def policy_of(settings: Settings) -> Policy:
    """What is promised to every registered client."""
    privacy = settings.privacy
    return Policy(
        mechanism=privacy.mechanism,
        unit=privacy.unit,
        delta=privacy.delta,
        budget_epsilon=privacy.budget,
        renew_every_days=privacy.renew_every_days,
        retention_days=privacy.retention_days,
    )


def check_server(settings: Settings) -> None:
    """Raise PrivacyError for what a server that adds the noise may do in a simulation alone."""
    privacy = settings.privacy
    if not privacy.central:
        return
    if privacy.noise == "seeded":
        raise PrivacyError(
            "privacy.noise=seeded can be subtracted by who knows the seed: epsilon is inf; set privacy.noise: secure."
        )
    if not Path(privacy.ledger).expanduser().is_absolute():
        raise PrivacyError(
            f"privacy.ledger={privacy.ledger} may be forgotten, with what earlier runs spent; set it to the absolute "
            "path of a file that is kept, or for a simulation pass simulation=true in the run's configuration."
        )
    if privacy.budget == float("inf") or privacy.noise_cohort_size is not None:
        raise PrivacyError(
            f"Expected privacy.budget_epsilon beside privacy.noise_multiplier, and no privacy.noise_cohort_size="
            f"{privacy.noise_cohort_size}: without a budget nothing ends what may be spent, and the latter draws less "
            "noise than is accounted."
        )
