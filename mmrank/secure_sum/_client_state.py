"""What a client of a secure sum remembers between two steps, and how that goes to its own disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmrank.errors import SecureSumError
from mmrank.secure_sum.sum_round import SumRound

NEW, ADVERTISED, SHARED, MASKED, CONFIRMED, DONE = "new", "advertised", "shared", "masked", "confirmed", "done"
STAGES = (NEW, ADVERTISED, SHARED, MASKED, CONFIRMED, DONE)


@dataclass(frozen=True, kw_only=True)
class ClientState:
    """Secret, but for the stage and the adverts. shares: 66 bytes by the client whose seed and mask key they are of."""

    stage: str = NEW
    cipher_key: bytes = field(default=b"", repr=False)
    mask_key: bytes = field(default=b"", repr=False)
    seed: bytes = field(default=b"", repr=False)
    adverts: Mapping[str, bytes] = field(default_factory=dict)
    shares: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    survivors: tuple[str, ...] = ()

    def forward(self, stage: str, **changes: Any) -> ClientState:
        """The state one step on."""
        return replace(self, stage=stage, **changes)


def dump(state: ClientState, round_: SumRound, client: str) -> bytes:
    """JSON, bound to the round and the client."""
    plain = {name: _plain(value) for name, value in asdict(state).items()}
    return json.dumps({"context": round_.context.hex(), "client": client, **plain}).encode()


def load(data: bytes, round_: SumRound, client: str) -> ClientState:
    """What `dump` wrote. Raises SecureSumError for another round's or client's, or for damaged bytes."""
    try:
        plain = json.loads(data)
        bound = (plain["context"], plain["client"])
        state = ClientState(
            stage=plain["stage"],
            cipher_key=bytes.fromhex(plain["cipher_key"]),
            mask_key=bytes.fromhex(plain["mask_key"]),
            seed=bytes.fromhex(plain["seed"]),
            adverts={name: bytes.fromhex(value) for name, value in plain["adverts"].items()},
            shares={name: bytes.fromhex(value) for name, value in plain["shares"].items()},
            survivors=tuple(plain["survivors"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SecureSumError("Expected the saved state of a secure sum; it is damaged: leave the round.") from error
    if bound != (round_.context.hex(), client) or state.stage not in STAGES:
        raise SecureSumError(f"Expected the saved state of {client} in round {round_.round_number}; it is of another.")
    return state


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: item.hex() for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
