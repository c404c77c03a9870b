"""Canary devices for `client_update`: the registry is m of them, each with a coin of its own.

Central noise. "In" is a device with its canary, "out" the same device with nothing: zero-out, the adjacency of the
population ledger's claim. The attacker sees what each round released, the noisy mean that the next model is made of,
and neither an update nor the cohort.

Local noise. The attacker is the server and sees every noisy update. "In" is a device with its canary, "out" one with
the canary's opposite. The device's claim is replace-one, so the bound holds for any two devices as alternatives; these
are as far apart as the clip lets any be, 2 C, and against an empty one an audit would see half of what is charged.

Distributed noise. The attacker is the server and sees the sum of every round, whose cohort it knows: everybody, in
every round. Zero-out again. A secure sum of all canaries would cost more than they are worth, so they stand in
federations of BLOCK devices each, with a model, noise and ledgers of their own: their coins are independent, and so is
what each block shows. All of a block survive and none colludes: the sum has the noise that is counted, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.datasets import Dataset
from client.secure_keys import ROSTER
from client.training import local_update
from client.vault import Vault
from client.workspace import Workspace, make_workspace
from mmrank.errors import ConfigError, ProtocolError
from mmrank.features import FeatureTable
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.client_update import ClientUpdate, norm_of
from mmrank.privacy.distributed_update import DistributedUpdate, dimension_of
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.no_privacy import NoPrivacy
from mmrank.privacy.noise import SeededNoise
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
from mmrank.randomness import numpy_generator, stream_key
from mmrank.ranker import Ranker, build_ranker, parameters_of
from mmrank.settings import Settings
from mmrank.slates import collate
from server.population import open_population
from server.rounds import OnRound, RoundReport, run_rounds
from simulations.audit.canaries import CanaryDevices, CanarySlates, canary_slates
from simulations.audit.scores import Attack, log_likelihood_ratio, log_likelihood_ratio_of_opposites

FILLED = 0.98
"""Of the clip, by its own entry: of canaries that fill so much of it, the one that would go furthest is taken."""
STRENGTHS = tuple(2.0**k for k in range(-4, 8))
"""Tried of a canary's slates, over what would fill the clip were each local step as large as the first."""
UNCLIPPED = 1e9
BLOCK = 50
"""Devices of one secure sum: its cost grows with the square of how many there are."""

Parameters = Mapping[str, np.ndarray]


def attack_devices(
    settings: Settings,
    *,
    dataset: Dataset,
    features: FeatureTable,
    canaries: int,
    seed: int,
    state_dir: Path,
    on_round: OnRound | None,
) -> Attack:
    """Train as the audited `settings` say, with `canaries` devices and no others; see the module's docstring.

    Raises ConfigError where the mechanism is not client_update, or a device refused or failed to train.
    """
    if settings.privacy.distributed:
        if canaries > BLOCK:
            blocks = np.array_split(np.arange(canaries), math.ceil(canaries / BLOCK))
            seeds = [stream_key(seed, "audit-block", number) % 2**63 for number in range(len(blocks))]
            return _joined(
                [
                    attack_devices(
                        replace(settings, seed=seeds[number]),
                        dataset=dataset,
                        features=features,
                        canaries=len(rows),
                        seed=seeds[number],
                        state_dir=state_dir / f"block-{number:03d}",
                        on_round=_as_a_part(on_round, number, len(blocks), settings.federation.rounds),
                    )
                    for number, rows in enumerate(blocks)
                ]
            )
        settings = _of_block(settings, canaries)
    ranker = build_ranker(settings.model, seed=settings.seed)
    mechanism = build_mechanism(
        settings.privacy,
        settings.training,
        settings.federation,
        cache_dir=state_dir,
        dimension=dimension_of(parameters_of(ranker)),
    )
    if not isinstance(mechanism, ClientUpdate | DistributedUpdate):
        raise ConfigError(
            f"Expected privacy.mechanism={mechanism.name} to be client_update, whose canaries are devices; audit such "
            "a run."
        )
    initial = parameters_of(ranker)  # before the ranker becomes scratch space
    made = loud_canaries(canaries, features, ranker, settings, seed)
    included = numpy_generator(seed, "audit-coins").random(canaries) < 0.5
    devices = CanaryDevices(dataset, made, included, opposite=settings.privacy.noise_at == "local")
    workspace = make_workspace(settings, state_dir=state_dir, dataset=devices, features=made.features)
    if settings.privacy.distributed:
        _ = workspace.secure_keys  # the server reads the roster that they make
    reader = Reader(made, settings, mechanism, ranker)
    reader.begins(1, initial)
    server = _Server(workspace, devices, reader)

    def report_of(report: RoundReport) -> None:
        reader.released(report)
        if on_round is not None:
            on_round(report)

    final = run_rounds(
        settings,
        initial=initial,
        messenger=server,
        checkpoint_dir=state_dir / "checkpoint",
        resume=False,
        on_round=report_of,
        roster=state_dir / ROSTER if settings.privacy.distributed else None,
    )
    if reader.rounds == 0 or server.refused:
        raise ConfigError(
            f"Expected canary devices to train in some round and never to refuse, {reader.rounds} rounds were done and "
            f"{server.refused} answers were neither ok nor exhausted; audit a run whose budget holds for a round."
        )
    if settings.privacy.central:
        population = open_population(settings, state_dir=state_dir)
        accounts = [population.account] if population is not None and population.account is not None else []
    else:
        identities = map(devices.data_identity, devices.client_ids)
        accounts = [workspace.ledger.account(identity, workspace.policy) for identity in identities]
    # every device is promised as much as the one that paid most
    events = max((account.events() for account in accounts), key=lambda spent: epsilon(spent, settings.privacy.delta))
    charged = sum(event.steps for event in events)
    if settings.privacy.distributed and reader.rounds < charged:
        raise ConfigError(
            f"Expected each of the {charged} rounds that canary devices paid for to end in a sum, and "
            f"{charged - reader.rounds} were thrown away: what they would have shown was not seen; audit the run again."
        )
    return Attack(
        included=included,
        scores={"rounds": reader.scores, "model": made.moved(final) - made.moved(initial)},
        events=events,
        epsilon=epsilon(events, settings.privacy.delta),
        rounds=reader.rounds,
        share=float(np.median(reader.own)),
    )


def _joined(blocks: Sequence[Attack]) -> Attack:
    """One attack of several on federations of their own, whose coins are independent."""
    return Attack(
        included=np.concatenate([block.included for block in blocks]),
        scores={name: np.concatenate([block.scores[name] for block in blocks]) for name in blocks[0].scores},
        events=max(blocks, key=lambda block: block.epsilon).events,
        epsilon=max(block.epsilon for block in blocks),
        rounds=min(block.rounds for block in blocks),
        share=float(np.median([block.share for block in blocks])),
    )


def _as_a_part(on_round: OnRound | None, number: int, blocks: int, rounds: int) -> OnRound | None:
    """Tells of a block's rounds as of so much of all blocks': a bar moves on."""
    if on_round is None:
        return None
    return lambda report: on_round(replace(report, round_number=(number * rounds + report.round_number) // blocks))


def _of_block(settings: Settings, devices: int) -> Settings:
    """The same promise and noise over a cohort of `devices`, of whom none falls out or colludes."""
    privacy = replace(settings.privacy, secure_cohort=devices, secure_threshold=devices, colluders=0)
    return replace(settings, privacy=privacy, federation=replace(settings.federation, cohort_size=devices))


def loud_canaries(count: int, features: FeatureTable, ranker: Ranker, settings: Settings, seed: int) -> CanarySlates:
    """`count` canaries whose update fills the clip by its own entry, at the ranker's parameters, which are lost.

    What a device learns in a round is tried: a slate that is liked too much is learned at once and moves no further, a
    faint one does not reach the clip, and a batch of copies goes further than one.
    Raises ConfigError where none moves its entry.
    """
    training, clip = settings.training, settings.privacy.max_grad_norm
    initial = parameters_of(ranker)
    best, found = (0.0, 0.0), None
    for copies in dict.fromkeys((1, training.batch_size)):
        enough = clip * training.batch_size / (training.learning_rate * training.local_steps * copies)
        for factor in STRENGTHS:
            made = canary_slates(
                count,
                features,
                ranker,
                settings,
                numpy_generator(seed, "audit-entries"),
                strength=factor * enough,
                copies=copies,
            )
            entry, norm = learned(made, 0, ranker, settings, initial)
            tried = (min(entry / max(norm, clip), FILLED), entry)
            if tried > best:
                best, found = tried, made
    if found is None:
        raise ConfigError(
            "Expected a canary device to move its own entry in a round, and none does; raise training.learning_rate."
        )
    return found


def learned(
    made: CanarySlates, row: int, ranker: Ranker, settings: Settings, parameters: Parameters
) -> tuple[float, float]:
    """(what one canary device's training moves its own entry by, the norm of all that it moves), without clip or noise.

    By the device's own training: what an attacker who knows the canary computes. The ranker is scratch space.
    """
    update = local_update(
        ranker,
        parameters,
        collate(
            made.unit(row),
            history_length=settings.model.history_length,
            slate_length=settings.training.slate_length,
        ),
        made.features,
        training=settings.training,
        privacy=NoPrivacy(steps=settings.training.local_steps, batch_size=settings.training.batch_size),
        noise=SeededNoise(0),
        shuffle=numpy_generator(0, "audit-own"),
        steps=settings.training.local_steps,
        clip=UNCLIPPED,
        proximal_mu=settings.federation.proximal_mu,
    )
    return float(made.moved(update)[row]), norm_of(update)


class Reader:
    """The attacker: a log-likelihood ratio a canary, added up over what each round shows.

    A canary's own update hardly depends on the model: it is computed anew in rounds 1, 2, 4, 8 and so on.
    """

    def __init__(
        self, made: CanarySlates, settings: Settings, mechanism: ClientUpdate | DistributedUpdate, ranker: Ranker
    ) -> None:
        self._made, self._settings, self._ranker = made, settings, ranker
        self._clip = settings.privacy.max_grad_norm
        self._entries, self._norms = np.zeros(len(made)), np.ones(len(made))
        self._heard = False
        self._cohort_size, self._local = mechanism.cohort_size, settings.privacy.noise_at == "local"
        if isinstance(mechanism, DistributedUpdate):
            shares = mechanism.shares
            self._noise, self._rate = math.sqrt(shares.share_variance * len(made)) / shares.scaled_norm, 1.0
        else:
            self._noise, self._rate = mechanism.update_noise, mechanism.sampling_rate
        self.scores, self.rounds = np.zeros(len(made)), 0

    @property
    def own(self) -> np.ndarray:
        """float64 [m] in [0, 1]: what each canary adds to its own entry of a round's sum, over the clip."""
        return self._entries / np.maximum(self._norms, self._clip)

    def begins(self, number: int, parameters: Parameters) -> None:
        """Round `number` begins from that public model."""
        if number & (number - 1) or number > self._settings.federation.rounds:
            return
        for row in range(len(self._made)):
            self._entries[row], self._norms[row] = learned(self._made, row, self._ranker, self._settings, parameters)

    def replied(self, row: int, update: Parameters) -> None:
        """One device's update, as the server gets it: read under local noise alone."""
        if self._local:
            self._heard = True
            seen = self._made.moved(update)[row] / self._clip
            self.scores[row] += log_likelihood_ratio_of_opposites(seen, self.own[row], self._noise)

    def released(self, report: RoundReport) -> None:
        """What everybody may see of a round: read under central and under distributed noise."""
        if report.noisy_mean is not None or self._heard:
            self.rounds, self._heard = self.rounds + 1, False
        if report.noisy_mean is not None:
            seen = self._made.moved(report.noisy_mean) * self._cohort_size / self._clip
            self.scores += log_likelihood_ratio(seen, self.own, self._noise, self._rate)
        self._clip = report.clip_norm or self._clip  # which is public, and may adapt
        self.begins(report.round_number + 1, report.parameters)


class _Server:
    """A messenger with the canary devices at its other end."""

    def __init__(self, workspace: Workspace, devices: CanaryDevices, reader: Reader) -> None:
        self._workspace, self._devices, self._reader = workspace, devices, reader
        self.refused = 0

    def clients(self, at_least: int) -> Sequence[str]:
        return self._devices.client_ids

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
            reply = Vault(self._workspace, client).train(with_head(request, acknowledged.get(client, NO_HEAD)))
            if reply.code == "ok":
                self._reader.replied(self._devices.row(client), reply.update)
            elif reply.code != "exhausted":
                self.refused += 1
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
            yield client, Vault(self._workspace, client).release_metrics(with_head(request, head))

    def ask(
        self, requests: Mapping[str, SumRequest], timeout_seconds: float
    ) -> Iterator[tuple[str, SumReply | ProtocolError]]:
        for client, request in requests.items():
            reply = Vault(self._workspace, client).take_part(request)
            self.refused += reply.code not in ("ok", "exhausted")
            yield client, reply
