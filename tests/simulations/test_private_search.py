"""At stake: a search that shows more than its winner, or draws its number of runs twice, is charged too little."""

from __future__ import annotations

import json
import math
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy import stats
from typer.testing import CliRunner

from client.datasets.marketplace import Marketplace
from client.measures import slate_values
from mmrank.errors import BudgetExhaustedError, CheckpointError, ConfigError, PrivacyError
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.ledger import Ledger, Policy
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.privacy.run_counts import FixedRuns, PoissonRuns, TruncatedNegativeBinomial
from mmrank.ranker import build_ranker
from server.checkpoint import read_model
from simulations import private_search as module
from simulations._draws import IndependentSampler, draw, independent_study
from simulations._folder import RunFolder
from simulations._stage import set_up
from simulations.cli import app
from simulations.config import load
from simulations.private_search import PrivateSearch, parse_runs, private_search, promise, training_history
from simulations.progress import Display
from simulations.sweep import parse_space


def test_a_search_that_would_release_more_than_it_charges_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"privacy\.metrics: null"):
        training_history(load(tiny, ["privacy.metrics.every=1"]), "released")


QUICK = ["federation.rounds=1"]
SPACE = parse_space("training.learning_rate=log:1e-3..1e-1;privacy.max_grad_norm=0.1..2.0")
SEARCH = PrivateSearch(space=SPACE, runs=TruncatedNegativeBinomial(mean=3.0), view="released")


def settle_from(path: Path, *more: str):
    return lambda choices: load(path, [*QUICK, *more, *choices])


def test_a_score_is_charged_by_the_adjacency_that_the_trials_promise(tiny):
    """Local noise promises replace-one, which moves a sum of scores twice as far as one client more or less."""
    devices = ("dataset.clients=devices", "privacy.mechanism=client_update", "privacy.unit=client")
    for noise_at, distance in (("central", 1), ("local", 2)):
        settle = settle_from(tiny, *devices, f"privacy.noise_at={noise_at}", "privacy.noise_multiplier=20")
        release, selection = promise(SEARCH, settle)
        assert release.noise_at == "sum"
        assert selection.score.noise_multiplier == release.event.noise_multiplier / distance


class Watched:
    """Trains for real, counts, and may be killed before the trial of that number."""

    def __init__(self, monkeypatch, kill_at: int | None = None) -> None:
        self.seeds: list[int] = []
        self.kill_at = kill_at
        self.real = module.run_trial
        monkeypatch.setattr(module, "run_trial", self)

    def __call__(self, settings, folder, **more):
        if len(self.seeds) == self.kill_at:
            raise KeyboardInterrupt
        self.seeds.append(settings.seed)
        return self.real(settings, folder, **more)


def seed_with(path: Path, search: PrivateSearch, *, runs: int, more: tuple[str, ...] = ()) -> str:
    """A simulation's seed with which that many runs are drawn."""
    for seed in range(200):
        settings = settle_from(path, *more, f"seed={seed}")(module.FIXED)
        if len(draw(search.space, search.runs, module._noise(settings, "plan"))) == runs:
            return f"seed={seed}"
    raise AssertionError(f"no seed draws {runs} runs")


@pytest.fixture(scope="module")
def three(tiny) -> str:
    return seed_with(tiny, SEARCH, runs=3)


def test_only_the_winner_is_left(tiny, three, tmp_path, monkeypatch):
    watched, out, settle = Watched(monkeypatch), tmp_path / "search", settle_from(tiny, three)
    found = private_search(SEARCH, settle=settle, out=out)
    assert len(watched.seeds) == 3
    assert sorted(path.name for path in out.iterdir()) == [
        "model.safetensors",
        "search.json",
        "winner.json",
        "winner.yaml",
    ]
    winner = load(out / "winner.yaml")
    assert winner.training.learning_rate == found["choices"]["training.learning_rate"]
    assert winner.seed in watched.seeds
    text = (out / "winner.json").read_text() + (out / "search.json").read_text()
    for seed in watched.seeds:
        assert str(seed) not in text
    assert "trials" not in found
    assert read_model(out / "model.safetensors")
    assert 0 <= found["score"]["low"] <= found["score"]["high"] <= 1
    assert len({path.stat().st_mtime_ns for path in (*out.iterdir(), out)}) == 1  # the duration tells the number
    # once more, and it is only read
    assert private_search(SEARCH, settle=settle, out=out, resume=True) == found
    assert len(watched.seeds) == 3


def test_what_is_shown_besides_the_winner_is_the_same_for_every_number_of_runs(tiny, three, tmp_path):
    """Epsilon and every other promise are functions of public facts alone."""
    shown = []
    for seed in (three, seed_with(tiny, SEARCH, runs=1)):
        found = private_search(SEARCH, settle=settle_from(tiny, seed), out=tmp_path / seed)
        shown.append({key: value for key, value in found.items() if key not in ("choices", "score")})
    assert shown[0] == shown[1]
    release, selection = promise(SEARCH, settle_from(tiny))
    assert shown[0]["epsilon"] == selection.epsilon(1e-4)
    assert selection.score == release.event
    fixed = shown[0]["fixed_runs_for_the_same"]
    trial = [*training_history(settle_from(tiny)(module.FIXED), "released"), release.event]
    assert epsilon(trial * fixed, 1e-4) <= shown[0]["epsilon"] < epsilon(trial * (fixed + 1), 1e-4)


def test_a_killed_search_goes_on_with_the_runs_that_were_drawn(tiny, three, tmp_path, monkeypatch):
    settle = settle_from(tiny, three)
    whole = private_search(SEARCH, settle=settle, out=tmp_path / "whole")
    out, killed = tmp_path / "search", Watched(monkeypatch, kill_at=1)
    with pytest.raises(KeyboardInterrupt):
        private_search(SEARCH, settle=settle, out=out)
    plan = out / "private" / "plan.json"
    before = plan.read_bytes()
    assert len(json.loads(before)["trials"]) == 3
    assert stat.S_IMODE(plan.stat().st_mode) == 0o600
    assert stat.S_IMODE(plan.parent.stat().st_mode) == 0o700

    def never(*arguments, **more):
        raise AssertionError("drawn again")

    monkeypatch.setattr("simulations._draws.draw", never)
    killed.kill_at = 2
    with pytest.raises(KeyboardInterrupt):
        private_search(SEARCH, settle=settle, out=out, resume=True)
    assert plan.read_bytes() == before
    killed.kill_at = None
    assert private_search(SEARCH, settle=settle, out=out, resume=True) == whole
    assert len(killed.seeds) == 3
    assert not plan.parent.exists()
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_with_secure_noise_a_resumed_search_draws_nothing_again(tiny, tmp_path, monkeypatch):
    settle, out = settle_from(tiny, "privacy.noise=secure"), tmp_path / "search"
    watched = Watched(monkeypatch, kill_at=0)
    with pytest.raises(KeyboardInterrupt):
        private_search(SEARCH, settle=settle, out=out)
    before = (out / "private" / "plan.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        private_search(SEARCH, settle=settle, out=out, resume=True)
    assert (out / "private" / "plan.json").read_bytes() == before
    assert not watched.seeds


def test_a_plan_that_is_lost_is_not_drawn_anew(tiny, three, tmp_path, monkeypatch):
    Watched(monkeypatch, kill_at=1)
    out, settle = tmp_path / "search", settle_from(tiny, three)
    with pytest.raises(KeyboardInterrupt):
        private_search(SEARCH, settle=settle, out=out)
    plan = out / "private" / "plan.json"
    kept = plan.read_text()
    plan.write_text(kept[: len(kept) // 2])
    with pytest.raises(CheckpointError, match="never drawn anew"):
        private_search(SEARCH, settle=settle, out=out, resume=True)
    plan.write_text(kept.replace('"config_sha256": "', '"config_sha256": "0'))
    with pytest.raises(CheckpointError, match="another configuration"):
        private_search(SEARCH, settle=settle, out=out, resume=True)
    plan.unlink()
    with pytest.raises(CheckpointError, match="is gone"):
        private_search(SEARCH, settle=settle, out=out, resume=True)


def test_the_server_pays_for_every_trial_and_is_shown_them(tiny, tmp_path):
    """And no client's ledger holds more than its trial declared."""
    search = replace(SEARCH, runs=FixedRuns(runs=2), view="server")
    settle, out = settle_from(tiny), tmp_path / "search"
    found = private_search(search, settle=settle, out=out)
    release, selection = promise(search, settle)
    history = training_history(settle(module.FIXED), "released")
    assert found["epsilon"] == epsilon([*history, *history, release.event, release.event], 1e-4)
    assert len(found["trials"]) == 2
    assert found["choices"] in [trial["choices"] for trial in found["trials"]]
    for number in range(2):
        folder = out / "private" / "trials" / f"{number:04d}"
        ledger = Ledger(folder / "ledger.sqlite", durable=False)
        policy = Policy(mechanism="dp_sgd", unit="slate", delta=1e-4, budget_epsilon=math.inf)
        charged = ledger.keys()
        spent = [ledger.account(key, policy).epsilon() for key in charged]
        assert spent
        assert max(spent) <= epsilon(history, 1e-4) + 1e-9
        ledger.close()
    assert selection.view == "server"


def test_no_run_at_all_leaves_the_settings_as_they_were(tiny, tmp_path, monkeypatch):
    search = replace(SEARCH, runs=PoissonRuns(mean=1.5))
    seed = seed_with(tiny, search, runs=0)
    watched = Watched(monkeypatch)
    found = private_search(search, settle=settle_from(tiny, seed), out=tmp_path / "search")
    assert not watched.seeds
    assert found["choices"] == {}
    assert found["model"] is None
    assert load(tmp_path / "search" / "winner.yaml").training == settle_from(tiny, seed)([]).training


def test_the_score_is_of_validation_and_the_test_part_is_never_read(tiny, tmp_path, monkeypatch):
    read = Marketplace.slates

    def guarded(self, client_id, split):
        assert split != "test", "a search read the test part"
        return read(self, client_id, split)

    monkeypatch.setattr(Marketplace, "slates", guarded)
    search = replace(SEARCH, runs=FixedRuns(runs=1), view="server")
    private_search(search, settle=settle_from(tiny), out=tmp_path / "search")


def test_a_slates_measures_are_its_own_to_the_last_bit(tiny, tmp_path):
    settings = load(tiny, QUICK)
    folder = RunFolder(tmp_path / "run")
    stage = set_up(settings, folder, Display(None))
    slates = [slate for client in stage.dataset.client_ids for slate in stage.dataset.slates(client, "validation")]
    ranker = build_ranker(settings.model, seed=3).eval()
    together = slate_values(ranker, stage.features, slates)
    for place in (0, len(slates) // 2, len(slates) - 1):
        alone = slate_values(ranker, stage.features, slates[place : place + 1])
        for name, column in together.items():
            assert np.array_equal(column[place : place + 1], alone[name], equal_nan=True)
    assert len(slate_values(ranker, stage.features, [])["mrr"]) == 0


REFUSED = [
    ({}, ("privacy.mechanism=no_privacy",), PrivacyError, "mmrank sweep"),
    ({}, ("privacy.ledger=spent.sqlite",), ConfigError, "throwaway"),
    ({}, ("privacy.budget_epsilon=0.5",), BudgetExhaustedError, "would cost"),
    ({"space": parse_space("dataset.items=500,1000")}, (), ConfigError, "dataset.items"),
    ({"space": parse_space("privacy.delta=1e-5,1e-4")}, (), ConfigError, "privacy.delta"),
    ({"space": parse_space("privacy.noise=secure,seeded")}, (), ConfigError, "privacy.noise"),
    ({"space": parse_space("training.local_steps=1..4")}, (), ConfigError, "list of values"),
    ({"runs": FixedRuns(runs=3)}, (), PrivacyError, "fixed number"),
]


@pytest.mark.parametrize(("change", "more", "error", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_a_search_that_could_not_keep_its_promise_is_refused_before_it_draws(
    tiny, tmp_path, change, more, error, words
):
    with pytest.raises(error, match=words):
        private_search(replace(SEARCH, **change), settle=settle_from(tiny, *more), out=tmp_path / "search")
    assert not (tmp_path / "search" / "private").exists()


def test_what_moves_the_charge_is_charged_at_its_dearest(tiny):
    space = parse_space("training.local_steps=1,2,4;training.learning_rate=0.01..0.1")
    _, selection = promise(replace(SEARCH, space=space), settle_from(tiny))
    assert sorted(history[0].steps for history in selection.training) == [1, 2, 4]
    dear = promise(SEARCH, settle_from(tiny, "training.local_steps=4"))[1]
    assert selection.epsilon(1e-4) == pytest.approx(dear.epsilon(1e-4))


def test_a_trial_that_costs_more_than_was_declared_is_never_trained(tiny, three, tmp_path, monkeypatch):
    """As where a setting that moves the charge is missing from the list of those that do."""
    monkeypatch.setattr(module, "MOVES_THE_CHARGE", ())
    watched = Watched(monkeypatch)
    search = replace(SEARCH, space=parse_space("training.local_steps=3,4"))
    with pytest.raises(PrivacyError, match="did not declare"):
        private_search(search, settle=settle_from(tiny, three), out=tmp_path / "search")
    assert not watched.seeds


def test_a_folder_in_use_or_of_another_search_is_refused(tiny, tmp_path):
    search, settle = replace(SEARCH, runs=FixedRuns(runs=1), view="server"), settle_from(tiny)
    private_search(search, settle=settle, out=tmp_path / "search")
    with pytest.raises(ConfigError, match="add --resume"):
        private_search(search, settle=settle, out=tmp_path / "search")
    with pytest.raises(ConfigError, match="another search"):
        private_search(SEARCH, settle=settle, out=tmp_path / "search", resume=True)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (lambda: optuna.create_study(direction="maximize"), "TPESampler"),
        (
            lambda: optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1)),
            "repeats by its seed",
        ),
        (
            lambda: optuna.create_study(direction="maximize", sampler=IndependentSampler(SecureNoise())),
            "MedianPruner",
        ),
        (
            lambda: optuna.create_study(
                directions=["maximize", "minimize"],
                sampler=IndependentSampler(SecureNoise()),
                pruner=optuna.pruners.NopPruner(),
            ),
            "one score",
        ),
    ],
    ids=["tpe", "seeded", "pruner", "two-scores"],
)
def test_a_study_that_looks_at_results_is_refused(study, words):
    with pytest.raises(PrivacyError, match=words):
        draw(SPACE, FixedRuns(runs=2), SecureNoise(), study=study())


def test_a_study_that_was_used_is_refused():
    study = independent_study(SecureNoise())
    study.enqueue_trial({"training.learning_rate": 0.01})
    with pytest.raises(PrivacyError, match="without trials"):
        draw(SPACE, FixedRuns(runs=2), SecureNoise(), study=study)
    drawn = draw(SPACE, FixedRuns(runs=2), SecureNoise(), study=independent_study(SecureNoise()))
    assert len({trial.seed for trial in drawn}) == 2


def test_choices_are_drawn_evenly_from_their_ranges():
    space = parse_space("a=log:1e-4..1e-1;b=3..6;c=x,y,z;d=-1.5..2.5;e=log:1..100")
    drawn = [trial.choices for trial in draw(space, FixedRuns(runs=500), SeededNoise(1, "choices"))]
    for shares in (
        [math.log(one["a"] / 1e-4) / math.log(1e3) for one in drawn],
        [(one["d"] + 1.5) / 4 for one in drawn],
    ):
        assert stats.kstest(shares, "uniform").pvalue > 1e-4
    for counts in (
        np.bincount([one["b"] - 3 for one in drawn], minlength=4),
        np.bincount(["xyz".index(one["c"]) for one in drawn], minlength=3),
    ):
        assert stats.chisquare(counts).pvalue > 1e-4
    whole = [one["e"] for one in drawn]
    assert all(isinstance(value, int) and 1 <= value <= 100 for value in whole)
    assert 0.35 < np.mean([value <= 10 for value in whole]) < 0.75


@pytest.mark.parametrize("text", ["", "geometric", "geometric:x", "fixed:1.5", "negative-binomial:3", "normal:3"])
def test_a_number_of_runs_that_can_not_be_is_refused(text):
    with pytest.raises(ConfigError, match="--runs"):
        parse_runs(text)
    assert parse_runs("poisson:4") == PoissonRuns(mean=4.0)
    assert parse_runs("fixed:4") == FixedRuns(runs=4)


def test_the_command_plans_without_drawing_and_searches(tiny, tmp_path):
    run = CliRunner()
    arguments = [
        "tune",
        str(tiny),
        "--set",
        "federation.rounds=1",
        "--runs",
        "poisson:2",
        "--view",
        "released",
        "--json",
    ]
    planned = run.invoke(app, [*arguments, "--plan", "--out", str(tmp_path / "search")])
    assert planned.exit_code == 0, planned.output
    assert not planned.stderr
    assert not (tmp_path / "search").exists()
    found = run.invoke(app, [*arguments, "--out", str(tmp_path / "search")])
    assert found.exit_code == 0, found.output
    assert not found.stderr
    assert json.loads(found.stdout)["epsilon"] == json.loads(planned.stdout)["epsilon"]
    shown = run.invoke(app, [*arguments[:-1], "--resume", "--out", str(tmp_path / "search")])
    assert shown.exit_code == 0
    assert "server_view.epsilon" in shown.stdout
    wrong = run.invoke(app, ["tune", str(tiny), "--view", "everyone"])
    assert wrong.exit_code == 2
    assert "--view" in wrong.stderr
    shutil.rmtree(tmp_path / "search")
