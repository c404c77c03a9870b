"""The hash chain of a ledger: each entry's hash covers the one before it and every public field of its own.

    hash_0 = sha256("mmrank ledger 2\n" || JSON of the salt, the key's hash and the promise)
    hash_i = sha256(hash_(i-1) || " " || i || " " || JSON of entry i)

JSON is written with sorted keys and no spaces, floats as Python's shortest repr. A head (i, hash_i) covers public
facts and a salt of 256 secret bits alone: without the salt nobody can try names of data against it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrank.privacy.accountant import Event
from mmrank.privacy.policy import Policy

VERSION = "mmrank ledger 2"

Head = tuple[int, str]
"""(entries, hash of the last one as 64 hexadecimal digits); (0, "") before the first."""
NO_HEAD: Head = (0, "")

CHARGE, OPT_OUT = "charge", "opt_out"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry's public fields. charge: hash of the charge's id. period: index on the policy's calendar, which never
    goes back within a chain; clock_period: the one that the clock showed. An opt-out has no event."""

    kind: str
    charge: str = ""
    event: Event | None = None
    plan: str = ""
    period: int = 0
    clock_period: int = 0

    def fields(self) -> dict[str, Any]:
        """As they are hashed and exported."""
        event = self.event
        return {
            "kind": self.kind,
            "charge": self.charge,
            "sampling_rate": None if event is None else float(event.sampling_rate),
            "noise_multiplier": None if event is None else float(event.noise_multiplier),
            "steps": None if event is None else event.steps,
            "family": None if event is None else event.family,
            "plan": self.plan,
            "period": self.period,
            "clock_period": self.clock_period,
        }


def digest(text: str) -> str:
    """sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_salt(key: str, *, secret: bool) -> str:
    """64 hexadecimal digits: secret ones, or those of the key where a simulation must repeat."""
    return os.urandom(32).hex() if secret else digest(f"{VERSION} salt of {key}")


def genesis(key: str, salt: str, policy: Policy, order: float) -> str:
    """The hash that the first entry stands on."""
    return genesis_of(promise_fields(key, salt, policy, order))


def promise_fields(key: str, salt: str, policy: Policy, order: float) -> dict[str, Any]:
    """What the genesis hash covers."""
    return {
        "salt": salt,
        "key_sha256": digest(key),
        "mechanism": policy.mechanism,
        "unit": policy.unit,
        "delta": float(policy.delta),
        "budget_epsilon": repr(float(policy.budget_epsilon)),  # JSON has no infinity
        "renew_every_days": None if policy.renew_every_days is None else float(policy.renew_every_days),
        "retention_days": None if policy.retention_days is None else float(policy.retention_days),
        "filter_order": float(order),
    }


def genesis_of(fields: Mapping[str, Any]) -> str:
    """The genesis hash of exported promise fields."""
    return digest(f"{VERSION}\n{_canonical(fields)}")


def entry_body(entry: Entry) -> str:
    """The part of an entry's text that does not depend on where it stands: written once for a whole population."""
    return _canonical(entry.fields())


def entry_hash(previous: str, position: int, body: str) -> str:
    """The hash of the entry at `position` (the first is 1)."""
    return digest(f"{previous} {position} {body}")


def exported_hash(previous: str, line: Mapping[str, Any]) -> str:
    """The hash that an exported entry must have after `previous`: what an offline reader recomputes."""
    return entry_hash(previous, line["position"], _canonical({name: line[name] for name in Entry(kind="").fields()}))


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
