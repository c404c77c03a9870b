"""The run's configuration, trained once more with a coin's half of the canaries: real vault, ledger and server loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.datasets import Dataset
from client.vault import Vault
from client.workspace import make_workspace
from mmrank.errors import ConfigError, ProtocolError
from mmrank.features import FeatureTable
from mmrank.privacy.accountant import Event
from mmrank.protocol import TrainReply, TrainRequest
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import Settings
from server.rounds import OnRound, run_rounds
from simulations.audit.canaries import PARAMETER, CanarySlates, WithCanaries, canary_slates
from simulations.audit.scores import watch

SAMPLE = 64
"""Of so many clients, the one with the fewest slates is audited: the others' slates only hide a canary."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One training run as its attacker saw it.

    included: the coins, bool [m]. scores: float64 [m] by name, high for "in". events: what the client's ledger holds
    after the run, and epsilon what it said last. share: of the clip, what a canary filled of its own entry (median).
    """

    included: np.ndarray
    scores: Mapping[str, np.ndarray]
    events: tuple[Event, ...]
    epsilon: float
    rounds: int
    share: float


def attack(
    settings: Settings,
    *,
    dataset: Dataset,
    features: FeatureTable,
    canaries: int,
    client: str,
    seed: int,
    state_dir: Path,
    on_round: OnRound | None = None,
) -> Attack:
    """Train as `settings` say with the canaries of `seed` in `client`, which takes part in every round, alone.

    The server is the attacker: it asks that client each round, and reads what it gets; the model moves by the run's
    own aggregation. seed: of coins, weights and seeded noise; secure noise has none.
    Raises ConfigError for settings that can't be audited, or a client that stopped answering.
    """
    settings = audited(settings, seed)
    ranker = build_ranker(settings.model, seed=settings.seed)
    made = canary_slates(canaries, features, ranker, settings, numpy_generator(seed, "audit-entries"))
    included = numpy_generator(seed, "audit-coins").random(canaries) < 0.5
    workspace = make_workspace(
        settings,
        state_dir=state_dir,
        dataset=WithCanaries(dataset, client, made.chosen(included)),
        features=made.features,
    )
    watched, reading = watch(workspace.mechanism, made, settings)
    workspace.mechanism = watched
    initial = parameters_of(ranker)
    server = _Server(Vault(workspace, client))
    final = run_rounds(
        settings,
        initial=initial,
        messenger=server,
        checkpoint_dir=state_dir / "checkpoint",
        resume=False,
        on_round=on_round,
    )
    if server.answered != settings.federation.rounds:
        raise ConfigError(
            f"Expected {client} to answer all {settings.federation.rounds} rounds, it answered {server.answered} and "
            f"then {server.last}; audit a run whose budget holds for its rounds."
        )
    events = workspace.ledger.account(workspace.dataset.data_identity(client), workspace.policy).events()
    return Attack(
        included=included,
        scores={
            "steps": reading.steps,
            "model": _entries(final, made) - _entries(initial, made),
        },
        events=events,
        epsilon=server.epsilon,
        rounds=server.answered,
        share=float(np.median(reading.shares)),
    )


def audited(settings: Settings, seed: int) -> Settings:
    """The same run with one client, another seed, and a ledger of its own; ConfigError where it promises nothing."""
    if settings.privacy.mechanism == "no_privacy":
        raise ConfigError(
            "Expected privacy.mechanism=no_privacy to make a promise, and it makes none; audit a run with dp_sgd."
        )
    return replace(
        settings,
        seed=seed,
        privacy=replace(settings.privacy, ledger="throwaway"),
        federation=replace(settings.federation, cohort_size=1, merchants_per_round=None, min_replies=1),
    )


def smallest_client(dataset: Dataset) -> str:
    """Of the first SAMPLE clients the one with the fewest training slates, some if possible. ConfigError for none."""
    clients = list(dataset.client_ids[:SAMPLE])
    if not clients:
        raise ConfigError(f"Expected data set {dataset.name} to have a client, it has none; choose another.")
    counts = {client: len(dataset.slates(client, "train")) for client in clients}
    return min(clients, key=lambda client: counts[client] or float("inf"))


def _entries(parameters: Mapping[str, np.ndarray], made: CanarySlates) -> np.ndarray:
    return parameters[PARAMETER].astype(np.float64)[made.entries[:, 0], made.entries[:, 1]]


class _Server:
    """A messenger with one client at its other end."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.answered, self.epsilon, self.last = 0, 0.0, "ok"

    def clients(self, at_least: int) -> Sequence[str]:
        return [self._vault.client_id]

    def merchants(self, clients: Sequence[str]) -> frozenset[str]:
        return frozenset()

    def exchange(
        self, clients: Sequence[str], request: TrainRequest, timeout_seconds: float
    ) -> Iterator[tuple[str, TrainReply | ProtocolError]]:
        for client in clients:
            reply = self._vault.train(request)
            self.last = reply.code
            if reply.code == "ok":
                self.answered, self.epsilon = self.answered + 1, reply.epsilon
            yield client, reply
