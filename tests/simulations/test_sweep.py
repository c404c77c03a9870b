"""At stake: a sweep chooses on validation alone, loses no finished trial, and spends no lasting budget."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from client.datasets.marketplace import Marketplace
from mmrank.errors import ConfigError
from simulations.config import load
from simulations.run import trial
from simulations.sweep import Range, combinations, parse_grid, parse_space, sweep

QUICK = ["evaluation.seeds=1", "federation.rounds=1"]


def settle_from(path: Path):
    return lambda choices: load(path, [*QUICK, *choices])


class Recorder:
    """Trains for real, and counts."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[float] = []
        self.fail_at = fail_at

    def __call__(self, settings, folder):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(settings.training.learning_rate)
        return trial(settings, folder)


GRID = {"grid": {"training.learning_rate": [0.001, 0.01, 0.1]}}


def test_a_grid_runs_every_combination_and_ranks_them(tiny, tmp_path):
    measure = Recorder()
    found = sweep(GRID, settle=settle_from(tiny), measure=measure, out=tmp_path / "sweep", resume=False)
    assert sorted(measure.calls) == [0.001, 0.01, 0.1]
    scores = [line["validation"]["ndcg@10"] for line in found["trials"]]
    assert scores == sorted(scores, reverse=True)
    best = load(tmp_path / "sweep" / "best.yaml")
    assert best.training.learning_rate == found["best"]["choices"]["training.learning_rate"]
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines] == ["0", "1", "2"]
    assert float(lines[1]["training.learning_rate"]) == 0.01


def test_an_interrupted_sweep_goes_on_with_what_is_left(tiny, tmp_path):
    out, settle = tmp_path / "sweep", settle_from(tiny)
    with pytest.raises(KeyboardInterrupt):
        sweep(GRID, settle=settle, measure=Recorder(fail_at=2), out=out, resume=False)
    measure = Recorder()
    found = sweep(GRID, settle=settle, measure=measure, out=out, resume=True)
    assert measure.calls == [0.1]
    assert len(found["trials"]) == 3


def test_the_test_part_is_never_read(tiny, tmp_path, monkeypatch):
    read = Marketplace.slates

    def guarded(self, client_id, split):
        assert split != "test", "a sweep read the test part"
        return read(self, client_id, split)

    monkeypatch.setattr(Marketplace, "slates", guarded)
    grid = {"grid": {"training.learning_rate": [0.02]}}
    sweep(grid, settle=settle_from(tiny), measure=Recorder(), out=tmp_path / "sweep", resume=False)


def test_optuna_goes_on_where_it_was(tiny, tmp_path):
    search = parse_space("training.learning_rate=log:1e-3..1e-1;training.loss=softmax,bce")
    whole, parts = Recorder(), Recorder()
    settle = settle_from(tiny)
    found = sweep({"search": search, "trials": 3}, settle=settle, measure=whole, out=tmp_path / "whole", resume=False)
    sweep({"search": search, "trials": 2}, settle=settle, measure=parts, out=tmp_path / "parts", resume=False)
    again = sweep({"search": search, "trials": 3}, settle=settle, measure=parts, out=tmp_path / "parts", resume=True)
    assert parts.calls == whole.calls
    assert len(set(whole.calls)) == 3
    assert [line["choices"] for line in again["trials"]] == [line["choices"] for line in found["trials"]]
    assert all(0.001 <= rate <= 0.1 for rate in whole.calls)


def test_optuna_takes_up_a_trial_that_was_killed(tiny, tmp_path):
    plan = {"search": parse_space("training.learning_rate=log:1e-3..1e-1"), "trials": 2}
    settle, out = settle_from(tiny), tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, settle=settle, measure=Recorder(fail_at=1), out=out, resume=False)
    measure = Recorder()
    found = sweep(plan, settle=settle, measure=measure, out=out, resume=True)
    assert len(measure.calls) == 1
    assert sorted(line["trial"] for line in found["trials"]) == [0, 1]


def test_a_folder_in_use_or_of_another_sweep_is_refused(tiny, tmp_path):
    out, settle = tmp_path / "sweep", settle_from(tiny)
    sweep({"grid": {"training.learning_rate": [0.01]}}, settle=settle, measure=Recorder(), out=out, resume=False)
    before = json.loads((out / "sweep.json").read_text())
    with pytest.raises(ConfigError, match="add --resume"):
        sweep(GRID, settle=settle, measure=Recorder(), out=out, resume=False)
    with pytest.raises(ConfigError, match="another sweep"):
        sweep(GRID, settle=settle, measure=Recorder(), out=out, resume=True)
    assert json.loads((out / "sweep.json").read_text()) == before


def test_a_ledger_that_lasts_is_refused(tiny, tmp_path):
    def settle(choices):
        return load(tiny, [f"privacy.ledger={tmp_path / 'spent.sqlite'}", *choices])

    with pytest.raises(ConfigError, match=r"privacy\.ledger=throwaway"):
        sweep(GRID, settle=settle, measure=Recorder(), out=tmp_path / "sweep", resume=False)
    assert not (tmp_path / "sweep").exists()


def test_a_grid_is_read_as_yaml():
    grid = parse_grid("training.learning_rate=1e-3,0.01; model.use_image=true,false;model.text=hashing")
    assert grid == {
        "training.learning_rate": [0.001, 0.01],
        "model.use_image": [True, False],
        "model.text": ["hashing"],
    }
    assert len(list(combinations(grid))) == 4
    assert list(combinations({"a": [1, 2], "b": [3, 4]}))[:2] == [{"a": 1, "b": 3}, {"a": 1, "b": 4}]


def test_a_space_has_ranges_and_choices():
    space = parse_space("a=log:1e-4..1e-1;b=8..64;c=x,y;d=-1.5..2")
    assert space == {"a": Range(1e-4, 0.1, True), "b": Range(8, 64), "c": ["x", "y"], "d": Range(-1.5, 2)}
    assert isinstance(space["b"], Range)
    assert space["b"].whole
    assert isinstance(space["d"], Range)
    assert not space["d"].whole


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=[1"])
def test_a_grid_that_can_not_be_is_refused(text):
    with pytest.raises(ConfigError):
        parse_grid(text)


@pytest.mark.parametrize("text", ["a=2..1", "a=log:0..1", "a=x..y", "a=1.."])
def test_a_range_that_can_not_be_is_refused(text):
    with pytest.raises(ConfigError):
        parse_space(text)
