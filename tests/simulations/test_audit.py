"""At stake: a privacy engineer audits a run and can believe either answer."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from client.training import prepare
from client.workspace import make_workspace
from mmrank.errors import ConfigError
from mmrank.privacy import noise as noise_module
from mmrank.privacy.accountant import Event
from mmrank.privacy.audit import judge
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker
from simulations.audit.canaries import LOUDNESS, PARAMETER, STRENGTH, WithCanaries, canary_slates
from simulations.audit.membership import attack_figures, membership, rmia_scores
from simulations.audit.report import audit_run, sentence
from simulations.audit.scores import log_likelihood_ratio
from simulations.audit.training import attack, audited, smallest_client
from simulations.cli import app
from tests.client.shop import ToyDataset, toy_features, toy_settings
from tests.mutants import bugs


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return toy_features(tmp_path_factory.mktemp("audit-features"))


def settings_of(**privacy):
    """Every step sees every unit; 2 rounds of 2 steps with noise 2: epsilon 4.7 at delta 1e-6."""
    facts = {"sampling_rate": 1.0, "noise_multiplier": 2.0, "micro_batch_size": 128, "max_grad_norm": 0.5}
    return toy_settings(rounds=2, training={"optimizer": "sgd", "learning_rate": 0.01}, **{**facts, **privacy})


def made(features, count=40, **privacy):
    settings = settings_of(**privacy)
    ranker = build_ranker(settings.model, seed=0)
    return canary_slates(count, features, ranker, settings, np.random.default_rng(0)), settings, ranker


def attacked(features, folder, *, seed=5, canaries=400, **privacy):
    return attack(
        settings_of(**privacy),
        dataset=ToyDataset(),
        features=features,
        canaries=canaries,
        client="small",
        seed=seed,
        state_dir=folder,
    )


def test_each_canary_owns_an_entry_and_fills_the_clip(features, tmp_path):
    canaries, settings, ranker = made(features)
    assert len({tuple(entry) for entry in canaries.entries.tolist()}) == 40
    workspace = make_workspace(settings, state_dir=tmp_path, dataset=ToyDataset(), features=canaries.features)
    gradients = prepare(ranker, canaries.features, training=settings.training, privacy=workspace.mechanism)
    rows = gradients(canaries.inputs(slice(0, 40), settings, "cpu"))
    flat = torch.cat([value.flatten(1) for value in rows.values()], dim=1)
    norms = flat.norm(dim=1)
    assert norms.min() > settings.privacy.max_grad_norm
    own = -rows[PARAMETER][torch.arange(40), *torch.from_numpy(canaries.entries).unbind(1)]
    assert own.min() > 0.95 * norms.max()
    torch.testing.assert_close(own, torch.full((40,), STRENGTH * settings.privacy.max_grad_norm), rtol=1e-3, atol=1e-4)
    there = rows[PARAMETER].flatten(1) != 0
    assert (there.sum(1) == 1).all()  # nothing of a canary in another's entry


def test_the_reserved_rows_leave_the_catalogue_and_its_queries_as_they_are(features):
    canaries, _, _ = made(features)
    extended, items = canaries.features, len(features)
    for name in ("text", "image", "style", "price", "category", "has_text"):
        assert torch.equal(getattr(extended, name)[:items], getattr(features, name))
    assert torch.equal(extended.query_rows(["running shoes"]), features.query_rows(["running shoes"]))
    reserved = extended.query_rows([canaries.slates[0].query])
    assert reserved.sum() == LOUDNESS
    assert not features.query_rows(["running shoes"]).equal(reserved)


def test_canaries_join_one_clients_training_part_under_a_ledger_of_its_own(features):
    canaries, _, _ = made(features)
    dataset, included = ToyDataset(), np.arange(40) % 4 == 0
    joined = WithCanaries(dataset, "small", canaries.chosen(included))
    assert len(joined.slates("small", "train")) == len(dataset.slates("small", "train")) + 10
    for client, split in (("small", "test"), ("large", "train")):
        assert len(joined.slates(client, split)) == len(dataset.slates(client, split))
    assert joined.data_identity("small") != dataset.data_identity("small")
    users = [slate.user for slate in joined.slates("small", "train")]
    assert len(set(users[-10:])) == 10
    assert not set(users[-10:]) & set(users[:-10])


def test_more_canaries_than_entries_are_refused(features):
    with pytest.raises(ConfigError, match="--canaries=100000"):
        made(features, 100_000)


def test_the_step_score_is_the_likelihood_ratio():
    """Against the densities themselves."""
    seen, own, sigma, rate = np.linspace(-3, 4, 9), np.full(9, 0.9), 1.3, 0.2

    def density(x, mean):
        return np.exp(-((x - mean) ** 2) / (2 * sigma**2))

    wanted = np.log(((1 - rate) * density(seen, 0) + rate * density(seen, 0.9)) / density(seen, 0))
    np.testing.assert_allclose(log_likelihood_ratio(seen, own, sigma, rate), wanted, rtol=1e-9)
    np.testing.assert_allclose(
        log_likelihood_ratio(seen, own, sigma, 1.0), np.log(density(seen, 0.9) / density(seen, 0)), atol=1e-9
    )
    np.testing.assert_array_equal(log_likelihood_ratio(seen, own, 0.0, rate), seen)


def test_the_claim_is_what_the_clients_ledger_holds(features, tmp_path):
    found = attacked(features, tmp_path, canaries=20)
    assert found.events == (Event(sampling_rate=1.0, noise_multiplier=2.0, steps=4),)
    assert found.rounds == 2
    assert set(found.scores) == {"steps", "model"}
    assert 0.9 < found.share <= 1.0
    assert judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.95).claim == found.epsilon


def test_the_audit_repeats_under_its_seed_and_not_under_another(features, tmp_path):
    first, again, other = (
        attacked(features, tmp_path / name, seed=seed, canaries=20) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    np.testing.assert_array_equal(first.included, again.included)
    np.testing.assert_array_equal(first.scores["steps"], again.scores["steps"])
    assert not np.array_equal(first.included, other.included)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_clean_run_is_bounded_below_its_claim(features, tmp_path, monkeypatch, noise):
    # noise that repeats, by its keys or its run's name: of other noise, one run in 130 is bounded at 0.3 or less
    keys = SimpleNamespace(getpid=os.getpid, urandom=random.Random(1).randbytes)
    monkeypatch.setattr(noise_module, "os", keys)
    monkeypatch.setattr("server.rounds.new_run_id", lambda settings: "audit")
    found = attacked(features, tmp_path, noise=noise)
    verdict = judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.999)
    assert 4 < verdict.claim < 6
    assert 0.3 < verdict.bound < verdict.claim
    assert not verdict.refuted


@pytest.mark.parametrize("plant", [bugs.noise_times(1 / 4), bugs.noise_times(0)], ids=["a quarter", "none"])
def test_a_planted_bug_is_found_through_the_vault(features, tmp_path, monkeypatch, plant):
    weak = {"noise_multiplier": 4.8, "canaries": 760}
    verdict = {}
    for name in ("clean", "planted"):
        found = attacked(features, tmp_path / name, **weak)
        verdict[name] = judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.999)
        plant(monkeypatch)
    assert 1.5 < verdict["clean"].claim < 2
    assert not verdict["clean"].refuted
    assert verdict["planted"].refuted
    assert verdict["planted"].claim == verdict["clean"].claim


def test_a_run_that_drops_old_data_keeps_its_canaries(features, tmp_path, monkeypatch):
    """They have no age: dropped with what is old, they would find nothing whatever the noise."""
    bugs.noise_times(0.125)(monkeypatch)
    found = attacked(features, tmp_path, noise="secure", retention_days=30.0)
    verdict = judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.999)
    assert verdict.best.guessed.correct == verdict.best.guessed.guesses >= 200


def test_what_broke_a_curve_is_not_said_to_have_that_epsilon():
    bound = {"epsilon": 3.0, "method": "one (epsilon, delta)"}
    report = {"holds": False, "epsilon": 2.0, "delta": 1e-6, "unit": "slate", "lower_bound": {"0.999": bound}}
    assert sentence(report).startswith("BROKEN: epsilon is at least 3")
    bound["method"] = "whole curve"
    assert "of that kind of noise epsilon is at least 3" in sentence(report)


def test_a_ledger_that_forgets_is_found_out(features, tmp_path, monkeypatch):
    bugs.charge_forgotten(monkeypatch)
    settings = settings_of(noise_multiplier=8.0)
    found = attack(
        replace(settings, federation=replace(settings.federation, rounds=60)),
        dataset=ToyDataset(),
        features=features,
        canaries=400,
        client="small",
        seed=3,
        state_dir=tmp_path,
    )
    assert found.events[0].steps == 2
    assert judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.999).refuted


def test_the_audited_client_is_one_with_few_slates():
    assert smallest_client(ToyDataset()) == "one"


def test_a_run_without_a_promise_is_refused():
    with pytest.raises(ConfigError, match="no_privacy"):
        audited(toy_settings(mechanism="no_privacy"), 0)


def test_a_spent_budget_is_no_audit(features, tmp_path):
    with pytest.raises(ConfigError, match="answered 1 and then exhausted"):
        attacked(features, tmp_path, canaries=20, budget_epsilon=4.0)


def test_the_attacks_figures_are_those_of_known_scores():
    """AUC of two normals one deviation apart is Phi(1 / sqrt 2) = 0.760; TPR at 1% is Phi(1 - 2.326) = 0.092."""
    draw = np.random.default_rng(0)
    member = np.arange(8000) < 4000
    figures = attack_figures(draw.standard_normal(8000) + member, member)
    assert figures.auc_ci95[0] < 0.7602 < figures.auc_ci95[1]
    assert figures.auc_ci95[1] - figures.auc_ci95[0] < 0.03
    assert abs(figures.tpr - 0.092) < 0.03
    assert figures.tpr_ci95[0] < figures.tpr < figures.tpr_ci95[1]
    assert attack_figures(member.astype(float), member).auc == 1.0
    assert attack_figures(np.zeros(8000), member).auc == 0.5


def test_rmia_divides_by_references_that_were_not_trained_on_the_slate():
    losses = np.array([1.0, 2.0])
    outside = np.array([[2.0, np.nan], [np.nan, 2.0]])
    np.testing.assert_allclose(rmia_scores(losses, outside), [1.0, 0.0])


def test_membership_of_an_overfitted_model_shows_and_of_an_untrained_one_does_not(features):
    from client.training import fit
    from mmrank.ranker import parameters_of
    from mmrank.slates import collate

    class Whims(ToyDataset):
        """What people like is anybody's guess: only memory helps."""

        def slates(self, client_id, split):
            draw = numpy_generator(0, "whims", client_id, split)
            own = super().slates(client_id, split)
            return [replace(slate, relevance=np.eye(8, dtype=np.float32)[draw.integers(8)]) for slate in own]

    settings, dataset = toy_settings(mechanism="no_privacy"), Whims()
    ranker = build_ranker(settings.model, seed=settings.seed)
    inside = [slate for client in dataset.client_ids for slate in dataset.slates(client, "train")]
    batch = collate(inside, history_length=settings.model.history_length, slate_length=8)
    fit(ranker, batch, features, training=settings.training, steps=800, shuffle=numpy_generator(0, "overfit"))
    found = membership(settings, dataset=dataset, features=features, parameters=parameters_of(ranker), seed=0)
    assert set(found) == {"loss", "loss, untrained", "rmia", "rmia, untrained"}
    assert found["loss"]["auc"]["ci95"][0] > 0.6
    assert found["loss, untrained"]["auc"]["ci95"][0] < 0.5 < found["loss, untrained"]["auc"]["ci95"][1] + 0.05


def asked(*arguments: object):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_the_command_reports_a_clean_run(finished, tmp_path):
    result = asked(finished.folder, "--canaries", 400, "--seed", 1, "--json", "--out", tmp_path / "audit")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["holds"] is True
    assert report["epsilon"] == finished.result["privacy"]["epsilon_max"]
    assert report["canaries"] == 400
    assert report["also_trained"] == []
    assert set(report["lower_bound"]) == {"0.95", "0.999"}
    assert report["lower_bound"]["0.999"]["epsilon"] <= report["lower_bound"]["0.95"]["epsilon"] <= report["epsilon"]
    assert report["below_resolution"] is False
    assert set(report["membership"]) == {"loss", "loss, untrained", "rmia", "rmia, untrained"}
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == report
    assert "stands" in sentence(report)


def test_the_command_exits_1_where_the_claim_is_broken(finished, monkeypatch):
    bugs.noise_times(0)(monkeypatch)
    # of few steps at a small rate, few canaries are in one at all
    result = asked(finished.folder, "--canaries", 1000, "--seed", 1)
    assert result.exit_code == 1, result.output
    assert "BROKEN: " in result.stdout


def test_too_few_canaries_are_said_to_be_below_resolution(finished):
    report = audit_run(finished.folder, canaries=8, seed=1)
    assert report["below_resolution"]
    assert report["holds"]
    assert sentence(report).startswith("Below resolution: 8 canaries")


def test_a_folder_without_a_run_and_an_out_in_use_are_errors(finished, tmp_path):
    assert asked(tmp_path).exit_code == 2
    (tmp_path / "file").write_text("kept")
    result = asked(finished.folder, "--out", tmp_path)
    assert result.exit_code == 2
    assert "choose another --out" in result.stderr
    unknown = asked(finished.folder, "--client", "nobody", "--canaries", 4)
    assert unknown.exit_code == 2
    assert "nobody" in unknown.stderr


def test_the_help_has_an_example():
    result = asked("--help")
    assert result.exit_code == 0
    assert "Example: mmrank audit" in result.stdout
