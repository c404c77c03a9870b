"""At stake: a merchant's operator appends a log, answers a person's request and forgets them, by one command each."""

from __future__ import annotations

import json
import re
import stat
import time

import pytest
import typer
from typer.testing import CliRunner, Result

from client.event_store import EventStore
from simulations.cli import _Commands
from simulations.commands_events import events_app

app = typer.Typer(cls=_Commands, rich_markup_mode=None)
app.add_typer(events_app, name="events")

TODAY = time.time() / 86_400
COMMANDS = ("append", "show", "export", "forget", "readmit", "expire")


def run(*arguments: object, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["events", *(str(argument) for argument in arguments)], input=typed)


def asked(*arguments: object, typed: str = ""):
    """The one JSON value that a command prints; nothing on stderr."""
    result = run(*arguments, "--json", typed=typed)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    """The one line of an error with exit code 2."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert result.stderr.startswith("mmrank: ")
    return result.stderr


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    rows = [
        f"007,0042,{TODAY - 3},shown,secret words,s-1,0,0.5",
        f"007,0043,{TODAY - 3},shown,secret words,s-1,1,0.25",
        f"007,0042,{TODAY - 2},purchase,secret words,s-1,,",
        "8,0042,2020-02-29T12:00:00+08:00,view,,,,",
    ]
    path.write_text("user,item,time,type,query,slate,position,propensity\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def store(tmp_path, log):
    path = tmp_path / "events.sqlite"
    assert asked("append", path, log) == {"added": 4, "known": 0, "expired": 0, "forgotten": 0}
    return path


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_every_command_has_help_with_an_example_and_says_what_each_argument_is(command):
    said = run(*command, "--help").stdout
    assert f"Example: mmrank {' '.join(('events', *command))}" in " ".join(said.split())
    arguments = re.search(r"Arguments:\n(.*?)\n\n", said, re.DOTALL)
    assert bool(arguments) == bool(command)
    for line in re.findall(r"^  [A-Z].*", arguments[1], re.MULTILINE) if arguments else ():
        assert re.match(r"  [A-Z.\[\]_]+ {2,}[A-Z][a-z]* .*", line), line


def test_a_log_is_appended_once_and_show_counts_without_a_name(store, log):
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert asked("append", store, log)["known"] == 4
    before = store.read_bytes()
    found = asked("show", store)
    assert (found["events"], found["people"], found["slates"], found["retention_days"]) == (4, 2, 1, None)
    assert found["by_type"] == {"shown": 2, "view": 1, "click": 0, "cart": 0, "purchase": 1}
    assert (found["oldest"], found["forgotten"], found["traces"]) == ("2020-02-29T04:00:00Z", 0, False)
    assert found["bytes"] == len(before)
    said = run("show", store).stdout
    assert "2020-02-29T04:00:00Z" in said
    assert not any(word in said for word in ("007", "0042", "secret", "s-1"))
    assert store.read_bytes() == before


def test_a_persons_own_events_are_exported_and_can_be_appended(store, tmp_path):
    for name in ("mine.jsonl", "mine.csv"):
        out = tmp_path / name
        assert asked("export", store, "--out", out, "--user", "007") == {"out": str(out), "events": 3}
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert asked("append", store, out) == {"added": 0, "known": 3, "expired": 0, "forgotten": 0}
    first = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])
    assert (first["user"], first["item"], first["type"], first["propensity"]) == ("007", "0042", "shown", 0.5)
    assert asked("export", store, "--out", tmp_path / "all.csv")["events"] == 4
    assert "end in .jsonl or .csv" in refused("export", store, "--out", tmp_path / "all.txt")
    assert "is the store itself" in refused("export", _renamed(store), "--out", _renamed(store))


def _renamed(store):
    """The store under a name that an export might have."""
    path = store.with_name("store.csv")
    if store.exists():
        store.rename(path)
    return path


def test_forgetting_says_what_it_cannot_undo_and_outlives_another_import(store, log):
    found = asked("forget", store, "--user", "-", typed="007\n")
    assert found["events"] == 3
    assert any("mmrank ledger show" in sentence for sentence in found["cannot_undo"])
    assert not any(word in store.read_bytes() for word in (b"007", b"secret", b"s-1", b"0043"))
    assert asked("append", store, log) == {"added": 0, "known": 1, "expired": 0, "forgotten": 3}
    said = run("forget", store, "--user", "nobody").stdout
    assert said.startswith("0 events deleted; later ones are left out.")
    assert said.count("\n- ") == len(found["cannot_undo"])
    assert "nobody" not in said
    assert asked("readmit", store, "--user", "007") == {"readmitted": True}
    assert asked("append", store, log)["forgotten"] == 3
    assert asked("readmit", store, "--user", "007", "--since", "0") == {"readmitted": True}
    assert asked("append", store, log)["added"] == 3
    assert "Nobody of that id was forgotten" in run("readmit", store, "--user", "007").stdout
    assert "ISO 8601 with its offset" in refused("readmit", store, "--user", "007", "--since", "yesterday")


def test_expire_sets_the_limit_and_deletes_what_is_older(store, log):
    assert asked("expire", store) == {"deleted": 0, "retention_days": None}
    assert asked("expire", store, "--days", 30) == {"deleted": 1, "retention_days": 30.0}
    assert asked("append", store, log) == {"added": 0, "known": 3, "expired": 1, "forgotten": 0}
    assert asked("show", store)["retention_days"] == 30.0
    assert "retention_days=-1" in refused("expire", store, "--days", "-1")
    assert EventStore(store).standing().events == 3


def test_errors_are_one_line_and_make_no_store(tmp_path, log):
    path = tmp_path / "events.sqlite"
    for command in (
        ("show", path),
        ("forget", path, "--user", "007"),
        ("expire", path),
        ("readmit", path, "--user", 1),
    ):
        assert "there is no such file; mmrank events append makes one" in refused(*command)
    log.write_text(f"user,item,time,type\n7,8,{TODAY},view\n7,8,{TODAY + 9},view\n")
    assert "Event 2 of the batch: expected time_days=" in refused("append", path, log)
    assert "time='1.5.2024' can't be read" in refused("append", path, _written(log, "7,8,1.5.2024,view"))
    assert asked("show", path)["events"] == 0


def _written(log, row: str):
    log.write_text(f"user,item,time,type\n{row}\n")
    return log
