"""At stake: the one door to private data: it charges before it trains, trains once a charge, and tells nothing else."""

import dataclasses
import itertools
import logging
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from client.vault import Vault
from client.workspace import choose_device, open_workspace
from mmrank import components
from mmrank.errors import ConfigError, PrivacyError
from mmrank.metrics import METRICS
from mmrank.privacy.accountant import epsilon
from mmrank.protocol import check_update
from mmrank.ranking import Event
from mmrank.wire import input_hash, reply_fault
from tests.client.shop import SIZES, ToyDataset, toy_request, toy_settings, toy_workspace


class StandIn(ToyDataset):
    stand_in = "The same purchases lie under another identity."


def same(first, second) -> bool:
    return all(first.update[name].tobytes() == second.update[name].tobytes() for name in first.update)


@pytest.fixture
def workspace(tmp_path, features):
    return toy_workspace(tmp_path, features)


@pytest.fixture
def secure(tmp_path, features):
    return toy_workspace(tmp_path, features, toy_settings(noise="secure"))


def charged_steps(workspace, client="large") -> int:
    account = workspace.ledger.account(workspace.dataset.data_identity(client), workspace.policy)
    return sum(event.steps for event in account.events())


@pytest.mark.parametrize("privacy", [{}, {"noise": "secure"}, {"grad_sample": "vmap"}, {"mechanism": "no_privacy"}])
@pytest.mark.parametrize("client", SIZES)
def test_every_client_answers_with_an_update_whatever_it_holds(tmp_path, features, privacy, client):
    settings = toy_settings(**privacy)
    workspace = toy_workspace(tmp_path, features, settings)
    request = toy_request(workspace)
    reply = Vault(workspace, client).train(request)
    assert reply.code == "ok"
    assert reply_fault(reply, request, client) is None
    assert check_update(reply.update, request.parameters) is None
    if settings.privacy.mechanism == "dp_sgd":
        moved = np.concatenate([array.ravel() for array in reply.update.values()])
        assert (moved != 0).mean() > 0.9  # noise on the grid of released sums is 0 now and then
        assert reply.epsilon == epsilon([workspace.mechanism.event], settings.privacy.delta)
    else:
        assert reply.epsilon == math.inf


def test_a_vault_is_made_without_touching_anything(tmp_path, features):
    class Untouchable(ToyDataset):
        def slates(self, client_id, split):
            raise AssertionError("read before it was needed")

    workspace = toy_workspace(tmp_path / "state", features, dataset=Untouchable())
    assert Vault(workspace, "large").enrol().kind == "merchant"
    assert not (tmp_path / "state").exists()


def test_enrolment_states_the_promise_and_nothing_of_the_data(tmp_path, features):
    settings = toy_settings(noise_multiplier=None, epsilon=3.0)
    for dataset in (ToyDataset(), ToyDataset(extra=1)):
        said = Vault(toy_workspace(tmp_path, features, settings, dataset=dataset), "small").enrol()
        assert (said.client, said.kind, said.mechanism, said.unit) == ("small", "device", "dp_sgd", "slate")
        assert (said.delta, said.budget_epsilon) == (1e-6, 3.0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"config_sha256": "another"}, "config_mismatch"),
        ({"round_number": 0}, "bad_request"),
        ({"round_number": 4}, "bad_request"),
        ({"parameters": {}}, "bad_request"),
    ],
)
def test_a_request_out_of_order_gets_a_code_and_costs_nothing(workspace, change, code):
    reply = Vault(workspace, "large").train(dataclasses.replace(toy_request(workspace), **change))
    assert (reply.code, reply.update, reply.epsilon) == (code, {}, 0.0)
    assert charged_steps(workspace) == 0


@pytest.mark.parametrize("spoil", [lambda a: a.astype(np.float64), lambda a: a[..., :1], lambda a: a * np.nan])
def test_parameters_that_are_not_the_models_are_a_bad_request(workspace, spoil):
    request = toy_request(workspace)
    name = max(request.parameters, key=lambda key: request.parameters[key].size)
    spoiled = {**request.parameters, name: spoil(request.parameters[name])}
    reply = Vault(workspace, "large").train(dataclasses.replace(request, parameters=spoiled))
    assert reply.code == "bad_request"


def test_the_charge_stands_before_training_begins(workspace, monkeypatch):
    seen = []

    def breaks(*args, **kwargs):
        seen.append(charged_steps(workspace))
        raise RuntimeError("out of memory")

    monkeypatch.setattr("client.vault.local_update", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        Vault(workspace, "large").train(toy_request(workspace))
    assert seen == [2]
    assert charged_steps(workspace) == 2


def test_seeded_noise_gives_the_same_bytes_under_the_same_charge(workspace, tmp_path, features):
    request = toy_request(workspace)
    first = Vault(workspace, "large").train(request)
    again = Vault(toy_workspace(tmp_path, features), "large").train(request)
    assert same(first, again)
    assert first.epsilon == again.epsilon
    assert charged_steps(workspace) == 2


def test_secure_noise_is_sent_again_from_the_outbox(secure, tmp_path, features, monkeypatch):
    request = toy_request(secure)
    first = Vault(secure, "large").train(request)
    monkeypatch.setattr("client.vault.local_update", lambda *a, **k: pytest.fail("trained twice on one charge"))
    restarted = toy_workspace(tmp_path, features, secure.settings)
    again = Vault(restarted, "large").train(request)
    assert same(first, again)
    assert again.epsilon == first.epsilon
    assert charged_steps(restarted) == 2


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_another_input_in_the_same_round_is_another_charge_with_other_noise(tmp_path, features, noise):
    workspace = toy_workspace(tmp_path, features, toy_settings(noise=noise))
    vault = Vault(workspace, "empty")
    first, second = (vault.train(toy_request(workspace, shift=shift)) for shift in (0.0, 1e-3))
    assert charged_steps(workspace, "empty") == 4
    assert second.epsilon > first.epsilon
    flat = [np.concatenate([array.ravel() for array in reply.update.values()]) for reply in (first, second)]
    assert abs(np.corrcoef(*flat)[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("privacy", "dataset", "said"),
    [
        ({"unit": "user"}, ToyDataset(simulation_only="Candidates are other people's."), "other people's"),
        ({"mechanism": "client_update", "unit": "client"}, ToyDataset(), "client large of data set toy is a merchant"),
    ],
)
def test_a_person_is_not_promised_what_other_peoples_slates_would_tell(tmp_path, features, privacy, dataset, said):
    with pytest.raises(PrivacyError, match=said):
        toy_workspace(tmp_path, features, toy_settings(**privacy), dataset=dataset)


@pytest.mark.parametrize("client", SIZES)
def test_people_of_a_client_are_charged_as_units_of_their_own_kind(tmp_path, features, client):
    workspace = toy_workspace(tmp_path, features, toy_settings(unit="user", slates_per_user=2))
    reply = Vault(workspace, client).train(toy_request(workspace))
    assert reply.code == "ok"
    assert Vault(workspace, client).enrol().unit == "user"
    assert charged_steps(workspace, client) == 2
    assert min(np.abs(array).max() for array in reply.update.values()) > 0


def test_clients_and_rounds_have_noise_of_their_own(workspace):
    replies = [Vault(workspace, "empty").train(toy_request(workspace, round_number=number)) for number in (1, 2)]
    replies.append(Vault(workspace, "one").train(toy_request(workspace)))
    flat = [np.concatenate([array.ravel() for array in reply.update.values()]) for reply in replies]
    assert np.abs(np.corrcoef(flat)[~np.eye(3, dtype=bool)]).max() < 0.5


def test_a_training_that_was_cut_short_is_charged_again(secure):
    request, vault = toy_request(secure), Vault(secure, "large")
    first, second, *_ = itertools.islice(vault._charges(request, input_hash(request.parameters)), 2)
    assert first != second
    vault._account().charge(first, secure.mechanism.event)
    reply = vault.train(request)
    assert reply.code == "ok"
    assert charged_steps(secure) == 4
    assert same(reply, vault.train(request))
    assert charged_steps(secure) == 4


CUT_SHORT = """
import os, signal, sys
from pathlib import Path
from client.outbox import Outbox
from client.vault import Vault
from tests.client.shop import toy_features, toy_request, toy_settings, toy_workspace
folder = Path(sys.argv[1])
workspace = toy_workspace(folder, toy_features(folder / "features"), toy_settings(noise="secure"))
Outbox.put = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
Vault(workspace, "large").train(toy_request(workspace))
"""


def test_a_client_killed_between_charge_and_reply_pays_and_answers_after_its_restart(tmp_path, features):
    killed = subprocess.run([sys.executable, "-c", CUT_SHORT, str(tmp_path)], check=False)
    assert killed.returncode == -9
    workspace = toy_workspace(tmp_path, features, toy_settings(noise="secure"))
    assert charged_steps(workspace) == 2
    assert Vault(workspace, "large").train(toy_request(workspace)).code == "ok"
    assert charged_steps(workspace) == 4


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_spent_budget_answers_exhausted_and_the_rest_go_on(tmp_path, features, noise):
    once = toy_workspace(tmp_path / "plan", features).mechanism.event
    budget = epsilon([once] * 2, 1e-6)
    workspace = toy_workspace(tmp_path, features, toy_settings(noise=noise, budget_epsilon=budget))
    vault = Vault(workspace, "large")
    codes = [vault.train(toy_request(workspace, round_number=number)).code for number in (1, 2, 3)]
    assert codes == ["ok", "ok", "exhausted"]
    last = vault.train(toy_request(workspace, round_number=3))
    assert (last.update, last.epsilon) == ({}, budget)
    assert vault.train(toy_request(workspace, round_number=2)).code == "ok"  # paid already
    assert Vault(workspace, "small").train(toy_request(workspace, round_number=3)).code == "ok"


def test_another_promise_over_the_same_data_is_refused(tmp_path, features):
    ledger = str(tmp_path / "kept.sqlite")
    first = toy_workspace(tmp_path / "a", features, toy_settings(ledger=ledger))
    assert Vault(first, "large").train(toy_request(first)).code == "ok"
    second = toy_workspace(tmp_path / "b", features, toy_settings(ledger=ledger, delta=1e-5))
    assert Vault(second, "large").train(toy_request(second)).code == "refused"


def test_who_opted_out_trains_no_more_and_the_server_hears_that_the_policy_refuses(workspace):
    vault = Vault(workspace, "large")
    assert vault.train(toy_request(workspace)).code == "ok"
    account = workspace.ledger.account(workspace.dataset.data_identity("large"), workspace.policy)
    account.opt_out()
    for request in (toy_request(workspace), toy_request(workspace, round_number=2)):
        reply = vault.train(request)
        assert (reply.code, reply.update, reply.epsilon) == ("refused", {}, 0.0)
    assert Vault(workspace, "small").train(toy_request(workspace)).code == "ok"


def test_a_kept_ledger_is_shared_by_runs_and_remembers_training_without_privacy(tmp_path, features):
    ledger = str(tmp_path / "kept.sqlite")
    for run in ("one", "two"):
        workspace = toy_workspace(tmp_path / run, features, toy_settings(ledger=ledger))
        Vault(workspace, "large").train(toy_request(workspace, run=run))
    assert charged_steps(workspace) == 4
    bare = toy_workspace(tmp_path / "three", features, toy_settings(ledger=ledger, mechanism="no_privacy"))
    assert Vault(bare, "large").train(toy_request(bare)).epsilon == math.inf
    after = toy_workspace(tmp_path / "four", features, toy_settings(ledger=ledger))
    assert Vault(after, "large").train(toy_request(after, run="four")).epsilon == math.inf


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_neighbouring_data_show_in_the_privatised_arrays_alone(tmp_path, features, noise, caplog):
    caplog.set_level("DEBUG")
    replies, lines = [], []
    for extra in (0, 1):
        workspace = toy_workspace(
            tmp_path / str(extra), features, toy_settings(noise=noise), dataset=ToyDataset(extra=extra)
        )
        replies.append(Vault(workspace, "small").train(toy_request(workspace)))
        lines.append([record.getMessage() for record in caplog.records])
        caplog.clear()
    first, second = replies
    assert (first.code, first.client, first.round_number, first.epsilon) == (
        second.code, second.client, second.round_number, second.epsilon,
    )  # fmt: skip
    assert {n: a.shape for n, a in first.update.items()} == {n: a.shape for n, a in second.update.items()}
    assert lines[0] == lines[1]


def test_the_proximal_weight_comes_from_the_aggregation(tmp_path, features):
    norms = []
    for aggregation in ({"name": "fedavg"}, {"name": "fedprox", "mu": 50.0}):
        training = {"local_steps": 6, "optimizer": "sgd", "learning_rate": 0.01}
        settings = toy_settings(mechanism="no_privacy", aggregation=aggregation, training=training)
        workspace = toy_workspace(tmp_path, features, settings)
        reply = Vault(workspace, "large").train(toy_request(workspace))
        norms.append(sum(float((array**2).sum()) for array in reply.update.values()))
    assert norms[1] < norms[0]


@pytest.mark.parametrize(
    ("privacy", "dataset", "message"),
    [
        ({"noise": "seeded", "ledger": "/kept.sqlite"}, ToyDataset(), "privacy.noise: secure"),
        ({"noise": "secure"}, ToyDataset(), "absolute path"),
        ({"noise": "secure", "ledger": "kept.sqlite"}, ToyDataset(), "absolute path"),
        ({"mechanism": "no_privacy"}, ToyDataset(), "absolute path"),
        ({"noise": "secure", "ledger": "/kept.sqlite"}, ToyDataset(), "budget_epsilon"),
        (
            {"noise": "secure", "ledger": "/kept.sqlite", "budget_epsilon": 1.0},
            ToyDataset(simulation_only="Drawn from others."),
            "Drawn from others",
        ),
        ({"noise": "secure", "ledger": "/kept.sqlite", "budget_epsilon": 1.0}, StandIn(), "another identity"),
    ],
)
def test_what_holds_in_a_simulation_alone_is_refused_in_a_deployment(tmp_path, features, privacy, dataset, message):
    settings = toy_settings(**privacy)
    with pytest.raises(PrivacyError, match=message):
        toy_workspace(tmp_path, features, settings, dataset=dataset, deployment=True)
    assert toy_workspace(tmp_path, features, settings, dataset=dataset)


def test_evaluation_is_exact_over_whole_lists_and_counts_what_it_leaves_out(workspace):
    parameters = toy_request(workspace).parameters
    measured = Vault(workspace, "large").evaluate(parameters, "test")
    assert set(measured) == {*METRICS, "slates", "left_out"}
    assert measured["slates"] + measured["left_out"] == 3
    assert all(0 <= measured[name] <= 1 for name in METRICS)
    empty = Vault(workspace, "empty").evaluate(parameters, "train")
    assert empty["slates"] == 0
    assert math.isnan(empty["mrr"])


def test_a_new_event_changes_the_next_ranking(workspace):
    vault, parameters = Vault(workspace, "small"), toy_request(workspace).parameters
    before = vault.rank(parameters, "运动鞋", top=5)
    assert len(before) == 5
    assert before == vault.rank(parameters, "运动鞋", top=5)
    event = Event(item=before[-1].item, event_type=3, time_days=100.0)
    after = vault.rank(parameters, "运动鞋", top=5, events=[event])
    assert [ranked.score for ranked in after] != [ranked.score for ranked in before]
    assert vault.rank(parameters, "lamp", top=5) != before


def test_a_configuration_is_opened_once_a_process(tmp_path, features, monkeypatch):
    build = components.build

    def with_toys(family, spec, **extra):
        return ToyDataset() if family == "client.datasets" else build(family, spec, **extra)

    monkeypatch.setattr(components, "build", with_toys)
    settings = toy_settings()
    raw = {**settings.to_dict(), "features_cache": str(tmp_path / "cache")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    opened = open_workspace(tmp_path / "config.yaml", tmp_path / "state")
    assert open_workspace(str(tmp_path / "config.yaml"), str(tmp_path / "state")) is opened
    assert open_workspace(tmp_path / "config.yaml", tmp_path / "other") is not opened
    assert opened.settings.training == settings.training


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_a_configuration_that_cannot_be_read_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config.yaml"):
        open_workspace(tmp_path / "config.yaml", tmp_path)
    with pytest.raises(ConfigError, match="absent.yaml"):
        open_workspace(tmp_path / "absent.yaml", tmp_path)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device: auto"):
        choose_device("cuda")


def test_recent_slates_are_kept_within_a_bound(workspace, monkeypatch):
    first = workspace.batch("large", "train")
    assert workspace.batch("large", "train") is first
    monkeypatch.setattr("client.workspace.BATCHES_KEPT_BYTES", 1)
    workspace.batch("small", "train")
    assert list(workspace._batches) == [("small", "train")]
    assert os.path.basename(workspace.ledger.path) == "ledger.sqlite"


def test_two_processes_that_are_asked_at_once_pay_twice(tmp_path, features):
    """Each draws its own noise: a charge that the other wrote is not this one's to train on."""
    settings = toy_settings(noise="secure", ledger=str(tmp_path / "ledger.sqlite"))
    ones = [toy_workspace(tmp_path / name, features, settings) for name in ("one", "two")]
    replies = [Vault(one, "large").train(toy_request(one)) for one in ones]
    assert not same(*replies)
    assert charged_steps(ones[0]) == 2 * settings.training.local_steps
    assert replies[1].epsilon > replies[0].epsilon


def test_a_model_out_of_all_bounds_is_turned_away_before_a_charge(workspace):
    request = toy_request(workspace, shift=1e6)
    assert Vault(workspace, "large").train(request).code == "bad_request"
    assert charged_steps(workspace) == 0


def test_slates_that_cannot_be_used_do_not_show(tmp_path, features, caplog):
    """An error in place of an answer would tell that such a slate is there."""

    class Damaged(ToyDataset):
        def slates(self, client_id, split):
            good = super().slates(client_id, split)
            far, odd = good[0].candidates.copy(), good[0].relevance.copy()
            far[0], odd[0] = 10_000, np.nan
            replaced = [{"candidates": far}, {"relevance": odd}, {"query": None}, {"age_days": np.zeros(99)}]
            return [*good, *(dataclasses.replace(good[0], **change) for change in replaced)]

    replies = []
    for name, dataset in (("good", ToyDataset()), ("damaged", Damaged())):
        workspace = toy_workspace(tmp_path / name, features, dataset=dataset)
        replies.append(Vault(workspace, "large").train(toy_request(workspace)))
    assert replies[1].code == "ok"
    assert same(*replies)
    assert "4 of 44 slates" in caplog.text


def test_a_ledger_of_one_adjacency_takes_no_charge_of_the_other(tmp_path, features, caplog):
    """An update of zeros and another update are unlike neighbours: epsilon of a mixture would hold for neither."""
    kept = {
        "ledger": str(tmp_path / "kept.sqlite"),
        "budget_epsilon": 50.0,
        "mechanism": "client_update",
        "unit": "client",
    }

    class Devices(ToyDataset):
        def kind(self, client_id):
            return "device"

    zeroed, replaced = (
        toy_workspace(
            tmp_path / place, features, toy_settings(**kept, noise_at=place, noise_multiplier=4.0), dataset=Devices()
        )
        for place in ("central", "local")
    )
    assert Vault(zeroed, "small").train(toy_request(zeroed)).code == "ok"
    with caplog.at_level(logging.ERROR):
        assert Vault(replaced, "small").train(toy_request(replaced)).code == "refused"
    assert "was begun with unit=client, not client, replaced" in caplog.text
