"""Whole federations small enough for a test: a few clients of the generated shop, a ranker of 805 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmrank.settings import Settings, parse

SHOP = {
    "name": "marketplace",
    "items": 400,
    "types": 4,
    "merchants": 2,
    "devices": 8,
    "people_per_merchant": 4,
    "impressions_per_person": 4,
    "image_size": 16,
}
PRIVATE = {
    "mechanism": "dp_sgd",
    "noise": "seeded",
    "noise_multiplier": 1.0,
    "sampling_rate": 0.2,
    "expected_batch_size": 4.0,
    "delta": 1e-5,
}


def small_settings(cache: Path, **changes: Any) -> Settings:
    """Two local steps on the shop above, without privacy unless `changes` say so; tables of `changes` are merged in."""
    raw: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "device": "cpu",
        "dataset": SHOP,
        "features_cache": str(cache),
        "tracking": "none",
        "model": {
            "text": {"name": "hashing"},
            "image": {"name": "histogram"},
            "dim": 8,
            "feature_dim": 12,
            "history_length": 8,
        },
        "training": {"local_steps": 2, "batch_size": 4},
        "federation": {"rounds": 3, "cohort_size": 4},
    }
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    return parse(raw)


def write_config(settings: Settings, folder: Path) -> Path:
    """The resolved YAML that both apps read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings.to_dict(), sort_keys=False))
    return path
