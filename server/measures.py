"""Measures that clients release with noise: whom to ask after a round, and what the sum of their answers says.

Each answer is private by itself, so whatever is computed here may be shown to anybody.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mmrank.errors import ProtocolError
from mmrank.privacy.metrics_release import Estimate, MetricRelease, from_settings
from mmrank.protocol import METRIC_SUM, NO_HEAD, EvaluateReply, EvaluateRequest, Head
from mmrank.settings import Settings
from mmrank.wire import metrics_fault

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model's noised measures say. estimates: by measure, each mean over the units of those that answered, with
    its 95% interval over the noise. count: (units, standard deviation of its noise). releases: how many answered.
    bytes_down, bytes_up: arrays alone."""

    estimates: Mapping[str, Estimate]
    count: tuple[float, float]
    releases: int
    bytes_down: int
    bytes_up: int


class Evaluator(Protocol):
    """How clients are reached; see server.rounds.Messenger."""

    def ask_metrics(
        self,
        clients: Sequence[str],
        request: EvaluateRequest,
        timeout_seconds: float,
        acknowledged: Mapping[str, Head],
    ) -> Iterator[tuple[str, EvaluateReply | ProtocolError]]:
        """Send each client the request; yield the answers as they come, until all are in or the time is up."""
        ...


@dataclass(kw_only=True)
class Answers:
    """What came in: noised sums, public totals and heads, by client."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)


def due(settings: Settings, round_number: int) -> bool:
    """Whether clients are asked after that round."""
    metrics = settings.privacy.metrics
    return metrics is not None and round_number % metrics.every == 0


def asked(settings: Settings, clients: Sequence[str], cohort: Sequence[str], merchants: frozenset[str]) -> list[str]:
    """Whom: a public choice, by names and kinds alone."""
    metrics = settings.privacy.metrics
    if metrics is None:
        return []
    if metrics.asked == "cohort":
        return sorted(cohort)
    return sorted(client for client in clients if metrics.asked == "all" or client in merchants)


def ask(
    messenger: Evaluator,
    clients: Sequence[str],
    request: EvaluateRequest,
    settings: Settings,
    heads: Mapping[str, Head],
) -> Answers:
    """Every usable answer; why the others are not is logged."""
    answers, waiting = Answers(), set(clients)
    timeout, number = settings.federation.reply_timeout_seconds, request.round_number
    release = _release(settings)
    for client, reply in messenger.ask_metrics(clients, request, timeout, heads):
        if client not in waiting:
            logger.warning("Round %d: measures from %r, who was not asked or has answered.", number, client)
            continue
        waiting.remove(client)
        fault = _file(answers, client, reply, request, heads, release.length)
        if fault is not None:
            logger.warning("Round %d: dropped the measures of %s: %s.", number, client, fault)
    for client in sorted(waiting):
        logger.warning("Round %d: no measures of %s within %s s.", number, client, timeout)
    return answers


def measured(settings: Settings, answers: Answers, request: EvaluateRequest, *, clients: int) -> Measured | None:
    """What the sum says, None where nobody answered. Nobody weighs more than another: a noisy count is no weight."""
    if not answers.vectors:
        return None
    release, releases = _release(settings), len(answers.vectors)
    total = np.zeros(release.length)
    for client in sorted(answers.vectors):  # a fixed order gives the same bits
        total += answers.vectors[client].astype(np.float64)
    return Measured(
        estimates=release.estimates(total, releases=releases),
        count=release.count(total, releases=releases),
        releases=releases,
        bytes_down=clients * sum(array.nbytes for array in request.parameters.values()),
        bytes_up=sum(vector.nbytes for vector in answers.vectors.values()),
    )


def rolled_back(head: Head, acknowledged: Head) -> str | None:
    """Why a ledger at `head` is not the one that was at `acknowledged`, or None where it may be."""
    if head[0] > acknowledged[0] or head == acknowledged:
        return None
    return (
        f"its ledger stands at entry {head[0]} ({head[1][:12]}) after entry {acknowledged[0]} ({acknowledged[1][:12]}) "
        "was acknowledged: it is a copy or an older state"
    )


def _file(
    answers: Answers,
    client: str,
    reply: EvaluateReply | ProtocolError,
    request: EvaluateRequest,
    heads: Mapping[str, Head],
    length: int,
) -> str | None:
    """Take an answer in, or say why it is not used."""
    if isinstance(reply, ProtocolError):
        return str(reply).rstrip(".")
    fault = metrics_fault(reply, request, client, length=length)
    if fault is None and reply.code in ("ok", "exhausted"):
        fault = rolled_back(reply.head, heads.get(client, NO_HEAD))
    if fault is not None:
        return fault
    if reply.code in ("ok", "exhausted"):
        answers.epsilon[client], answers.heads[client] = reply.epsilon, reply.head
    if reply.code != "ok":
        return f"it answered {reply.code}"
    answers.vectors[client] = reply.metrics[METRIC_SUM]
    return None


def _release(settings: Settings) -> MetricRelease:
    release = from_settings(settings.privacy)
    if release is None:
        raise ProtocolError("Nothing is released under these settings; set privacy.metrics before clients are asked.")
    return release
