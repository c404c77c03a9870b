"""At stake: a privacy engineer plans from public facts alone and gets a number that holds, or an error that helps."""

from __future__ import annotations

import json
import math

import pytest

from mmrank.errors import ConfigError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy
from simulations.budget.ask import Ask, ask_of
from simulations.budget.plan import answer
from simulations.config import load
from tests.simulations.test_cli import asked, refused, run

CLIENTS = ("budget", "plan", "--mechanism", "client_update", "--sampling-rate", 0.05, "--delta", 1e-4)
ROUNDS = (*CLIENTS, "--rounds", 100)
SHORT = (*CLIENTS, "--rounds", 10)
WIDE = ("budget", "plan", "--sampling-rate", 1, "--delta", 1e-10)
SLATES = ("budget", "plan", "--sampling-rate", 0.05, "--delta", 1e-4)


@pytest.mark.parametrize("command", ["plan", "classes", "curve"])
def test_every_command_has_help_with_an_example(command):
    result = run("budget", command, "--help")
    assert result.exit_code == 0
    assert f"Example: mmrank budget {command}" in " ".join(result.stdout.split())


def test_a_plan_of_clients_goes_three_ways():
    forth = asked(*ROUNDS, "--noise-multiplier", 1)
    assert 2.86 <= forth["epsilon"] <= 2.90
    assert forth["epsilon_server_view"] == "inf"
    assert forth["epsilon_where_cohorts_are_known"] == pytest.approx(86.3, abs=0.1)
    back = asked(*ROUNDS, "--epsilon", forth["epsilon"])
    assert back["noise_multiplier"] == pytest.approx(1.0, rel=0.01)
    assert back["epsilon"] <= forth["epsilon"]
    left = asked(*CLIENTS, "--noise-multiplier", 1, "--epsilon", 2.9)
    assert left["rounds_left"] == left["rounds"] >= 100
    assert left["epsilon"] <= 2.9


def test_every_epsilon_stands_with_all_that_it_rests_on():
    for options in (
        (*ROUNDS, "--noise-multiplier", 1),
        (*SHORT, "--noise-multiplier", 5, "--noise-at", "local"),
        (*SHORT, "--noise-multiplier", 5, "--noise-at", "distributed"),
        (*SLATES, "--noise-multiplier", 1, "--steps", 100),
    ):
        found = asked(*options)
        for claim in found["claims"]:
            assert claim.keys() >= {"epsilon", "unit", "adjacency", "delta", "sampler", "view", "trusted", "accountant"}
        words = " ".join(run(*options).stdout.split())
        for name in ("unit", "adjacency", "sampler", "view", "trusted"):
            assert str(found[name]) in words, name
        assert "at delta 0.0001" in words


def test_epsilon_after_each_round_rises_to_the_plan_s():
    found = asked(*ROUNDS, "--noise-multiplier", 1)
    curve = [point["epsilon"] for point in found["by_round"]]
    assert [point["round"] for point in found["by_round"]] == list(range(1, 101))
    assert curve == sorted(curve)
    assert curve[-1] == found["epsilon"]
    assert curve[9] == epsilon([Event(sampling_rate=0.05, noise_multiplier=1.0, steps=10)], 1e-4)


def test_slates_are_told_with_the_person_behind_them():
    found = asked(*SLATES, "--noise-multiplier", 1, "--rounds", 10, "--local-steps", 10)
    assert found["steps"] == 100
    assert found["epsilon"] < found["person_with_slates"]["5"] < found["person_with_slates"]["10"]
    assert found["epsilon"] < found["one_slate_at_two_merchants"] < 2 * found["epsilon"]
    people = asked(*SLATES, "--noise-multiplier", 1, "--rounds", 10, "--local-steps", 10, "--unit", "user")
    assert people["epsilon"] == found["epsilon"]
    assert "person_with_slates" not in people
    assert "'s whole contribution" in people["adjacency"]


def test_merchants_and_devices_stand_side_by_side_and_a_person_in_both_pays_for_both():
    beside = "mechanism=client_update, noise_multiplier=1, sampling-rate=0.05, rounds=100"
    found = asked(*SLATES, "--unit", "user", "--noise-multiplier", 1.5, "--steps", 50, "--beside", beside)
    assert found["beside"]["epsilon"] == asked(*ROUNDS, "--noise-multiplier", 1)["epsilon"]
    released, server = found["person_in_both"]
    assert max(found["epsilon"], found["beside"]["epsilon"]) < released["epsilon"]
    assert released["epsilon"] < found["epsilon"] + found["beside"]["epsilon"]
    assert released["person"] == "1 user and 1 client"
    assert (server["view"], server["epsilon"]) == ("server", "inf")
    told = run(*SLATES, "--noise-multiplier", 1.5, "--steps", 50, "--beside", beside).stdout
    assert "5 slates and 1 client" in told
    assert "Did you mean 'rounds'" in refused(*ROUNDS, "--epsilon", 1, "--beside", "round=3")
    assert "--beside: Expected one of" in refused(*ROUNDS, "--epsilon", 1, "--beside", "sampling_rate=0.5")


def test_a_history_shortens_what_is_left():
    fresh = asked(*CLIENTS, "--noise-multiplier", 1, "--epsilon", 2.9)["rounds_left"]
    spent = (*CLIENTS, "--noise-multiplier", 1, "--epsilon", 2.9, "--spent", "0.05,1,20")
    later = asked(*spent)
    assert later["rounds_left"] < fresh - 20
    assert later["spent"]["epsilon_with_plan"] <= 2.9
    assert "filter" in later["spent"]["composed"]
    assert asked(*spent, "--one-plan")["rounds_left"] == fresh - 20
    none = asked(*CLIENTS, "--noise-multiplier", 1, "--epsilon", 2.9, "--spent", "1,0.5,100")
    assert (none["rounds_left"], none["epsilon"], none["by_round"]) == (0, 0.0, [])
    for wrong in ("0.05,1", "a,1,1", "0.05,1,1.5", ""):
        assert "--spent" in refused(*CLIENTS, "--noise-multiplier", 1, "--epsilon", 2, "--spent", wrong)
    assert "--one-plan" in refused(*ROUNDS, "--epsilon", 2, "--one-plan")
    assert "the noise is computed" in refused(*ROUNDS, "--epsilon", 2, "--spent", "1,1,1")


def test_what_is_left_is_read_from_a_ledger(tmp_path):
    policy = Policy(mechanism="dp_sgd", unit="slate", delta=1e-5, budget_epsilon=4.0)
    event = Event(sampling_rate=0.05, noise_multiplier=1.5, steps=10)
    ledger = Ledger(tmp_path / "ledger.sqlite", durable=False)
    for key, charges in (("a", 1), ("b", 3)):
        for charge in range(charges):
            ledger.account(key, policy).charge(f"{key}{charge}", event)
    ledger.close()
    ask = ("budget", "plan", "--sampling-rate", 0.05, "--noise-multiplier", 1.5, "--local-steps", 10)
    read = (*ask, "--ledger", tmp_path / "ledger.sqlite")
    most, named = asked(*read), asked(*read, "--data", "a")
    assert most["delta"] == 1e-5
    assert most["spent"]["steps"] == 30
    assert most["rounds_left"] < named["rounds_left"]
    assert asked(*read, "--one-plan")["rounds_left"] == asked(*ask, "--delta", 1e-5, "--epsilon", 4)["rounds_left"] - 3
    assert "No data 'c'" in refused(*read, "--data", "c")
    assert "the ledger's, 1e-05" in refused(*read, "--delta", 1e-6)
    assert "--unit=user" in refused(*read, "--unit", "user")
    assert "is no ledger" in refused(*ask, "--ledger", tmp_path / "none.sqlite")


def test_a_configuration_says_what_its_run_will_cost(finished):
    found = asked("budget", "plan", finished.config)
    assert found["epsilon"] == pytest.approx(finished.result["privacy"]["epsilon_max"], rel=1e-12)
    assert found["rounds"] == load(finished.config).federation.rounds
    cheaper = asked("budget", "plan", finished.config, "--set", "privacy.noise_multiplier=2")
    assert cheaper["epsilon"] < found["epsilon"]
    budget = asked("budget", "plan", finished.config, "--set", "privacy.budget_epsilon=0.9")
    assert budget["rounds_within_budget"] < 2
    assert "no --rounds beside" in refused("budget", "plan", finished.config, "--rounds", 3)
    private = ("--set", "privacy.mechanism=no_privacy")
    assert "promises something" in refused("budget", "plan", finished.config, *private)
    assert "a configuration beside --set" in refused(*ROUNDS, "--epsilon", 1, "--set", "seed=1")


def test_a_delta_of_one_in_the_registry_is_warned_of():
    assert asked(*ROUNDS, "--noise-multiplier", 1, "--registered", 1000)["warnings"] == []
    (warning,) = asked(*ROUNDS, "--noise-multiplier", 1, "--registered", 10_000)["warnings"]
    assert "delta=0.0001 is at least 1/10,000" in warning
    told = run(*ROUNDS, "--noise-multiplier", 1, "--registered", 10_000)
    assert told.exit_code == 0
    assert told.stderr.startswith("warning: delta")
    assert any("promises next to nothing" in line for line in asked(*SHORT, "--noise-multiplier", 0.3)["warnings"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "Expected --sampling-rate and --delta"),
        (ROUNDS, "--noise-multiplier and --epsilon"),
        ((*ROUNDS, "--epsilon", 1, "--noise-multiplier", 1), "--noise-multiplier and --epsilon"),
        ((*CLIENTS, "--epsilon", 1), "--noise-multiplier and --epsilon"),
        ((*CLIENTS, "--steps", 3, "--epsilon", 1), "no --steps=3"),
        ((*SLATES, "--rounds", 3, "--epsilon", 1), "--local-steps beside --rounds=3"),
        ((*SLATES, "--rounds", 3, "--steps", 3, "--epsilon", 1), "--steps=3 alone"),
        ((*SLATES, "--steps", 0, "--epsilon", 1), "rounds=0"),
        ((*SLATES, "--steps", 10**9, "--epsilon", 1), "at most 1,000,000 steps"),
        ((*SLATES, "--steps", 1, "--epsilon", "nan"), "epsilon=nan"),
        ((*SLATES, "--steps", 1, "--epsilon", "inf"), "epsilon=inf"),
        ((*WIDE, "--steps", 10, "--epsilon", 1e-7), "No noise multiplier"),
        ((*SLATES, "--steps", 1, "--noise-multiplier", 1e-300), "noise_multiplier=1e-300"),
        ((*SLATES, "--steps", 1, "--noise-multiplier", -1), "noise_multiplier=-1"),
        ((*SLATES, "--steps", 1, "--noise-multiplier", 1, "--unit", "client"), "unit='client'"),
        ((*ROUNDS, "--epsilon", 1, "--noise-at", "cetral"), "noise_at='cetral'"),
        (("budget", "plan", "--mechanism", "dpsgd", "--sampling-rate", 1, "--delta", 0.1), "mechanism='dpsgd'"),
        (("budget", "plan", "--sampling-rate", 1, "--delta", 0, "--steps", 1, "--epsilon", 1), "delta=0.0"),
        ((*ROUNDS, "--noise-multiplier", 1, "--plot", "plan.txt"), "plan.txt to end in"),
        ((*ROUNDS, "--noise-multiplier", 1, "--data", "a"), "--ledger with --data a"),
    ],
)
def test_what_can_not_be_planned_is_one_line_with_value_and_remedy(options, told):
    assert told in refused(*(options or ("budget", "plan", "--epsilon", 1)))


def test_tiny_and_huge_plans_have_an_answer():
    base = {"delta": 1e-6, "steps": 1}
    assert answer(Ask(**base, sampling_rate=1e-12, noise_multiplier=1.0))["epsilon"] == 0.0
    huge = answer(Ask(delta=1e-6, steps=100_000, sampling_rate=1.0, noise_multiplier=0.3))
    assert huge["epsilon"] > 1e5
    assert len(huge["by_round"]) == 26
    assert math.isfinite(huge["person_with_slates"]["10"])
    assert answer(Ask(delta=1e-10, steps=1, sampling_rate=1.0, noise_multiplier=1e5))["epsilon"] < 1e-3


def test_a_plan_is_drawn(tmp_path):
    beside = "mechanism=client_update,noise_multiplier=1,sampling_rate=0.05,rounds=5"
    found = asked(
        *SLATES,
        "--unit",
        "user",
        "--noise-multiplier",
        1,
        "--steps",
        5,
        "--beside",
        beside,
        "--plot",
        tmp_path / "a" / "p.png",
    )
    assert found["beside"]["rounds"] == 5
    assert (tmp_path / "a" / "p.png").read_bytes().startswith(b"\x89PNG")


def test_classes_follow_the_declared_size_and_nothing_else():
    plan = ("--epsilon", 4, "--delta", 1e-6, "--rounds", 5, "--local-steps", 4)
    found = asked("budget", "classes", *plan, "--sizes", "1e4,1e3", "--batch", 100, "--parameters", 25)
    small, large = found["classes"]
    assert (small["class"], small["sampling_rate"], large["sampling_rate"]) == (1e3, 0.1, 0.01)
    for line in found["classes"]:
        assert 3.96 <= line["epsilon"] <= 4
        assert line["expected_batch"]["declared"] == pytest.approx(100)
        assert line["expected_batch"]["low"] < 100 < line["expected_batch"]["high"]
        reached = line["signal_to_noise"]
        assert reached["declared"] == pytest.approx(100 / (5 * line["noise_multiplier"]))
        assert reached["high"] / reached["low"] == pytest.approx(line["to"] / line["from"])
    assert small["noise_multiplier"] > large["noise_multiplier"]
    told = run("budget", "classes", *plan, "--sizes", "1e3", "--delta", 1e-3)
    assert "Why q may not come from the count" in told.stdout
    assert "take a delta well below" in told.stderr
    assert "--sizes 'x'" in refused("budget", "classes", *plan, "--sizes", "x")
    assert "batch=2000" in refused("budget", "classes", *plan, "--sizes", "1e3", "--batch", 2000)
    assert "--parameters=0" in refused("budget", "classes", *plan, "--parameters", 0)
    assert "unit='client'" in refused("budget", "classes", *plan, "--unit", "client")


def test_json_of_a_plan_is_one_value():
    assert json.loads(run(*ROUNDS, "--noise-multiplier", 1, "--json").stdout)["computed"] == "epsilon"


def test_a_plan_of_training_alone_is_refused_for_a_run_that_releases_measures_too(tiny):
    with pytest.raises(ConfigError, match="--spent 1,NOISE_MULTIPLIER,RELEASES"):
        ask_of(load(tiny, ["privacy.metrics.every=1"]))
