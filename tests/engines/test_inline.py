"""At stake: runs that don't repeat, a killed run that ends elsewhere, exceptions that tell of private rows."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from client.workspace import make_workspace
from mmrank.errors import CheckpointError, ConfigError
from server.checkpoint import load_checkpoint, read_model
from simulations.engines.inline import CLIENT_ERROR, FIRST_NODE, InlineGrid, federate
from tests.federations import PRIVATE, small_settings, write_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def train(settings, folder, **options):
    reports = []
    config = write_config(settings, folder)
    model = federate(settings, config_path=config, state_dir=folder / "state", on_round=reports.append, **options)
    return model, reports


def same(left, right):
    return set(left) == set(right) and all(left[name].tobytes() == right[name].tobytes() for name in left)


MEASURED = {**PRIVATE, "metrics": {"noise_multiplier": 5.0, "every": 1}}


@pytest.mark.parametrize("privacy", [{}, PRIVATE, MEASURED], ids=["no_privacy", "dp_sgd", "measured"])
def test_a_federation_trains_and_repeats_bit_for_bit(tmp_path, cache, privacy):
    settings, clients = small_settings(cache, privacy=privacy), []
    model, reports = train(settings, tmp_path / "one", on_client=lambda done, total: clients.append((done, total)))
    assert [report.codes for report in reports] == [{"ok": 4}] * 3
    assert clients == [(1, 4), (2, 4), (3, 4), (4, 4)] * 3
    assert same(model, reports[-1].parameters)
    assert same(model, read_model(tmp_path / "one" / "state" / "model.safetensors"))
    assert not same(model, reports[0].parameters)
    assert (reports[-1].epsilon_max == float("inf")) == (not privacy)
    again, repeated = train(settings, tmp_path / "two")
    assert same(model, again)
    assert [report.measured for report in reports] == [report.measured for report in repeated]
    assert all((report.measured is not None) == ("metrics" in privacy) for report in reports)
    kept = [
        load_checkpoint(tmp_path / name / "state/checkpoint", config_sha256=settings.sha256) for name in ("one", "two")
    ]
    assert kept[0].heads == kept[1].heads, "a seeded ledger repeats"
    assert all((count > 0) == bool(privacy) for count, _ in kept[0].heads.values())
    stored = [(tmp_path / name / "state" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert stored[0] == stored[1]


def test_an_open_workspace_gives_the_same_model(tmp_path, cache):
    settings = small_settings(cache, privacy=PRIVATE)
    workspace = make_workspace(settings, state_dir=tmp_path / "given" / "state")
    assert same(train(settings, tmp_path / "given", workspace=workspace)[0], train(settings, tmp_path / "opened")[0])


def test_fedadam_and_fedprox_train(tmp_path, cache):
    models = [
        train(small_settings(cache, federation={"aggregation": rule}), tmp_path / rule["name"])[0]
        for rule in ({"name": "fedavg"}, {"name": "fedadam"}, {"name": "fedprox", "mu": 10.0})
    ]
    assert not same(models[0], models[1])
    assert not same(models[0], models[2])


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from simulations.engines.inline import federate
from tests.federations import PRIVATE, small_settings
settings = small_settings(Path({cache!r}), privacy=PRIVATE, federation={federation!r})
rounds = []
def told(done, total):
    print(f"round {{len(rounds) + 1}} client {{done}}", flush=True)
    if len(rounds) + 1 == 3 and done == 2:
        sys.stdin.read()  # stands still in the middle of round 3, until it is killed
federate(settings, config_path=Path({config!r}), state_dir=Path({state!r}), on_round=rounds.append, on_client=told)
"""


def test_a_run_killed_in_the_middle_ends_in_the_same_model_when_resumed(tmp_path, cache):
    federation = {"rounds": 5, "aggregation": {"name": "fedadam"}}
    settings = small_settings(cache, privacy=PRIVATE, federation=federation)
    straight = train(settings, tmp_path / "straight")[0]
    config, state = write_config(settings, tmp_path / "killed"), tmp_path / "killed" / "state"
    script = KILLED.format(
        root=str(ROOT), cache=str(cache), config=str(config), state=str(state), federation=federation
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    for line in process.stdout:
        if line.strip() == "round 3 client 2":
            os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (state / "model.safetensors").exists()
    resumed, reports = train(settings, tmp_path / "killed", resume=True)
    assert [report.round_number for report in reports] == [3, 4, 5]
    assert same(resumed, straight)
    spent = train(settings, tmp_path / "fresh")[1][-1]
    assert reports[-1].epsilon_max == spent.epsilon_max, "what was charged before the kill is not charged again"


def test_resuming_a_finished_run_returns_its_model(tmp_path, cache):
    settings = small_settings(cache)
    model = train(settings, tmp_path)[0]
    again, reports = train(settings, tmp_path, resume=True)
    assert same(again, model)
    assert not reports
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(settings, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to configuration"):
        train(small_settings(cache, seed=4), tmp_path, resume=True)


def test_a_file_with_other_settings_is_refused(tmp_path, cache):
    config = write_config(small_settings(cache, seed=9), tmp_path)
    with pytest.raises(ConfigError, match="write the resolved settings there first"):
        federate(small_settings(cache), config_path=config, state_dir=tmp_path / "state")


def test_spent_budgets_end_the_run_and_keep_its_model(tmp_path, cache):
    one_round = train(small_settings(cache, privacy=PRIVATE, federation={"rounds": 1}), tmp_path / "one")[1][
        0
    ].epsilon_max
    settings = small_settings(
        cache,
        privacy={**PRIVATE, "budget_epsilon": one_round * 1.001},
        federation={"rounds": 9, "cohort_size": 10},
    )
    model, reports = train(settings, tmp_path / "budget")
    assert [report.codes for report in reports] == [{"ok": 10}, {"exhausted": 10}]
    assert same(model, reports[0].parameters)


def test_a_hundred_thousand_registered_clients_are_asked_only_when_drawn(tmp_path, cache):
    settings = small_settings(
        cache, dataset={"devices": 100_000}, federation={"rounds": 2, "cohort_size": 3, "reply_timeout_seconds": 60.0}
    )
    workspace = make_workspace(settings, state_dir=tmp_path / "state")
    generated = []
    slates = workspace.dataset.slates
    object.__setattr__(
        workspace.dataset, "slates", lambda client, split: generated.append(client) or slates(client, split)
    )
    reports = train(settings, tmp_path, workspace=workspace)[1]
    assert [report.cohort_size for report in reports] == [3, 3]
    assert len(set(generated)) <= 6


def echo_app(seen):
    app = ClientApp()

    @app.query("name")
    def name(message, context):
        seen.append(context.node_config["partition-id"])
        reply = RecordDict(
            {"said": ConfigRecord({"node": context.node_id, "of": context.node_config["num-partitions"]})}
        )
        return Message(reply, reply_to=message)

    @app.train()
    def train(message, context):
        raise ValueError("row 17: Ada bought red shoes")

    return app


def test_the_grid_runs_a_client_when_its_reply_is_pulled():
    seen = []
    grid = InlineGrid(echo_app(seen), nodes=100_000, run_config={})
    assert len(grid.get_node_ids()) == 100_000
    ids = grid.push_messages(Message(RecordDict(), FIRST_NODE + row, "query.name") for row in (7, 99_999, 7))
    assert seen == []
    replies = iter(grid.pull_messages(ids))
    first = next(replies)
    assert seen == [7]
    assert first.metadata.reply_to_message_id == ids[0]
    assert dict(first.content["said"]) == {"node": FIRST_NODE + 7, "of": 100_000}
    assert [reply.metadata.src_node_id - FIRST_NODE for reply in replies] == [99_999, 7]
    assert list(grid.pull_messages(ids)) == []
    with pytest.raises(ValueError, match="Expected node 1 in"):
        grid.push_messages([Message(RecordDict(), 1, "query.name")])


def test_an_exception_in_any_client_app_becomes_a_code_without_its_text():
    grid = InlineGrid(echo_app([]), nodes=1, run_config={})
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "train", FIRST_NODE, "1")])
    assert reply.error == CLIENT_ERROR
    assert "Ada" not in repr(reply)


def test_updates_are_float32_arrays_of_the_models_shapes(tmp_path, cache):
    model, reports = train(small_settings(cache), tmp_path)
    assert all(array.dtype == np.float32 for array in model.values())
    assert reports[0].bytes_up == reports[0].bytes_down == 4 * sum(array.nbytes for array in model.values())
