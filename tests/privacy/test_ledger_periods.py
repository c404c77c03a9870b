"""At stake: a renewed budget is no new budget for data that lived through both periods."""

import math

import pytest

from mmrank.errors import BudgetExhaustedError, PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy
from mmrank.privacy.renyi_filter import filter_epsilon

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
OTHER = Event(sampling_rate=0.02, noise_multiplier=2.0, steps=3)
DELTA = 1e-6


def cost(rounds: int) -> float:
    return epsilon([ROUND] * rounds, DELTA)


def policy(**changes) -> Policy:
    base = {"mechanism": "dp_sgd", "unit": "user", "delta": DELTA, "budget_epsilon": cost(2)}
    return Policy(**{**base, "renew_every_days": 90.0, "retention_days": 90.0, **changes})


class Clock:
    """A calendar that a test sets."""

    def __init__(self, days: float) -> None:
        self.days = days

    def __call__(self) -> float:
        return self.days


@pytest.fixture
def clock():
    return Clock(90 * 200 + 1.0)


@pytest.fixture
def ledger(tmp_path, clock):
    opened = Ledger(tmp_path / "ledger.sqlite", clock_days=clock)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"retention_days": None}, "set privacy.retention_days"),
        ({"renew_every_days": 0.0}, "renew_every_days=0.0"),
        ({"renew_every_days": math.nan}, "renew_every_days=nan"),
        ({"retention_days": math.inf}, "retention_days=inf"),
        ({"retention_days": -1.0}, "retention_days=-1"),
    ],
)
def test_a_budget_is_renewed_only_where_older_data_are_dropped(changes, told):
    with pytest.raises(PrivacyError, match=told):
        policy(**changes)


@pytest.mark.parametrize(
    ("retention", "periods"), [(90.0, 2), (1.0, 2), (89.0, 2), (91.0, 3), (180.0, 3), (181.0, 4), (900.0, 11)]
)
def test_a_datum_lives_through_as_many_periods_as_it_can(retention, periods):
    found = policy(retention_days=retention)
    assert found.lifetime_periods == periods
    # it is recorded at any moment of a period, and last trained on just before it is dropped
    seen = {found.period(start + retention * 0.999_999) - found.period(float(start)) + 1 for start in range(0, 90 * 3)}
    assert max(seen) <= periods


def test_the_budget_holds_for_each_period_and_the_lifetime_composes_across_them(ledger, clock):
    account = ledger.account("data", policy())
    for period, told in enumerate(([cost(1), cost(2)], [cost(3), cost(4)], [cost(4), cost(4)])):
        assert [account.charge(f"{period}-{number}", ROUND) for number in range(2)] == told
        assert account.standing().epsilon == cost(2)
        with pytest.raises(BudgetExhaustedError, match="next period"):
            account.charge(f"{period}-2", ROUND)
        clock.days += 90
    standing = account.standing()
    assert standing.epsilon == 0.0  # of the period that has just begun
    assert standing.lifetime_epsilon == cost(4)  # of the worst two that follow on each other, not of all three
    assert account.epsilon() == account.charge("0-0", ROUND) == cost(4)  # what is told is what a datum paid
    assert standing.charges == 6


def test_periods_apart_are_not_one_datums_and_the_worst_window_counts(ledger, clock):
    account = ledger.account("data", policy(budget_epsilon=10.0))
    for start, rounds in ((0, 3), (2, 1), (3, 1), (10, 2)):  # index of the period, rounds
        clock.days = 90 * (200 + start) + 5.0
        for number in range(rounds):
            account.charge(f"{start}-{number}", ROUND)
    assert account.standing().lifetime_epsilon == cost(3)
    longer = ledger.account("other", policy(budget_epsilon=10.0, retention_days=200.0))
    for start in (11, 12, 13, 14, 15):
        clock.days = 90 * (200 + start) + 5.0
        longer.charge(f"longer-{start}", ROUND)
    assert longer.policy.lifetime_periods == 4
    assert longer.standing().lifetime_epsilon == cost(4)


def test_a_window_with_two_plans_composes_by_the_filter(ledger, clock):
    account = ledger.account("data", policy(budget_epsilon=10.0))
    account.charge("a", ROUND)
    clock.days += 90
    told = account.charge("b", OTHER)
    standing = account.standing()
    assert standing.epsilon == epsilon([OTHER], DELTA)  # one plan in this period
    assert standing.composition == "filter"
    assert told == standing.lifetime_epsilon == filter_epsilon([ROUND, OTHER], DELTA, order=standing.filter_order)


def test_a_clock_that_is_set_back_opens_no_period_again(ledger, clock):
    account = ledger.account("data", policy())
    account.charge("a", ROUND)
    clock.days += 90
    account.charge("b", ROUND)
    account.charge("c", ROUND)
    clock.days -= 90
    with pytest.raises(BudgetExhaustedError):
        account.charge("d", ROUND)
    assert account.standing().period == 201
    assert account.standing().epsilon == cost(2)
    assert not account.has("d")


def test_a_whole_population_is_told_what_its_data_paid_over_the_periods(ledger, clock):
    first = ledger.charge_many("a", ["one", "two"], policy(), ROUND)
    assert set(first.epsilon.values()) == {cost(1)}
    clock.days += 90
    assert set(ledger.charge_many("b", ["one", "two"], policy(), ROUND).epsilon.values()) == {cost(2)}
    assert set(ledger.charge_many("b", ["one", "two"], policy(), ROUND).epsilon.values()) == {cost(2)}
    assert ledger.account("one", policy()).standing().epsilon == cost(1)


def test_after_a_clock_went_back_everything_counts_together(ledger, clock):
    """Its periods may stand for others than the calendar's: no window of them can be trusted."""
    account = ledger.account("data", policy())
    account.charge("a", ROUND)
    clock.days += 900
    account.charge("b", ROUND)
    assert account.standing().lifetime_epsilon == cost(1)
    clock.days -= 900
    account.charge("c", ROUND)
    assert account.standing().lifetime_epsilon == cost(3)


def test_a_ledger_keeps_the_renewal_it_began_with(ledger):
    ledger.account("data", policy()).charge("a", ROUND)
    with pytest.raises(PrivacyError, match="privacy.renew_every_days: 90.0"):
        ledger.account("data", policy(renew_every_days=30.0))
    with pytest.raises(PrivacyError, match="privacy.retention_days: 90.0"):
        ledger.account("data", policy(retention_days=1.0))
    ledger.account("plain", policy(renew_every_days=None, retention_days=None)).charge("b", ROUND)
    with pytest.raises(PrivacyError, match="privacy.renew_every_days: null"):
        ledger.account("plain", policy())


def test_without_renewal_the_calendar_changes_nothing(ledger, clock):
    account = ledger.account("data", policy(renew_every_days=None, retention_days=None))
    account.charge("a", ROUND)
    clock.days += 10_000
    assert account.charge("b", ROUND) == cost(2)
    with pytest.raises(BudgetExhaustedError):
        account.charge("c", ROUND)
    assert account.standing().lifetime_epsilon == account.epsilon() == cost(2)
