"""At stake: what a federation gave a shop that it never saw must not have come from that shop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from client.datasets import Split, marketplace
from mmrank.errors import ConfigError
from mmrank.settings import Settings, parse
from mmrank.slates import Slate
from server.checkpoint import read_model
from simulations import newcomers as module
from simulations._folder import RunFolder
from simulations._stage import set_up
from simulations.commands_newcomers import newcomers as command
from simulations.newcomers import Members, drawn, newcomers
from simulations.progress import Display

WHO = "merchant-1"
SIZES = (4, 12, 1000)


def settings_of(cache: Path, **own: Any) -> Settings:
    """Three merchants, two rounds: seconds."""
    return parse(
        {
            "name": "tiny",
            "dataset": {
                "name": "marketplace",
                "items": 600,
                "types": 4,
                "merchants": 3,
                "people_per_merchant": 5,
                "clients": "merchants",
            },
            "model": {"text": "hashing", "image": "histogram", "dim": 8, "feature_dim": 16, "history_length": 8},
            "training": {"local_steps": 2, "slate_length": 10, "learning_rate": 0.05},
            "federation": {"rounds": 2, "cohort_size": 3},
            "privacy": {"mechanism": "no_privacy"},
            "evaluation": {"every": 2, "seeds": 2, "bootstrap": 50, "max_slates_per_client": 20},
            "features_cache": str(cache),
            "tracking": "none",
            **own,
        }
    )


@dataclass(frozen=True)
class Done:
    """A finished comparison: do not write into its folder."""

    settings: Settings
    folder: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """Few steps, one rate beside the configuration's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STOPS", (2, 4))
        patch.setattr(module, "RATES", (None, 0.01))
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shop is encoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(short: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("newcomers")
    settings = settings_of(cache)
    found = newcomers(settings, out=folder / "out", merchants=[WHO], sizes=SIZES)
    return Done(settings, folder / "out", found)


def test_the_result_has_every_row_with_intervals_by_person(done):
    one = done.found["merchants"][WHO]
    rows = ["content", "left_out", "joined", "fitted-4", "local_only-4", "fitted-12", "local_only-12"]
    assert list(one["rows"]) == rows
    for summary in one["rows"].values():
        low, high = summary["ndcg@10"]["ci95"]
        assert 0 <= low <= summary["ndcg@10"]["mean"] <= high <= 1
        assert low < high
        assert 1 < summary["people"] <= 5
        assert summary["slates"] == one["slates"]["test"]
    assert set(one["differences"]) == {
        "left_out - content",
        "joined - left_out",
        "fitted-4 - local_only-4",
        "fitted-12 - local_only-12",
    }
    assert one["chosen"].keys() == {row for row in rows if "-" in row}
    assert {option["steps"] for option in one["chosen"].values()} <= {0, 2, 4}
    assert done.found["all"]["rows"]["joined"]["merchants"] == 1
    assert "Simulation only" in done.found["simulation_only"]
    assert json.loads((done.folder / "newcomers.json").read_text()) == json.loads(json.dumps(done.found))


def test_more_slates_than_the_merchant_has_are_skipped_with_the_reason(done):
    one = done.found["merchants"][WHO]
    assert one["skipped"].keys() == {"fitted-1000", "local_only-1000"}
    assert one["skipped"]["fitted-1000"] == f"has {one['slates']['train']} training slates"


class Changed(Members):
    """The same registry, in which one client's training slates are other people's."""

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        swapped = client_id == WHO and split == "train"
        return super().slates("merchant-2" if swapped else client_id, split)


def test_the_left_out_model_does_not_move_with_the_merchants_behaviour(done, tmp_path):
    stage = set_up(done.settings, RunFolder(tmp_path / "out"), Display(None))
    changed = Changed(stage.dataset, stage.dataset.client_ids)
    stage = replace(stage, dataset=changed, context=replace(stage.context, dataset=changed))
    newcomer = module._Newcomer(stage, WHO)
    kept = RunFolder(done.folder / "without" / WHO)
    for name, array in newcomer._without(0).items():
        np.testing.assert_array_equal(array, read_model(kept.trained("federated", 0))[name])
    joined = RunFolder(done.folder / "joined")
    moved = newcomer._joined(0)
    stored = read_model(joined.trained("federated", 0))
    assert any(not np.array_equal(moved[name], stored[name]) for name in stored)


def test_what_is_finished_is_not_done_again(done, tmp_path):

    copy = tmp_path / "copy"
    shutil.copytree(done.folder, copy)
    lost = RunFolder(copy / "without" / WHO).row("fitted-12", 1)
    lost.unlink()
    (copy / "newcomers.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.npz")}
    before |= {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    again = newcomers(done.settings, out=copy, merchants=[WHO], sizes=SIZES, resume=True)
    assert again == done.found
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_folder_in_use_is_refused_without_resume(done):
    with pytest.raises(ConfigError, match="--resume"):
        newcomers(done.settings, out=done.folder, merchants=[WHO])


def test_a_view_has_fewer_clients_and_the_same_slates():
    whole = marketplace.load(items=600, types=4, merchants=3, devices=0, people_per_merchant=3, clients="merchants")
    view = Members(whole, ["merchant-0", "merchant-2"])
    assert list(view.client_ids) == ["merchant-0", "merchant-2"]
    assert view.kind("merchant-0") == "merchant"
    assert view.data_identity("merchant-2") == whole.data_identity("merchant-2")
    assert all(
        one is two
        for one, two in zip(view.slates("merchant-0", "train"), whole.slates("merchant-0", "train"), strict=True)
    )


def test_few_slates_are_among_more_in_their_order_and_another_seed_draws_others():
    slates = marketplace.load(items=600, types=4, merchants=3, people_per_merchant=3).slates("merchant-0", "train")
    few, more = (drawn(slates, size, seed=0, name="m") for size in (5, 15))
    assert (len(few), len(more)) == (5, 15)
    assert {id(slate) for slate in few} < {id(slate) for slate in more}
    assert [slate.time_days for slate in more] == sorted(slate.time_days for slate in more)
    assert [id(slate) for slate in drawn(slates, 5, seed=1, name="m")] != [id(slate) for slate in few]


def test_no_ledger_that_lasts_is_charged(short, cache, tmp_path):
    ledger = tmp_path / "ledger.sqlite"
    privacy = {
        "mechanism": "dp_sgd",
        "noise_multiplier": 1.0,
        "delta": 1e-4,
        "noise": "seeded",
        "ledger": str(ledger),
        "budget_epsilon": 100.0,
    }
    settings = settings_of(cache, privacy=privacy, evaluation={"every": 2, "seeds": 1, "bootstrap": 10})
    found = newcomers(settings, out=tmp_path / "out", merchants=[WHO], sizes=(4,))
    assert found["federation"] == "federated_dp"
    assert not ledger.exists()
    assert (tmp_path / "out" / "without" / WHO / "ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("own", "merchants", "sizes", "message"),
    [
        ({"engine": "flower"}, (), (10,), "engine=flower to be inline"),
        ({}, ("merchant-9",), (10,), "No merchant 'merchant-9'.*merchant-0"),
        ({}, (), (0,), "from 1 on"),
        (
            {"dataset": {"name": "marketplace", "items": 600, "merchants": 3, "clients": "devices", "devices": 3}},
            (),
            (10,),
            "0 merchants",
        ),
    ],
)
def test_what_cannot_be_left_out_is_refused(cache, tmp_path, own, merchants, sizes, message):
    with pytest.raises(ConfigError, match=message):
        newcomers(settings_of(cache, **own), out=tmp_path / "out", merchants=merchants, sizes=sizes)


def test_the_command_prints_a_table_or_one_json_value(done, tmp_path):
    app = typer.Typer()
    app.command()(command)
    options = ["--merchants", WHO, "--sizes", "12,4,1000", "--out", str(done.folder), "--resume"]
    config = str(done.folder / "config.yaml")
    told = CliRunner().invoke(app, [config, *options, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == json.loads(json.dumps(done.found))
    shown = CliRunner().invoke(app, [config, *options])
    assert "fitted-12 - local_only-12" in shown.stdout
    assert f"not computed: {WHO}, fitted-1000: has" in shown.stdout
