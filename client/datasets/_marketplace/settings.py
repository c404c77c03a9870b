"""The shop's settings, checked; what they cannot change is frozen with the generator's number."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from client.datasets import Kind
from client.datasets._marketplace.vocabulary import TYPES
from mmrank.errors import ConfigError, nearest

GENERATOR = "marketplace-1"
"""Frozen: whatever changes an item, a picture or a slate must change this name."""

BURN_IN_DAYS, VALIDATION_DAY, TEST_DAY, LAST_DAY = 60.0, 42.0, 48.0, 60.0
"""People shop from day -60; train slates are of days [0, 42), validation [42, 48), test [48, 60)."""

SHOWN = 20
"""Length of an impression of the logging ranker."""

FULL_LIST = 100
"""Length of a list of the exploration that validation and test slates come from."""

_BOUNDS = {
    "items": (400, 1_000_000),
    "types": (2, len(TYPES)),
    "devices": (0, 10_000_000),
    "merchants": (1, len(TYPES)),
    "people_per_merchant": (1, 100_000),
    "image_size": (16, 512),
    "impressions_per_person": (3, 500),
}


@dataclass(frozen=True, kw_only=True)
class Shop:
    """What decides items and behaviour. See `client.datasets.marketplace.load` for each setting."""

    items: int
    types: int
    devices: int
    merchants: int
    people_per_merchant: int
    impressions_per_person: int
    image_size: int
    seed: int
    variant: Literal["standard", "hard"]
    clients: Literal["mixed", "devices", "merchants"]

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            _whole(name, getattr(self, name), low, high)
        _whole("seed", self.seed, -(2**63), 2**63 - 1)
        _one_of("variant", self.variant, ("standard", "hard"))
        _one_of("clients", self.clients, ("mixed", "devices", "merchants"))
        if self.merchants > self.types:
            raise ConfigError(
                f"Expected dataset.merchants={self.merchants} in [1, {self.types}], since every merchant sells "
                f"at least one of dataset.types={self.types} types; lower dataset.merchants or raise dataset.types."
            )
        if self.items < 2 * FULL_LIST * self.merchants:
            raise ConfigError(
                f"Expected dataset.items={self.items} to be at least {2 * FULL_LIST * self.merchants}, which is "
                f"{2 * FULL_LIST} a merchant, so that full lists hold {FULL_LIST}; raise dataset.items or lower "
                "dataset.merchants."
            )

    @property
    def hard(self) -> bool:
        return self.variant == "hard"

    @property
    def style_spread(self) -> float:
        """How much the merchants' shares of each attribute's values differ (std of the log)."""
        return 0.9 if self.hard else 0.0

    def behaviour_key(self, kind: Kind) -> str:
        """Hash of what the behaviour of a client of that kind depends on.

        What changes none of its slates (the number of devices, the choice of clients, the size of pictures, for a
        device also the size of merchants) is left out: a ledger keyed by it would forget what was spent.
        """
        relevant = dataclasses.asdict(self)
        for name in ("devices", "clients", "image_size"):
            del relevant[name]
        if kind == "device":
            del relevant["people_per_merchant"]
        return _sha(relevant)

    def key(self) -> str:
        """Hash of the settings that change an item, a picture or a slate."""
        return _sha({"behaviour": self.behaviour_key("merchant"), "image_size": self.image_size})


def _sha(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"Expected dataset.{name}={value!r} to be a whole number; set dataset.{name} in [{low}, {high}]."
        )
    if not low <= value <= high:
        raise ConfigError(f"Expected dataset.{name}={value} in [{low}, {high}]; set dataset.{name}.")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"Expected dataset.{name}={value!r} to be one of {', '.join(known)}; set dataset.{name}."
            f"{nearest(str(value), known)}"
        )
