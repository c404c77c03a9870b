"""At stake: a central round that is done again after its model was released is a second look at the same people."""

import logging
import shutil
from dataclasses import replace

import numpy as np

from mmrank.errors import ProtocolError
from mmrank.protocol import TrainReply
from mmrank.settings import parse
from server.checkpoint import load_checkpoint
from server.population import open_population
from server.rounds import run_rounds
from simulations._facts import privacy_facts
from simulations._federation import _expected, _line
from tests.server.test_rounds import INITIAL, Room, train

SETTINGS = {
    "mechanism": "client_update",
    "unit": "client",
    "noise": "secure",
    "noise_multiplier": 1.0,
    "sampling_rate": 1.0,
    "max_grad_norm": 1.0,
    "delta": 1e-5,
    "budget_epsilon": 20.0,
}


def configuration(tmp_path, **changes):
    return parse(
        {
            "federation": {"rounds": changes.pop("rounds", 2), "cohort_size": 1},
            "privacy": {**SETTINGS, "ledger": str(tmp_path / "kept.sqlite"), **changes},
            "seed": 7,
        }
    )


def constant(client, request):
    """Whatever the model, the client's secret: an update of norm 1 in one direction."""
    update = {name: np.zeros_like(array) for name, array in request.parameters.items()}
    update["w"][0] = 1 - 1e-5
    return TrainReply(code="ok", client=client, round_number=request.round_number, update=update, epsilon=1.0)


def released(reports):
    """Whole models: noise lies on a grid, so that one parameter alone may be drawn alike twice (in 0.7% of pairs)."""
    return [b"".join(array.tobytes() for array in report.parameters.values()) for report in reports]


def steps(tmp_path, settings):
    return sum(event.steps for event in open_population(settings, state_dir=tmp_path).account.events())


def test_a_damaged_checkpoint_after_a_release_costs_a_second_charge(tmp_path):
    settings = configuration(tmp_path)
    room = Room(clients=1, answers={"client-0": constant})
    folder = tmp_path / "run" / "checkpoint"
    _, first = train(folder, room, settings)
    newest = sorted(folder.glob("round-*.safetensors"))[-1]
    whole = bytearray(newest.read_bytes())
    whole[-1] ^= 1  # one bit on the disk
    newest.write_bytes(bytes(whole))
    _, again = train(folder, room, settings, resume=True)
    assert released(first)[1] != released(again)[0]  # two draws of noise over the same people were released
    assert steps(tmp_path, settings) == 3


def test_a_run_copied_into_two_folders_pays_for_both(tmp_path):
    settings = configuration(tmp_path)
    room = Room(clients=1, answers={"client-0": constant})
    folder = tmp_path / "run" / "checkpoint"
    train(folder, room, settings)
    (sorted(folder.glob("round-*.safetensors"))[-1]).unlink()
    shutil.copytree(tmp_path / "run", tmp_path / "fork")
    _, one = train(folder, room, settings, resume=True)
    _, two = train(tmp_path / "fork" / "checkpoint", room, settings, resume=True)
    assert released(one)[0] != released(two)[0]
    assert steps(tmp_path, settings) == 4


def test_the_noise_can_not_be_averaged_away_for_one_charge(tmp_path):
    """A restart script that puts the last backup of the run's folder back, again and again."""
    settings = configuration(tmp_path, rounds=1, noise_multiplier=10.0)
    room = Room(clients=1, answers={"client-0": constant})
    folder = tmp_path / "run" / "checkpoint"
    seen = []
    train(folder, room, settings)
    for _ in range(10):
        for path in folder.glob("round-*.safetensors"):
            path.unlink()
        _, reports = train(folder, room, settings, resume=True)
        seen += released(reports)
    assert len(set(seen)) == 10
    assert steps(tmp_path, settings) == 11


def test_a_run_without_privacy_over_the_same_people_is_remembered(tmp_path):
    room = Room(clients=1, answers={"client-0": constant})
    raw = {
        "federation": {"rounds": 2, "cohort_size": 1},
        "privacy": {"ledger": str(tmp_path / "kept.sqlite"), "delta": 1e-5},
        "seed": 7,
    }
    train(tmp_path / "plain" / "checkpoint", room, parse(raw))  # releases models without noise
    _, reports = train(tmp_path / "private" / "checkpoint", room, configuration(tmp_path))
    assert reports == []


def test_a_central_run_logs_nobody_who_was_drawn_nor_how_many(tmp_path, caplog):
    """Whoever reads a log is promised the amplified epsilon: no names, reasons, counts or times."""

    def wrong(client, request):
        reply = constant(client, request)
        return {
            "client-0": replace(reply, code="exhausted", update={}),
            "client-1": replace(reply, code="failed", update={}, epsilon=0.0),
            "client-2": ProtocolError("It broke."),
        }.get(client, replace(reply, update={name: array * 9 for name, array in reply.update.items()}))

    seen = []
    settings = configuration(tmp_path, sampling_rate=0.9)
    room = Room(clients=6, answers={f"client-{i}": wrong for i in range(6)})
    with caplog.at_level(logging.DEBUG):
        run_rounds(
            settings,
            initial=INITIAL,
            messenger=room,
            checkpoint_dir=tmp_path / "checkpoint",
            resume=False,
            on_client=lambda done, total: seen.append((done, total)),
        )
    assert not seen
    assert not [record for record in caplog.records if "client-" in record.getMessage()]


def test_a_central_run_keeps_no_record_of_who_was_drawn(tmp_path):
    settings = configuration(tmp_path, sampling_rate=0.5)
    room = Room(clients=6, answers={f"client-{i}": constant for i in range(6)})
    _, reports = train(tmp_path / "checkpoint", room, settings)
    stored = load_checkpoint(tmp_path / "checkpoint", config_sha256=settings.sha256)
    assert not stored.epsilon
    assert not stored.heads
    assert all(report.secret_cohort for report in reports)
    assert {_line(_expected(report, 3))["cohort"] for report in reports} == {3}
    assert {_line(_expected(report, 3))["seconds"] for report in reports} == {0.0}


def test_the_number_of_released_models_says_nothing_of_who_was_drawn(tmp_path):
    """The run may not end by the coins: a device whose own ledger is full is drawn no more, and the rounds go on."""

    def once():
        answered = []

        def answer(client, request):
            if answered:
                return replace(constant(client, request), code="exhausted", update={})
            answered.append(request.round_number)
            return constant(client, request)

        return answer

    ends = set()
    for number in range(4):
        settings = configuration(tmp_path / str(number), rounds=30, sampling_rate=0.2, budget_epsilon=50.0)
        room = Room(clients=1, answers={"client-0": once()})
        _, reports = train(tmp_path / str(number) / "run" / "checkpoint", room, settings)
        ends.add(len(reports))
    assert len(ends) == 1


def test_a_second_plan_is_reported_by_its_rule_and_at_twice_the_delta(tmp_path):
    room = Room(clients=1, answers={"client-0": constant})
    one = configuration(tmp_path, budget_epsilon=40.0)
    train(tmp_path / "one" / "checkpoint", room, one)
    two = configuration(tmp_path, budget_epsilon=40.0, noise_multiplier=1.3)
    train(tmp_path / "two" / "checkpoint", room, two)
    facts = privacy_facts(two, tmp_path / "two")
    assert (facts["composition"], facts["delta_in_all"]) == ("filter", 2e-5)
    assert "Renyi filter" in facts["accountant"]
