"""At stake: a server that reads more into noised measures than they say, or forgets which ledgers it has seen."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from mmrank.errors import ProtocolError
from mmrank.privacy.metrics_release import from_settings
from mmrank.privacy.noise import SeededNoise
from mmrank.protocol import METRIC_SUM, EvaluateReply
from mmrank.settings import parse
from server.checkpoint import load_checkpoint
from server.measures import rolled_back
from tests.server.test_rounds import PowerCutError, Room, same, train

PRIVACY = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "metrics": {"noise_multiplier": 2.0, "every": 2}}


def configuration(metrics=None, **federation):
    privacy = {**PRIVACY, "metrics": {**PRIVACY["metrics"], **(metrics or {})}}
    table = {"rounds": 4, "cohort_size": 4, "reply_timeout_seconds": 5.0, **federation}
    return parse({"federation": table, "seed": 7, "privacy": privacy})


RELEASE = from_settings(configuration().privacy)


def head_of(client, number):
    return {"ledger_count": number, "ledger_head": f"{hash_of(client)}{number:060x}"}


def hash_of(client):
    return f"{int(client.removeprefix('client-')):04x}"


def told(client, request, slates=400):
    """A client of so many slates, each of measure 0.75."""
    exact = RELEASE.total({name: np.full(slates, 0.75) for name in RELEASE.measures})
    noise = SeededNoise(1, client, request.round_number)
    return EvaluateReply(
        code="ok",
        client=client,
        round_number=request.round_number,
        metrics={METRIC_SUM: RELEASE.noised(exact, noise)},
        epsilon=7.0,
        **head_of(client, 2 * request.round_number),
    )


class Measuring(Room):
    """Clients that train and tell; `tells` are answers of their own."""

    def __init__(self, tells=None, **options):
        super().__init__(**options)
        self.tells, self.asked_metrics, self.acknowledged = tells or {}, [], []

    def exchange(self, clients, request, timeout_seconds, acknowledged=None):
        self.acknowledged.append(dict(acknowledged))
        for client, reply in super().exchange(clients, request, timeout_seconds):
            yield client, replace(reply, **head_of(client, 2 * request.round_number - 1))

    def ask_metrics(self, clients, request, timeout_seconds, acknowledged):
        self.asked_metrics.append((request.round_number, tuple(clients), request.parameters, dict(acknowledged)))
        for client in self.turn(clients):
            answer = self.tells.get(client, told)(client, request)
            if answer is not None:
                yield client, answer


def test_clients_are_asked_about_the_model_that_the_round_ended_with(tmp_path):
    room = Measuring()
    model, reports = train(tmp_path, room, configuration())
    assert [(number, len(clients)) for number, clients, _, _ in room.asked_metrics] == [(2, 4), (4, 4)]
    assert [report.measured is not None for report in reports] == [False, True, False, True]
    assert same(room.asked_metrics[-1][2], model)
    found = reports[-1].measured
    assert found.releases == 4
    for estimate in found.estimates.values():
        assert estimate.low < 0.75 < estimate.high
        assert estimate.high - estimate.low < 0.05
    assert abs(found.count[0] - 1600) < 4 * found.count[1]
    assert reports[-1].epsilon_max == 7.0
    assert reports[-1].bytes_down == 2 * reports[0].bytes_down
    assert reports[-1].bytes_up == reports[0].bytes_up + 4 * 3 * 4


def test_whom_to_ask_is_a_public_choice(tmp_path):
    for asked, expected in (("all", 6), ("merchants", 2)):
        room = Measuring()
        train(tmp_path / asked, room, configuration({"asked": asked}))
        assert {len(clients) for _, clients, _, _ in room.asked_metrics} == {expected}


def test_the_order_of_answers_does_not_matter_bit_for_bit(tmp_path):
    forwards = train(tmp_path / "a", Measuring(), configuration())[1]
    backwards = train(tmp_path / "b", Measuring(turn=lambda c: sorted(c, reverse=True)), configuration())[1]
    assert forwards[-1].measured == backwards[-1].measured


BAD = {
    "a count": (lambda c, r: replace(told(c, r), metrics={METRIC_SUM: np.ones(4, np.float32)}), "not (3,)"),
    "not finite": (lambda c, r: replace(told(c, r), metrics={METRIC_SUM: np.full(3, np.inf, np.float32)}), "finite"),
    "another's": (lambda c, r: replace(told(c, r), client="client-9"), "names client 'client-9'"),
    "a code": (lambda c, r: replace(told(c, r), code="exhausted", metrics={}), "it answered exhausted"),
    "a copy": (lambda c, r: replace(told(c, r), **head_of(c, 1)), "a copy or an older state"),
    "unreadable": (lambda c, r: ProtocolError("Expected the records alone."), "Expected the records alone"),
    "late": (lambda c, r: None, "no measures of client-3 within"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_answer_is_logged_and_the_rest_are_summed(tmp_path, kind, caplog):
    answer, reason = BAD[kind]
    settings = configuration(cohort_size=6)
    with caplog.at_level(logging.WARNING):
        model, reports = train(tmp_path, Measuring(tells={"client-3": answer}), settings)
    assert reason in caplog.text
    assert reports[1].measured.releases == 5
    assert reports[-1].codes == {"ok": 6}, "who can't tell may train"
    assert same(model, train(tmp_path / "all", Measuring(), settings)[0]), "measures do not move the model"


def test_without_an_answer_there_is_no_figure(tmp_path):
    silent = {f"client-{i}": lambda client, request: None for i in range(6)}
    assert [report.measured for report in train(tmp_path, Measuring(tells=silent), configuration())[1]] == [None] * 4


def test_each_request_names_the_head_that_was_acknowledged_last(tmp_path):
    room = Measuring(clients=4)
    train(tmp_path, room, configuration())
    heads = [heads.get("client-1", (0, ""))[0] for heads in room.acknowledged]
    assert heads == [0, 1, 4, 5]
    assert [heads["client-1"][0] for _, _, _, heads in room.asked_metrics] == [3, 7]
    stored = load_checkpoint(tmp_path, config_sha256=configuration().sha256)
    assert stored.heads["client-1"] == tuple(head_of("client-1", 8).values())


def test_a_resumed_run_acknowledges_what_the_killed_one_did_and_asks_again(tmp_path):
    class Cut(Measuring):
        def ask_metrics(self, clients, request, timeout_seconds, acknowledged):
            if request.round_number == 4:
                raise PowerCutError
            yield from super().ask_metrics(clients, request, timeout_seconds, acknowledged)

    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", Cut(clients=4), configuration())
    rest, straight = Measuring(clients=4), Measuring(clients=4)
    model, reports = train(tmp_path / "cut", rest, configuration(), resume=True)
    expected, all_reports = train(tmp_path / "straight", straight, configuration())
    assert same(model, expected)
    assert reports[-1].measured == all_reports[-1].measured
    assert rest.acknowledged == straight.acknowledged[3:]


def test_an_update_over_an_older_ledger_is_dropped_and_said(tmp_path, caplog):
    class Restored(Measuring):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            for client, reply in super().exchange(clients, request, timeout_seconds, acknowledged):
                old = client == "client-2" and request.round_number == 4
                yield client, replace(reply, **head_of(client, 1)) if old else reply

    with caplog.at_level(logging.WARNING):
        reports = train(tmp_path, Restored(clients=4), configuration())[1]
    assert list(reports[-1].dropped) == ["client-2"]
    assert "entry 1 (" in caplog.text
    assert "a copy or an older state" in caplog.text


def test_a_ledger_may_only_grow():
    one, other = (3, "a" * 64), (3, "b" * 64)
    assert rolled_back(one, one) is None
    assert rolled_back((4, "b" * 64), one) is None
    assert rolled_back((0, ""), (0, "")) is None
    for head in (other, (2, "a" * 64), (0, "")):
        assert "older state" in rolled_back(head, one)
