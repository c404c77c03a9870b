"""At stake: one client that sends rubbish, is late, or has spent its budget must not take the round or the model."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from mmrank.errors import CheckpointError, ProtocolError
from mmrank.protocol import TrainReply
from mmrank.settings import parse
from server.rounds import draw_cohort, new_run_id, run_rounds, weighted

INITIAL = {"w": np.zeros(3, np.float32), "b": np.ones((1, 2), np.float32)}


def configuration(**federation):
    return parse({"federation": {"rounds": 3, "cohort_size": 4, "reply_timeout_seconds": 5.0, **federation}, "seed": 7})


def honest(client, request):
    """An update that depends on the client, the round and the model it was given."""
    rank = float(client.removeprefix("client-"))
    step = {name: 0.1 * (rank - array) / request.round_number for name, array in request.parameters.items()}
    return TrainReply(
        code="ok",
        client=client,
        round_number=request.round_number,
        update={name: array.astype(np.float32) for name, array in step.items()},
        epsilon=0.5 * request.round_number,
    )


class Room:
    """Clients in the same room: each answers by a function of its own, in the order of its turn."""

    def __init__(self, clients=6, answers=None, turn=sorted):
        self.names = [f"client-{i}" for i in range(clients)]
        self.answers = answers or {}
        self.turn = turn
        self.asked = []

    def clients(self, at_least):
        return self.names

    def merchants(self, clients):
        return frozenset(self.names[:2])

    def exchange(self, clients, request, timeout_seconds, acknowledged=None):
        self.asked.append((request.run, tuple(clients)))
        for client in self.turn(clients):
            answer = self.answers.get(client, honest)(client, request)
            if answer is not None:
                yield client, answer


def train(tmp_path, room, settings=None, **options):
    reports = []
    model = run_rounds(
        settings or configuration(),
        initial=INITIAL,
        messenger=room,
        checkpoint_dir=tmp_path,
        resume=options.pop("resume", False),
        on_round=reports.append,
        **options,
    )
    return model, reports


def same(left, right):
    return set(left) == set(right) and all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_every_round_is_reported_and_moves_the_model(tmp_path):
    told = []
    model, reports = train(tmp_path, Room(), on_client=lambda done, total: told.append((done, total)))
    assert [report.round_number for report in reports] == [1, 2, 3]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 3
    assert all(report.codes == {"ok": 4} and report.aggregated for report in reports)
    assert reports[0].bytes_down == reports[0].bytes_up == 4 * 5 * 4
    assert reports[-1].epsilon_max == 1.5
    assert same(reports[-1].parameters, model)
    assert not same(model, INITIAL)


def test_the_order_of_replies_does_not_matter_bit_for_bit(tmp_path):
    forwards = train(tmp_path / "a", Room())[0]
    backwards = train(tmp_path / "b", Room(turn=lambda clients: sorted(clients, reverse=True)))[0]
    assert same(forwards, backwards)


def test_cohorts_depend_on_seed_and_round_alone():
    settings, names = configuration(), [f"client-{i}" for i in range(6)]
    first = draw_cohort(names, frozenset(), settings, 1)
    assert first == draw_cohort(names[::-1], frozenset(), settings, 1) == sorted(first)
    assert len({tuple(draw_cohort(names, frozenset(), settings, number)) for number in range(20)}) > 5
    assert len(draw_cohort(names, frozenset(names[:4]), settings, 1)) == 2
    counts = np.zeros(6)
    for number in range(600):
        counts[[names.index(client) for client in draw_cohort(names, frozenset(), settings, number)]] += 1
    assert abs(counts - 400).max() < 60  # 5 standard deviations


def test_a_round_may_hold_a_public_number_of_merchants():
    settings = configuration(merchants_per_round=2)
    names = [f"device-{i}" for i in range(9)] + ["merchant-0", "merchant-1", "merchant-2"]
    merchants = frozenset(names[9:])
    for number in range(20):
        cohort = draw_cohort(names, frozenset(), settings, number, merchants=merchants)
        assert len(cohort) == 4
        assert len(merchants.intersection(cohort)) == 2
    assert len(draw_cohort(names, merchants, settings, 1, merchants=merchants)) == 4, "devices fill exhausted places"


def test_a_merchants_weight_is_a_public_constant(tmp_path):
    updates = {"a": {"w": np.array([3.0], np.float32)}, "b": {"w": np.array([0.0], np.float32)}}
    scaled = weighted(updates, frozenset(["a"]), 2.0)
    assert (scaled["a"]["w"] + scaled["b"]["w"]) / 2 == pytest.approx(2.0)  # (2 x 3 + 1 x 0) / (2 + 1)
    assert same(weighted(updates, frozenset(), 2.0)["a"], updates["a"])
    heavy = configuration(merchant_weight=5.0)
    assert not same(train(tmp_path / "a", Room(), heavy)[0], train(tmp_path / "b", Room())[0])


def changed(**fields):
    return lambda client, request: replace(honest(client, request), **fields)


def update_of(change):
    def answer(client, request):
        reply = honest(client, request)
        return replace(reply, update=change(dict(reply.update)))

    return answer


BAD = {
    "not finite": (update_of(lambda u: u | {"w": np.array([0, np.nan, 0], np.float32)}), "w is not finite"),
    "infinite": (update_of(lambda u: u | {"b": np.full((1, 2), np.inf, np.float32)}), "b is not finite"),
    "a name missing": (update_of(lambda u: {"w": u["w"]}), r"names \['b'\] are missing or unknown"),
    "a name too many": (update_of(lambda u: u | {"count": np.ones(1, np.float32)}), r"names \['count'\]"),
    "a shape that broadcasts": (update_of(lambda u: u | {"w": np.ones(1, np.float32)}), r"w has shape \(1,\), not"),
    "another dtype": (update_of(lambda u: u | {"w": np.ones(3)}), "w has dtype float64, not float32"),
    "another's name": (changed(client="client-9"), "names client 'client-9'"),
    "another round": (changed(round_number=99), "answers round 99, not 1"),
    "no epsilon": (changed(epsilon=float("nan")), "epsilon=nan"),
    "an update with a code": (changed(code="failed"), "update with a code other than ok"),
    "a code": (changed(code="config_mismatch", update={}), "it answered config_mismatch"),
    "unreadable": (lambda client, request: ProtocolError("Expected the records alone."), "Expected the records alone"),
    "late": (lambda client, request: None, "no answer within 5.0 s"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_reply_is_dropped_logged_and_changes_nothing_else(tmp_path, kind, caplog):
    answer, reason = BAD[kind]
    settings = configuration(rounds=1, cohort_size=6)
    with caplog.at_level(logging.WARNING):
        model, reports = train(tmp_path / "bad", Room(answers={"client-3": answer}), settings)
    without = Room()
    without.names.remove("client-3")
    expected = train(tmp_path / "good", without, settings)[0]
    assert same(model, expected)
    assert list(reports[0].dropped) == ["client-3"]
    assert "dropped the reply of client-3" in caplog.text
    assert re.search(reason, reports[0].dropped["client-3"])


def test_an_update_beyond_the_norm_bound_is_dropped(tmp_path):
    room = Room(answers={"client-3": update_of(lambda u: u | {"w": np.full(3, 1e4, np.float32)})})
    settings = configuration(rounds=1, cohort_size=6)
    reports = train(tmp_path, room, settings, max_update_norm=100.0)[1]
    assert "above 100" in reports[0].dropped["client-3"]
    assert reports[0].codes == {"ok": 5}


def test_who_was_not_asked_is_not_heard(tmp_path, caplog):
    class Intruded(Room):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            yield "client-5", honest("client-5", request)
            for client, reply in super().exchange(clients, request, timeout_seconds):
                yield client, reply
                yield client, reply

    settings = configuration(rounds=1, cohort_size=5)
    cohort = draw_cohort([f"client-{i}" for i in range(5)], frozenset(), settings, 1)
    assert "client-5" not in cohort
    room = Intruded(clients=5)
    reports = train(tmp_path, room, settings)[1]
    assert reports[0].codes == {"ok": 5}
    assert "an answer from 'client-5', who was not asked" in caplog.text


def exhausted(client, request):
    return TrainReply(code="exhausted", client=client, round_number=request.round_number, update={}, epsilon=2.0)


def test_an_exhausted_client_is_not_asked_again(tmp_path):
    room = Room(clients=4, answers={"client-1": exhausted})
    reports = train(tmp_path, room)[1]
    assert reports[0].codes == {"ok": 3, "exhausted": 1}
    assert [("client-1" in cohort) for _, cohort in room.asked] == [True, False, False]
    assert reports[0].epsilon_max == reports[-1].epsilon_max == 2.0


def test_a_run_ends_early_when_everyone_is_exhausted(tmp_path, caplog):
    answers = {
        f"client-{i}": lambda client, request: (honest if request.round_number < 2 else exhausted)(client, request)
        for i in range(4)
    }
    settings = configuration(rounds=50)
    with caplog.at_level(logging.WARNING):
        model, reports = train(tmp_path, Room(clients=4, answers=answers), settings)
    assert [report.round_number for report in reports] == [1, 2]
    assert same(model, reports[0].parameters)
    assert "Stopping after round 2 of 50" in caplog.text
    again, later = train(tmp_path, Room(clients=4, answers=answers), settings, resume=True)
    assert not later
    assert same(again, model)


def test_budget_is_not_spent_on_a_round_that_can_not_count(tmp_path):
    room = Room(clients=3, answers={"client-0": exhausted})
    reports = train(tmp_path, room, configuration(rounds=5, min_replies=3))[1]
    assert [report.aggregated for report in reports] == [False]
    assert len(room.asked) == 1


def test_too_few_replies_keep_the_model_and_are_counted(tmp_path, caplog):
    silent = dict.fromkeys(("client-0", "client-1", "client-2"), changed(code="failed", update={}))
    with caplog.at_level(logging.WARNING):
        model, reports = train(tmp_path, Room(clients=4, answers=silent), configuration(min_replies=2))
    assert same(model, INITIAL)
    assert [report.aggregated for report in reports] == [False] * 3
    assert "3 of 3 rounds had too few replies" in caplog.text


class PowerCutError(Exception):
    """What ends a run between two rounds."""


@pytest.mark.parametrize("rule", ["fedavg", "fedadam"])
def test_a_resumed_run_ends_in_the_same_model(tmp_path, rule):
    settings = configuration(rounds=6, aggregation={"name": rule})
    straight = train(tmp_path / "straight", Room(), settings)[0]

    class Cut(Room):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            for number, answer in enumerate(super().exchange(clients, request, timeout_seconds)):
                if request.round_number == 4 and number == 2:
                    raise PowerCutError
                yield answer

    cut, rest = Cut(), Room()
    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", cut, settings)
    resumed, reports = train(tmp_path / "cut", rest, settings, resume=True)
    assert [report.round_number for report in reports] == [4, 5, 6]
    assert same(resumed, straight)
    assert cut.asked[3] == rest.asked[0], "the same run asks the same clients again"


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    model = train(tmp_path, Room())[0]
    again, reports = train(tmp_path, Room(), resume=True)
    assert same(again, model)
    assert reports == []


def test_resuming_without_a_checkpoint_starts_anew(tmp_path):
    assert same(train(tmp_path / "a", Room(), resume=True)[0], train(tmp_path / "b", Room())[0])


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    train(tmp_path, Room())
    with pytest.raises(CheckpointError, match="already holds a run; resume it"):
        train(tmp_path, Room())
    with pytest.raises(CheckpointError, match="belongs to configuration"):
        train(tmp_path, Room(), configuration(rounds=4), resume=True)


def test_the_runs_id_repeats_with_seeded_noise_and_never_with_secure_noise():
    def run(engine, noise):
        privacy = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "noise": noise}
        return new_run_id(parse({"engine": engine, "privacy": privacy}))

    assert run("inline", "seeded") == run("flower", "seeded")
    assert new_run_id(parse({})) != new_run_id(parse({"training": {"learning_rate": 0.5}}))
    assert run("inline", "secure") != run("inline", "secure")
