"""At stake: a promise to whole people, in a merchant or on a device, is attacked through the code that keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.vault import Vault
from client.workspace import make_workspace
from mmrank.errors import ConfigError
from mmrank.privacy.accountant import Event
from mmrank.privacy.audit import judge
from mmrank.privacy.mechanism import build_mechanism
from mmrank.ranker import build_ranker, parameters_of
from simulations.audit.canaries import CanaryDevices, WithCanaries, canary_slates
from simulations.audit.devices import learned, loud_canaries
from simulations.audit.membership import charged_clients
from simulations.audit.report import sentence
from simulations.audit.scores import log_likelihood_ratio_of_opposites, watch
from simulations.audit.training import attack, audited
from simulations.cli import app
from simulations.config import load
from simulations.run import simulate
from tests.client.shop import ToyDataset, toy_features, toy_settings
from tests.mutants import bugs, client_bugs

DEVICES = {"mechanism": "client_update", "unit": "client", "sampling_rate": 1.0, "max_grad_norm": 0.5}
CENTRAL = {**DEVICES, "noise_multiplier": 2.6}
LOCAL = {**DEVICES, "noise_at": "local", "noise_multiplier": 5.2}
DISTRIBUTED = {**DEVICES, "noise_at": "distributed", "noise_multiplier": 4.0}
USER = {"unit": "user", "slates_per_user": 8, "sampling_rate": 1.0, "noise_multiplier": 4.8, "micro_batch_size": 128}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return toy_features(tmp_path_factory.mktemp("audit-people-features"))


def settings_of(rounds=1, learning_rate=0.5, **privacy):
    settings = toy_settings(
        rounds=rounds, training={"optimizer": "sgd", "learning_rate": learning_rate}, **{**CENTRAL, **privacy}
    )
    return replace(settings, federation=replace(settings.federation, cohort_size=200))


def attacked(features, folder, *, canaries=400, seed=5, rounds=1, **privacy):
    return attack(
        settings_of(rounds, **privacy),
        dataset=ToyDataset(),
        features=features,
        canaries=canaries,
        seed=seed,
        state_dir=folder,
    )


def attacked_users(features, folder, canaries=400):
    settings = toy_settings(rounds=2, training={"optimizer": "sgd", "learning_rate": 0.01}, **USER)
    return attack(
        settings,
        dataset=ToyDataset(),
        features=features,
        canaries=canaries,
        client="small",
        seed=5,
        state_dir=folder,
    )


def verdict_of(found):
    return judge(found.scores, found.included, events=found.events, delta=1e-6, confidence=0.999)


def loud(features, folder, **privacy):
    """(canaries, what is learned of each: its entry's movement and the norm)."""
    settings = settings_of(**privacy)
    ranker = build_ranker(settings.model, seed=0)
    initial = parameters_of(ranker)
    made = loud_canaries(12, features, ranker, settings, 0)

    def of(canaries):
        return np.array([learned(canaries, row, ranker, settings, initial) for row in range(12)])

    return made, of


def test_canary_people_have_one_to_k_slates_each_and_one_entry(features):
    settings = toy_settings(**USER)
    made = canary_slates(20, features, build_ranker(settings.model, seed=0), settings, np.random.default_rng(0))
    assert made.copies.tolist() == [1 + row % 8 for row in range(20)]
    included = np.arange(20) % 2 == 1
    slates = WithCanaries(ToyDataset(), "small", made.chosen(included)).slates("small", "train")
    people = [slate.user for slate in slates]
    counts = [people.count(made.slates[row].user) for row in range(20)]
    assert counts == (made.copies * included).tolist()


def test_the_people_of_a_data_set_that_can_not_promise_them_anything_are_not_audited(features, tmp_path):
    borrowed = WithCanaries(ToyDataset(simulation_only="It borrows."), "small", [])
    assert borrowed.simulation_only == "It borrows."
    with pytest.raises(Exception, match="It borrows"):
        make_workspace(toy_settings(**USER), state_dir=tmp_path, dataset=borrowed, features=features)


def test_people_clipped_by_the_slate_are_found_through_the_vault(features, tmp_path, monkeypatch):
    clean = verdict_of(attacked_users(features, tmp_path / "clean"))
    assert 1.5 < clean.claim < 2
    assert not clean.refuted
    assert not clean.below_resolution
    bugs.clipped_by_slate(monkeypatch)
    assert verdict_of(attacked_users(features, tmp_path / "planted")).refuted


def test_a_canary_device_passes_the_clip_with_its_own_entry_and_its_opposite_the_other_way(features, tmp_path):
    made, of = loud(features, tmp_path)
    entries, norms = of(made).T
    assert (entries / norms).min() > 0.98
    assert norms.min() > 2 * 0.5  # so that a clip which is not applied shows
    turned = replace(made, slates=[made.opposite(row)[0] for row in range(12)])
    np.testing.assert_allclose(of(turned)[:, 0], -entries, rtol=1e-2)


@pytest.mark.parametrize("learning_rate", [0.02, 8.0])
def test_the_canary_that_fills_most_is_found_at_any_learning_rate(features, tmp_path, learning_rate):
    made, of = loud(features, tmp_path, learning_rate=learning_rate)
    entries, norms = of(made).T
    assert (entries / np.maximum(norms, 0.5)).min() > 0.3


@pytest.mark.parametrize("opposite", [False, True])
def test_the_registry_is_the_canaries_whatever_the_coins(features, tmp_path, opposite):
    made, _ = loud(features, tmp_path)
    included = np.arange(12) < 5
    devices = CanaryDevices(ToyDataset(), made, included, opposite=opposite)
    assert len(devices.client_ids) == len({devices.data_identity(name) for name in devices.client_ids}) == 12
    liked = [devices.slates(name, "train") for name in devices.client_ids]
    assert all(slates[0].relevance.tolist() == [1, 0] for slates in liked[:5])
    assert all(
        slates[0].relevance.tolist() == [0, 1] and len(slates) == len(made.unit(0)) if opposite else slates == []
        for slates in liked[5:]
    )
    assert devices.slates("canary-0", "test") == []


def test_the_claim_under_central_noise_is_what_the_population_ledger_holds(features, tmp_path):
    found = attacked(features, tmp_path, canaries=20, rounds=3, sampling_rate=0.5, noise_multiplier=4.0)
    assert found.events == (Event(sampling_rate=0.5, noise_multiplier=4.0, steps=3),)
    assert found.rounds == 3
    assert set(found.scores) == {"rounds", "model"}
    assert 0.9 < found.share <= 1.0


def test_the_claim_under_local_noise_is_a_devices_own_and_counts_no_sampling(features, tmp_path):
    found = attacked(features, tmp_path, canaries=20, rounds=3, **{**LOCAL, "sampling_rate": 0.1})
    assert found.events == (Event(sampling_rate=1.0, noise_multiplier=2.6, steps=3),)
    assert found.rounds == 3


def test_the_claim_under_distributed_noise_is_a_devices_own_over_secure_sums_of_blocks(features, tmp_path):
    found = attacked(features, tmp_path, canaries=75, rounds=2, **{**DISTRIBUTED, "sampling_rate": 0.1})
    (event,) = found.events
    assert (event.family, event.sampling_rate, event.steps) == ("concentrated", 1.0, 2)
    assert 3.9 < event.noise_multiplier <= 4.0  # what the devices' shares come to, less what rounding costs
    assert found.rounds == 2
    assert found.share > 0.9
    assert [len(list(folder.glob("secure-sums.sqlite"))) for folder in sorted(tmp_path.glob("block-*"))] == [1, 1]
    assert len(found.scores["rounds"]) == 75
    # a score of the likelihood ratio has the law that the noise of all shares gives it: its mean is half its variance
    scores, coins = found.scores["rounds"], found.included
    strength = 2 * found.share**2 / 4.0**2
    assert abs(scores[coins].mean() - scores[~coins].mean() - strength) < 5 * np.sqrt(strength * 4 / 75)


def test_distributed_noise_that_is_not_drawn_is_found_through_the_vault(features, tmp_path, monkeypatch):
    clean = verdict_of(attacked(features, tmp_path / "clean", canaries=100, **DISTRIBUTED))
    assert 1 < clean.claim < 1.5
    assert not clean.refuted
    assert not clean.below_resolution
    client_bugs.shares_times(0)(monkeypatch)
    assert verdict_of(attacked(features, tmp_path / "planted", canaries=100, **DISTRIBUTED)).refuted


def test_devices_whose_budget_ends_are_audited_for_what_they_paid(features, tmp_path):
    found = attacked(features, tmp_path, canaries=20, rounds=3, **LOCAL, budget_epsilon=2.0)
    assert found.events == (Event(sampling_rate=1.0, noise_multiplier=2.6, steps=1),)
    assert found.rounds == 1
    shared = attacked(features, tmp_path / "shared", canaries=20, rounds=3, **DISTRIBUTED, budget_epsilon=1.3)
    assert [event.steps for event in shared.events] == [1]
    assert shared.rounds == 1


@pytest.mark.parametrize("kind", [LOCAL, DISTRIBUTED], ids=["local", "distributed"])
def test_a_budget_below_one_round_is_no_claim_that_stands(features, tmp_path, kind):
    with pytest.raises(ConfigError, match="0 rounds were done"):
        attacked(features, tmp_path, canaries=20, rounds=2, **kind, budget_epsilon=0.1)


def test_a_sum_that_was_thrown_away_is_not_taken_for_one_that_shows_nothing(features, tmp_path, monkeypatch):
    """Its charges stay, and the attacker has seen nothing of it."""
    answer = Vault.take_part

    def silent(self, request):
        reply = answer(self, request)
        return replace(reply, arrays={}) if self.client_id == "canary-3" and request.step == "mask" else reply

    monkeypatch.setattr(Vault, "take_part", silent)
    with pytest.raises(ConfigError, match=r"0 rounds were done|1 were thrown away"):
        attacked(features, tmp_path, canaries=20, **DISTRIBUTED)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_an_adaptive_clip_is_audited_as_it_moves(features, tmp_path, noise):
    found = attacked(features, tmp_path, canaries=60, rounds=3, noise_multiplier=6.0, clipping="adaptive", noise=noise)
    assert found.events == (Event(sampling_rate=1.0, noise_multiplier=6.0, steps=3),)
    assert not verdict_of(found).refuted


def test_devices_without_noise_are_found_through_the_vault(features, tmp_path, monkeypatch):
    clean = verdict_of(attacked(features, tmp_path / "clean"))
    assert 1.5 < clean.claim < 2
    assert not clean.refuted
    assert not clean.below_resolution
    client_bugs.noise_times(0)(monkeypatch)
    assert verdict_of(attacked(features, tmp_path / "planted")).refuted


PLANTED = {"a quarter": client_bugs.noise_times(1 / 4), "no clip": client_bugs.no_clip_and_no_check}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CENTRAL, LOCAL], ids=["central", "local"])
def test_a_planted_bug_is_found_through_the_vault(features, tmp_path, kind):
    clean = verdict_of(attacked(features, tmp_path / "clean", canaries=700, **kind))
    assert 1.5 < clean.claim < 2
    assert not clean.refuted
    for name, plant in PLANTED.items():
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            assert verdict_of(attacked(features, tmp_path / name, canaries=700, **kind)).refuted, name


def test_the_score_of_opposites_is_the_likelihood_ratio():
    def density(x, mean):
        return np.exp(-((x - mean) ** 2) / (2 * 1.3**2))

    for seen in (-2.0, 0.0, 0.7):
        wanted = np.log(density(seen, 0.9) / density(seen, -0.9))
        np.testing.assert_allclose(log_likelihood_ratio_of_opposites(seen, 0.9, 1.3), wanted, atol=1e-12)
    assert log_likelihood_ratio_of_opposites(0.4, 0.9, 0.0) == 0.4


def test_what_is_not_covered_is_refused_with_a_remedy(features, tmp_path):
    with pytest.raises(ConfigError, match=r"noise_cohort_size=1000 to be left out"):
        audited(settings_of(noise_cohort_size=1000), 0)
    facts = {"dataset": ToyDataset(), "features": features, "canaries": 4, "seed": 0, "state_dir": tmp_path}
    with pytest.raises(ConfigError, match="clients of their own"):
        attack(settings_of(), client="small", **facts)
    with pytest.raises(ConfigError, match="to name the client"):
        attack(toy_settings(**USER), **facts)
    settings = settings_of()
    fixed = replace(settings, model=replace(settings.model, personal=("query_style",)))
    with pytest.raises(ConfigError, match="query_style"):
        attack(fixed, **facts)
    mechanism = build_mechanism(settings.privacy, settings.training, settings.federation, cache_dir=tmp_path)
    ranker = build_ranker(settings.model, seed=0)
    made = canary_slates(4, features, ranker, settings, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="audit such a run"):
        watch(mechanism, made, settings)


def test_a_weak_attack_is_said_to_be_one():
    bound = {"epsilon": 0.1}
    report = {"lower_bound": {"0.999": bound}, "epsilon": 2.0, "delta": 1e-6, "unit": "client", "share_of_clip": 0.04}
    said = sentence({**report, "holds": True, "below_resolution": False, "also_trained": ["query_style.weight"]})
    assert "filled 4% of the clip alone: a weak attack" in said
    assert "query_style.weight was trained as well" in said


@pytest.mark.parametrize(
    "noise_at", ["central", *(pytest.param(name, marks=pytest.mark.slow) for name in ("local", "distributed"))]
)
def test_the_command_audits_devices(tiny: Path, tmp_path, noise_at):
    settings = load(
        tiny,
        [
            "dataset.clients=devices",
            "dataset.devices=40",
            "training.optimizer=sgd",
            "training.learning_rate=1.0",
            "privacy.mechanism=client_update",
            "privacy.unit=client",
            f"privacy.noise_at={noise_at}",
            "model.trainable=[prior, style, looks]",
            "privacy.sampling_rate=0.5",
            "privacy.noise_multiplier=8.0",
            "federation.cohort_size=20",
            "evaluation.rows=[random, federated_dp]",
        ],
    )
    simulate(settings, out=tmp_path / "run")
    asked = len(charged_clients(tmp_path / "run", settings, make_dataset(settings)))
    assert 15 < asked < 40  # of 40 in two rounds at one half
    result = CliRunner().invoke(
        app, ["audit", str(tmp_path / "run"), "--canaries", "60", "--seed", "1", "--json", "--out", str(tmp_path / "a")]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["holds"] is True
    assert report["client"] is None
    assert report["also_trained"] == ["query_style.weight"]
    assert report["unit"] == "client"
    assert ("replace-one" if noise_at == "local" else "zero-out") in report["adjacency"]
    assert set(report["membership"]) == {"loss", "loss, untrained", "rmia", "rmia, untrained"}


def make_dataset(settings):
    from mmrank import components

    return components.build("client.datasets", settings.dataset, entry="load")
