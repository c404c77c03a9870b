"""What client and server say to each other: plain dictionaries of arrays and numbers, spelled once.

A train request is the model and where it stands in the run; a reply is a privatised update or a code. An evaluate
request asks for a noised sum of measures in the same way. Nothing else leaves a client: no count, loss, exact metric,
query, norm or text of an exception.

Each request says which head of the client's ledger the server acknowledged last, and each reply where the ledger stands
now: a client whose ledger is an older copy notices, and so does the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmrank.errors import ProtocolError

VERSION = 2

Code = Literal["ok", "exhausted", "config_mismatch", "bad_request", "refused", "failed"]
CODES: tuple[Code, ...] = ("ok", "exhausted", "config_mismatch", "bad_request", "refused", "failed")
"""ok: an update follows. exhausted: the budget would be passed. config_mismatch: the server runs another
configuration than this client agreed to. bad_request: malformed. refused: the client's policy says no.
failed: an error at home; its text stays there."""


Head = tuple[int, str]
"""A ledger's (entries, hash of the last one); (0, "") before the first. Public: see mmrank.privacy.ledger."""
NO_HEAD: Head = (0, "")
METRIC_SUM = "metrics/sum"
"""The one array of an EvaluateReply."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The model of round `round_number` (1 is the first) of run `run`; parameters: float32 arrays by name.

    ledger_count, ledger_head: the head of the client's ledger that the server acknowledged last.
    """

    run: str
    round_number: int
    config_sha256: str
    parameters: Mapping[str, np.ndarray]
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def acknowledged(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """`update`: new minus old parameters, privatised, the request's names and shapes; empty unless code is ok.

    epsilon: what the client's ledger stands at after this charge, at its public delta (inf without
    privacy): a public total, since q, sigma and the steps are. It tells nothing of the data, nor does the ledger's
    head (ledger_count, ledger_head), which covers the same public facts and a secret salt.
    """

    code: Code
    client: str
    round_number: int
    update: Mapping[str, np.ndarray]
    epsilon: float
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def head(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Asks for the noised measures of a model; which ones, and how noisy, the configuration says. As TrainRequest."""

    run: str
    round_number: int
    config_sha256: str
    parameters: Mapping[str, np.ndarray]
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def acknowledged(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


@dataclass(frozen=True, kw_only=True)
class EvaluateReply:
    """metrics: {METRIC_SUM: float32 [measures + 1]}, a noised sum (mmrank.privacy.metrics_release); empty unless code
    is ok. The other fields are those of a TrainReply."""

    code: Code
    client: str
    round_number: int
    metrics: Mapping[str, np.ndarray]
    epsilon: float
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def head(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


Request = TrainRequest | EvaluateRequest
Reply = TrainReply | EvaluateReply


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What a client says of itself once: its public name, kind and promise."""

    client: str
    kind: Literal["merchant", "device"]
    mechanism: str
    unit: str
    delta: float
    budget_epsilon: float
    version: int = VERSION


def check_update(update: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]) -> str | None:
    """Why `update` cannot be aggregated with a model of the shapes `like`, or None where it can.

    >>> check_update({"w": np.zeros(2, np.float32)}, {"w": np.zeros(3, np.float32)})
    'w has shape (2,), not (3,)'
    """
    if set(update) != set(like):
        return f"names {sorted(set(update) ^ set(like))} are missing or unknown"
    for name, array in update.items():
        if array.dtype != np.float32:
            return f"{name} has dtype {array.dtype}, not float32"
        if array.shape != like[name].shape:
            return f"{name} has shape {array.shape}, not {like[name].shape}"
        if not np.isfinite(array).all():
            return f"{name} is not finite"
    return None


def check_code(code: str) -> Code:
    """`code` as a protocol code; ProtocolError for anything else."""
    for known in CODES:
        if code == known:
            return known
    raise ProtocolError(
        f"Expected reply code {code!r} to be one of {', '.join(CODES)}; the client speaks another version."
    )
