"""At stake: a node that lies, stays away or joins late must cost the federation neither its run nor another's name."""

import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from mmrank import places
from mmrank.errors import ConfigError, ProtocolError
from mmrank.protocol import VERSION, Enrolment, TrainReply, TrainRequest
from mmrank.settings import parse
from mmrank.wire import ARRAYS, SCALARS, to_plain
from server.app import GridMessenger, read_settings
from simulations.engines.inline import FIRST_NODE, InlineGrid

SETTINGS = parse({"federation": {"reply_timeout_seconds": 3.0}})
REQUEST = TrainRequest(run="r", round_number=1, config_sha256="c", parameters={"w": np.ones(2, np.float32)})


def content_of(message):
    arrays, scalars = to_plain(message)
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return RecordDict({ARRAYS: record, SCALARS: ConfigRecord(dict(scalars))})


def enrolment(name, version=VERSION):
    return content_of(
        Enrolment(
            client=name,
            kind="device",
            mechanism="dp_sgd",
            unit="slate",
            delta=1e-6,
            budget_epsilon=2.0,
            version=version,
        )
    )


def answer(name, **fields):
    values = {"code": "ok", "client": name, "round_number": 1, "update": REQUEST.parameters, "epsilon": 1.0, **fields}
    return content_of(TrainReply(**values))


class Nodes(InlineGrid):
    """Nodes that answer with what the test says; None stays silent, an exception breaks the node's app."""

    def __init__(self, enrolments, answers=()):
        self.enrolments, self.answers = list(enrolments), dict(enumerate(answers))
        self.asked = []
        app = ClientApp()

        @app.query("enrol")
        def enrol(message, context):
            row = context.node_config["partition-id"]
            self.asked.append(row)
            return self.reply(self.enrolments[row], message)

        @app.train()
        def train(message, context):
            return self.reply(self.answers[context.node_config["partition-id"]], message)

        super().__init__(app, nodes=len(self.enrolments), run_config={})

    def reply(self, content, message):
        if isinstance(content, Exception):
            raise content
        return Message(content, reply_to=message)

    def pull_messages(self, message_ids):
        silent = {
            FIRST_NODE + row
            for contents in (dict(enumerate(self.enrolments)), self.answers)
            for row, content in contents.items()
            if content is None
        }
        heard = [i for i in message_ids if i in self._queue and self._queue[i].metadata.dst_node_id not in silent]
        return super().pull_messages(heard)


def test_every_node_is_asked_once_who_it_is():
    grid = Nodes([enrolment("b"), enrolment("a")])
    messenger = GridMessenger(grid, settings=SETTINGS)
    assert sorted(messenger.clients(1)) == sorted(messenger.clients(1)) == ["a", "b"]
    assert sorted(grid.asked) == [0, 1]


def test_a_node_that_joins_later_is_asked_then():
    grid = Nodes([enrolment("a")])
    messenger = GridMessenger(grid, settings=SETTINGS)
    assert messenger.clients(1) == ["a"]
    grid.enrolments.append(enrolment("b"))
    grid._nodes = 2
    assert sorted(messenger.clients(2)) == ["a", "b"]
    grid._nodes = 1
    assert messenger.clients(1) == ["a"], "who has gone is not asked"


def test_nodes_that_can_not_take_part_are_left_out_with_a_reason(caplog):
    unreadable = content_of(REQUEST)
    grid = Nodes([enrolment("a"), ValueError("row 17: Ada"), unreadable, enrolment("old", version=0)])
    with caplog.at_level(logging.WARNING):
        assert GridMessenger(grid, settings=SETTINGS).clients(1) == ["a"]
    assert "Node 3 can't take part: its node answered with Flower's error 2" in caplog.text
    assert "Node 4 can't take part: Expected the fields" in caplog.text
    assert f"Node 5 speaks protocol 0, not {VERSION}" in caplog.text
    assert "Ada" not in caplog.text


def test_a_name_belongs_to_who_came_first_while_it_is_there(caplog):
    grid = Nodes([enrolment("a"), enrolment("a")], answers=[answer("a"), answer("a", epsilon=9.0)])
    messenger = GridMessenger(grid, settings=SETTINGS)
    with caplog.at_level(logging.WARNING):
        assert messenger.clients(1) == ["a"]
    assert "Node 3 says that it is a, who is there already" in caplog.text
    ((client, reply),) = messenger.exchange(["a"], REQUEST, 3.0)
    assert (client, reply.epsilon) == ("a", 1.0)
    grid.get_node_ids = lambda: [FIRST_NODE + 1]
    assert messenger.clients(1) == ["a"]
    ((client, reply),) = messenger.exchange(["a"], REQUEST, 3.0)
    assert (client, reply.epsilon) == ("a", 9.0), "a client that came back on another node takes its name again"


def test_a_silent_node_does_not_hold_the_others_up():
    grid = Nodes([enrolment("a"), enrolment("b"), None], answers=[answer("a"), None])
    messenger = GridMessenger(grid, settings=SETTINGS)
    assert sorted(messenger.clients(1)) == ["a"]


def test_too_few_nodes_are_waited_for_no_longer_than_the_time_out():
    assert GridMessenger(Nodes([]), settings=SETTINGS).clients(1) == []


def test_answers_that_can_not_be_read_are_said_to_be_so():
    replies = [
        answer("a"),
        ValueError("row 17: Ada"),
        RecordDict({"metrics": ConfigRecord({"loss": 0.5})}),
        RecordDict({**answer("d"), "metrics": ConfigRecord({"loss": 0.5})}),
        answer("e"),
    ]
    replies[4][ARRAYS] = ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"rubbish")})
    names = list("abcde")
    grid = Nodes([enrolment(name) for name in names], replies)
    messenger = GridMessenger(grid, settings=SETTINGS)
    messenger.clients(5)
    results = dict(messenger.exchange(names, REQUEST, 3.0))
    assert results.pop("a").code == "ok"
    assert all(isinstance(result, ProtocolError) for result in results.values())
    assert set(results) == set("bcde")
    assert "Ada" not in str(results)


def test_an_exchange_ends_with_its_time_out():
    grid = Nodes([enrolment("a"), enrolment("b")], answers=[answer("a")])
    messenger = GridMessenger(grid, settings=SETTINGS)
    messenger.clients(2)
    grid.answers[1] = None
    assert [client for client, _ in messenger.exchange(["a", "b"], REQUEST, 0.5)] == ["a"]


def test_with_a_registry_only_who_is_asked_enrols():
    grid = Nodes([enrolment(f"client-{i}") for i in range(50)], [answer(f"client-{i}") for i in range(50)])
    grid.enrolments[7] = enrolment("another")
    registry = {f"client-{i}": FIRST_NODE + i for i in range(50)}
    messenger = GridMessenger(grid, settings=SETTINGS, registry=registry)
    assert messenger.clients(1) == list(registry)
    for _ in range(2):
        results = dict(messenger.exchange(["client-3", "client-7"], REQUEST, 3.0))
        assert results["client-3"].code == "ok"
        assert "did not enrol under that name" in str(results["client-7"])
    assert set(grid.asked) == {3, 7}
    assert grid.asked.count(3) == 1


def test_each_node_gets_a_record_of_its_own():
    """What one client writes into its copy of the request must not reach the next."""
    seen = []
    grid = Nodes([enrolment("a"), enrolment("b")], answers=[answer("a"), answer("b")])

    def greedy(content, message):
        if ARRAYS in message.content:
            seen.append((dict(message.content[SCALARS]), list(message.content[ARRAYS])))
            message.content[SCALARS]["run"] = "stolen"
            del message.content[ARRAYS]["w"]
        return Message(content, reply_to=message)

    grid.reply = greedy
    messenger = GridMessenger(grid, settings=SETTINGS)
    list(messenger.exchange(messenger.clients(2), REQUEST, 3.0))
    assert seen[0] == seen[1]


def test_settings_that_are_no_yaml_name_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("seed: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not YAML"):
        read_settings(path)
    path.write_text("seed: 4")
    assert read_settings(path).seed == 4


def test_a_relative_configuration_is_found_here_or_beside_the_apps(tmp_path, monkeypatch):
    beside = tmp_path / "bundle"
    (beside / "configs").mkdir(parents=True)
    (beside / "configs" / "a.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / "configs" / name).write_text("")
    assert places.config_path({"config": "configs/a.yaml"}, beside=beside) == beside / "configs" / "a.yaml"
    assert places.config_path({"config": "configs/b.yaml"}, beside=beside) == tmp_path / "configs" / "b.yaml"
    with pytest.raises(ConfigError, match=r"config='b\.yaml' to be a file, in .*bundle or here; pass its path"):
        places.config_path({"config": "b.yaml"}, beside=beside)
    with pytest.raises(ConfigError, match="config='.'"):
        places.config_path({}, beside=beside)


def test_a_run_without_a_state_folder_gets_one_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.state_dir({"state-dir": ""}, run_id=17) == tmp_path / ".local/state/mmrank/runs/17"
    assert places.state_dir({"state-dir": "~/x"}, run_id=17) == tmp_path / "x"
    assert places.state_dir({"state-dir": "/y"}, run_id=17) == Path("/y")
