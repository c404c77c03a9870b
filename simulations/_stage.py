"""What every run needs before it trains: data, features, device, and where things are shown and kept."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from client.datasets import Dataset
from client.workspace import choose_threads
from mmrank import components
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable, build_features
from mmrank.settings import Settings
from simulations._folder import RunFolder, write_json
from simulations.evaluation import Evaluator
from simulations.progress import Display, Pace, Update, silent
from simulations.rows import RowContext


@dataclass(kw_only=True)
class Stage:
    """One run, set up. `context` holds what the rows share."""

    settings: Settings
    folder: RunFolder
    dataset: Dataset
    features: FeatureTable
    device: str
    display: Display
    context: RowContext
    update: Update = silent
    """Of the phase that is going on."""

    def on_progress(self, row: str, done: int, total: int) -> None:
        """How far a row is that takes long."""
        self.update(done, total)

    @property
    def evaluator(self) -> Evaluator:
        return self.context.evaluator

    def keep_seconds(self) -> None:
        """Write down what the phases took: a resumed run adds to it."""
        write_json(self.folder.debug / "seconds.json", self.display.seconds)

    def keep_choices(self) -> None:
        """Write down what rows chose on validation, so that a resumed run does not choose again."""
        plain = {
            row: vars(choice) if dataclasses.is_dataclass(choice) else choice
            for row, choice in self.context.choices.items()
        }
        write_json(self.folder.debug / "choices.json", plain)


@dataclass
class Shared:
    """Data sets and features that several runs of one process (a sweep) have in common: the last of each."""

    dataset: tuple[str, Any] | None = None
    features: tuple[str, Any] | None = field(default=None, repr=False)


def set_up(settings: Settings, folder: RunFolder, display: Display, shared: Shared | None = None) -> Stage:
    """Load and encode. Raises ConfigError or DatasetError."""
    shared = shared or Shared()
    _recall_seconds(folder, display)
    device = resolve_device(settings.device)
    with display.phase(f"Data set {settings.dataset['name']}", kind="setup"):
        dataset = _dataset(settings, shared)
        if not len(dataset.client_ids):
            raise ConfigError(
                f"Expected dataset {settings.dataset['name']} to register at least 1 client, it has none; "
                "change the settings under dataset."
            )
    features = encoded(settings, dataset, device, display, shared)
    choose_threads(settings, torch.device(device))
    with display.phase("Slates", kind="setup"):
        evaluator = Evaluator(
            dataset, settings.evaluation, history_length=settings.model.history_length, seed=settings.seed
        )
        if not evaluator.slates("validation"):
            raise ConfigError(
                f"Expected a validation slate with something relevant among the clients of {settings.dataset['name']}; "
                "raise evaluation.clients, or change the settings under dataset."
            )
    context = RowContext(
        settings=settings,
        dataset=dataset,
        features=features,
        evaluator=evaluator,
        seed=settings.seed,
        device=device,
        choices=_stored_choices(folder.debug / "choices.json"),
    )
    return Stage(
        settings=settings,
        folder=folder,
        dataset=dataset,
        features=features,
        device=device,
        display=display,
        context=context,
    )


def resolve_device(device: str) -> str:
    """`auto` is cuda where there is one. Raises ConfigError for cuda where there is none."""
    if device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ConfigError("Expected device=cuda to find a CUDA device, and there is none; set device: auto or cpu.")
    return "cpu"


def _dataset(settings: Settings, shared: Shared) -> Dataset:
    key = json.dumps(settings.to_dict()["dataset"], sort_keys=True)
    if shared.dataset is None or shared.dataset[0] != key:
        shared.dataset = (key, components.build("client.datasets", settings.dataset, entry="load"))
    return shared.dataset[1]


def encoded(
    settings: Settings, dataset: Dataset, device: str, display: Display, shared: Shared, *, workers: int | None = None
) -> FeatureTable:
    """The catalogue's features, from the cache or into it, with so many threads; by default one for each core."""
    key = json.dumps([dataset.catalog.digest, settings.to_dict()["model"]], sort_keys=True)
    if shared.features is None or shared.features[0] != key:
        pace = Pace("products")
        with display.phase("Features", kind="features") as update:
            table = build_features(
                dataset.catalog,
                settings.model,
                cache_dir=Path(settings.features_cache).expanduser(),
                device=device,
                workers=workers,
                progress=lambda name, done, total: update(
                    done, total, note=f"{name} of {total:,} products", detail=pace(name, done)
                ),
            )
        shared.features = (key, table)
    return shared.features[1]


def _recall_seconds(folder: RunFolder, display: Display) -> None:
    for kind, seconds in _stored(folder.debug / "seconds.json").items():
        display.seconds[kind] = display.seconds.get(kind, 0.0) + float(seconds)


def _stored_choices(path: Path) -> dict[str, Any]:
    """What rows chose; a row that chooses a schedule names its class `Schedule`."""
    choices = _stored(path)
    for row, choice in choices.items():
        if isinstance(choice, dict):
            choices[row] = components.load("simulations.rows", row).Schedule(**choice)
        elif choice in ("inf", "nan"):  # JSON has neither, and holds it as a word
            choices[row] = float(choice)
    return choices


def _stored(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
