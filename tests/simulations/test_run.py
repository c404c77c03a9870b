"""At stake: a run says truthfully what it did, keeps what it computed, and goes on after a kill as if nothing was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmrank.errors import CheckpointError, ConfigError
from mmrank.metrics import METRICS
from server.checkpoint import load_checkpoint, read_model
from simulations._folder import RunFolder, Table, read_table, to_json
from simulations.config import load
from simulations.run import simulate, trial


def test_the_folder_holds_what_is_promised(finished):
    for name in ("config.yaml", "result.json", "rounds.csv", "model.safetensors", "report.html", "ledger.sqlite"):
        assert (finished.folder / name).is_file(), name
    assert list((finished.folder / "checkpoint").glob("round-*.safetensors"))
    assert list((finished.folder / "tensorboard").glob("events.*"))
    assert finished.result == json.loads((finished.folder / "result.json").read_text())
    assert (
        load(finished.folder / "config.yaml").sha256 == finished.result["config_sha256"] == load(finished.config).sha256
    )


def test_result_has_the_keys_that_other_tools_rely_on(finished):
    result = finished.result
    assert result["schema"] == 1
    assert {
        "engine",
        "device",
        "seed",
        "commit",
        "rounds",
        "skipped",
        "gain_ratio",
        "splits",
        "left_out",
    } <= result.keys()
    assert result["dataset"].keys() >= {"name", "items", "clients", "version", "slates"}
    assert result["dataset"]["slates"].keys() == {"train", "validation", "test"}
    assert min(result["dataset"]["slates"].values()) > 0
    assert result["model"]["trainable_parameters"] == sum(
        v.size for v in read_model(finished.folder / "model.safetensors").values()
    )
    assert result["seconds"].keys() >= {"setup", "training", "evaluation", "total"}
    parts = sum(value for name, value in result["seconds"].items() if name != "total")
    assert parts == pytest.approx(result["seconds"]["total"], abs=0.01)
    assert result["client_updates_per_second"] > 0
    assert result["peak_rss_mb"] > 50
    for row, measures in result["metrics"].items():
        assert measures["slates"] == result["dataset"]["slates"]["test"], row
        for name in METRICS:
            low, high = measures[name]["ci95"]
            assert 0 <= low <= measures[name]["mean"] <= high <= 1, (row, name)


def test_every_wanted_row_is_there_or_has_a_reason(finished):
    wanted = load(finished.config).evaluation.rows
    assert set(wanted) <= finished.result["metrics"].keys() | finished.result["skipped"].keys()
    assert (
        finished.result["metrics"]["oracle"]["ndcg@10"]["mean"]
        > finished.result["metrics"]["random"]["ndcg@10"]["mean"]
    )
    assert [finished.result["metrics"][row]["seeds"] for row in ("content", "federated_dp")] == [1, 2]


def test_what_clients_release_with_noise_is_told_where_everybody_may_see_it(tiny, tmp_path):
    overrides = ("evaluation.seeds=1", "evaluation.rows=[content,federated_dp,federated]", "privacy.metrics.every=1")
    result = simulate(load(tiny, overrides), out=tmp_path / "run")
    metrics, rounds = result["privacy"]["metrics"], read_table(tmp_path / "run" / "rounds.csv")
    assert (metrics["rounds"], metrics["round"], metrics["releases"]) == ([1, 2], 2, 4)
    assert metrics["releases_of_a_client_planned"] == 2
    for name in ("ndcg@10", "mrr"):
        told = metrics[name]
        assert 0 <= told["low"] <= told["high"] <= 1
        assert [float(rounds[-1][f"private_{name}{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
            [float(value) for value in told.values()],
            nan_ok=True,  # where noise leaves no mean, a result says "nan"
        )
    assert float(rounds[-1]["epsilon_max"]) == pytest.approx(result["privacy"]["epsilon_max"], rel=1e-5)
    assert "federated" in result["metrics"], "the row without a promise releases nothing and needs no budget"


def test_the_promise_is_that_of_the_ledger(finished):
    privacy, rounds = finished.result["privacy"], read_table(finished.folder / "rounds.csv")
    assert (privacy["mechanism"], privacy["unit"], privacy["noise"]) == ("dp_sgd", "slate", "seeded")
    assert float(rounds[-1]["epsilon_max"]) == pytest.approx(privacy["epsilon_max"], rel=1e-4)
    assert 0 < privacy["epsilon_median"] <= privacy["epsilon_max"] == privacy["epsilon_server_view"]
    assert [line["round"] for line in rounds] == ["1", "2"]
    assert finished.result["rounds"] == 2


def test_the_saved_model_is_the_last_round_of_the_private_federation(finished):
    stored = load_checkpoint(finished.folder / "checkpoint", config_sha256=finished.result["config_sha256"])
    model = read_model(finished.folder / "model.safetensors")
    assert stored is not None
    assert stored.round_number == 2
    assert all(np.array_equal(model[name], stored.parameters[name]) for name in model)
    without = read_model(finished.folder / "debug" / "models" / "federated-seed0.safetensors")
    assert any(not np.array_equal(model[name], without[name]) for name in model)


def test_what_only_a_simulation_knows_lies_under_debug(finished):
    outside = {path.name for path in finished.folder.iterdir() if path.is_file()}
    assert not outside & {"curves.csv", "clients.json", "examples.json"}
    curves = read_table(finished.folder / "debug" / "curves.csv")
    assert {(line["row"], line["seed"], line["round"]) for line in curves} == {
        (row, seed, step) for row in ("federated", "federated_dp") for seed in "01" for step in "012"
    }
    public = read_table(finished.folder / "rounds.csv")
    assert not any("ndcg" in name or "loss" in name for name in public[0])


def test_a_finished_run_is_not_run_again(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.is_file()}
    assert simulate(load(finished.config), out=finished.folder, resume=True) == finished.result
    after = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_folder_in_use_is_refused_and_left_alone(finished):
    with pytest.raises(ConfigError, match=r"already holds files; add --resume"):
        simulate(load(finished.config), out=finished.folder)


def test_a_run_whose_data_set_does_not_load_leaves_nothing_in_the_way_of_its_mended_command(tmp_path):
    config = tmp_path / "hm.yaml"
    config.write_text(yaml.safe_dump({"dataset": {"name": "hm", "root": str(tmp_path / "nowhere")}}))
    with pytest.raises(ConfigError, match=r"dataset\.root"):
        simulate(load(config), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_with_what_differs(finished):
    other = load(finished.config, ["training.learning_rate=0.02"])
    with pytest.raises(CheckpointError, match=r"training\.learning_rate 0\.01 -> 0\.02"):
        simulate(other, out=finished.folder, resume=True)


def test_a_checkpoint_of_another_configuration_is_refused(finished, tmp_path):
    shutil.copytree(finished.folder / "checkpoint", tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="belongs to configuration"):
        simulate(load(finished.config, ["seed=7"]), out=tmp_path, resume=True)


def test_rows_that_are_measured_are_not_measured_again(finished, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.folder, folder.path)
    path = folder.row("random", 0)
    with np.load(path) as stored:
        arrays = {
            name: np.full_like(stored[name], 0.25) if "@" in name or "mrr" in name else stored[name] for name in stored
        }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    folder.result.unlink()
    result = simulate(load(finished.config), out=folder.path, resume=True)
    assert result["metrics"]["random"]["ndcg@10"]["mean"] == pytest.approx(0.25)
    assert result["metrics"]["federated_dp"] == finished.result["metrics"]["federated_dp"]


def test_without_a_mechanism_epsilon_is_infinite(tiny, tmp_path):
    settings = load(
        tiny, ["privacy.mechanism=no_privacy", "evaluation.rows=[federated, federated_dp]", "evaluation.seeds=1"]
    )
    result = simulate(settings, out=tmp_path / "run")
    assert result["reported"] == "federated"
    assert result["metrics"].keys() == {"federated"}
    assert result["privacy"]["epsilon_max"] == result["privacy"]["budget"] == "inf"
    assert result["privacy"]["mechanism"] == "no_privacy"


def test_a_model_without_history_has_no_unpersonalised_row(tiny, tmp_path):
    settings = load(
        tiny,
        ["model.use_behaviour=false", "evaluation.rows=[unpersonalised]", "evaluation.seeds=1", "federation.rounds=1"],
    )
    result = simulate(settings, out=tmp_path / "run")
    assert result["skipped"].keys() == {"unpersonalised"}
    assert "model.use_behaviour" in result["skipped"]["unpersonalised"]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what an import of a missing package meets
    with pytest.raises(ConfigError, match=r"pip install 'mmrank\[wandb\]'"):
        simulate(load(tiny, ["tracking=wandb_offline"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_trial_is_measured_on_validation_alone(tiny, tmp_path):
    found = trial(load(tiny, ["evaluation.seeds=1"]), tmp_path / "trial")
    curve = read_table(tmp_path / "trial" / "debug" / "curves.csv")
    assert found["ndcg@10"] == pytest.approx(float(curve[-1]["ndcg@10"]), rel=1e-4)
    assert not list((tmp_path / "trial" / "debug" / "rows").iterdir())


def test_a_run_killed_between_rounds_ends_in_the_same_model(finished, tmp_path):
    config = yaml.safe_load(finished.config.read_text())
    config["federation"]["rounds"] = 4
    config["evaluation"] |= {"rows": ["content", "federated_dp"], "seeds": 1}
    path, folder = tmp_path / "four.yaml", tmp_path / "killed"
    path.write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "simulations.cli",
        "simulate",
        str(path),
        "--out",
        str(folder),
        "--resume",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 120
    while len(read_table(folder / "rounds.csv")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (folder / "result.json").exists()
    resumed = simulate(load(path), out=folder, resume=True)
    whole = simulate(load(path), out=tmp_path / "whole")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["privacy"] == whole["privacy"]


def test_a_table_leaves_out_a_line_that_a_kill_cut(tmp_path):
    path = tmp_path / "rounds.csv"
    table = Table(path, ("round", "value"), ("round",))
    table.add({"round": 1, "value": 0.5})
    with path.open("a") as file:
        file.write("2,0.")
    again = Table(path, ("round", "value"), ("round",))
    again.add({"round": 1, "value": 0.7})
    again.add({"round": 2, "value": 0.25})
    assert Path(path).read_text() == "round,value\n1,0.5\n2,0.25\n"


def test_json_has_no_infinity():
    assert json.loads(to_json({"a": [float("inf"), 1.5], "b": float("nan")})) == {"a": ["inf", 1.5], "b": "nan"}
