"""At stake: the promise that nothing but privatised updates, codes and public totals ever leaves a client."""

import dataclasses
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from client.app import ERRORS, make_app
from client.vault import Vault
from client.workspace import make_workspace
from mmrank.errors import DatasetError, ProtocolError
from mmrank.features import build_features
from mmrank.protocol import METRIC_SUM, Enrolment, EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from mmrank.wire import (
    ARRAYS,
    SCALARS,
    array_from_npy,
    from_plain,
    input_hash,
    metrics_fault,
    npy_from_array,
    reply_fault,
    scalar_fields,
    to_plain,
)
from simulations.engines.inline import FIRST_NODE, InlineGrid
from tests.federations import PRIVATE, small_settings
from tests.wire_check import leaks, outline

SECRET = "Ada bought red shoes"


class Changed:
    """A data set in which one client's training slates are replaced: by none, fewer, or an exception."""

    def __init__(self, dataset, client, change, parts=("train", "validation", "test")):
        self._dataset, self._client, self._change, self._parts = dataset, client, change, parts

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def slates(self, client, split):
        slates = self._dataset.slates(client, split)
        return self._change(slates) if client == self._client and split in self._parts else slates


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


class Wire:
    """Client apps over a shop, and everything that they sent: (asked, reply, client)."""

    def __init__(
        self, folder, cache, privacy, change=None, client="merchant-0", parts=("train", "validation", "test"), **changes
    ):
        self.settings = small_settings(cache, privacy=privacy, **changes)
        workspace = make_workspace(self.settings, state_dir=folder)
        if change is not None:
            workspace = replace(workspace, dataset=Changed(workspace.dataset, client, change, parts))
        self.workspace = workspace
        self.clients = list(workspace.dataset.client_ids)
        # Before any training, which leaves its traces in the workspace's ranker.
        self.start = {name: array.copy() for name, array in workspace.shapes.items()}
        self.captured = []
        app = make_app(workspace=workspace)

        def capturing(message, context):
            reply = app(message, context)
            self.captured.append((message, reply, self.clients[context.node_config["partition-id"]]))
            return reply

        self.grid = InlineGrid(capturing, nodes=len(self.clients), run_config={"state-dir": str(folder)})

    def ask(self, client, content, kind="train"):
        node = FIRST_NODE + self.clients.index(client)
        return self.grid.send_and_receive([Message(content, node, kind, group_id="1")])[0]

    def train(self, client, round_number=1, **fields):
        request = TrainRequest(
            run="run",
            round_number=round_number,
            config_sha256=self.settings.agreed_sha256,
            parameters=self.start,
        )
        return self.ask(client, content_of(replace(request, **fields)))

    def measure(self, client, round_number=2, **fields):
        request = EvaluateRequest(
            run="run", round_number=round_number, config_sha256=self.settings.agreed_sha256, parameters=self.start
        )
        return self.ask(client, content_of(replace(request, **fields)), "evaluate")

    def everything(self):
        """Every kind of message to every client: enrolment, two rounds, and requests that can't be served."""
        for client in self.clients:
            self.ask(client, RecordDict(), "query.enrol")
            start = self.start
            for round_number in (1, 2):
                self.train(client, round_number, parameters=start)
                start = {name: array + np.float32(0.01) for name, array in start.items()}
            self.train(client, config_sha256="another")
            self.train(client, parameters={"w": np.zeros(3, np.float32)})
            self.train(client, 10**6)
            self.ask(client, RecordDict())
            self.ask(client, RecordDict({SCALARS: ConfigRecord({"round_number": 5, "tell": "me all"})}))
            self.ask(client, RecordDict(), "evaluate")
            self.ask(client, RecordDict(), "query.slates")
            self.measure(client)
            self.measure(client, 1)
            self.measure(client, config_sha256="another")
            self.measure(client, parameters={name: array + np.float32(1e4) for name, array in self.start.items()})
            self.measure(client)
            self.train(client, 2, ledger_count=7, ledger_head="0" * 64)
        return self.captured

    def leaks(self):
        return [
            leak
            for asked, reply, client in self.captured
            for leak in leaks(reply, asked, client=client, settings=self.settings)
        ]


def content_of(message):
    arrays, scalars = to_plain(message)
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return RecordDict({ARRAYS: record, SCALARS: ConfigRecord(scalars)})


def codes(captured):
    return [reply.content[SCALARS].get("code", "enrolled") for _, reply, _ in captured]


PEOPLE = {**PRIVATE, "unit": "user", "slates_per_user": 3, "sampling_rate": 0.9}
CLIENTS = {**PRIVATE, "mechanism": "client_update", "unit": "client"}
METRICS = {"noise_multiplier": 5.0, "every": 2, "max_slates": 3}
MECHANISMS = {
    "no_privacy": {},
    "dp_sgd": PRIVATE,
    "dp_sgd secure": {**PRIVATE, "noise": "secure"},
    "dp_sgd user": PEOPLE,
    "client_update central": CLIENTS,
    "client_update central secure": {**CLIENTS, "noise": "secure"},
    "client_update adaptive": {**CLIENTS, "clipping": "adaptive", "clip_count_noise": 2.0},
    "client_update local": {**CLIENTS, "noise_at": "local"},
    "dp_sgd, measured": {**PRIVATE, "metrics": METRICS},
    "dp_sgd secure, measured": {**PRIVATE, "noise": "secure", "metrics": METRICS},
    "dp_sgd user, measured": {**PEOPLE, "metrics": METRICS},
    "client_update local, measured": {**CLIENTS, "noise_at": "local", "metrics": METRICS},
}


def shop_for(privacy):
    """A client of one person is a device."""
    return {"clients": "devices"} if privacy.get("unit") == "client" else {}


@pytest.mark.parametrize("privacy", MECHANISMS.values(), ids=MECHANISMS)
def test_nothing_outside_the_protocols_list_is_sent(tmp_path, cache, privacy):
    wire = Wire(tmp_path, cache, privacy, dataset=shop_for(privacy))
    captured = wire.everything()
    assert len(captured) == 16 * len(wire.clients)
    assert wire.leaks() == []
    expected = ["enrolled", "ok", "ok", "config_mismatch", *["bad_request"] * 5, "failed"]
    answer = "ok" if "metrics" in privacy else "bad_request"
    expected += [answer, "bad_request", "config_mismatch", "bad_request", answer]
    # a copy of a ledger shows when it is to be charged
    again = "refused" if privacy else "ok"
    expected.append(again)
    assert codes(captured) == expected * len(wire.clients)


def one_less(slates):
    return slates[:-1]


def none_at_all(slates):
    return []


@pytest.mark.parametrize("change", [one_less, none_at_all])
@pytest.mark.parametrize(
    ("client", "privacy"),
    [
        ("merchant-0", PRIVATE),
        ("device-000003", PRIVATE),
        ("merchant-0", PEOPLE),
        ("device-000003", MECHANISMS["client_update central"]),
        ("device-000003", MECHANISMS["client_update adaptive"]),
        ("device-000003", MECHANISMS["client_update local"]),
        ("merchant-0", MECHANISMS["dp_sgd, measured"]),
        ("merchant-0", MECHANISMS["dp_sgd user, measured"]),
        ("device-000003", MECHANISMS["client_update local, measured"]),
    ],
    ids=["slate, merchant", "slate, device", "user", "central", "adaptive", "local", "slate+", "user+", "local+"],
)
def test_neighbouring_data_show_in_the_privatised_arrays_alone(tmp_path, cache, change, client, privacy, caplog):
    seen = {}
    for name, changed in (("as it was", None), ("neighbour", change)):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            wire = Wire(tmp_path / name, cache, privacy, changed, client, dataset=shop_for(privacy))
            captured = wire.everything()
        lines = [record.getMessage() for record in caplog.records]
        seen[name] = captured, lines
        assert wire.leaks() == []
    (before, lines_before), (after, lines_after) = seen.values()
    assert [outline(reply) for _, reply, _ in before] == [outline(reply) for _, reply, _ in after]
    assert lines_before == lines_after
    moved = [
        client_of
        for (_, one, client_of), (_, other, _) in zip(before, after, strict=True)
        if bytes_of(one) != bytes_of(other)
    ]
    assert set(moved) <= {client}
    released = [array for _, reply, _ in before for array in reply.content[ARRAYS] if array == METRIC_SUM]
    assert len(released) == (2 * len(wire.clients) if "metrics" in privacy else 0)
    assert moved, "the slates that were left out trained the model before"


def bytes_of(reply):
    return [array.data for array in reply.content[ARRAYS].values()]


def test_a_client_without_data_answers_as_any_other(tmp_path, cache):
    wire = Wire(tmp_path, cache, PRIVATE, none_at_all, "device-000001")
    empty, other = (outline(wire.train(client)) for client in ("device-000001", "device-000002"))
    scalars = [outlined.pop("scalars") for outlined in (empty, other)]
    heads = [said.pop("ledger_head") for said in scalars]
    assert len(heads[0]) == len(heads[1])
    assert scalars[0] == {**scalars[1], "client": "device-000001"}
    assert empty == other
    _, reply, _ = wire.captured[0]
    update = np.concatenate([array.numpy().ravel() for array in reply.content[ARRAYS].values()])
    # on the grid of released sums a step of a parameter is 0 once in a hundred times
    assert np.count_nonzero(update) > 0.9 * update.size, "noise, not absence"


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_measures_of_a_client_without_data_are_noise_as_any_others(tmp_path, cache, noise):
    privacy = {**PRIVATE, "noise": noise, "metrics": METRICS}
    wire = Wire(tmp_path, cache, privacy, none_at_all, "device-000001")
    clients = ("device-000001", "device-000002", "merchant-0")
    replies = [wire.measure(client) for client in clients]
    moved = {name: array + np.float32(0.01) for name, array in wire.start.items()}
    told = [replies[0], wire.measure(clients[0], parameters=moved)]
    assert wire.leaks() == []
    shapes = []
    for client, reply in zip(clients, replies, strict=True):
        said = outline(reply)
        scalars = said.pop("scalars")
        assert scalars.pop("client") == client
        assert len(scalars.pop("ledger_head")) == 64
        shapes.append((said | {"bytes": said["bytes"] - len(client)}, scalars))
    assert shapes[0] == shapes[1] == shapes[2]
    sums = [array.numpy() for reply in told for array in reply.content[ARRAYS].values()]
    assert [array.size for array in sums] == [wire.workspace.release.length] * 2
    assert np.any(sums), "noise, not absence; each value is 0 on its grid once in a hundred draws"


def test_measures_alone_move_with_the_slates_that_are_measured(tmp_path, cache):
    """Training reads other slates: had a neighbour in validation moved an update, the wrong part would be charged."""
    wires = [
        Wire(
            tmp_path / str(change), cache, {**PRIVATE, "metrics": METRICS}, change, "merchant-0", parts=("validation",)
        )
        for change in (None, one_less)
    ]
    updates, sums = ([bytes_of(getattr(wire, kind)("merchant-0")) for wire in wires] for kind in ("train", "measure"))
    assert updates[0] == updates[1]
    assert sums[0] != sums[1]
    assert bytes_of(wires[0].measure("merchant-0")) == sums[0], "asked again, the same bytes"


def test_a_ledgers_head_tells_nothing_of_the_data(tmp_path, cache):
    """In a simulation it repeats, whatever the slates are; a ledger that lasts has a secret salt, so nobody can try."""

    def heads(name, change, ledger="throwaway"):
        wire = Wire(tmp_path / name, cache, {**PRIVATE, "ledger": ledger}, change)
        return [wire.train("merchant-0", number).content[SCALARS]["ledger_head"] for number in (1, 2)]

    assert heads("a", None) == heads("b", none_at_all)
    assert len(set(heads("c", None))) == 2
    assert not set(heads("d", None, str(tmp_path / "d.sqlite"))) & set(heads("e", None, str(tmp_path / "e.sqlite")))


def broken(slates):
    raise DatasetError(f"row 17: {SECRET}")


def test_an_exceptions_text_stays_at_home(tmp_path, cache, caplog, capfd):
    wire = Wire(tmp_path, cache, PRIVATE, broken, "merchant-0")
    with caplog.at_level(logging.DEBUG):
        reply = wire.train("merchant-0")
    nothing = {"epsilon": 0.0, "ledger_count": 0, "ledger_head": ""}
    assert dict(reply.content[SCALARS]) == {"code": "failed", "client": "", "round_number": 1, **nothing}
    assert wire.leaks() == []
    assert SECRET not in caplog.text + repr(vars(reply)) + "".join(capfd.readouterr())
    assert SECRET in (tmp_path / ERRORS).read_text()
    assert (tmp_path / ERRORS).stat().st_mode & 0o077 == 0
    assert codes([(None, wire.train("merchant-1"), None)]) == ["ok"]


def test_a_node_that_names_no_client_says_failed(tmp_path, cache):
    wire = Wire(tmp_path, cache, {})
    app = make_app(workspace=wire.workspace)
    for node_config in ({}, {"partition-id": 10}, {"partition-id": -1}, {"partition-id": "merchant-0"}):
        context = Context(1, 2, node_config, RecordDict(), {"state-dir": str(tmp_path), "client-id": "merchant-0"})
        reply = app(Message(RecordDict(), 2, "query.enrol"), context)
        assert reply.content[SCALARS]["code"] == "failed"
    context = Context(1, 2, {"client-id": "merchant-1"}, RecordDict(), {"state-dir": str(tmp_path)})
    assert app(Message(RecordDict(), 2, "query.enrol"), context).content[SCALARS]["client"] == "merchant-1"


def test_the_app_refuses_to_send_what_is_no_reply(tmp_path, cache, monkeypatch):
    """A vault that is wrong is stopped at the door: this is the one thing that the real vault can't be made to do."""
    wire, train = Wire(tmp_path, cache, {}), Vault.train

    def with_a_count(vault, request):
        reply = train(vault, request)
        return replace(reply, update={**reply.update, "slates": np.ones(1, np.float32)})

    monkeypatch.setattr(Vault, "train", with_a_count)
    assert wire.train("merchant-0").content[SCALARS]["code"] == "failed"
    assert wire.leaks() == []


def planted(reply, change):
    content = RecordDict(dict(reply.content.items()))
    change(content)
    forged = Message(content, reply_to=reply)
    for name, value in vars(reply).items():
        forged.__dict__[name] = value
    forged.__dict__["_content"] = content
    return forged


def scalar(**fields):
    def change(content):
        content[SCALARS] = ConfigRecord({**content[SCALARS], **fields})

    return change


def without(name):
    def change(content):
        content[SCALARS] = ConfigRecord({key: value for key, value in content[SCALARS].items() if key != name})

    return change


def array(name, value):
    def change(content):
        content[ARRAYS] = ArrayRecord({**content[ARRAYS], name: value})

    return change


def record(content):
    content["metrics"] = ConfigRecord({"loss": 0.5})


def hidden_bytes(content):
    name = next(iter(content[ARRAYS]))
    kept = content[ARRAYS][name]
    array(name, Array(kept.dtype, kept.shape, kept.stype, kept.data + SECRET.encode()))(content)


def hidden_header(content):
    name = next(iter(content[ARRAYS]))
    kept = content[ARRAYS][name]
    array(name, Array(kept.dtype, kept.shape, kept.stype, kept.data.replace(b"   ", b" 17", 1)))(content)


LEAKS = {
    "a behaviour field": (scalar(clicks=3), "it has the field clicks"),
    "a count": (scalar(num_examples=17), "it has the field num_examples"),
    "a count as an array": (array("count", Array(np.ones(1, np.float32))), "it has the array count"),
    "an exception's text as a code": (scalar(code=f"DatasetError: {SECRET}"), "code is not the protocol's"),
    "an exception's text as a name": (scalar(client=SECRET), "client is not the one"),
    "a number in the round": (scalar(round_number=17), "round is not the request's"),
    "a word for a number": (scalar(epsilon="3 slates"), "epsilon is of type str"),
    "a list for a number": (scalar(epsilon=[0.5, 17.0]), "epsilon is of type list"),
    "no epsilon": (without("epsilon"), "lacks the field epsilon"),
    "a record more": (record, "has the records"),
    "bytes behind the numbers": (hidden_bytes, "carries bytes beside the numbers"),
    "bytes in the header": (hidden_header, "carries bytes beside the numbers"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_planted_leak_is_found(tmp_path, cache, kind):
    change, sentence = LEAKS[kind]
    wire = Wire(tmp_path, cache, {})
    wire.train("merchant-0")
    ((asked, reply, client),) = wire.captured
    assert leaks(planted(reply, lambda content: None), asked, client=client, settings=wire.settings) == []
    found = leaks(planted(reply, change), asked, client=client, settings=wire.settings)
    assert any(sentence in leak for leak in found), found


def test_flowers_own_errors_and_envelopes_are_found(tmp_path, cache):
    wire = Wire(tmp_path, cache, {})
    wire.ask("merchant-0", RecordDict(), "query.enrol")
    ((asked, reply, client),) = wire.captured
    told = planted(reply, scalar(delta=0.5))
    assert leaks(told, asked, client=client, settings=wire.settings) == ["its delta is not the public setting"]
    error = Message(Error(2, f"DatasetError: {SECRET}"), reply_to=asked)
    assert "Flower's errors" in leaks(error, asked, client=client, settings=wire.settings)[0]
    reply.metadata.__dict__["_slates"] = 17
    reply.metadata.group_id = SECRET
    found = leaks(reply, asked, client=client, settings=wire.settings)
    assert set(found) == {"its metadata has _slates", "its group_id is not the request's"}


REPLY = TrainReply(code="ok", client="a", round_number=2, update={"w": np.ones(2, np.float32)}, epsilon=math.inf)
ENROLMENT = Enrolment(client="a", kind="device", mechanism="dp_sgd", unit="slate", delta=1e-6, budget_epsilon=2.0)
REQUEST = TrainRequest(run="r", round_number=2, config_sha256="c", parameters={"w": np.ones(2, np.float32)})


MEASURES = EvaluateReply(
    code="ok", client="a", round_number=2, metrics={METRIC_SUM: np.ones(3, np.float32)}, epsilon=1.0,
    ledger_count=3, ledger_head="0f" * 32,
)  # fmt: skip
MEASURE = EvaluateRequest(run="r", round_number=2, config_sha256="c", parameters={"w": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    "message", [REPLY, ENROLMENT, REQUEST, MEASURES, MEASURE], ids=lambda message: type(message).__name__
)
def test_messages_come_back_from_plain_values(message):
    arrays, scalars = to_plain(message)
    back = from_plain(type(message), arrays, scalars)
    for item in dataclasses.fields(message):
        np.testing.assert_equal(getattr(back, item.name), getattr(message, item.name))
    for name in scalars:
        with pytest.raises(ProtocolError, match="missing or unknown"):
            from_plain(type(message), arrays, {key: scalars[key] for key in scalars if key != name})
        with pytest.raises(ProtocolError, match=f"Expected {name} of a"):
            from_plain(type(message), arrays, {**scalars, name: [scalars[name]]})
    with pytest.raises(ProtocolError, match="missing or unknown"):
        from_plain(type(message), arrays, {**scalars, "clicks": 3})


def test_values_of_the_wrong_kind_are_no_messages():
    arrays, scalars = to_plain(REPLY)
    with pytest.raises(ProtocolError, match="reply code 'fine'"):
        from_plain(TrainReply, arrays, {**scalars, "code": "fine"})
    with pytest.raises(ProtocolError, match="round_number of a TrainReply as int, not bool"):
        from_plain(TrainReply, arrays, {**scalars, "round_number": True})
    _, scalars = to_plain(ENROLMENT)
    with pytest.raises(ProtocolError, match="merchant or device"):
        from_plain(Enrolment, {}, {**scalars, "kind": "spy"})
    with pytest.raises(ProtocolError, match="no arrays"):
        from_plain(Enrolment, arrays, scalars)
    assert set(scalar_fields(Enrolment)) == {item.name for item in dataclasses.fields(Enrolment)}


def test_a_reply_answers_its_request():
    assert reply_fault(REPLY, REQUEST, "a") is None
    assert "names client 'a'" in reply_fault(REPLY, REQUEST, "b")
    assert "epsilon=-1.0" in reply_fault(replace(REPLY, epsilon=-1.0), REQUEST, "a")
    assert reply_fault(replace(REPLY, code="failed", client="", update={}), REQUEST, "a") is None
    assert "names client ''" in reply_fault(replace(REPLY, client=""), REQUEST, "a")
    for head in ({"ledger_count": -1}, {"ledger_count": 1}, {"ledger_head": "0" * 64}, {"ledger_head": "Ada bought"}):
        assert "no head of a ledger" in reply_fault(replace(REPLY, **head), REQUEST, "a")


def test_measures_answer_their_request():
    def fault(**fields):
        return metrics_fault(replace(MEASURES, **fields), MEASURE, "a", length=3)

    assert fault() is None
    assert fault(code="failed", client="", metrics={}) is None
    assert "names client 'b'" in fault(client="b")
    assert "no head of a ledger" in fault(ledger_count=0)
    assert "with a code other than ok" in fault(code="exhausted")
    assert "missing or unknown" in fault(metrics={})
    for wrong in (np.ones(4, np.float32), np.ones(3), np.array([1, np.nan, 1], np.float32)):
        assert METRIC_SUM in fault(metrics={METRIC_SUM: wrong})


def test_arrays_are_read_without_believing_their_header():
    data = Array(np.arange(6, dtype=np.float32).reshape(2, 3)).data
    np.testing.assert_array_equal(array_from_npy(data), np.arange(6, dtype=np.float32).reshape(2, 3))
    huge = data.replace(b"(2, 3), }", b"(2, 3000000000000), }").replace(b"             \n", b"\n")
    for bad in (huge, data[:-1], data + b"x", b"", b"PK\x03\x04", data[:8]):
        with pytest.raises(ProtocolError, match=r"Expected"):
            array_from_npy(bad)
    with pytest.raises(ProtocolError):
        array_from_npy(Array(np.asfortranarray(np.ones((2, 3), np.float32))).data)


@pytest.mark.parametrize("shape", [(1,), (7, 3), (1, 1, 5), (0, 4)])
def test_arrays_are_written_as_numpy_does(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert npy_from_array(array) == Array(array).data
    assert npy_from_array(np.asfortranarray(array)) == Array(array).data
    np.testing.assert_array_equal(array_from_npy(npy_from_array(array)), array)


def test_an_inputs_hash_depends_on_names_shapes_and_values_alone():
    one = {"a": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}
    assert input_hash(one) == input_hash(dict(reversed(one.items())))
    assert input_hash(one) != input_hash({**one, "a": np.ones((3, 2), np.float32)})
    assert input_hash(one) != input_hash({**one, "b": np.full(1, 1e-30, np.float32)})


def test_features_hold_nothing_of_queries(tmp_path, cache):
    """The cache is built from the catalogue: training with queries writes nothing into it."""
    wire = Wire(tmp_path, cache, {})
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    for client in wire.clients:
        wire.train(client)
    build_features(wire.workspace.dataset.catalog, wire.settings.model, cache_dir=cache)
    assert {path for path in cache.rglob("*") if path.name != "lock"} <= set(before)


def test_in_a_deployment_the_server_chooses_neither_settings_nor_folder(tmp_path):
    """With a client-id, a node that leaves them out must not take those that the server wrote into the run."""
    config = tmp_path / "theirs.yaml"
    config.write_text("privacy: {mechanism: no_privacy}")
    theirs = {"config": str(config), "state-dir": str(tmp_path / "theirs")}
    context = Context(1, 2, {"client-id": "merchant-0", "state-dir": str(tmp_path / "ours")}, RecordDict(), theirs)
    reply = make_app()(Message(RecordDict(), 2, "query.enrol"), context)
    assert reply.content[SCALARS]["code"] == "failed"
    assert "the server must not choose it" in " ".join((tmp_path / "ours" / ERRORS).read_text().split())
    assert not (tmp_path / "theirs").exists()


def test_an_error_that_cannot_be_written_down_says_no_more(tmp_path):
    (tmp_path / "file").write_text("in the way")
    context = Context(1, 2, {"client-id": "merchant-0", "state-dir": str(tmp_path / "file")}, RecordDict(), {})
    reply = make_app()(Message(RecordDict(), 2, "query.enrol"), context)
    assert not reply.has_error()
    assert reply.content[SCALARS]["code"] == "failed"
