"""The round loop: sample, send, collect, validate, aggregate, checkpoint. It knows no transport.

Nothing here sees behaviour: a reply is a privatised update, a code and a public epsilon. Whatever else a
client sends is dropped and logged with the reason, and the round goes on without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mmrank import components
from mmrank.errors import BudgetExhaustedError, CheckpointError, ProtocolError
from mmrank.privacy.client_update import norm_of
from mmrank.protocol import NO_HEAD, EvaluateReply, EvaluateRequest, Head, TrainReply, TrainRequest
from mmrank.randomness import numpy_generator
from mmrank.settings import Settings
from mmrank.wire import reply_fault
from server.aggregation import Rule
from server.checkpoint import Checkpoint, has_begun, load_checkpoint, run_identity, save_checkpoint
from server.measures import Measured, ask, asked, due, measured, rolled_back
from server.population import Population, open_population
from server.secure_exchange import SumMessenger
from server.secure_rounds import SecurePopulation, Summed, open_secure
from server.streams import Stream

logger = logging.getLogger(__name__)


class Messenger(SumMessenger, Protocol):
    """How the loop reaches its clients."""

    def clients(self, at_least: int) -> Sequence[str]:
        """The public names that may be asked now; waits a while for `at_least` of them."""
        ...

    def merchants(self, clients: Sequence[str]) -> frozenset[str]:
        """Those of `clients` that are merchants, as far as is known: the kind is public."""
        ...

    def exchange(
        self, clients: Sequence[str], request: TrainRequest, timeout_seconds: float, acknowledged: Mapping[str, Head]
    ) -> Iterator[tuple[str, TrainReply | ProtocolError]]:
        """Send each client the request; yield the answers as they come, until all are in or the time is up.

        acknowledged: by client, the head that its copy of the request names. A ProtocolError says, in the server's own
        words, why an answer can't be read.
        """
        ...

    def ask_metrics(
        self, clients: Sequence[str], request: EvaluateRequest, timeout_seconds: float, acknowledged: Mapping[str, Head]
    ) -> Iterator[tuple[str, EvaluateReply | ProtocolError]]:
        """The same for measures."""
        ...


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round, for those who watch.

    parameters: the model after it. codes: replies by protocol code. dropped: by client, why its reply was not
    used. epsilon_max, epsilon_median: over the clients heard of so far, each at its own public total (0 before any);
    the population ledger's under central noise.
    aggregated: False where too few replies came and the model was kept. bytes_down, bytes_up: arrays alone.
    secret_cohort: its size and replies are the server's own secret: the amplification by sampling rests on it.
    clip_norm: the clip of the next round, where clients clip whole updates. noisy_mean: what the round released under
    central or distributed noise, float64 by name; the model is made of it. measured: what clients released of the
    model's quality, in the rounds that ask for it.
    """

    round_number: int
    parameters: Mapping[str, np.ndarray]
    codes: Mapping[str, int]
    dropped: Mapping[str, str]
    epsilon_max: float
    epsilon_median: float
    seconds: float
    bytes_down: int
    bytes_up: int
    cohort_size: int
    aggregated: bool
    clip_norm: float = 0.0
    secret_cohort: bool = False
    noisy_mean: Mapping[str, np.ndarray] | None = None
    measured: Measured | None = None


OnRound = Callable[[RoundReport], None]
OnClient = Callable[[int, int], None]


@dataclass(kw_only=True)
class _Replies:
    """What one round brought in."""

    updates: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, str] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)
    epsilon: dict[str, float] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int | None = None


def run_rounds(
    settings: Settings,
    *,
    initial: Mapping[str, np.ndarray],
    messenger: Messenger,
    checkpoint_dir: Path,
    resume: bool,
    on_round: OnRound | None = None,
    on_client: OnClient | None = None,
    max_update_norm: float | None = None,
    roster: Path | None = None,
) -> dict[str, np.ndarray]:
    """Train for settings.federation.rounds rounds and return the model, float32 by name.

    on_client(done, total) is called after each answer. max_update_norm: an update with a larger L2 norm is dropped.
    roster: the file of identities that sign in secure sums.
    resume: go on after the newest checkpoint, or begin where there is none. The run ends early
    where fewer clients than federation.min_replies still have budget: asking them would spend it for nothing.
    Raises CheckpointError for a folder of another configuration, or one that has begun where resume is False.
    """
    rule: Rule = components.build("server.aggregation", settings.federation.aggregation)
    now = _begin(settings, initial, rule, checkpoint_dir, resume)
    population: Population | Stream | SecurePopulation | None = (
        open_secure(settings, parameters=initial, state_dir=checkpoint_dir.parent, roster=roster)
        if settings.privacy.distributed
        else open_population(settings, state_dir=checkpoint_dir.parent)
    )
    while now.round_number < settings.federation.rounds:
        number = now.round_number + 1
        started = time.perf_counter()
        clients = messenger.clients(settings.federation.min_replies)
        merchants = messenger.merchants(clients)
        request = TrainRequest(
            run=now.run, round_number=number, config_sha256=settings.agreed_sha256, parameters=now.parameters
        )
        if population is not None:
            request = replace(request, parameters=population.asks(now.parameters, now.clip_norm))
            try:
                population.charge(request)
            except BudgetExhaustedError as error:
                logger.warning("Stopping before round %d: %s", number, error)
                break
            cohort = population.draw(sorted(set(clients) - now.exhausted), request)
            # Under central noise the run may not end because some devices had enough: that would tell who was drawn.
            enough = (
                len(set(clients) - (frozenset() if settings.privacy.central else now.exhausted)) >= population.fewest
            )
        else:
            cohort = draw_cohort(clients, now.exhausted, settings, number, merchants=merchants)
            enough = len(cohort) >= settings.federation.min_replies
        if not enough:
            _say_why_it_stops(len(cohort), now, settings)
            break
        mean: Mapping[str, np.ndarray] | None = None
        if isinstance(population, SecurePopulation):
            summed = population.sum(messenger, cohort, request, on_client, now.heads)
            replies = _Replies(**summed.replies)
            now, aggregated = _advance_by_sum(now, summed, replies, rule, settings)
            mean = summed.mean
        else:
            faults = _Faults(max_update_norm, population, now.clip_norm)
            replies = _collect(messenger, cohort, request, settings, faults, now.heads, on_client)
            now, aggregated, counted = _advance(now, replies, rule, settings, merchants, population, request)
            mean = counted if settings.privacy.central else None
        found: Measured | None = None
        if aggregated and due(settings, number):  # before the checkpoint: what was charged is in it
            able = [client for client in asked(settings, clients, cohort, merchants) if client not in now.exhausted]
            now, found = _measure(now, messenger, able, settings)
        save_checkpoint(checkpoint_dir, now)
        if on_round is not None:
            report = _report(now, replies, cohort, aggregated, time.perf_counter() - started, population, found)
            on_round(replace(report, secret_cohort=settings.privacy.central, noisy_mean=mean))
    if now.kept_rounds:
        logger.warning("%d of %d rounds had too few replies and kept the model.", now.kept_rounds, now.round_number)
    return {name: np.array(array) for name, array in now.parameters.items()}


def draw_cohort(
    clients: Sequence[str],
    exhausted: frozenset[str],
    settings: Settings,
    round_number: int,
    *,
    merchants: frozenset[str] = frozenset(),
) -> list[str]:
    """federation.cohort_size of `clients` that are not exhausted (all of them where fewer), sorted by name.

    It depends on the seed, the round, the set of names and their kinds alone: a resumed run draws the same cohort.
    """
    available = sorted(set(clients) - exhausted)
    size, of_merchants = settings.federation.cohort_size, settings.federation.merchants_per_round
    draw = numpy_generator(settings.seed, "cohort", round_number)
    if of_merchants is None:
        return _some(available, size, draw)
    chosen = _some([client for client in available if client in merchants], of_merchants, draw)
    devices = _some([client for client in available if client not in merchants], size - len(chosen), draw)
    return sorted(chosen + devices)


def _some(names: Sequence[str], size: int, draw: np.random.Generator) -> list[str]:
    """At most `size` of `names`, in their order."""
    rows = draw.choice(len(names), min(size, len(names)), replace=False)
    return [names[row] for row in sorted(rows.tolist())]


def weighted(
    updates: Mapping[str, Mapping[str, np.ndarray]], merchants: frozenset[str], merchant_weight: float
) -> dict[str, Mapping[str, np.ndarray]]:
    """`updates` scaled so that their plain mean is the mean with a merchant's weight against a device's 1.

    The weights are public constants: nothing that a client says of itself moves them.
    """
    weights = {client: merchant_weight if client in merchants else 1.0 for client in updates}
    mean = sum(weights.values()) / len(weights)
    if all(weight == mean for weight in weights.values()):
        return dict(updates)
    return {
        client: {name: array.astype(np.float64) * (weights[client] / mean) for name, array in update.items()}
        for client, update in updates.items()
    }


def new_run_id(settings: Settings) -> str:
    """A name for a new run, part of every charge's id.

    Random, so that no two runs share a charge; with seeded noise derived from what decides the updates,
    so that the same run repeats bit for bit, on either engine and device.
    """
    if settings.privacy.noise == "secure" and settings.privacy.mechanism != "no_privacy":
        return secrets.token_hex(16)
    plain = settings.to_dict()
    decides = {key: plain[key] for key in ("seed", "dataset", "model", "training", "federation", "privacy")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _begin(
    settings: Settings, initial: Mapping[str, np.ndarray], rule: Rule, checkpoint_dir: Path, resume: bool
) -> Checkpoint:
    """The state before the next round: the newest checkpoint's, or a new run's."""
    if not resume and has_begun(checkpoint_dir):
        raise CheckpointError(
            f"{checkpoint_dir} already holds a run; resume it, or choose another folder. Nothing was changed."
        )
    stored = load_checkpoint(checkpoint_dir, config_sha256=settings.sha256)
    if stored is not None:
        logger.info("Resuming run %s after round %d.", stored.run, stored.round_number)
        return stored
    run = run_identity(checkpoint_dir, config_sha256=settings.sha256, fresh=new_run_id(settings))
    return Checkpoint(
        run=run,
        config_sha256=settings.sha256,
        round_number=0,
        parameters=dict(initial),
        state=rule.init(initial),
        clip_norm=settings.privacy.max_grad_norm,
    )


def _say_why_it_stops(available: int, now: Checkpoint, settings: Settings) -> None:
    logger.warning(
        "Stopping after round %d of %d: %d clients can be asked, %d have spent their privacy budget, and "
        "federation.min_replies=%d. The model so far is kept; raise privacy.budget_epsilon or add clients to go on.",
        now.round_number,
        settings.federation.rounds,
        available,
        len(now.exhausted),
        settings.federation.min_replies,
    )


def _measure(
    now: Checkpoint, messenger: Messenger, clients: Sequence[str], settings: Settings
) -> tuple[Checkpoint, Measured | None]:
    """Ask for the measures of the model that the round ended with."""
    request = EvaluateRequest(
        run=now.run,
        round_number=now.round_number,
        config_sha256=settings.agreed_sha256,
        parameters=now.parameters,
    )
    answers = ask(messenger, clients, request, settings, now.heads)
    after = replace(now, epsilon={**now.epsilon, **answers.epsilon}, heads={**now.heads, **answers.heads})
    return after, measured(settings, answers, request, clients=len(clients))


def _collect(
    messenger: Messenger,
    cohort: Sequence[str],
    request: TrainRequest,
    settings: Settings,
    faults: _Faults,
    heads: Mapping[str, Head],
    on_client: OnClient | None,
) -> _Replies:
    """Every usable update, and why the others are not.

    Under central noise who was drawn is a secret that epsilon rests on, also by name or reason in a log.
    """
    secret = settings.privacy.central
    replies = _Replies()
    waiting = set(cohort)
    for client, reply in messenger.exchange(cohort, request, settings.federation.reply_timeout_seconds, heads):
        if client not in waiting:
            if not secret:
                logger.warning(
                    "Round %d: an answer from %r, who was not asked or has answered.", request.round_number, client
                )
            continue
        waiting.remove(client)
        _file(replies, client, reply, request, faults, heads.get(client, NO_HEAD))
        if on_client is not None and not secret:
            on_client(len(cohort) - len(waiting), len(cohort))
    for client in sorted(waiting):
        replies.dropped[client] = f"no answer within {settings.federation.reply_timeout_seconds} s"
    if not secret:
        for client, reason in sorted(replies.dropped.items()):
            logger.warning("Round %d: dropped the reply of %s: %s.", request.round_number, client, reason)
        for client in sorted(replies.exhausted):
            logger.info(
                "Round %d: %s has spent its privacy budget and is not asked again.", request.round_number, client
            )
    return replies


def _file(
    replies: _Replies,
    client: str,
    reply: TrainReply | ProtocolError,
    request: TrainRequest,
    faults: _Faults,
    acknowledged: Head,
) -> None:
    if isinstance(reply, ProtocolError):
        replies.dropped[client] = str(reply).rstrip(".")
        return
    replies.bytes_up += sum(array.nbytes for array in reply.update.values())
    fault = reply_fault(reply, request, client) or (faults.of(reply.update) if reply.code == "ok" else None)
    if fault is None and reply.code in ("ok", "exhausted"):
        fault = rolled_back(reply.head, acknowledged)
    if fault is not None:
        replies.dropped[client] = fault
        return
    replies.codes[reply.code] += 1
    if reply.code in ("ok", "exhausted"):
        replies.epsilon[client], replies.heads[client] = reply.epsilon, reply.head
    if reply.code == "ok":
        replies.updates[client] = reply.update
    elif reply.code == "exhausted":
        replies.exhausted.add(client)
    else:
        replies.dropped[client] = f"it answered {reply.code}"


@dataclass(frozen=True)
class _Faults:
    """What an update of the right names and shapes may be wrong in all the same."""

    max_update_norm: float | None
    population: Population | Stream | None
    clip_norm: float

    def of(self, update: Mapping[str, np.ndarray]) -> str | None:
        if self.population is not None:
            fault = self.population.mechanism.fault(update, clip=self.clip_norm)
            if fault is not None:
                return fault
        if self.max_update_norm is None:
            return None
        norm = norm_of(update)
        return None if norm <= self.max_update_norm else f"its norm {norm:.4g} is above {self.max_update_norm:.4g}"


def _advance(
    now: Checkpoint,
    replies: _Replies,
    rule: Rule,
    settings: Settings,
    merchants: frozenset[str],
    population: Population | Stream | None,
    request: TrainRequest,
) -> tuple[Checkpoint, bool, Mapping[str, np.ndarray] | None]:
    """The state after the round, whether its replies were enough to move the model, and the population's mean."""
    after = replace(
        now,
        round_number=now.round_number + 1,
        exhausted=now.exhausted | replies.exhausted,
        # under central noise a device's own ledger counts how often it was drawn
        epsilon={} if settings.privacy.central else {**now.epsilon, **replies.epsilon},
        heads={} if settings.privacy.central else {**now.heads, **replies.heads},
    )
    if population is not None:  # noise is released whoever replied: an absent round would tell who did
        mean, clip_norm = population.aggregate(replies.updates, now.parameters, now.clip_norm, request)
        if mean is None:
            return replace(after, kept_rounds=now.kept_rounds + 1), False, None
        state, parameters = rule.apply(now.state, now.parameters, {settings.privacy.population: mean})
        return replace(after, state=state, parameters=parameters, clip_norm=clip_norm), True, mean
    if len(replies.updates) < settings.federation.min_replies:
        logger.warning(
            "Round %d: %d usable replies, fewer than federation.min_replies=%d; the model is kept.",
            after.round_number,
            len(replies.updates),
            settings.federation.min_replies,
        )
        return replace(after, kept_rounds=now.kept_rounds + 1), False, None
    updates = weighted(replies.updates, merchants, settings.federation.merchant_weight)
    state, parameters = rule.apply(now.state, now.parameters, updates)
    return replace(after, state=state, parameters=parameters), True, None


def _advance_by_sum(
    now: Checkpoint, summed: Summed, replies: _Replies, rule: Rule, settings: Settings
) -> tuple[Checkpoint, bool]:
    """The same after a secure sum: a round that was thrown away keeps the model, and its charges stay."""
    after = replace(
        now,
        round_number=now.round_number + 1,
        exhausted=now.exhausted | replies.exhausted,
        epsilon={**now.epsilon, **replies.epsilon},
        heads={**now.heads, **replies.heads},
    )
    if summed.mean is None:
        return replace(after, kept_rounds=now.kept_rounds + 1), False
    state, parameters = rule.apply(now.state, now.parameters, {settings.privacy.population: summed.mean})
    return replace(after, state=state, parameters=parameters), True


def _report(
    now: Checkpoint,
    replies: _Replies,
    cohort: Sequence[str],
    aggregated: bool,
    seconds: float,
    population: Population | Stream | SecurePopulation | None,
    found: Measured | None,
) -> RoundReport:
    spent = list(now.epsilon.values())
    if population is not None and population.account is not None:
        spent = [population.account.epsilon()]
    bytes_down = replies.bytes_down
    if bytes_down is None:
        bytes_down = len(cohort) * sum(array.nbytes for array in now.parameters.values())
    return RoundReport(
        round_number=now.round_number,
        parameters=now.parameters,
        codes=dict(replies.codes),
        dropped=dict(replies.dropped),
        epsilon_max=max(spent, default=0.0),
        epsilon_median=statistics.median(spent) if spent else 0.0,
        seconds=seconds,
        bytes_down=bytes_down + (0 if found is None else found.bytes_down),
        bytes_up=replies.bytes_up + (0 if found is None else found.bytes_up),
        cohort_size=len(cohort),
        aggregated=aggregated,
        clip_norm=now.clip_norm,
        measured=found,
    )
