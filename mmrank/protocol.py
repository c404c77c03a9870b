"""What client and server say to each other: plain dictionaries of arrays and numbers, spelled once.

A train request is the model and where it stands in the run; a reply is a privatised update or a code. In a secure sum
five such exchanges make a round, and what a client sends is keys, sealed shares, a masked vector and signatures. An
evaluate request asks for a noised sum of measures. Nothing else leaves a client: no count, loss, exact metric, query,
norm or text of an exception.

Each train or evaluate request says which head of the client's ledger the server acknowledged last, and each reply where
the ledger stands now: a client whose ledger is an older copy notices, and so does the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from mmrank.errors import ProtocolError

VERSION = 3

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

    config_sha256: Settings.agreed_sha256 of the server; a client whose own is another does not answer.
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
Asked = TypeVar("Asked", TrainRequest, EvaluateRequest)


def with_head(request: Asked, head: Head) -> Asked:
    """The same request to the client whose ledger's `head` was acknowledged last."""
    return replace(request, ledger_count=head[0], ledger_head=head[1])


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


Step = Literal["advertise", "share", "mask", "confirm", "unmask"]
STEPS: tuple[Step, ...] = ("advertise", "share", "mask", "confirm", "unmask")
"""The five exchanges of a secure sum, in their order; mmrank.secure_sum says what each is for."""


@dataclass(frozen=True, kw_only=True)
class SumRequest:
    """One step of the secure sum of round `round_number` of run `run`, to one client.

    arrays: what mmrank.secure_sum.arrays lists for the step. Threshold, length and modulus are in no message: each
    client knows its own. ledger_count, ledger_head: as in TrainRequest.
    """

    run: str
    round_number: int
    config_sha256: str
    step: Step
    arrays: Mapping[str, np.ndarray]
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def acknowledged(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


@dataclass(frozen=True, kw_only=True)
class SumReply:
    """The client's answer to one step; `arrays` are empty unless code is ok.

    epsilon and the ledger's head: as in TrainReply, after the step `mask`, and where the budget would be passed; 0 and
    no head in the others.
    """

    code: Code
    client: str
    round_number: int
    step: Step
    epsilon: float
    arrays: Mapping[str, np.ndarray]
    ledger_count: int = 0
    ledger_head: str = ""

    @property
    def head(self) -> Head:
        """As one value."""
        return self.ledger_count, self.ledger_head


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


def check_step(step: str) -> Step:
    """`step` as a step of a secure sum; ProtocolError for anything else."""
    for known in STEPS:
        if step == known:
            return known
    raise ProtocolError(
        f"Expected step {step!r} to be one of {', '.join(STEPS)}; the other end speaks another version."
    )


def check_code(code: str) -> Code:
    """`code` as a protocol code; ProtocolError for anything else."""
    for known in CODES:
        if code == known:
            return known
    raise ProtocolError(
        f"Expected reply code {code!r} to be one of {', '.join(CODES)}; the client speaks another version."
    )
