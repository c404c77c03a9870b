"""At stake: what an owner or an auditor reads at the command line about what was paid, and whether it is whole."""

from __future__ import annotations

import json
import sqlite3

import pytest

from mmrank.errors import OptedOutError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy
from tests.simulations.test_cli import asked, refused, run

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
BASE = {"mechanism": "dp_sgd", "unit": "user", "delta": 1e-6}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "spent.sqlite"
    ledger = Ledger(path)
    for number in range(3):
        ledger.account("shop", Policy(**BASE, budget_epsilon=4.0)).charge(f"shop-{number}", ROUND)
    ledger.account("gone", Policy(**BASE, budget_epsilon=4.0)).opt_out()
    renewed = Policy(**BASE, budget_epsilon=4.0, renew_every_days=90, retention_days=90)
    ledger.account("renewed", renewed).charge("renewed-0", ROUND)
    ledger.close()
    return path


def broken(path):
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER events_keep_update")
    connection.execute("UPDATE events SET noise_multiplier = 5.0")
    connection.commit()
    connection.close()


def test_show_tells_what_was_paid_by_which_rule_and_what_remains(path):
    lines = {line["data"]: line for line in asked("ledger", "show", path)}
    spent = epsilon([ROUND] * 3, 1e-6)
    shop = lines["shop"]
    assert (shop["epsilon"], shop["remaining"], shop["composition"]) == (spent, 4.0 - spent, "plan")
    assert (shop["charges"], shop["steps"], shop["head"]["entries"]) == (3, 15, 3)
    assert lines["gone"]["opted_out"]
    assert lines["gone"]["remaining"] == 0.0
    assert (lines["renewed"]["lifetime_periods"], lines["renewed"]["lifetime_epsilon"]) == (2, epsilon([ROUND], 1e-6))
    assert asked("ledger", path) == list(lines.values())
    assert "shop" in run("ledger", path).stdout
    assert "yes" in run("ledger", "show", path).stdout


def test_looking_changes_no_byte(path, tmp_path):
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for command in ("show", "verify", "export"):
        run("ledger", command, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name in before} == before


def test_verify_exits_1_where_the_record_was_changed(path):
    assert asked("ledger", "verify", path) == {"ledger": str(path), "whole": True, "faults": []}
    assert "whole" in run("ledger", "verify", path).stdout
    broken(path)
    result = run("ledger", "verify", path, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["whole"]
    assert {fault["data"] for fault in found["faults"]} == {"shop", "renewed"}
    plain = run("ledger", "verify", path)
    assert plain.exit_code == 1
    assert "shop: the hash of entry 1 does not follow" in plain.stdout


def test_verify_holds_a_chain_against_an_acknowledged_head(path):
    head = next(line["head"] for line in asked("ledger", path) if line["data"] == "shop")
    text = f"shop={head['entries']}:{head['hash']}"
    assert asked("ledger", "verify", path, "--head", text)["whole"]
    for wrong in (f"shop=4:{head['hash']}", f"shop=3:{'0' * 64}", f"other=3:{head['hash']}"):
        assert run("ledger", "verify", path, "--head", wrong).exit_code == 1
    assert "DATA=COUNT:HASH" in refused("ledger", "verify", path, "--head", "shop")


def test_a_lost_witness_is_told_and_made_anew_on_request_alone(path):
    path.with_name("spent.sqlite.witness").unlink()
    result = run("ledger", "verify", path)
    assert result.exit_code == 1
    assert "--new-witness" in result.stdout
    assert asked("ledger", "verify", path, "--new-witness")["whole"]
    assert asked("ledger", "verify", path)["whole"]
    assert Ledger(path).keys() == ["gone", "renewed", "shop"]


def test_an_export_is_verified_without_the_ledger(path, tmp_path):
    out = tmp_path / "ledger.jsonl"
    told = asked("ledger", "export", path, "--out", out)
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert told["lines"] == len(lines) == 3 + 5
    assert asked("ledger", "export", path) == lines
    assert [json.loads(text) for text in run("ledger", "export", path).stdout.splitlines()] == lines
    head = next(line["head"] for line in asked("ledger", path) if line["data"] == "shop")
    path.unlink()
    assert asked("ledger", "verify", out, "--head", f"shop=3:{head['hash']}")["whole"]

    def verified(changed):
        out.write_text("".join(json.dumps(line) + "\n" for line in changed))
        return run("ledger", "verify", out, "--head", f"shop=3:{head['hash']}")

    last = max(row for row, line in enumerate(lines) if line["data"] == "shop")
    spoiled = [
        [line | {"noise_multiplier": 9.0} if line["kind"] == "charge" else line for line in lines],
        [line | {"budget_epsilon": "9.0"} if line["kind"] == "promise" else line for line in lines],
        [line | {"data": "mine"} if line["data"] == "shop" else line for line in lines],
        lines[:last] + lines[last + 1 :],
        lines[: last - 1] + [lines[last], lines[last - 1]] + lines[last + 1 :],
        lines[last:],
        [{name: value for name, value in line.items() if name != "plan"} for line in lines],
    ]
    assert [verified(changed).exit_code for changed in spoiled] == [1] * len(spoiled)
    assert verified(lines).exit_code == 0


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_what_is_no_ledger_is_refused(command, tmp_path):
    assert "no such file" in refused("ledger", command, tmp_path / "none.sqlite")
    (tmp_path / "foreign.sqlite").write_text("not a database at all")
    assert "can't be read as a ledger" in refused("ledger", command, tmp_path / "foreign.sqlite")


def test_what_is_no_export_is_refused(tmp_path, path):
    (tmp_path / "bad.jsonl").write_text("{}\nno JSON\n")
    assert "line 2 is no JSON" in refused("ledger", "verify", tmp_path / "bad.jsonl")
    assert "no such file" in refused("ledger", "verify", tmp_path / "none.jsonl")
    assert "has no witness" in refused("ledger", "verify", tmp_path / "bad.jsonl", "--new-witness")


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_each_command_has_help_with_an_example(command):
    text = " ".join(run("ledger", command, "--help").stdout.split())
    assert f"Example: mmrank ledger {command}" in text


def test_opting_out_is_for_good_and_needs_a_plain_yes(path):
    head = {line["data"]: line["head"]["entries"] for line in asked("ledger", "show", path)}
    assert "add --yes" in refused("ledger", "opt-out", path, "--data", "shop")
    assert "Did you mean 'shop'" in refused("ledger", "opt-out", path, "--data", "shap", "--yes")
    assert not {line["data"]: line["opted_out"] for line in asked("ledger", "show", path)}["shop"]
    for _ in range(2):
        said = asked("ledger", "opt-out", path, "--data", "shop", "--yes")
        assert (said["opted_out"], said["head"]["entries"]) == (True, head["shop"] + 1)
    assert "renewed has opted out" in run("ledger", "opt-out", path, "--data", "renewed", "--yes").stdout
    assert asked("ledger", "verify", path)["whole"]
    account = Ledger(path).account("shop", Policy(**BASE, budget_epsilon=4.0))
    with pytest.raises(OptedOutError, match="for good"):
        account.charge("later", ROUND)
