"""A federation of eight devices under distributed noise, of the real apps, with nodes that break where a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from client.app import make_app as make_client_app
from client.workspace import make_workspace
from mmrank.protocol import SumReply, SumRequest
from mmrank.settings import Settings
from mmrank.wire import ARRAYS, SCALARS, array_from_npy, from_plain
from server.app import MODEL
from server.app import make_app as make_server_app
from server.checkpoint import read_model
from simulations.engines.inline import FIRST_NODE, InlineGrid
from tests.federations import small_settings, write_config

DISTRIBUTED = {
    "mechanism": "client_update",
    "unit": "client",
    "noise_at": "distributed",
    "noise": "seeded",
    "noise_multiplier": 1.0,
    "sampling_rate": 1.0,
    "max_grad_norm": 0.5,
    "delta": 1e-5,
    "secure_threshold": 5,
}
Lost = Mapping[tuple[int, str], Collection[int]]
"""(round, step) -> the devices whose node breaks there, before it is asked or, where the step is `mask`, after."""


def settings_of(cache: Path, *, federation: Mapping[str, object] | None = None, **privacy: object) -> Settings:
    return small_settings(
        cache,
        privacy={**DISTRIBUTED, **privacy},
        dataset={"clients": "devices"},
        federation={"rounds": 2, "cohort_size": 8, **(federation or {})},
    )


class Federation:
    """The apps over an inline grid. sent: each (request, reply) of a secure sum that reached the server, in order."""

    def __init__(
        self, settings: Settings, folder: Path, lost: Lost | None = None, before: Callable[[str], None] | None = None
    ) -> None:
        self.settings, self.folder, self.lost, self.before = settings, folder, dict(lost or {}), before
        self.config = write_config(settings, folder)
        self.state_dir = folder / "state"
        self.workspace = make_workspace(settings, state_dir=self.state_dir)
        self.clients = list(self.workspace.dataset.client_ids)
        self.keys = self.workspace.secure_keys
        self.app = make_client_app(workspace=self.workspace)
        self.sent: list[tuple[SumRequest, SumReply]] = []
        self.reports: list = []
        self.reversed = False

    def train(self, *, resume: bool = False):
        run_config = {"config": str(self.config), "state-dir": str(self.state_dir), "resume": resume}
        grid = InlineGrid(self._answer, nodes=len(self.clients), run_config=run_config)
        if self.reversed:
            push = grid.push_messages
            grid.push_messages = lambda messages: push(list(messages)[::-1])
        server = make_server_app(
            on_round=self.reports.append,
            registry={client: FIRST_NODE + row for row, client in enumerate(self.clients)},
            simulation=True,
        )
        server(grid, Context(1, 1, {}, RecordDict(), dict(run_config)))
        return read_model(self.state_dir / MODEL)

    def epsilons(self) -> dict[str, float]:
        ledger, policy = self.workspace.ledger, self.workspace.policy
        identity = self.workspace.dataset.data_identity
        return {client: ledger.account(identity(client), policy).epsilon() for client in self.clients}

    def _answer(self, message: Message, context: Context) -> Message:
        scalars = message.content.get(SCALARS, {})
        step, number = scalars.get("step", ""), scalars.get("round_number", 0)
        if self.before is not None and step:
            self.before(f"{number} {step} {context.node_config['partition-id']}")
        broken = context.node_config["partition-id"] in self.lost.get((number, step), ())
        if broken and step != "mask":
            raise ConnectionError("the node is gone")
        reply = self.app(message, context)
        if broken:
            raise ConnectionError("the node is gone, its vector computed and charged")
        if step and "step" in reply.content[SCALARS]:
            self.sent.append((read(SumRequest, message), read(SumReply, reply)))
        return reply


def read(kind, message: Message):
    arrays = {name: array_from_npy(array.data) for name, array in message.content[ARRAYS].items()}
    return from_plain(kind, arrays, dict(message.content[SCALARS]))
