"""At stake: what was paid under an older version still counts under this one."""

import math
import sqlite3

import pytest

from mmrank.errors import BudgetExhaustedError, ConfigError, PrivacyError
from mmrank.privacy import inspection
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
DELTA = 1e-6

FORMAT_1 = """
CREATE TABLE ledgers (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    mechanism TEXT NOT NULL, unit TEXT NOT NULL, delta REAL NOT NULL, budget REAL NOT NULL);
INSERT INTO ledgers VALUES (1, 'one', 'dp_sgd', 'slate', 1e-06, 1.51);
INSERT INTO ledgers VALUES (2, 'two', 'dp_sgd', 'slate', 1e-06, 1e999);
INSERT INTO ledgers VALUES (3, 'bare', 'no_privacy', 'slate', 1e-06, 1e999);
CREATE TABLE charges (
    id INTEGER PRIMARY KEY, ledger INTEGER NOT NULL REFERENCES ledgers (id), charge TEXT NOT NULL UNIQUE,
    sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL, steps INTEGER NOT NULL);
INSERT INTO charges VALUES (1, 1, 'one-0', 0.05, 1.2, 5);
INSERT INTO charges VALUES (2, 2, 'two-0', 0.05, 1.2, 5);
INSERT INTO charges VALUES (3, 1, 'one-1', 0.05, 1.2, 5);
INSERT INTO charges VALUES (4, 2, 'two-1', 0.05, 1.2, 5);
INSERT INTO charges VALUES (5, 1, 'one-2', 0.05, 1.2, 5);
INSERT INTO charges VALUES (6, 2, 'two-x', 0.02, 2.0, 4);
INSERT INTO charges VALUES (7, 3, 'bare-0', 1.0, 0.0, 1);
CREATE INDEX charges_by_ledger ON charges (ledger, sampling_rate, noise_multiplier, steps);
"""
"""As the first version wrote it, dumped."""


def policy(budget: float = math.inf, **changes) -> Policy:
    return Policy(**{"mechanism": "dp_sgd", "unit": "slate", "delta": DELTA, "budget_epsilon": budget, **changes})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(FORMAT_1)
    connection.close()
    return path


def test_an_older_file_keeps_every_charge_and_its_promises(path):
    ledger = Ledger(path)
    one = ledger.account("one", policy(1.51))
    assert one.epsilon() == epsilon([ROUND] * 3, DELTA)
    assert all(one.has(f"one-{number}") for number in range(3))
    assert one.charge("one-1", ROUND) == epsilon([ROUND] * 3, DELTA)  # paid already
    with pytest.raises(PrivacyError, match="another event"):
        one.charge("two-0", ROUND)
    with pytest.raises(PrivacyError, match="1.51 or less"):
        ledger.account("one", policy(2.0))
    with pytest.raises(BudgetExhaustedError):
        one.charge("one-3", ROUND)
    assert ledger.account("two", policy()).composition == "filter"
    assert ledger.account("bare", policy(mechanism="no_privacy")).epsilon() == math.inf
    assert ledger.account("two", policy()).head()[0] == 3
    ledger.close()
    with inspection.reading(path) as connection:
        assert inspection.faults(connection, path, {}) == []


def test_two_that_open_an_older_file_at_once_make_one_of_it(path):
    ledgers = [Ledger(path) for _ in range(2)]
    assert len({ledger.account("one", policy(1.51)).head() for ledger in ledgers}) == 1
    for ledger in ledgers:
        ledger.close()


def test_looking_at_an_older_file_changes_nothing(path):
    before = path.read_bytes()
    with inspection.reading(path) as connection:
        found = inspection.look(connection, clock_days=0.0)
    assert [(line.key, line.standing.charges) for line in found] == [("bare", 1), ("one", 3), ("two", 3)]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE recipes (name TEXT)", "PRAGMA user_version = 3", "CREATE TABLE ledgers (id INTEGER)"]
)
def test_a_file_of_another_kind_or_a_newer_version_is_refused_and_left_alone(tmp_path, statement):
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(statement)
    connection.commit()
    tables = connection.execute("SELECT * FROM sqlite_master").fetchall()
    with pytest.raises(PrivacyError, match="no ledger of this version"):
        Ledger(path).account("data", policy())
    assert connection.execute("SELECT * FROM sqlite_master").fetchall() == tables
    with pytest.raises((PrivacyError, ConfigError)), inspection.reading(path):
        pass
    connection.close()
