"""The Flower ServerApp: the round loop of server.rounds over Flower's Grid.

The run's configuration: `config`, the path of a YAML file; `state-dir`, where the checkpoint and the model go;
`resume`, whether to go on after a checkpoint that is there; `simulation`, whether the clients are simulated; `roster`,
the identities that sign in secure sums (a simulation's are in its folder).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from mmrank import places
from mmrank.errors import ConfigError, ProtocolError
from mmrank.protocol import (
    CODES,
    NO_HEAD,
    VERSION,
    Enrolment,
    EvaluateReply,
    EvaluateRequest,
    Head,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
)
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import Settings, parse
from mmrank.wire import ARRAYS, SCALARS, Kind, Scalar, array_from_npy, from_plain, to_plain
from server.checkpoint import write_model
from server.population import check_server
from server.rounds import OnClient, OnRound, RoundReport, run_rounds

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
MODEL = "model.safetensors"
ROSTER = "roster.json"
TRAIN, EVALUATE = "train", "evaluate"
ENROL = "query.enrol"
SUM = "query.sum"

POLL_SECONDS = 0.05
SETTLE_SECONDS = 1.0
"""Nodes join one by one when a simulation starts: enrolment is over when none has come for so long."""
STRAGGLER_SECONDS = 60.0
"""How long the first enrolment waits for a node that does not answer, once enough have."""


def make_app(
    *,
    on_round: OnRound | None = None,
    on_client: OnClient | None = None,
    run_config: Mapping[str, str | int | bool] | None = None,
    registry: Mapping[str, int] | None = None,
    merchants: frozenset[str] = frozenset(),
    expected_clients: int = 0,
    simulation: bool = False,
) -> ServerApp:
    """The app; `run_config` completes the run's configuration. simulation: the clients are simulated, nobody is
    promised anything; a run's own word for it is `simulation` in its configuration.

    registry: node by client where they are known beforehand; then only who is asked to train is enrolled,
    and 100,000 registered clients cost no messages. merchants: those of the registry that are.
    expected_clients: how many nodes the first round waits for.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        values = {**context.run_config, **(run_config or {})}
        settings = read_settings(places.config_path(values, beside=Path(__file__).parents[1]))
        if not (simulation or values.get("simulation", False)):
            check_server(settings)
        folder = places.state_dir(values, run_id=context.run_id)
        parameters = run_rounds(
            settings,
            initial=parameters_of(build_ranker(settings.model, seed=settings.seed)),
            messenger=GridMessenger(
                grid, settings=settings, registry=registry, merchants=merchants, expected=expected_clients
            ),
            checkpoint_dir=folder / CHECKPOINT,
            resume=bool(values.get("resume", False)),
            on_round=on_round or _log_round,
            on_client=on_client,
            roster=Path(str(values["roster"])).expanduser() if values.get("roster") else folder / ROSTER,
        )
        write_model(folder / MODEL, parameters)

    return app


def read_settings(path: Path) -> Settings:
    """The settings in a YAML file, for what a server needs of them. Raises ConfigError."""
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


Plain = tuple[Mapping[str, np.ndarray], Mapping[str, Scalar]]


class GridMessenger:
    """server.rounds.Messenger over a Grid.

    Each node is asked once who it is. Replies are matched by the node that the transport says they came from.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        settings: Settings,
        registry: Mapping[str, int] | None = None,
        merchants: frozenset[str] = frozenset(),
        expected: int = 0,
    ) -> None:
        self._grid = grid
        self._merchants = set(merchants)
        self._timeout_seconds = settings.federation.reply_timeout_seconds
        self._registry = registry
        self._expected = expected
        self._node_of: dict[str, int] = {}
        self._asked: set[int] = set()
        self._refused: set[int] = set()
        self._pending: set[str] = set()
        self._settled = False

    def clients(self, at_least: int) -> Sequence[str]:
        """Names of the enrolled clients whose nodes are there, or of the whole registry."""
        if self._registry is not None:
            return list(self._registry)
        wanted = max(at_least, self._expected)
        deadline = time.monotonic() + self._timeout_seconds
        quiet_since = time.monotonic()
        self._asked -= self._refused  # a client that came back on another node: the one it left may be gone by now
        self._refused.clear()
        while True:
            online = set(self._grid.get_node_ids())
            if self._ask_to_enrol(sorted(online - self._asked)) + self._take_enrolments():
                quiet_since = time.monotonic()
            names = [client for client, node in self._node_of.items() if node in online]
            quiet = time.monotonic() - quiet_since
            settled = self._settled or (quiet > SETTLE_SECONDS and not self._pending) or quiet > STRAGGLER_SECONDS
            if (len(names) >= wanted and settled) or time.monotonic() > deadline:
                self._settled, self._expected = True, 0
                return names
            time.sleep(POLL_SECONDS)

    def merchants(self, clients: Sequence[str]) -> frozenset[str]:
        """Those that said so when they enrolled, or that the registry's owner named."""
        return frozenset(self._merchants.intersection(clients))

    def exchange(
        self,
        clients: Sequence[str],
        request: TrainRequest,
        timeout_seconds: float,
        acknowledged: Mapping[str, Head] | None = None,
    ) -> Iterator[tuple[str, TrainReply | ProtocolError]]:
        """See server.rounds.Messenger. Answers are not held: each is yielded as it is pulled."""
        contents = _with_heads(clients, to_plain(request), acknowledged or {})
        return self._exchange(contents, TRAIN, TrainReply, str(request.round_number), timeout_seconds)

    def ask_metrics(
        self,
        clients: Sequence[str],
        request: EvaluateRequest,
        timeout_seconds: float,
        acknowledged: Mapping[str, Head] | None = None,
    ) -> Iterator[tuple[str, EvaluateReply | ProtocolError]]:
        """See server.rounds.Messenger."""
        contents = _with_heads(clients, to_plain(request), acknowledged or {})
        return self._exchange(contents, EVALUATE, EvaluateReply, str(request.round_number), timeout_seconds)

    def ask(
        self, requests: Mapping[str, SumRequest], timeout_seconds: float
    ) -> Iterator[tuple[str, SumReply | ProtocolError]]:
        """See server.secure_exchange.SumMessenger."""
        contents = {client: to_plain(request) for client, request in requests.items()}
        group = next((str(request.round_number) for request in requests.values()), "")
        return self._exchange(contents, SUM, SumReply, group, timeout_seconds)

    def _exchange(
        self, contents: Mapping[str, Plain], action: str, kind: type[Kind], group: str, timeout_seconds: float
    ) -> Iterator[tuple[str, Kind | ProtocolError]]:
        """Send each client its content, and yield the answers as they come."""
        deadline = time.monotonic() + timeout_seconds
        if self._registry is not None:
            self._enrol_registered(list(contents), self._registry, deadline)
        reachable = {self._node_of[client]: client for client in contents if client in self._node_of}
        serialised: dict[int, Array] = {}  # what several clients are sent is serialised once; `contents` keeps the ids
        messages = []
        for node, client in reachable.items():
            arrays, scalars = contents[client]
            for array in arrays.values():
                if id(array) not in serialised:
                    serialised[id(array)] = Array(np.ascontiguousarray(array))
            # A RecordDict of its own for each node: over an in-process grid, what one writes the next would read.
            record = ArrayRecord({name: serialised[id(arrays[name])] for name in sorted(arrays)})
            content = RecordDict({ARRAYS: record, SCALARS: ConfigRecord(dict(scalars))})
            messages.append(Message(content, node, action, group_id=group, ttl=timeout_seconds))
        pending = set(self._grid.push_messages(messages))
        for client in sorted(set(contents) - set(reachable.values())):
            yield client, ProtocolError("its node did not enrol under that name")
        for reply in self._pull(pending, deadline):
            if reply.metadata.src_node_id in reachable:
                yield reachable[reply.metadata.src_node_id], _read(kind, reply)

    def _enrol_registered(self, clients: Sequence[str], registry: Mapping[str, int], deadline: float) -> None:
        """Enrol those of `clients` who are not; whoever answers by another name than the registry's stays out."""
        self._ask_to_enrol([registry[client] for client in clients if client not in self._node_of])
        while self._pending and time.monotonic() < deadline:
            if not self._take_enrolments():
                time.sleep(POLL_SECONDS)
        self._node_of = {client: node for client, node in self._node_of.items() if registry.get(client) == node}

    def _ask_to_enrol(self, nodes: Sequence[int]) -> int:
        messages = [Message(RecordDict(), node, ENROL, ttl=self._timeout_seconds) for node in nodes]
        if messages:
            self._pending.update(self._grid.push_messages(messages))
            self._asked.update(nodes)
        return len(messages)

    def _take_enrolments(self) -> int:
        """How many answers came in."""
        taken = 0
        for reply in self._grid.pull_messages(set(self._pending)):
            taken += 1
            self._pending.discard(reply.metadata.reply_to_message_id)
            self._enrol(reply.metadata.src_node_id, _read(Enrolment, reply))
        return taken

    def _enrol(self, node: int, enrolment: Enrolment | ProtocolError) -> None:
        if isinstance(enrolment, ProtocolError):
            logger.warning("Node %d can't take part: %s", node, enrolment)
        elif enrolment.version != VERSION:
            logger.warning("Node %d speaks protocol %d, not %d; update it.", node, enrolment.version, VERSION)
        elif self._taken(enrolment.client, node):
            # The first keeps the name: a second node must not speak for a client that is there.
            logger.warning("Node %d says that it is %s, who is there already; it is left out.", node, enrolment.client)
            self._refused.add(node)
        else:
            self._node_of[enrolment.client] = node
            if enrolment.kind == "merchant":
                self._merchants.add(enrolment.client)

    def _taken(self, client: str, node: int) -> bool:
        other = self._node_of.get(client)
        return other is not None and other != node and other in set(self._grid.get_node_ids())

    def _pull(self, pending: set[str], deadline: float) -> Iterator[Message]:
        while pending and time.monotonic() < deadline:
            came = False
            for reply in self._grid.pull_messages(set(pending)):
                came = True
                pending.discard(reply.metadata.reply_to_message_id)
                yield reply
            if not came:
                time.sleep(POLL_SECONDS)


def _read(kind: type[Kind], reply: Message) -> Kind | ProtocolError:
    """The reply, or why it can't be read. The text of Flower's error is not looked at: it may hold private rows."""
    if reply.has_error():
        return ProtocolError(f"its node answered with Flower's error {reply.error.code}.")
    records = reply.content
    arrays, scalars = records.get(ARRAYS), records.get(SCALARS)
    if len(records) != 2 or not isinstance(arrays, ArrayRecord) or not isinstance(scalars, ConfigRecord):
        return ProtocolError(f"Expected the records {ARRAYS} and {SCALARS} alone.")
    if kind is SumReply and "step" not in scalars and scalars.get("code") in CODES:
        return ProtocolError(f"it answered {scalars['code']!s}.")  # a client that can't read a step says no more
    try:
        return from_plain(kind, {name: array_from_npy(array.data) for name, array in arrays.items()}, dict(scalars))
    except ProtocolError as error:
        return error


def _with_heads(clients: Sequence[str], content: Plain, acknowledged: Mapping[str, Head]) -> dict[str, Plain]:
    """By client: the same arrays, and scalars with the head of its ledger that was acknowledged last."""
    arrays, scalars = content
    heads = {client: acknowledged.get(client, NO_HEAD) for client in clients}
    return {
        client: (arrays, {**scalars, "ledger_count": count, "ledger_head": digest})
        for client, (count, digest) in heads.items()
    }


def _log_round(report: RoundReport) -> None:
    """One line a round where nobody else watches; Flower's own logger is the one that `flwr run --stream` shows."""
    if report.secret_cohort:
        # nor how long it took, which tells how many were drawn
        logging.getLogger("flwr").info("round %d: epsilon %.3g", report.round_number, report.epsilon_max)
        return
    told = {} if report.measured is None else report.measured.estimates
    logging.getLogger("flwr").info(
        "round %d: %d asked, %s, epsilon at most %.3g, %.1f s%s",
        report.round_number,
        report.cohort_size,
        ", ".join(f"{count} {code}" for code, count in sorted(report.codes.items())) or "no reply",
        report.epsilon_max,
        report.seconds,
        "".join(f", {name} {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in told.items()),
    )


app = make_app()
