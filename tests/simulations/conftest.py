"""A whole run that takes seconds: a small shop, few clients, two rounds, seeded noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulations.config import load
from simulations.run import simulate

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {
        "name": "marketplace",
        "items": 1000,
        "types": 4,
        "devices": 6,
        "merchants": 2,
        "people_per_merchant": 6,
    },
    "model": {"text": "hashing", "image": "histogram", "dim": 8, "feature_dim": 16, "history_length": 8},
    "training": {"local_steps": 2, "slate_length": 10},
    "federation": {"rounds": 2, "cohort_size": 4},
    "privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-4, "noise": "seeded"},
    "evaluation": {
        "every": 1,
        "clients": 8,
        "seeds": 2,
        "bootstrap": 50,
        "centralised_epochs": 1,
        "local_only_steps": 2,
        "rows": ["random", "content", "unpersonalised", "centralised", "federated", "federated_dp", "oracle"],
    },
}


@dataclass(frozen=True)
class Finished:
    """A run that has finished: do not write into its folder."""

    config: Path
    folder: Path
    result: Mapping[str, Any]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration's file, with a feature cache of the session's own."""
    folder = tmp_path_factory.mktemp("tiny")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "features_cache": str(folder / "cache")}))
    return path


@pytest.fixture(scope="session")
def finished(tiny: Path) -> Finished:
    """The run of `tiny`."""
    folder = tiny.parent / "run"
    return Finished(config=tiny, folder=folder, result=simulate(load(tiny), out=folder))
