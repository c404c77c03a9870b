"""At stake: the promise of tests/test_wire.py in secure sums, whose five replies carry keys, shares and signatures."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, RecordDict

from mmrank.errors import DatasetError, ProtocolError
from mmrank.protocol import STEPS, SumReply, SumRequest, TrainRequest
from mmrank.secure_sum import arrays
from mmrank.secure_sum.server import SumServer
from mmrank.wire import ARRAYS, SCALARS, from_plain, scalar_fields, sum_reply_fault, to_plain
from server.app import _read
from server.secure_exchange import SumExchange
from server.secure_rounds import open_secure
from tests.engines.secure_federation import DISTRIBUTED
from tests.test_wire import (
    SECRET,
    Wire,
    array,
    cache,
    codes,
    content_of,
    none_at_all,
    one_less,
    planted,
    scalar,
)
from tests.wire_check import leaks, outline

__all__ = ["cache"]
SHOP = {"clients": "devices"}


class SumWire(Wire):
    """The same, and a messenger: it plays a server's secure sums over the captured wire."""

    def __init__(self, folder, cache, change=None, client="device-000003", lost=None, **privacy):
        super().__init__(
            folder, cache, {**DISTRIBUTED, **privacy}, change, client, dataset=SHOP, federation={"cohort_size": 8}
        )
        self.lost = lost or {}
        _ = self.workspace.secure_keys
        self.population = open_secure(
            self.settings, parameters=self.start, state_dir=folder, roster=folder / "roster.json"
        )

    def ask(self, requests, *rest, **options):
        if isinstance(requests, str):
            return super().ask(requests, *rest, **options)
        replies = []
        for client, request in requests.items():
            if client not in self.lost.get(request.step, ()):
                replies.append((client, _read(SumReply, super().ask(client, content_of(request), "query.sum"))))
        return iter(replies)

    def sum(self, round_number=1, acknowledged=None):
        request = self.request(round_number)
        return self.population.sum(self, self.clients, request, None, acknowledged)

    def request(self, round_number=1):

        return TrainRequest(
            run="run", round_number=round_number, config_sha256=self.settings.agreed_sha256, parameters=self.start
        )

    def step(self, client, step, given, **fields):
        values = {"run": "run", "round_number": 1, "config_sha256": self.settings.agreed_sha256, **fields}
        return Wire.ask(self, client, content_of(SumRequest(step=step, arrays=given, **values)), "query.sum")


LOST = {"advertise": ["device-000000"], "share": ["device-000001"], "mask": ["device-000002"]}


@pytest.mark.parametrize("noise", ["seeded", "secure"])
@pytest.mark.parametrize("lost", [None, LOST], ids=["nobody lost", "one lost at each step"])
def test_every_step_sends_what_the_protocol_lists_and_no_more(tmp_path, cache, noise, lost):
    wire = SumWire(tmp_path, cache, noise=noise, lost=lost)
    for number in (1, 2):
        assert wire.sum(number).mean is not None
    assert wire.leaks() == []
    assert set(codes(wire.captured)) == {"ok"}
    steps = [asked.content[SCALARS]["step"] for asked, _, _ in wire.captured]
    left = 5 if lost else 8
    assert {step: steps.count(step) for step in STEPS} == {
        "advertise": 14 if lost else 16,
        "share": 12 if lost else 16,
        "mask": 10 if lost else 16,
        "confirm": 2 * left,
        "unmask": 2 * left,
    }


def test_what_can_not_be_served_gets_a_code_alone(tmp_path, cache):
    wire = SumWire(tmp_path, cache)
    cohort = arrays.cohort_to(wire.clients)
    client = wire.clients[0]
    answers = [
        wire.step(client, "share", {}),
        wire.step(client, "advertise", cohort, config_sha256="another"),
        wire.step(client, "advertise", cohort, round_number=10**6),
        wire.step(client, "advertise", arrays.cohort_to(wire.clients[:3])),
        wire.step(client, "advertise", arrays.cohort_to(wire.clients[1:])),
        wire.step(client, "advertise", {"cohort": np.frombuffer(b"[1, 2", np.uint8).copy()}),
        wire.step(client, "mask", {f"model/{name}": array for name, array in wire.start.items()}),
        wire.step(client, "mask", {"model/w": np.zeros(3, np.float32)}),
        wire.train(client),
        Wire.ask(wire, client, RecordDict(), "query.sum"),
        Wire.ask(wire, client, RecordDict({SCALARS: ConfigRecord({"step": "tell", "round_number": 3})}), "query.sum"),
    ]
    assert [reply.content[SCALARS]["code"] for reply in answers] == [
        "refused", "config_mismatch", "bad_request", "refused", "refused", "refused", "refused", "bad_request",
        "refused", "bad_request", "bad_request",
    ]  # fmt: skip
    assert wire.leaks() == []
    assert all(not reply.content[ARRAYS] for reply in answers)
    assert wire.workspace.ledger.keys() == [], "and nothing was charged"


@pytest.mark.parametrize("change", [one_less, none_at_all])
def test_neighbouring_data_show_in_the_masked_vector_alone(tmp_path, cache, change, caplog):
    seen, sums = [], []
    for name, changed in (("as it was", None), ("neighbour", change)):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            wire = SumWire(tmp_path / name, cache, changed, lost=LOST)
            sums.append(wire.sum().mean)
        assert wire.leaks() == []
        outlines = [outline(reply) for _, reply, _ in wire.captured]
        seen.append((outlines, [record.getMessage() for record in caplog.records]))
    assert seen[0] == seen[1]
    assert any((sums[0][name] != sums[1][name]).any() for name in sums[0]), "what was left out had trained the model"


def broken(slates):
    raise DatasetError(f"row 17: {SECRET}")


def test_an_exceptions_text_stays_at_home_and_the_client_falls_out(tmp_path, cache, caplog):
    wire = SumWire(tmp_path, cache, broken)
    with caplog.at_level(logging.DEBUG):
        assert wire.sum().mean is not None
    assert wire.leaks() == []
    assert "device-000003 fell out: at mask it answered failed" in caplog.text
    assert SECRET not in caplog.text


def test_a_device_whose_ledger_was_put_back_falls_out_and_the_sum_goes_on(tmp_path, cache):
    wire = SumWire(tmp_path, cache)
    first = wire.sum(1)
    heads = first.replies["heads"]
    assert set(heads) == set(wire.clients)
    assert {count for count, _ in heads.values()} == {1}
    again = wire.sum(2, acknowledged=heads)
    assert again.replies["dropped"] == {}
    assert {count for count, _ in again.replies["heads"].values()} == {2}
    ahead = {**again.replies["heads"], "device-000003": (3, "0" * 64)}
    with_a_copy = wire.sum(3, acknowledged=ahead)
    assert with_a_copy.replies["dropped"] == {"device-000003": "at advertise it answered refused"}
    assert with_a_copy.mean is not None
    assert "device-000003" not in with_a_copy.replies["heads"]


def test_a_server_takes_no_vector_of_a_ledger_that_stands_behind(tmp_path, cache):
    wire = SumWire(tmp_path, cache)
    exchange = exchange_of(wire, {"device-000003": (7, "0" * 64)})
    asked = exchange._request("mask", "device-000003", {})
    reply = SumReply(
        code="ok", client="device-000003", round_number=1, step="mask", epsilon=1.0,
        arrays={"masked": np.zeros(4, np.uint32)}, ledger_count=6, ledger_head="1" * 64,
    )  # fmt: skip
    assert asked.acknowledged == (7, "0" * 64)
    assert "older state" in exchange._received("device-000003", reply, asked, None)
    assert exchange.heads == {}


def exchange_of(wire, acknowledged):
    round_ = wire.population.mechanism.shares.sum_round(run="run", round_number=1, cohort=wire.clients)
    return SumExchange(
        messenger=wire,
        round_=round_,
        server=SumServer(round_, roster=wire.population.roster),
        request=wire.request(),
        timeout_seconds=1.0,
        on_client=None,
        acknowledged=acknowledged,
    )


PLANTED = {
    "a count": (scalar(num_examples=17), "it has the field num_examples"),
    "another step": (scalar(step="confirm"), "its step is not the request's"),
    "a head where nothing is charged": (
        scalar(ledger_count=1, ledger_head="0" * 64), "its ledger_head stands where nothing is charged",
    ),
    "a number in epsilon": (scalar(epsilon=17.0), "its epsilon stands where nothing is charged"),
    "an array more": (array("count", Array(np.ones(1, np.float32))), "it has the array count"),
    "the vector in the clear": (
        array("sealed/rows", Array(np.ones((7, 94), np.float32))), "sealed/rows has another type or shape",
    ),
    "rows more": (array("sealed/rows", Array(np.ones((9, 94), np.uint8))), "sealed/rows has another type or shape"),
    "bytes behind": (
        array("commitment", Array("uint8", (32,), "numpy.ndarray", Array(np.ones(32, np.uint8)).data + b"more")),
        "commitment carries bytes beside the numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_leak_planted_in_a_sum_is_found(tmp_path, cache, kind):
    change, sentence = PLANTED[kind]
    wire = SumWire(tmp_path, cache)
    wire.sum()
    asked, reply, client = next(item for item in wire.captured if item[0].content[SCALARS]["step"] == "share")
    assert leaks(planted(reply, lambda content: None), asked, client=client, settings=wire.settings) == []
    found = leaks(planted(reply, change), asked, client=client, settings=wire.settings)
    assert any(sentence in leak for leak in found), found


REQUEST = SumRequest(
    run="r", round_number=2, config_sha256="c", step="confirm", arrays={"survivors": np.zeros(2, np.int32)}
)
REPLY = SumReply(
    code="ok", client="a", round_number=2, step="confirm", epsilon=0.0, arrays={"signature": np.zeros(64, np.uint8)}
)


@pytest.mark.parametrize("message", [REQUEST, REPLY], ids=lambda message: type(message).__name__)
def test_messages_come_back_from_plain_values(message):
    given, scalars = to_plain(message)
    back = from_plain(type(message), given, scalars)
    assert to_plain(back) == (given, scalars)
    assert set(scalars) == set(scalar_fields(type(message)))
    with pytest.raises(ProtocolError, match="step 'tell'"):
        from_plain(type(message), given, {**scalars, "step": "tell"})
    with pytest.raises(ProtocolError, match="missing or unknown"):
        from_plain(type(message), given, {**scalars, "clicks": 3})


def test_a_reply_answers_its_step():

    assert sum_reply_fault(REPLY, REQUEST, "a") is None
    for changed, said in (
        ({"client": "b"}, "names client 'b'"),
        ({"round_number": 3}, "answers round 3"),
        ({"step": "unmask"}, "answers unmask of round 2"),
        ({"epsilon": -1.0}, "below 0"),
        ({"ledger_count": 3}, "no head of a ledger"),
        ({"code": "refused"}, "carries arrays"),
        ({"arrays": {}}, "missing or unknown"),
        ({"arrays": {"signature": np.zeros(65, np.uint8)}}, "signature is uint8 of shape (65,)"),
        ({"arrays": {"signature": np.zeros(64, np.float32)}}, "signature is float32"),
    ):
        assert said in sum_reply_fault(replace(REPLY, **changed), REQUEST, "a")
