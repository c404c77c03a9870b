"""The run's configuration, trained once more with a coin's half of the canaries: real vault, ledger and server loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.datasets import Dataset
from client.vault import Vault
from client.workspace import make_workspace
from mmrank.errors import ConfigError, ProtocolError
from mmrank.features import FeatureTable
from mmrank.protocol import (
    NO_HEAD,
    EvaluateReply,
    EvaluateRequest,
    Head,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
    with_head,
)
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import ModelSettings, Settings
from server.rounds import OnRound, run_rounds
from simulations.audit.canaries import PARAMETER, WithCanaries, canary_slates
from simulations.audit.devices import attack_devices
from simulations.audit.scores import Attack, watch

SAMPLE = 64
"""Of so many clients, the one with the fewest slates is audited: the others' slates only hide a canary."""


def attack(
    settings: Settings,
    *,
    dataset: Dataset,
    features: FeatureTable,
    canaries: int,
    client: str | None = None,
    seed: int,
    state_dir: Path,
    on_round: OnRound | None = None,
) -> Attack:
    """Train as `settings` say with the canaries of `seed`: slates or people in `client`, or devices of their own.

    seed: of coins, weights and seeded noise; secure noise has none. client: for dp_sgd, and for it alone.
    Raises ConfigError for settings that can't be audited, or clients that stopped answering.
    """
    settings = audited(settings, seed)
    devices = settings.privacy.mechanism == "client_update"
    if devices != (client is None):
        raise ConfigError(
            f"Expected --client={client} to name the client that slates or people join with dp_sgd, and to be left out "
            "with client_update, whose canaries are clients of their own."
        )
    if client is None:
        return attack_devices(
            settings,
            dataset=dataset,
            features=features,
            canaries=canaries,
            seed=seed,
            state_dir=state_dir,
            on_round=on_round,
        )
    return _attack_units(
        settings,
        dataset=dataset,
        features=features,
        canaries=canaries,
        client=client,
        seed=seed,
        state_dir=state_dir,
        on_round=on_round,
    )


def audited(settings: Settings, seed: int) -> Settings:
    """The same run under another seed and with a ledger of its own; ConfigError where it promises nothing.

    dp_sgd: with one client, which takes part in every round. Local and distributed noise: every device takes part in
    every round until its budget ends; the server, which is the adversary, asks whom it likes, and epsilon counts no
    sampling.
    """
    privacy, federation = settings.privacy, settings.federation
    if privacy.mechanism == "no_privacy":
        raise ConfigError(
            "Expected privacy.mechanism=no_privacy to make a promise, and it makes none; audit a run with dp_sgd or "
            "client_update."
        )
    if privacy.noise_cohort_size is not None:
        raise ConfigError(
            f"Expected privacy.noise_cohort_size={privacy.noise_cohort_size} to be left out: it draws less noise than "
            "is charged, which an audit would find; audit a run with the noise of its own cohort."
        )
    if privacy.stream:
        raise ConfigError(
            "Expected privacy.cohorts=stream to be poisson: an audit knows independent rounds, and no noise that is "
            "correlated over them."
        )
    # canaries have no age: a run that drops old data would drop them, and the attack would find nothing
    privacy = replace(privacy, ledger="throwaway", renew_every_days=None, retention_days=None)
    if privacy.mechanism == "dp_sgd":
        federation = replace(federation, cohort_size=1, merchants_per_round=None, min_replies=1)
    elif not privacy.central:
        privacy = replace(privacy, sampling_rate=1.0)
    return replace(settings, seed=seed, model=_with_entries(settings.model), privacy=privacy, federation=federation)


def _with_entries(model: ModelSettings) -> ModelSettings:
    """The model, with the matrix whose entries canaries own trained as well where the run leaves it as it is.

    What is promised does not depend on what is trained: clip, noise and charges are the run's.
    """
    if not model.trainable or PARAMETER.startswith(model.trainable + model.personal):
        return model
    return replace(model, trainable=(*model.trainable, PARAMETER))


def smallest_client(dataset: Dataset) -> str:
    """Of the first SAMPLE clients the one with the fewest training slates, some if possible. ConfigError for none."""
    clients = list(dataset.client_ids[:SAMPLE])
    if not clients:
        raise ConfigError(f"Expected data set {dataset.name} to have a client, it has none; choose another.")
    counts = {client: len(dataset.slates(client, "train")) for client in clients}
    return min(clients, key=lambda client: counts[client] or float("inf"))


def _attack_units(
    settings: Settings,
    *,
    dataset: Dataset,
    features: FeatureTable,
    canaries: int,
    client: str,
    seed: int,
    state_dir: Path,
    on_round: OnRound | None,
) -> Attack:
    """Canaries in one client. The server is the attacker: it asks that client alone and reads its noisy steps."""
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
        scores={"steps": reading.steps, "model": made.moved(final) - made.moved(initial)},
        events=events,
        epsilon=server.epsilon,
        rounds=server.answered,
        share=float(np.median(reading.shares)),
    )


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
        self,
        clients: Sequence[str],
        request: TrainRequest,
        timeout_seconds: float,
        acknowledged: Mapping[str, Head],
    ) -> Iterator[tuple[str, TrainReply | ProtocolError]]:
        for client in clients:
            reply = self._vault.train(with_head(request, acknowledged.get(client, NO_HEAD)))
            self.last = reply.code
            if reply.code == "ok":
                self.answered, self.epsilon = self.answered + 1, reply.epsilon
            yield client, reply

    def ask_metrics(
        self,
        clients: Sequence[str],
        request: EvaluateRequest,
        timeout_seconds: float,
        acknowledged: Mapping[str, Head],
    ) -> Iterator[tuple[str, EvaluateReply | ProtocolError]]:
        for client in clients:
            head = acknowledged.get(client, NO_HEAD)
            yield client, self._vault.release_metrics(with_head(request, head))

    def ask(
        self, requests: Mapping[str, SumRequest], timeout_seconds: float
    ) -> Iterator[tuple[str, SumReply | ProtocolError]]:
        for client, request in requests.items():
            yield client, self._vault.take_part(request)
