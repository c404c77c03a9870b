"""At stake: a whole population is charged before a cohort is drawn, all or nothing, at a price that does not grow."""

import math

import pytest

from mmrank.errors import BudgetExhaustedError, LedgerRolledBackError, OptedOutError, PrivacyError
from mmrank.privacy import inspection
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
BARE = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
"""Its epsilon needs no computation."""
DELTA = 1e-6
KEYS = [f"device-{number:03d}" for number in range(50)]


def policy(budget: float = math.inf, **changes) -> Policy:
    return Policy(
        **{"mechanism": "client_update", "unit": "client", "delta": DELTA, "budget_epsilon": budget, **changes}
    )


def cost(rounds: int) -> float:
    return epsilon([ROUND] * rounds, DELTA)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def whole(ledger) -> bool:
    with inspection.reading(ledger.path) as connection:
        return inspection.faults(connection, ledger.path, {}) == []


def test_a_charge_to_many_is_what_charges_to_each_are(ledger, tmp_path):
    alone = Ledger(tmp_path / "alone.sqlite", durable=False)
    many = Ledger(tmp_path / "many.sqlite", durable=False)
    for number in range(3):
        answer = many.charge_many(f"round-{number}", KEYS, policy(), ROUND)
        for key in KEYS:
            assert alone.account(key, policy()).charge(f"round-{number} {key}", ROUND) == answer.epsilon[key]
        assert set(answer.epsilon) == set(KEYS)
        assert not answer.refused
    for key in KEYS:
        one, other = alone.account(key, policy()), many.account(key, policy())
        assert one.standing().events == other.standing().events
        assert one.head()[0] == other.head()[0] == 3
    assert whole(many)


def test_asked_again_nobody_pays_twice(ledger):
    first = ledger.charge_many("round-0", [*KEYS, *KEYS], policy(), ROUND)
    assert ledger.charge_many("round-0", KEYS, policy(), ROUND) == first
    assert ledger.charge_many("round-0", [*KEYS, "late"], policy(), ROUND).epsilon["late"] == cost(1)
    assert {ledger.account(key, policy()).head()[0] for key in [*KEYS, "late"]} == {1}
    other = ledger.charge_many("round-0", KEYS, policy(), Event(sampling_rate=0.5, noise_multiplier=1.2, steps=5))
    assert set(other.refused) == set(KEYS)
    assert "another event" in str(other.refused[KEYS[0]])
    assert whole(ledger)


def test_those_who_may_not_take_part_are_named_and_pay_nothing(ledger):
    spent, gone, copied, differs = KEYS[:4]
    ledger.account(spent, policy(cost(2))).charge("a", ROUND)
    ledger.account(spent, policy(cost(2))).charge("b", ROUND)
    ledger.account(gone, policy()).opt_out()
    ledger.account(differs, policy(delta=1e-5)).charge("c", ROUND)
    answer = ledger.charge_many("round", KEYS, policy(cost(2)), ROUND, acknowledged={copied: (1, "0" * 64)})
    kinds = {key: type(error) for key, error in answer.refused.items()}
    assert kinds == {
        spent: BudgetExhaustedError,
        gone: OptedOutError,
        copied: LedgerRolledBackError,
        differs: PrivacyError,
    }
    assert set(answer.epsilon) == set(KEYS[4:])
    assert ledger.account(spent, policy(cost(2))).epsilon() == cost(2)
    assert ledger.account(copied, policy()).head() == (0, "")
    assert whole(ledger)


def test_clients_of_unlike_histories_pay_each_their_own(ledger):
    other = Event(sampling_rate=0.02, noise_multiplier=2.0, steps=3)
    ledger.account(KEYS[0], policy()).charge("a", ROUND)
    ledger.account(KEYS[1], policy()).charge("b", other, plan="round")
    answer = ledger.charge_many("round", KEYS, policy(), ROUND, plan="round")
    assert answer.epsilon[KEYS[0]] == cost(2)
    assert answer.epsilon[KEYS[1]] == epsilon([other, ROUND], DELTA)
    assert {answer.epsilon[key] for key in KEYS[2:]} == {cost(1)}


def test_a_charge_to_many_that_fails_is_undone_for_all(ledger, monkeypatch):
    ledger.charge_many("round-0", KEYS, policy(), ROUND)
    before = [ledger.account(key, policy()).head() for key in KEYS]
    with ledger.database.read() as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON entries WHEN NEW.id = 80 BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(PrivacyError, match="can't be read or written"):
        ledger.charge_many("round-1", KEYS, policy(), ROUND)
    with ledger.database.read() as connection:
        connection.execute("DROP TRIGGER full")
    assert [ledger.account(key, policy()).head() for key in KEYS] == before


def instructions(ledger, act) -> int:
    """SQLite's own count of the steps it took: no clock."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    with ledger.database.read() as connection:
        connection.set_progress_handler(count, 1)
        act()
        connection.set_progress_handler(None, 1)
    return taken


def test_a_charge_costs_the_same_after_many_rounds(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite", durable=False)
    account, taken = ledger.account(KEYS[0], policy()), {}
    for number in range(300):
        if number in (10, 299):
            taken[number] = (
                instructions(ledger, lambda n=number: ledger.charge_many(f"round-{n}", KEYS, policy(), BARE)),
                instructions(ledger, lambda n=number: account.charge(f"own-{n}", BARE)),
                instructions(ledger, lambda: account.charge("own-10", BARE)),
                instructions(ledger, lambda n=number: account.claim([f"own-{n}", f"next-{n}"], BARE)),
                instructions(ledger, lambda: account.knows(*account.head())),
            )
        else:
            ledger.charge_many(f"round-{number}", KEYS, policy(), BARE)
    assert all(late <= early * 1.1 for early, late in zip(taken[10], taken[299], strict=True)), taken
    assert taken[299][0] < 50 * 300
