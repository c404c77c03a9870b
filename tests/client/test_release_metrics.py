"""At stake: a measure that leaves a client unpaid, or is drawn twice for one payment, tells of people for free."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from client.measures import slate_values
from client.vault import Vault
from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Declared, Ledger, Policy
from mmrank.privacy.metrics_release import planned_events
from mmrank.privacy.noise import SeededNoise
from mmrank.privacy.planning import calibrate
from mmrank.protocol import METRIC_SUM, EvaluateRequest
from mmrank.ranker import load_parameters
from mmrank.settings import MetricsSettings, parse
from mmrank.wire import input_hash, metrics_fault
from tests.client.shop import SIZES, ToyDataset, toy_request, toy_settings, toy_workspace

METRICS = MetricsSettings(noise_multiplier=2.0, every=1)


def question(workspace, **fields):
    asked = toy_request(workspace, **fields)
    return EvaluateRequest(
        run=asked.run,
        round_number=asked.round_number,
        config_sha256=asked.config_sha256,
        parameters=asked.parameters,
    )


def make(tmp_path, features, metrics=METRICS, dataset=None, **privacy):
    dataset = dataset or ToyDataset()
    return toy_workspace(tmp_path, features, toy_settings(metrics=metrics, **privacy), dataset=dataset)


def account_of(workspace, client="large"):
    return workspace.ledger.account(workspace.dataset.data_identity(client), workspace.policy)


@pytest.mark.parametrize("client", SIZES)
def test_a_release_is_the_noised_sum_of_what_each_slate_measures(tmp_path, features, client):
    workspace = make(tmp_path, features)
    request = question(workspace)
    reply = Vault(workspace, client).release_metrics(request)
    assert metrics_fault(reply, request, client, length=3) is None
    assert reply.code == "ok"
    load_parameters(workspace.ranker, request.parameters)
    values = slate_values(workspace.ranker, workspace.features, workspace.dataset.slates(client, "validation"))
    digest, identity = input_hash(request.parameters), workspace.dataset.data_identity(client)
    noise = SeededNoise(workspace.settings.seed, identity, client, "run", 1, digest, "evaluate")
    np.testing.assert_array_equal(reply.metrics[METRIC_SUM], workspace.release.release(values, noise))
    assert reply.epsilon == epsilon([workspace.release.event], workspace.settings.privacy.delta)
    assert reply.head == account_of(workspace, client).head()


def test_the_charge_stands_before_a_slate_is_read(tmp_path, features):
    class Breaks(ToyDataset):
        def slates(self, client_id, split):
            seen.append(account_of(workspace).events())
            raise RuntimeError("the disk is gone")

    seen = []
    workspace = make(tmp_path, features, dataset=Breaks())
    with pytest.raises(RuntimeError, match="disk"):
        Vault(workspace, "large").release_metrics(question(workspace))
    assert seen == [(workspace.release.event,)]


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_asked_again_the_same_bytes_come_at_no_cost_and_other_inputs_pay(tmp_path, features, noise):
    workspace = make(tmp_path, features, noise=noise)
    vault = Vault(workspace, "large")
    first = vault.release_metrics(question(workspace))
    again = Vault(make(tmp_path, features, noise=noise), "large").release_metrics(question(workspace))
    assert first.metrics[METRIC_SUM].tobytes() == again.metrics[METRIC_SUM].tobytes()
    assert (first.epsilon, first.head) == (again.epsilon, again.head)
    other = vault.release_metrics(question(workspace, shift=1e-3))
    assert other.epsilon > first.epsilon
    assert (other.metrics[METRIC_SUM] != first.metrics[METRIC_SUM]).any()


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_training_and_measuring_of_one_round_are_two_charges_with_noise_of_their_own(tmp_path, features, noise):
    workspace = make(tmp_path, features, noise=noise)
    vault = Vault(workspace, "empty")
    trained, told = vault.train(toy_request(workspace)), vault.release_metrics(question(workspace))
    assert set(account_of(workspace, "empty").events()) == {workspace.mechanism.event, workspace.release.event}
    assert (trained.ledger_count, told.ledger_count) == (1, 2)
    assert vault.train(toy_request(workspace)).update.keys() == trained.update.keys()
    assert account_of(workspace, "empty").head()[0] == 2, "each has a reply that is kept beside the other's"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"config_sha256": "another"}, "config_mismatch"),
        ({"round_number": 3}, "bad_request"),
        ({"round_number": 0}, "bad_request"),
        ({"parameters": {}}, "bad_request"),
    ],
)
def test_measures_that_nobody_planned_for_get_a_code_and_cost_nothing(tmp_path, features, change, code):
    workspace = make(tmp_path, features, metrics=replace(METRICS, every=2))
    reply = Vault(workspace, "large").release_metrics(replace(question(workspace, round_number=2), **change))
    assert (reply.code, reply.metrics, reply.epsilon) == (code, {}, 0.0)
    assert account_of(workspace).events() == ()


def test_without_the_setting_nothing_is_released(tmp_path, features):
    workspace = make(tmp_path, features, metrics=None)
    assert Vault(workspace, "large").release_metrics(question(workspace)).code == "bad_request"
    assert account_of(workspace).events() == ()


def test_a_budget_is_planned_for_both_and_holds_every_round_of_them(tmp_path, features):
    workspace = make(
        tmp_path, features, metrics=replace(METRICS, noise_multiplier=8.0), noise_multiplier=None, epsilon=3.0
    )
    vault = Vault(workspace, "large")
    for number in (1, 2, 3):
        trained = vault.train(toy_request(workspace, round_number=number))
        told = vault.release_metrics(question(workspace, round_number=number))
        assert (trained.code, told.code) == ("ok", "ok")
    assert 3.0 * 0.99 < told.epsilon <= 3.0
    standing = account_of(workspace).standing()
    assert (standing.composition, standing.delta) == ("plan", 1e-6)
    beyond = vault.release_metrics(question(workspace, round_number=3, shift=1e-3))
    assert beyond.code == "exhausted"
    assert (beyond.metrics, beyond.head) == ({}, told.head)


def test_what_a_plan_did_not_declare_is_composed_as_chosen_in_view_of_the_results(tmp_path, features):
    workspace = make(tmp_path, features, budget_epsilon=50.0)
    vault = Vault(workspace, "large")
    for number in (1, 2, 3):
        vault.release_metrics(question(workspace, round_number=number))
    vault.train(toy_request(workspace))
    assert account_of(workspace).composition == "plan"
    vault.release_metrics(question(workspace, shift=1e-3))  # a fourth of three
    standing = account_of(workspace).standing()
    assert (standing.composition, standing.delta) == ("filter", 2e-6)


def test_a_plan_that_its_budget_would_cut_short_is_none(tmp_path, features):
    assert make(tmp_path, features, budget_epsilon=0.5).plan is None
    assert make(tmp_path, features, budget_epsilon=50.0).plan is not None
    assert make(tmp_path, features, metrics=None).plan is None


def test_a_declared_plan_counts_its_steps_inside_the_transaction(tmp_path):
    one, two = (Event(sampling_rate=rate, noise_multiplier=4.0, steps=1) for rate in (0.5, 1.0))
    plan = Declared(name="p", events=(replace(one, steps=2), two))
    policy = Policy(mechanism="dp_sgd", unit="slate", delta=1e-6, budget_epsilon=9.0)
    account = Ledger(tmp_path / "l.sqlite").account("a", policy)
    for charge, event in enumerate((one, two, one)):
        account.charge(str(charge), event, plan=plan)
        assert account.composition == "plan"
    assert account.epsilon() == epsilon([replace(one, steps=2), two], 1e-6)
    account.charge("again", one, plan=plan)
    assert account.composition == "filter"
    assert not plan.holds(replace(one, noise_multiplier=5.0), ())


def test_calibration_leaves_room_for_what_is_released_beside_training(tmp_path):
    beside = (Event(sampling_rate=1.0, noise_multiplier=8.0, steps=3),)
    facts = {"sampling_rate": 0.1, "steps": 30, "epsilon": 2.0, "delta": 1e-6, "cache_dir": tmp_path}
    alone, both = calibrate(**facts), calibrate(**facts, beside=beside)
    assert both > alone
    cost = epsilon([Event(sampling_rate=0.1, noise_multiplier=both, steps=30), *beside], 1e-6)
    assert 2.0 * 0.995 <= cost <= 2.0
    assert (calibrate(**facts), calibrate(**facts, beside=beside)) == (alone, both), "each kept under its own plan"
    with pytest.raises(PrivacyError, match=r"privacy\.metrics\.noise_multiplier"):
        calibrate(**facts, beside=(Event(sampling_rate=1.0, noise_multiplier=0.5, steps=3),))


def test_a_client_is_planned_for_as_often_as_it_is_asked():
    def times(**privacy):
        metrics = {"every": 5, **privacy.pop("metrics", {})}
        raw = {"noise_multiplier": 1.0, "mechanism": "dp_sgd", "metrics": metrics, **privacy}
        return sum(e.steps for e in planned_events(parse({"privacy": raw}).privacy, rounds=23))

    local = {"mechanism": "client_update", "unit": "client", "noise_at": "local", "participations": 2}
    assert times() == 4
    assert times(**local) == 2
    assert times(**local, metrics={"asked": "all"}) == 4


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"mechanism": "no_privacy"}, "leave privacy.metrics out"),
        ({"mechanism": "client_update", "unit": "client"}, "noise_at: local"),
        ({"metrics": {"measures": ["ndcg"]}}, "ndcg@10, mrr"),
        ({"metrics": {"every": 1000}}, "privacy.metrics.every=1000"),
        ({"metrics": {"noise_multiplier": 0.0}}, "above 0"),
        ({"metrics": {"noise": 2.0}}, "Unknown setting 'privacy.metrics.noise'"),
        (
            {"mechanism": "client_update", "unit": "client", "noise_at": "local", "metrics": {"asked": "merchants"}},
            "asked: cohort",
        ),
    ],
)
def test_settings_that_could_not_keep_a_promise_are_refused(privacy, message):
    with pytest.raises(ConfigError, match=message):
        parse({"privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "metrics": {}, **privacy}})


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_ledger_that_lacks_what_was_acknowledged_pays_for_nothing_and_says_so_at_home(
    tmp_path, features, noise, caplog
):
    workspace = make(tmp_path, features, noise=noise)
    vault = Vault(workspace, "large")
    count, head = vault.train(toy_request(workspace)).head
    acknowledged = {"ledger_count": count, "ledger_head": head}
    fresh = make(tmp_path / "restored", features, noise=noise)
    with caplog.at_level(logging.ERROR):
        replies = [
            Vault(fresh, "large").train(replace(toy_request(fresh, round_number=2), **acknowledged)),
            Vault(fresh, "large").release_metrics(replace(question(fresh), **acknowledged)),
        ]
    assert [(reply.code, reply.head) for reply in replies] == [("refused", (0, ""))] * 2
    assert "Put back the newest file" in caplog.text
    assert account_of(fresh).events() == ()
    assert vault.train(replace(toy_request(workspace, round_number=2), **acknowledged)).ledger_count == 2
