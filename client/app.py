"""The Flower ClientApp: a thin messenger between the wire and the vault.

A node's own configuration says whose data it holds: `client-id` (a deployment, where nothing of a simulation is
allowed) or `partition-id` (a simulation, row of the data set's registry). With a client-id it also holds `config` and
`state-dir`, what this client agreed to, and perhaps `data-path`, the folder of its own data; nothing is taken from the
run, which the server writes. A partition-id serves synthetic data alone, since a real node may bear one as well;
`mmrank simulate` runs real data in simulation.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.vault import Vault
from client.workspace import Workspace, open_workspace
from mmrank import places
from mmrank.errors import ConfigError, PrivacyError, ProtocolError
from mmrank.protocol import (
    Code,
    Enrolment,
    EvaluateReply,
    EvaluateRequest,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
)
from mmrank.wire import (
    ARRAYS,
    SCALARS,
    Kind,
    array_from_npy,
    from_plain,
    metrics_fault,
    npy_from_array,
    reply_fault,
    sum_reply_fault,
    to_plain,
)

logger = logging.getLogger(__name__)

ENROL = "enrol"
"""The action of the query by which a server asks for an Enrolment."""
SUM = "sum"
"""The action of the query that carries each step of a secure sum."""

ERRORS = "client-errors.log"
"""In the client's state folder: the traceback of what went wrong at home."""


class SealedClientApp(ClientApp):
    """A ClientApp that answers every message with protocol content, whatever happens inside.

    Flower's own way puts an exception's text into the reply, and with it rows of private data.
    """

    def __init__(self, run_config: Mapping[str, str | int | bool]) -> None:
        super().__init__()
        self.run_config = dict(run_config)

    def __call__(self, message: Message, context: Context) -> Message:
        """The handler's reply, or code `failed` and nothing else."""
        try:
            return super().__call__(message, context)
        # The one boundary where everything is caught: an exception that left here would carry its text,
        # and so private data, to the server. It is written down at home instead.
        except Exception:
            _write_down(context, self.run_config)
            return _reply(message, _code_alone("failed", "", message))


def make_app(
    *,
    run_config: Mapping[str, str | int | bool] | None = None,
    workspace: Workspace | None = None,
    simulation: bool = False,
) -> ClientApp:
    """The app; `run_config` completes the run's configuration, an open `workspace` saves opening it again.

    simulation: whoever starts the app in this process says that its nodes are simulated, whatever their data.
    """
    app = SealedClientApp(run_config or {})

    def vault_of(context: Context) -> Vault:
        values = _values(context, app.run_config)
        opened = workspace
        if opened is None:
            deployment = _is_deployment(context)
            if deployment:
                for name in ("config", "state-dir"):
                    if not values.get(name):
                        raise ConfigError(
                            f"Expected {name} beside client-id in the node's configuration: in a deployment the server "
                            f"must not choose it; start the node with --node-config '{name}=\"/path\" ...'."
                        )
            config = places.config_path(values, beside=Path(__file__).parents[1])
            folder = places.state_dir(values, run_id=context.run_id)
            opened = open_workspace(
                config,
                folder,
                deployment=deployment,
                identity=_node_file(context, "identity"),
                roster=_node_file(context, "roster"),
                data_path=_node_file(context, "data-path"),
            )
            if not (deployment or simulation or opened.dataset.synthetic):
                raise PrivacyError(
                    f"Expected client-id in the configuration of a node with real data, as those of "
                    f"{opened.dataset.name} are; with a partition-id the server would choose what it promises; "
                    "set client-id, config and state-dir, or simulate with mmrank simulate."
                )
        return Vault(opened, client_of(context.node_config, opened))

    @app.query(ENROL)
    def enrol(message: Message, context: Context) -> Message:
        return _reply(message, vault_of(context).enrol())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        vault = vault_of(context)
        try:
            request = _request(TrainRequest, message)
        except ProtocolError:
            return _reply(message, _code_alone("bad_request", vault.client_id, message))
        reply = vault.train(request)
        fault = reply_fault(reply, request, vault.client_id)
        if fault is not None:
            raise ProtocolError(f"The vault's reply is not for the wire: {fault}.")
        return _reply(message, reply)

    @app.query(SUM)
    def take_part(message: Message, context: Context) -> Message:
        vault = vault_of(context)
        try:
            request = _request(SumRequest, message)
        except ProtocolError:
            return _reply(message, _code_alone("bad_request", vault.client_id, message))
        reply = vault.take_part(request)
        fault = sum_reply_fault(reply, request, vault.client_id)
        if fault is not None:
            raise ProtocolError(f"The vault's reply is not for the wire: {fault}.")
        return _reply(message, reply)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        vault = vault_of(context)
        try:
            request = _request(EvaluateRequest, message)
        except ProtocolError:
            return _reply(message, _code_alone("bad_request", vault.client_id, message))
        reply = vault.release_metrics(request)
        release = vault.workspace.release
        fault = metrics_fault(reply, request, vault.client_id, length=0 if release is None else release.length)
        if fault is not None:
            raise ProtocolError(f"The vault's reply is not for the wire: {fault}.")
        return _reply(message, reply)

    return app


def client_of(node_config: Mapping[str, object], workspace: Workspace) -> str:
    """The client that a node's own configuration names; never the run's, which the server writes.

    Raises ConfigError where it names none of the data set's.
    """
    name = node_config.get("client-id")
    if isinstance(name, str):
        return name
    row, ids = node_config.get("partition-id"), workspace.dataset.client_ids
    if not isinstance(row, int) or not 0 <= row < len(ids):
        raise ConfigError(
            f"Expected partition-id={row} in [0, {len(ids)}), or a client-id; set one in the node's configuration."
        )
    return ids[row]


def _is_deployment(context: Context) -> bool:
    return "client-id" in context.node_config


def _values(context: Context, run_config: Mapping[str, object]) -> dict[str, object]:
    """Where to look for `config` and `state-dir`: in a deployment the node's own words, and no others."""
    if _is_deployment(context):
        return dict(context.node_config)
    return {**context.run_config, **run_config, **context.node_config}


def _node_file(context: Context, name: str) -> Path | None:
    """A file that a real node's own configuration names; never one of the run's, which the server writes."""
    given = context.node_config.get(name) if _is_deployment(context) else None
    return Path(str(given)).expanduser() if given else None


def _request(kind: type[Kind], message: Message) -> Kind:
    records = message.content
    arrays, scalars = records.get(ARRAYS), records.get(SCALARS)
    if len(records) != 2 or not isinstance(arrays, ArrayRecord) or not isinstance(scalars, ConfigRecord):
        raise ProtocolError(f"Expected the records {ARRAYS} and {SCALARS} in a request, got {sorted(records)}.")
    return from_plain(kind, {name: array_from_npy(array.data) for name, array in arrays.items()}, dict(scalars))


def _reply(message: Message, content: TrainReply | EvaluateReply | Enrolment | SumReply) -> Message:
    """Arrays in the order of their names and C-ordered, so that the bytes' length depends on the model alone."""
    arrays, scalars = to_plain(content)
    record = ArrayRecord({name: _array(arrays[name]) for name in sorted(arrays)})
    return Message(RecordDict({ARRAYS: record, SCALARS: ConfigRecord(dict(scalars))}), reply_to=message)


def _array(values: np.ndarray) -> Array:
    return Array(str(values.dtype), values.shape, "numpy.ndarray", npy_from_array(values))


def _code_alone(code: Code, client: str, message: Message) -> TrainReply:
    """A reply that says nothing more, whatever was asked for; the round is the server's own number back."""
    scalars = message.content.get(SCALARS) if message.has_content() else None
    number = scalars.get("round_number") if isinstance(scalars, ConfigRecord) else None
    return TrainReply(
        code=code, client=client, round_number=number if type(number) is int else 0, update={}, epsilon=0.0
    )


def _write_down(context: Context, run_config: Mapping[str, object]) -> None:
    """The exception at hand, into the client's own file, readable by its owner alone.

    Not into the log: Flower may carry a log to the server. The line there is the same whatever happened.
    """
    text = traceback.format_exc().encode("utf-8", "backslashreplace")
    try:
        folder = places.state_dir(_values(context, run_config), run_id=context.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        with open(os.open(folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(text)
    except (OSError, ConfigError):  # a folder that can't be written, or is not named: its path is not for the server
        logger.error("The client could not answer, and could not write down why.")
        return
    logger.error("The client could not answer; %s in its state folder says why.", ERRORS)


app = make_app()
