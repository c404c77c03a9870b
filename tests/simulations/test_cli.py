"""At stake: a person or a script at the command line gets an answer, or one clear error and exit code 2."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.secure_keys import read_identity
from simulations.cli import app

COMMANDS = (
    ("simulate",),
    ("sweep",),
    ("report",),
    ("rank",),
    ("features",),
    ("ledger",),
    ("events",),
    ("data", "list"),
    ("data", "describe"),
    ("data", "check"),
    ("data", "init"),
    ("data", "same"),
    ("data", "export"),
    ("budget", "plan"),
    ("identity",),
    ("newcomers",),
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def asked(*arguments: object):
    """The one JSON value that a command prints; nothing on stderr."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    """The one line of an error with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("mmrank: ")
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: mmrank {' '.join(command)}" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_each_argument_is(command):
    said = run(*command, "--help").stdout
    assert said.count("rguments:") <= 1
    arguments = re.search(r"Arguments:\n(.*?)\n\n", said, re.DOTALL)
    for line in re.findall(r"^  [A-Z].*", arguments[1], re.MULTILINE) if arguments else ():
        assert re.match(r"  [A-Z.\[\]_]+  [A-Z][a-z]* .*", line), line


def test_help_is_quick_since_nothing_heavy_is_imported():
    code = (
        "import sys, simulations.cli; print([m for m in ('torch', 'flwr', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_real_process_prints_one_json_value_and_nothing_else(finished):
    command = [sys.executable, "-m", "simulations.cli", "simulate", str(finished.config)]
    done = subprocess.run(
        [*command, "--out", str(finished.folder), "--resume", "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == finished.result
    wrong = subprocess.run([*command, "--set", "sed=1"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Unknown setting 'sed'" in wrong.stderr
    assert "Did you mean 'seed'" in wrong.stderr


def test_simulate_from_nothing_in_silence(tiny, tmp_path):
    out = tmp_path / "run"
    quick = ["--set", "evaluation.seeds=1", "--set", "evaluation.rows=[content, federated_dp]"]
    result = asked("simulate", tiny, "--out", out, "--resume", *quick)
    assert result["metrics"].keys() == {"content", "federated_dp"}
    assert (out / "report.html").is_file()
    told = run("simulate", tiny, "--out", out, "--resume", *quick)
    assert told.exit_code == 0
    assert "federated_dp" in told.stdout
    assert str(out / "report.html") in told.stdout


def test_a_folder_in_use_is_an_error_that_says_so(finished):
    assert "add --resume" in refused("simulate", finished.config, "--out", finished.folder)


def test_another_configuration_in_the_folder_is_an_error(finished):
    told = refused("simulate", finished.config, "--set", "seed=9", "--out", finished.folder, "--resume")
    assert "seed 0 -> 9" in told


def test_rank_answers_with_titles_scores_and_pictures(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    lines = asked("rank", folder, "--query", "运动鞋", "--client", "device-000003", "--top", 5)
    assert [line["rank"] for line in lines] == [1, 2, 3, 4, 5]
    scores = [line["score"] for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(line["title"] and Path(line["picture"]).is_file() for line in lines if line["picture"])
    assert any(line["picture"] for line in lines)
    told = run("rank", folder, "--query", "运动鞋", "--client", "device-000003", "--top", 2)
    assert lines[0]["title"] in told.stdout
    bare = asked("rank", folder, "--client", "device-000003", "--top", 2, "--no-pictures")
    assert [line["picture"] for line in bare] == [None, None]


def test_an_event_changes_the_next_answer(finished):
    ask = ("rank", finished.folder, "--query", "shoes", "--client", "device-000003", "--top", 20, "--no-pictures")
    before = asked(*ask)
    bought = before[-1]["item_id"]
    after = asked(*ask, "--event", f"purchase:{bought}")
    assert [line["score"] for line in before] != [line["score"] for line in after]
    assert asked(*ask) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--client", "device-999999"), "device-999999"),
        (("--client", "device-000003", "--event", "bought:mp-000001"), "type:item_id"),
        (("--client", "device-000003", "--event", "purchase:nothing"), "No item 'nothing'"),
    ],
)
def test_rank_refuses_what_it_does_not_know(finished, arguments, told):
    assert told in refused("rank", finished.folder, *arguments)


def test_commands_on_a_folder_without_a_run_say_so(tmp_path):
    assert "holds no run" in refused("rank", tmp_path, "--client", "device-000003")
    assert "holds no run" in refused("ledger", tmp_path)
    assert "holds no finished run" in refused("report", tmp_path)


def test_ledger_shows_each_account_and_what_remains(finished, tmp_path):
    lines = asked("ledger", finished.folder)
    assert lines
    assert max(line["epsilon"] for line in lines) == pytest.approx(finished.result["privacy"]["epsilon_max"])
    assert all(line["steps"] == 2 * line["charges"] for line in lines)
    assert asked("ledger", finished.folder / "ledger.sqlite") == lines
    assert "device-00000" in run("ledger", finished.folder).stdout
    (tmp_path / "foreign.sqlite").write_text("not a database at all")
    assert "can't be read as a ledger" in refused("ledger", tmp_path / "foreign.sqlite")
    assert (tmp_path / "foreign.sqlite").read_text() == "not a database at all"


def test_report_compares_runs(finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished.folder, other)
    found = asked("report", finished.folder, other, "--out", tmp_path / "both.html")
    assert [line["run"] for line in found["runs"]] == ["run", "other"]
    assert (tmp_path / "both.html").is_file()
    assert "other" in run("report", finished.folder, other, "--out", tmp_path / "both.html").stdout
    (other / "report.html").unlink()
    assert asked("report", other) == {"report": str(other / "report.html")}
    assert (other / "report.html").is_file()


def test_features_fill_the_cache(tiny, tmp_path):
    cache = tmp_path / "cache"
    found = asked("features", tiny, "--set", f"features_cache={cache}")
    assert found["items"] == 1000
    assert (found["text"], found["image"]) == ("hashing", "histogram")
    assert any(cache.rglob("*"))


def test_an_identity_is_made_once_and_kept_from_others(tmp_path):
    path = tmp_path / "identity"
    told = asked("identity", path)
    assert told == {"identity": str(path), "public": read_identity(path).public.hex()}
    assert "never overwritten" in refused("identity", path)
    assert "can't be written" in refused("identity", tmp_path / "nowhere" / "identity")
    assert read_identity(path).public.hex() == told["public"]


def test_data_list_and_describe(tiny):
    assert {"marketplace", "hm"} <= asked("data", "list").keys()
    found = asked("data", "describe", tiny)
    assert (found["items"], found["clients"]) == (1000, 8)
    assert found["train"]["slates"] > 0
    small = asked(
        "data",
        "describe",
        "marketplace",
        "--set",
        "dataset.items=1000",
        "--set",
        "dataset.merchants=2",
        "--set",
        "dataset.devices=1",
    )
    assert small["items"] == 1000
    assert "Did you mean 'marketplace'" in refused("data", "describe", "marketplce")


def test_budget_plan_goes_both_ways():
    plan = ("budget", "plan", "--sampling-rate", 0.01, "--steps", 1000, "--delta", 1e-5)
    forth = asked(*plan, "--noise-multiplier", 1.0)
    assert forth["epsilon"] == pytest.approx(1.83, abs=0.01)  # shared table of PLD accounting, row A
    back = asked(*plan, "--epsilon", forth["epsilon"])
    assert back["noise_multiplier"] == pytest.approx(1.0, rel=0.01)
    assert back["epsilon"] <= forth["epsilon"]
    assert "--noise-multiplier and --epsilon" in refused(*plan)
    assert "sampling_rate=2" in refused(
        "budget", "plan", "--sampling-rate", 2, "--steps", 1, "--delta", 1e-5, "--epsilon", 1
    )


def test_sweep_needs_one_plan_and_then_tells_the_best(tiny, tmp_path):
    assert "--grid and --optuna" in refused("sweep", tiny)
    found = asked(
        "sweep", tiny, "--grid", "training.learning_rate=0.001,0.01", "--out", tmp_path / "sweep",
        "--set", "evaluation.seeds=1", "--set", "federation.rounds=1",
    )  # fmt: skip
    assert len(found["trials"]) == 2
    assert Path(found["best_config"]).is_file()


def test_a_missing_argument_is_a_usage_error():
    result = run("simulate")
    assert result.exit_code == 2
    assert "CONFIG" in result.stderr
