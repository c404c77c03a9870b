"""What all clients of one process share: settings, public features, one ranker, the ledger's file, the outbox."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml

from client.datasets import Dataset, Split
from client.outbox import Outbox
from client.promises import check_deployment, check_unit
from client.retention import check_calendar, kept
from client.secure_keys import SecureKeys, node_keys, simulated_keys
from client.secure_store import SecureStore
from mmrank import components
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable, build_features
from mmrank.privacy import metrics_release
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.client_update import CLIP, ClientUpdate, participations
from mmrank.privacy.distributed_update import dimension_of
from mmrank.privacy.ledger import SECONDS_A_DAY, Declared, Ledger, Policy
from mmrank.privacy.mechanism import Mechanism, build_mechanism
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.ranker import Ranker, build_ranker, load_parameters, parameters_of
from mmrank.ranking import ItemIndex
from mmrank.settings import Settings, parse
from mmrank.slates import Slate, SlateBatch, collate, fault_of
from mmrank.wire import input_hash

logger = logging.getLogger(__name__)

THROWAWAY = "throwaway"
LEFT_OUT = "left-out.txt"
"""In a deployed client's state folder: what could not be used, for its owner alone."""
BATCHES_KEPT_BYTES = 256 * 2**20
"""Padded slates of recent clients stay in memory up to here."""
_SHARED_WORKSPACES = 2


@dataclass(kw_only=True)
class Workspace:
    """A process' working place; `make_workspace` or `open_workspace` gives one.

    ranker: shared scratch space, its parameters mean nothing between calls. state_dir: the run's own folder
    (throwaway ledger, outbox, calibrated noise). training: held while a client trains, since all share the ranker.
    deployment: real clients, real people; what holds for a simulation alone is refused. identity, roster: files of a
    real node's operator, for secure sums.
    Raises PrivacyError where the settings would void the guarantee in a deployment.
    """

    settings: Settings
    dataset: Dataset
    features: FeatureTable
    ranker: Ranker
    device: torch.device
    state_dir: Path
    deployment: bool = False
    identity: Path | None = None
    roster: Path | None = None
    training: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _batches: OrderedDict[tuple[str, Split], SlateBatch] = field(default_factory=OrderedDict, init=False, repr=False)
    _index: tuple[str, ItemIndex] | None = field(default=None, init=False, repr=False)
    _batches_bytes: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.state_dir = Path(self.state_dir).expanduser()
        check_unit(self.settings, self.dataset)
        check_calendar(self.settings.privacy, self.dataset)
        if self.deployment:
            check_deployment(self.settings, self.dataset)
            if self.settings.privacy.distributed:
                _ = self.secure_keys  # a node without an identity can't take part, and says so at once

    @cached_property
    def mechanism(self) -> Mechanism:
        """What every client of the run trains under; its noise is calibrated once, and kept in the state folder."""
        settings = self.settings
        return build_mechanism(
            settings.privacy,
            settings.training,
            settings.federation,
            cache_dir=self.state_dir,
            dimension=dimension_of(parameters_of(self.ranker)),
        )

    @cached_property
    def shapes(self) -> Mapping[str, np.ndarray]:
        """Arrays of the names, shapes and dtypes that a request must have; their values mean nothing."""
        mechanism = self.mechanism
        clip = {CLIP: np.ones(1, np.float32)} if isinstance(mechanism, ClientUpdate) and mechanism.adaptive else {}
        return parameters_of(self.ranker) | clip

    @cached_property
    def release(self) -> MetricRelease | None:
        """What clients release of their measures; None where they release nothing."""
        return metrics_release.from_settings(self.settings.privacy)

    @cached_property
    def plan(self) -> Declared | None:
        """Training and releases as one plan, declared by the configuration; None where training is all there is, or
        where both do not fit into the budget together (the ledger then takes its filter).

        It does not name the run, which the server chooses: another run of the configuration draws on the same steps.
        """
        settings, privacy = self.settings, self.settings.privacy
        if self.release is None:
            return None
        rounds, event = settings.federation.rounds, self.mechanism.event
        trained = participations(privacy, rounds) if privacy.mechanism == "client_update" else rounds
        events = (
            replace(event, steps=event.steps * trained),
            *metrics_release.planned_events(privacy, rounds=rounds),
        )
        if epsilon(events, privacy.delta) > self.policy.budget_epsilon:
            return None
        return Declared(name=f"declared by configuration {settings.sha256}", events=events)

    @property
    def policy(self) -> Policy:
        """What each client promises its people."""
        privacy = self.settings.privacy
        return Policy(
            mechanism=privacy.mechanism,
            unit=privacy.charged_unit,
            delta=privacy.delta,
            budget_epsilon=privacy.client_budget,
            renew_every_days=privacy.renew_every_days,
            retention_days=privacy.retention_days,
        )

    @property
    def throwaway(self) -> bool:
        """Whether the ledger dies with the run."""
        return self.settings.privacy.ledger == THROWAWAY

    @cached_property
    def ledger(self) -> Ledger:
        """The file of ledgers; a throwaway one lies in the state folder and survives kill -9, not a loss of power."""
        if self.throwaway:
            return Ledger(self.state_dir / "ledger.sqlite", durable=False)
        return Ledger(Path(self.settings.privacy.ledger).expanduser(), durable=True)

    @cached_property
    def outbox(self) -> Outbox:
        """Replies computed under secure noise."""
        return Outbox(self.state_dir / "outbox.sqlite", durable=not self.throwaway)

    @cached_property
    def secure_store(self) -> SecureStore:
        """How far each client is in its secure sums, and its secrets in them."""
        return SecureStore(self.state_dir / "secure-sums.sqlite", durable=not self.throwaway)

    @cached_property
    def secure_keys(self) -> SecureKeys:
        """The node's own identity and roster, or a simulation's. Raises ConfigError where a real node names none."""
        if not self.deployment:
            seed = self.settings.seed if self.settings.privacy.noise == "seeded" else None
            return simulated_keys(self.state_dir, self.dataset.client_ids, seed=seed)
        if self.identity is None or self.roster is None:
            raise ConfigError(
                "Expected identity and roster in the node's configuration with privacy.noise_at: distributed: files "
                "of the node's operator, never of the server; start the node with --node-config "
                '\'identity="/path" roster="/path" ...\'.'
            )
        return node_keys(self.identity, self.roster)

    def index(self, parameters: Mapping[str, np.ndarray]) -> ItemIndex:
        """The catalogue's vectors under a model; the last model's are kept."""
        digest = input_hash(parameters)
        if self._index is None or self._index[0] != digest:
            ranker = copy.deepcopy(self.ranker).to("cpu")
            load_parameters(ranker, parameters)
            self._index = (digest, ItemIndex(ranker, self.features))
        return self._index[1]

    def _say_left_out(self, client_id: str, text: str) -> None:
        """To the owner: a simulation's log, or in a deployment a file at home, since a log may travel to the server."""
        if not self.deployment:
            logger.warning("Left out of client %s: %s.", client_id, text)
            return
        self.state_dir.mkdir(parents=True, exist_ok=True)
        path = self.state_dir / LEFT_OUT
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
            file.write(f"{client_id}: {text}\n")

    def now_days(self) -> float | None:
        """The public calendar's time where data age; None where they are kept for good."""
        return None if self.settings.privacy.retention_days is None else self.ledger.clock_days()

    def slates(self, client_id: str, split: Split, *, charged_days: float | None = None) -> list[Slate]:
        """That client's slates that something can be learned from; in a run that drops old data those of now.

        charged_days: a time before the charge. What came after it was not there in the charge's period, and what is
        old by now may be so since before it: a datum is used in no more periods than it lives through.
        """
        # what is no slate goes first: its time may be none, and an error in its place would tell that it is there
        slates, now = self._sound(client_id, self.dataset.slates(client_id, split)), self.now_days()
        retention, epoch = self.settings.privacy.retention_days, self.dataset.epoch_days if now is not None else None
        if now is None or retention is None or epoch is None:
            return slates
        newest = now if charged_days is None else min(charged_days, now)
        if self.settings.privacy.central and self.settings.privacy.renew_every_days is not None:
            # the server charged before it asked, at most so long ago: perhaps in the period before
            newest -= self.settings.federation.reply_timeout_seconds / SECONDS_A_DAY
        return kept(slates, epoch_days=epoch, oldest=now - retention, newest=newest)

    def batch(self, client_id: str, split: Split, *, charged_days: float | None = None) -> SlateBatch:
        """Those slates, padded to the public `training.slate_length`; the last used stay in memory, unless they age."""
        if self.settings.privacy.retention_days is not None:
            return self._batch(self.slates(client_id, split, charged_days=charged_days))
        key = (client_id, split)
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        batch = self._batch(self.slates(client_id, split))
        self._batches[key] = batch
        self._batches_bytes += batch_bytes(batch)
        while self._batches_bytes > BATCHES_KEPT_BYTES and len(self._batches) > 1:
            self._batches_bytes -= batch_bytes(self._batches.popitem(last=False)[1])
        return batch

    def _sound(self, client_id: str, slates: list[Slate]) -> list[Slate]:
        faults = [fault_of(slate, len(self.features)) for slate in slates]
        sound = [slate for slate, fault in zip(slates, faults, strict=True) if fault is None]
        if len(sound) < len(slates):
            reasons = Counter(fault for fault in faults if fault is not None)
            self._say_left_out(client_id, f"{len(slates) - len(sound)} of {len(slates)} slates: {dict(reasons)}")
        return sound

    def _batch(self, slates: list[Slate]) -> SlateBatch:
        return collate(
            slates,
            history_length=self.settings.model.history_length,
            slate_length=self.settings.training.slate_length,
        )


def batch_bytes(batch: SlateBatch) -> int:
    """Memory of the batch's tensors."""
    tensors = (value for value in vars(batch).values() if isinstance(value, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def make_workspace(
    settings: Settings,
    *,
    state_dir: Path | str,
    dataset: Dataset | None = None,
    features: FeatureTable | None = None,
    deployment: bool = False,
    identity: Path | None = None,
    roster: Path | None = None,
) -> Workspace:
    """A workspace in this process; `dataset` and `features` are loaded where they are not given.

    Raises ConfigError for settings or a device that can't be had, PrivacyError as Workspace does.
    """
    device = choose_device(settings.device)
    if dataset is None:
        dataset = components.build("client.datasets", settings.dataset, entry="load")
    if features is None:
        features = build_features(
            dataset.catalog, settings.model, cache_dir=Path(settings.features_cache).expanduser(), device=str(device)
        )
    choose_threads(settings, device)
    ranker = build_ranker(settings.model, seed=settings.seed)
    return Workspace(
        settings=settings,
        dataset=dataset,
        features=features,
        ranker=ranker,
        device=device,
        state_dir=Path(state_dir),
        deployment=deployment,
        identity=identity,
        roster=roster,
    )


def choose_threads(settings: Settings, device: torch.device) -> None:
    """One thread for what is small: another costs more than it gives, and a shared sum is rounded by who shares it."""
    if device.type == "cpu" and settings.model.towers == "frozen":
        torch.set_num_threads(1)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError for a CUDA device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected device=cuda to be there; this machine has none, set device: auto or cpu.")
    return torch.device(name)


_shared: OrderedDict[tuple[object, ...], Workspace] = OrderedDict()
_shared_lock = threading.Lock()


def open_workspace(
    config_path: str | Path,
    state_dir: str | Path,
    *,
    deployment: bool = False,
    identity: Path | None = None,
    roster: Path | None = None,
    data_path: Path | None = None,
) -> Workspace:
    """The workspace of a YAML configuration, kept for the process: a second call costs one read of the file.

    data_path: the folder of the node's own data, in place of dataset.root.
    Raises ConfigError where the file can't be read, and what make_workspace raises.
    """
    try:
        raw = Path(config_path).read_bytes()
        values = yaml.safe_load(raw)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"Expected {config_path} to be a YAML file ({error}); pass the path of a configuration."
        ) from error
    places = (deployment, identity, roster, data_path)
    key = (hashlib.sha256(raw).hexdigest(), str(Path(state_dir).expanduser().absolute()), *places)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = make_workspace(
                _with_root(parse(values or {}), data_path),
                state_dir=state_dir,
                deployment=deployment,
                identity=identity,
                roster=roster,
            )
            while len(_shared) > _SHARED_WORKSPACES:
                _shared.popitem(last=False)
        _shared.move_to_end(key)
        return _shared[key]


def _with_root(settings: Settings, data_path: Path | None) -> Settings:
    return settings if data_path is None else replace(settings, dataset={**settings.dataset, "root": str(data_path)})
