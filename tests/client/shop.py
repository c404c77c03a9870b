"""A data set of toy clients, and workspaces over it: real parts, small enough for milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.datasets import Split
from client.workspace import Workspace, make_workspace
from mmrank.features import FeatureTable, build_features
from mmrank.protocol import TrainRequest
from mmrank.ranker import parameters_of
from mmrank.settings import FederationSettings, PrivacySettings, Settings, TrainingSettings
from mmrank.slates import Slate
from tests.toys import toy_catalog, toy_model, toy_slates

SIZES = {"empty": 0, "one": 1, "small": 5, "large": 40}
"""Training slates by client."""


class ToyDataset:
    """Four clients of a toy shop."""

    name, version, synthetic = "toy", "1", True

    def __init__(self, *, simulation_only: str | None = None, extra: int = 0, epoch_days: float | None = None) -> None:
        self.simulation_only, self.extra, self.epoch_days = simulation_only, extra, epoch_days
        self.catalog = toy_catalog()
        self.client_ids: Sequence[str] = tuple(SIZES)

    def kind(self, client_id: str) -> str:
        return "merchant" if client_id == "large" else "device"

    def data_identity(self, client_id: str) -> str:
        return f"toy/1/{client_id}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        count = SIZES[client_id] + self.extra if split == "train" else 3
        seed = {"train": 1, "validation": 2, "test": 3}[split] + 10 * self.client_ids.index(client_id)
        return toy_slates(count, seed=seed)


def toy_features(folder: Path) -> FeatureTable:
    """The toy shop's features."""
    return build_features(toy_catalog(), toy_model(), cache_dir=folder)


def toy_settings(
    *, rounds: int = 3, aggregation: dict | None = None, training: dict | None = None, **privacy
) -> Settings:
    """DP-SGD with seeded noise, unless changed; `mechanism="no_privacy"` for none."""
    facts = {
        "mechanism": "dp_sgd",
        "noise": "seeded",
        "noise_multiplier": 1.0,
        "sampling_rate": 0.3,
        "expected_batch_size": 4.0,
        "micro_batch_size": 8,
    }
    return Settings(
        model=toy_model(),
        training=TrainingSettings(**{"local_steps": 2, "batch_size": 4, "slate_length": 8, **(training or {})}),
        federation=FederationSettings(rounds=rounds, cohort_size=2, aggregation=aggregation or {"name": "fedavg"}),
        privacy=PrivacySettings(**{**facts, **privacy}),
        device="cpu",
    )


def toy_workspace(state_dir: Path, features: FeatureTable, settings: Settings | None = None, **changes) -> Workspace:
    """A workspace over the toy shop; `dataset` and `deployment` may be given."""
    return make_workspace(
        settings or toy_settings(),
        state_dir=state_dir,
        **{"dataset": ToyDataset(), "features": features, **changes},
    )


def toy_request(workspace: Workspace, *, round_number: int = 1, run: str = "run", shift: float = 0.0) -> TrainRequest:
    """The initial model, every parameter moved by `shift`."""
    parameters = {name: value + value.dtype.type(shift) for name, value in parameters_of(workspace.ranker).items()}
    return TrainRequest(
        run=run, round_number=round_number, config_sha256=workspace.settings.agreed_sha256, parameters=parameters
    )
