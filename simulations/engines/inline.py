"""The inline engine: both Flower apps in this process, one message after the other, repeatable bit for bit.

A registered client is a number until it is asked: 100,000 of them make one dictionary of names, no nodes. The
server is given that dictionary, and enrols only the clients that it draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import make_app as make_client_app
from client.workspace import Workspace, open_workspace
from mmrank.errors import ConfigError
from mmrank.settings import Settings
from server.app import MODEL, read_settings
from server.app import make_app as make_server_app
from server.checkpoint import read_model
from server.rounds import OnClient, OnRound

RUN_ID = 1
SERVER_NODE = 1
FIRST_NODE = 2
"""Client i of the data set is node FIRST_NODE + i, in every run."""
CLIENT_ERROR = Error(2, "client app failed")
"""Flower's code for an exception in a ClientApp, without the exception's text."""

RunConfig = Mapping[str, str | int | float | bool]


def federate(
    settings: Settings,
    *,
    config_path: Path,
    state_dir: Path,
    on_round: OnRound | None = None,
    on_client: OnClient | None = None,
    resume: bool = False,
    workspace: Workspace | None = None,
) -> dict[str, np.ndarray]:
    """Train as `settings` say and return the model, float32 by name.

    config_path: the YAML file of the same settings, which both apps read. state_dir: checkpoint, model, and the
    clients' throwaway ledgers. on_client(done, total) follows the answers within a round.
    Raises ConfigError where the file holds other settings, and what server.rounds.run_rounds raises.
    """
    check_config(settings, config_path)
    run_config: dict[str, str | int | float | bool] = {
        "config": str(config_path),
        "state-dir": str(state_dir),
        "resume": resume,
    }
    workspace = workspace or open_workspace(config_path, state_dir)
    clients = workspace.dataset.client_ids
    if settings.privacy.distributed:
        _ = workspace.secure_keys  # the server reads the roster that they make
    grid = InlineGrid(make_client_app(workspace=workspace), nodes=len(clients), run_config=run_config)
    registry = {client: FIRST_NODE + row for row, client in enumerate(clients)}
    merchants = frozenset(client for client in clients if workspace.dataset.kind(client) == "merchant")
    server_app = make_server_app(
        on_round=on_round, on_client=on_client, registry=registry, merchants=merchants, simulation=True
    )
    server_app(grid, Context(RUN_ID, SERVER_NODE, {}, RecordDict(), dict(run_config)))
    return read_model(state_dir / MODEL)


def check_config(settings: Settings, config_path: Path) -> None:
    """ConfigError unless the file holds these settings: the apps read the file, the caller reports the settings."""
    stored = read_settings(config_path).sha256
    if stored != settings.sha256:
        raise ConfigError(
            f"Expected {config_path} to hold the settings of this run (sha256 {settings.sha256}), it holds {stored}; "
            "write the resolved settings there first."
        )


class InlineGrid(Grid):
    """A Grid that calls the ClientApp when a reply is pulled, in the order in which the messages were pushed.

    Replies are made one at a time: whoever iterates over pull_messages need not hold them all.
    Each message meets a fresh Context; its state is not kept, and mmrank's ClientApp keeps nothing there.
    """

    def __init__(self, client_app: ClientApp, *, nodes: int, run_config: RunConfig, run_id: int = RUN_ID) -> None:
        self._client_app = client_app
        self._nodes = nodes
        self._run_config = dict(run_config)
        self._sent = 0
        self._queue: dict[str, Message] = {}
        self.set_run(Run.create_empty(run_id))

    def set_run(self, run: Run) -> None:
        """Set the run, and the identity that flwr stamps on every Message made in this process."""
        self._run = run
        # flwr 1.41 has no public way: outside its own runtimes a Message can't be made without these.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run.run_id, 1, SERVER_NODE

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node, by client order."""
        return range(FIRST_NODE, FIRST_NODE + self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue them; nothing runs yet."""
        ids = []
        for message in messages:
            if not FIRST_NODE <= message.metadata.dst_node_id < FIRST_NODE + self._nodes:
                raise ValueError(
                    f"Expected node {message.metadata.dst_node_id} in [{FIRST_NODE}, {FIRST_NODE + self._nodes})."
                )
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)  # as flwr's own grids do: there is no setter
            self._queue[str(self._sent)] = message
            ids.append(str(self._sent))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Run the ClientApp for each of these messages and yield its reply."""
        for message_id in sorted(message_ids, key=int):
            message = self._queue.pop(message_id, None)
            if message is not None:
                yield self._answer(message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull; `timeout` does not apply, since nothing waits."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(
            run_id=self._run.run_id,
            node_id=node,
            node_config={"partition-id": node - FIRST_NODE, "num-partitions": self._nodes},
            state=RecordDict(),
            run_config=dict(self._run_config),
        )
        try:
            reply = self._client_app(message, context)
        # What a network does: an app that breaks, in whatever way, is an error code to the other end.
        except Exception:
            reply = Message(CLIENT_ERROR, reply_to=message)
        return reply
