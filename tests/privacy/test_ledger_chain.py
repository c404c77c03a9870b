"""At stake: nobody changes, drops or copies what was paid unnoticed, and the head tells nothing of the data."""

import hashlib
import json
import math
import shutil
import sqlite3

import pytest

from mmrank.errors import LedgerRolledBackError, OptedOutError, PrivacyError
from mmrank.privacy import inspection
from mmrank.privacy._chain import digest
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy
from mmrank.privacy.renyi_filter import filter_epsilon

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
OTHER = Event(sampling_rate=0.02, noise_multiplier=2.0, steps=3)
DELTA = 1e-6


def policy(budget: float = math.inf, **changes) -> Policy:
    return Policy(**{"mechanism": "dp_sgd", "unit": "slate", "delta": DELTA, "budget_epsilon": budget, **changes})


@pytest.fixture
def path(tmp_path):
    """Two ledgers of six and three entries, closed."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    for number in range(6):
        ledger.account("one", policy(50.0)).charge(f"one-{number}", ROUND if number % 2 else OTHER)
        if number < 3:
            ledger.account("two", policy()).charge(f"two-{number}", ROUND)
    ledger.close()
    return path


def faults(path, heads=None):
    with inspection.reading(path) as connection:
        return inspection.faults(connection, path, heads or {})


def edited(path, *statements):
    """As somebody would who has the file and knows SQL."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, statement
    connection.close()


def test_a_whole_ledger_has_no_fault(path):
    assert faults(path) == []


def test_each_hash_is_that_of_the_one_before_and_every_field(path):
    """By hand: sha256 of `previous position {fields as sorted JSON without spaces}`."""
    with inspection.reading(path) as connection:
        lines = [line for line in inspection.export(connection) if line["data"] == "two"]
    promise, entries = lines[0], lines[1:]
    fields = {name: promise[name] for name in promise if name not in ("data", "position", "kind", "hash")}
    assert fields["budget_epsilon"] == "inf"
    assert fields["key_sha256"] == hashlib.sha256(b"two").hexdigest()
    text = "mmrank ledger 2\n" + json.dumps(fields, sort_keys=True, separators=(",", ":"))
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert promise["hash"] == expected
    for position, line in enumerate(entries, start=1):
        body = (
            f'{{"charge":"{digest(f"two-{position - 1}")}","clock_period":0,"family":"gaussian","kind":"charge",'
            '"noise_multiplier":1.2,"period":0,"plan":"gaussian q=0.05 sigma=1.2","sampling_rate":0.05,"steps":5}'
        )
        expected = hashlib.sha256(f"{expected} {position} {body}".encode()).hexdigest()
        assert line["hash"] == expected
    assert Ledger(path).account("two", policy()).head() == (3, expected)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET period = 1 WHERE id = 2",
        "DELETE FROM entries WHERE id = 9",
        "UPDATE events SET noise_multiplier = 9.0",
        "DELETE FROM events",
        "UPDATE ledgers SET budget = 100.0",
        "UPDATE ledgers SET delta = 0.1",
        "DELETE FROM ledgers",
    ],
)
def test_sqlite_itself_refuses_to_change_what_is_written(path, statement):
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statements", "whose", "told"),
    [
        (["UPDATE events SET noise_multiplier = 9.0 WHERE steps = 5"], "one", "hash of entry 2"),
        (["UPDATE events SET sampling_rate = 9.0 WHERE steps = 5"], "one", "hash of entry 2"),
        (["UPDATE events SET plan = 'declared'"], "one", "hash of entry 1"),
        (["UPDATE entries SET hash = zeroblob(32) WHERE ledger = 2 AND position = 2"], "two", "hash of entry 2"),
        (["UPDATE entries SET charge = zeroblob(32) WHERE ledger = 2 AND position = 2"], "two", "hash of entry 2"),
        (["DELETE FROM entries WHERE ledger = 1 AND position = 4"], "one", "entry 4 is missing"),
        (["DELETE FROM entries WHERE ledger = 1 AND position = 6"], "one", "ends at entry 5"),
        (["DELETE FROM entries WHERE ledger = 2"], "two", "3 entries are missing"),
        (
            ["UPDATE entries SET position = 9 - position WHERE ledger = 1 AND position IN (4, 5)"],
            "one",
            "hash of entry 4",
        ),
        (["UPDATE entries SET kind = 'opt_out' WHERE id = 1"], "one", "hash of entry 1"),
        (["UPDATE totals SET charges = 1 WHERE ledger = 2"], "two", "totals"),
        (["DELETE FROM totals WHERE ledger = 2"], "two", "totals"),
        (["UPDATE ledgers SET budget = 99.0 WHERE key = 'one'"], "one", "hash of entry 1"),
        (["UPDATE ledgers SET delta = 1e-3 WHERE key = 'two'"], "two", "hash of entry 1"),
        (["UPDATE ledgers SET key = 'three' WHERE key = 'two'"], "three", "hash of entry 1"),
        (["UPDATE ledgers SET filter_order = 1.5 WHERE key = 'one'"], "one", "hash of entry 1"),
        (["UPDATE ledgers SET opted_out = 1 WHERE key = 'one'"], "one", "its row says"),
        (["UPDATE ledgers SET head = 'ab' WHERE key = 'one'"], "one", "its row says"),
    ],
)
def test_what_a_person_edits_is_noticed(path, statements, whose, told):
    edited(path, *statements)
    found = [fault for fault in faults(path) if fault.key == whose]
    assert told in found[0].message
    with pytest.raises(PrivacyError, match="damaged"):
        Ledger(path).account("one", policy(50.0)).charge("new", ROUND)


def cut_back(path, key="one", entries=4):
    """A chain whose end was taken off so that all that is left holds together."""
    number = {"one": 1, "two": 2}[key]
    edited(
        path,
        f"DELETE FROM entries WHERE ledger = {number} AND position > {entries}",
        f"DELETE FROM totals WHERE ledger = {number}",
        "INSERT INTO totals SELECT ledger, period, event, count(*) FROM entries "
        f"WHERE ledger = {number} GROUP BY 1, 2, 3",
        f"UPDATE ledgers SET entries = {entries}, (newest, head) = (SELECT id, lower(hex(hash)) FROM entries "
        f"WHERE ledger = {number} AND position = {entries}) WHERE id = {number}",
    )


def test_entries_taken_off_the_end_of_one_chain_leave_a_gap_in_the_file(path):
    head = Ledger(path).account("two", policy()).head()
    cut_back(path, "two", entries=2)
    assert [fault.message for fault in faults(path)] == ["the file has 8 entries, the last is number 9"]
    with pytest.raises(PrivacyError, match="8 entries"):
        Ledger(path).account("one", policy(50.0))
    with inspection.reading(path) as connection, pytest.raises(PrivacyError, match="damaged"):
        inspection.new_witness(connection, path)
    assert head[0] == 3


def test_charges_taken_off_the_end_of_the_file_are_noticed_by_the_witness_and_by_an_acknowledged_head(path):
    """Entries 7 to 9 belong to `one`: what is left holds together by itself."""
    head = Ledger(path).account("one", policy(50.0)).head()
    assert faults(path, {"one": head}) == []
    cut_back(path, entries=3)
    with pytest.raises(LedgerRolledBackError, match="lacks its entry number 9"):
        Ledger(path).account("one", policy(50.0))
    with inspection.reading(path) as connection, pytest.raises(LedgerRolledBackError):
        inspection.new_witness(connection, path)
    path.with_name("ledger.sqlite.witness").unlink()
    with pytest.raises(PrivacyError, match="--new-witness"):
        Ledger(path).account("one", policy(50.0))
    with inspection.reading(path) as connection:
        inspection.new_witness(connection, path)
    assert faults(path) == []
    account = Ledger(path).account("one", policy(50.0))
    assert account.standing().charges == 3
    assert [fault.key for fault in faults(path, {"one": head})] == ["one"]
    with pytest.raises(LedgerRolledBackError):
        account.charge("new", ROUND, acknowledged=head)


def test_a_copy_is_noticed_by_what_the_server_acknowledged(path, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite.witness"):
        shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    first = Ledger(path).account("one", policy(50.0))
    second = Ledger(tmp_path / "copy" / "ledger.sqlite").account("one", policy(50.0))
    common = first.head()
    first.charge("next", ROUND, acknowledged=common)
    acknowledged = first.head()
    assert first.knows(*common)
    assert first.knows(*acknowledged)
    assert not second.knows(*acknowledged)
    assert not first.knows(common[0], acknowledged[1])
    for act in (
        lambda: second.charge("next", ROUND, acknowledged=acknowledged),
        lambda: second.charge("one-1", ROUND, acknowledged=acknowledged),  # paid already, and refused all the same
        lambda: second.claim(["next"], ROUND, acknowledged=acknowledged),
    ):
        with pytest.raises(LedgerRolledBackError, match="copy or an older state"):
            act()
    second.charge("elsewhere", ROUND, acknowledged=common)  # as long, but another chain
    with pytest.raises(LedgerRolledBackError):
        second.charge("again", ROUND, acknowledged=acknowledged)
    first.charge("last", ROUND, acknowledged=acknowledged)


def test_a_new_ledger_knows_the_head_before_the_first_charge_alone(tmp_path):
    account = Ledger(tmp_path / "ledger.sqlite").account("data", policy())
    assert account.head() == (0, "")
    with pytest.raises(LedgerRolledBackError, match="lacks entry 3"):
        account.charge("a", ROUND, acknowledged=(3, "0" * 64))
    account.charge("a", ROUND, acknowledged=(0, ""))
    assert account.knows(0, "")
    assert not account.knows(0, "0" * 64)
    assert not account.knows(1, "0" * 64)
    assert not account.knows(-1, account.head()[1])


def test_heads_of_a_lasting_ledger_are_salted_and_those_of_a_simulation_repeat(tmp_path):
    """With the salt unknown, who knows the events and the charges can't try names of data against a head."""

    def head(name, durable):
        account = Ledger(tmp_path / name, durable=durable).account("device-000001", policy())
        account.charge("a", ROUND)
        return account.head()

    assert head("one", True) != head("two", True)
    assert head("three", False) == head("four", False)


def test_opting_out_stops_all_use_for_good(path):
    account = Ledger(path).account("one", policy(50.0))
    before = account.epsilon()
    account.opt_out()
    account.opt_out()  # once is enough
    assert account.head()[0] == 7
    account.ledger.close()
    again = Ledger(path).account("one", policy(50.0))
    for act in (
        lambda: again.charge("new", ROUND),
        lambda: again.charge("one-1", ROUND),
        lambda: again.claim(["x"], ROUND),
    ):
        with pytest.raises(OptedOutError, match="for good"):
            act()
    assert again.standing().opted_out
    assert again.epsilon() == before
    assert faults(path) == []
    assert Ledger(path).account("two", policy()).charge("new", ROUND) > 0
    fresh = Ledger(path).account("never charged", policy())
    fresh.opt_out()
    with pytest.raises(OptedOutError):
        fresh.charge("a", ROUND)
    assert faults(path) == []


def test_charges_of_one_declared_plan_compose_tightly_and_others_by_the_filter(tmp_path):
    account = Ledger(tmp_path / "ledger.sqlite").account("data", policy(8.0))
    account.charge("a", ROUND, plan="warm up, then less noise")
    assert account.charge("b", OTHER, plan="warm up, then less noise") == epsilon([ROUND, OTHER], DELTA)
    assert account.composition == "plan"
    assert account.standing().delta == DELTA
    tight = epsilon([ROUND, ROUND, OTHER], DELTA)
    after = account.charge("c", ROUND, plan="chosen when the first results were seen")
    order = account.standing().filter_order
    assert account.composition == "filter"
    assert after == account.epsilon() == filter_epsilon([ROUND, ROUND, OTHER], DELTA, order=order) > tight
    assert account.standing().delta == 2 * DELTA


def test_plans_of_the_same_steps_stay_with_the_tight_rule(tmp_path):
    """Runs that differ in a learning rate alone: when to stop among equal steps is the only choice."""
    account = Ledger(tmp_path / "ledger.sqlite").account("data", policy(8.0))
    for run in ("first", "second", "third"):
        account.charge(run, ROUND, plan=run)
    assert account.composition == "plan"
    assert account.epsilon() == epsilon([ROUND] * 3, DELTA)
    account.charge("other", Event(sampling_rate=0.05, noise_multiplier=1.2, steps=1), plan="fourth")
    assert account.composition == "plan"


def test_the_filter_stops_at_the_budget_by_the_number_it_reports(tmp_path):
    account = Ledger(tmp_path / "ledger.sqlite").account("data", policy(2.5))
    account.charge("first", ROUND)
    spent: list[float] = []

    def until_refused():
        for number in range(1000):
            spent.append(account.charge(f"then-{number}", OTHER))

    with pytest.raises(PrivacyError, match="past budget_epsilon=2.5"):
        until_refused()
    assert spent == sorted(spent)
    assert len(spent) > 3
    assert account.epsilon() == spent[-1] <= 2.5
    order = account.standing().filter_order
    assert filter_epsilon([*account.events(), OTHER], DELTA, order=order) > 2.5


def test_the_order_of_the_filter_suits_the_first_plan_and_is_kept(tmp_path):
    """One fixed for unsampled noise would report epsilon 55 here, where 2.33 is spent."""
    plan = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=60)
    account = Ledger(tmp_path / "ledger.sqlite").account("data", policy(4.0))
    account.charge("first", Event(sampling_rate=0.05, noise_multiplier=1.2, steps=1))
    order = account.standing().filter_order
    assert filter_epsilon([plan], DELTA, order=order) < 1.35 * epsilon([plan], DELTA)
    account.charge("second", OTHER)
    assert Ledger(tmp_path / "ledger.sqlite").account("data", policy(1.9)).standing().filter_order == order
