"""At stake: the count of what people's data has paid; lost or doubled, the promise over it is void."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from mmrank.errors import BudgetExhaustedError, PrivacyError
from mmrank.privacy import _pld
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.ledger import Ledger, Policy, charge_id

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5)
DELTA = 1e-6


def policy(budget: float = math.inf, **changes) -> Policy:
    return Policy(**{"mechanism": "dp_sgd", "unit": "slate", "delta": DELTA, "budget_epsilon": budget, **changes})


def cost(rounds: int) -> float:
    return epsilon([Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5 * rounds)], DELTA)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def test_many_rounds_cost_what_one_composed_event_does(ledger):
    account = ledger.account("data", policy())
    for number in range(12):
        account.charge(f"charge-{number}", ROUND)
    assert account.epsilon() == cost(12)
    assert account.events() == (Event(sampling_rate=0.05, noise_multiplier=1.2, steps=60),)


def test_the_round_after_the_last_is_refused_and_not_written(ledger):
    account = ledger.account("data", policy(budget=cost(3)))
    for number in range(3):
        assert account.charge(f"charge-{number}", ROUND) == cost(number + 1)
    with pytest.raises(BudgetExhaustedError, match="past budget_epsilon"):
        account.charge("charge-3", ROUND)
    assert account.epsilon() == cost(3)
    assert not account.has("charge-3")
    assert account.charge("charge-1", ROUND) == cost(3)  # paid already: no new cost


def test_a_charge_is_written_once(ledger):
    account = ledger.account("data", policy())
    assert account.charge("a", ROUND) == account.charge("a", ROUND) == cost(1)
    with pytest.raises(PrivacyError, match="another event"):
        account.charge("a", Event(sampling_rate=0.05, noise_multiplier=2.0, steps=5))
    with pytest.raises(PrivacyError, match="another event"):
        ledger.account("other data", policy()).charge("a", ROUND)


def test_the_count_outlives_the_process_that_made_it(tmp_path):
    for number in range(4):
        opened = Ledger(tmp_path / "ledger.sqlite")
        opened.account("data", policy()).charge(f"charge-{number}", ROUND)
        opened.close()
    assert Ledger(tmp_path / "ledger.sqlite").account("data", policy()).epsilon() == cost(4)


def test_data_sets_are_counted_apart_and_share_the_file(ledger):
    ledger.account("one", policy()).charge("a", ROUND)
    ledger.account("two", policy(budget=1.0)).charge("b", Event(sampling_rate=0.01, noise_multiplier=4.0, steps=1))
    assert ledger.account("one", policy()).epsilon() == cost(1)
    assert ledger.keys() == ["one", "two"]
    assert ledger.account("three", policy()).epsilon() == 0.0


def test_a_change_of_noise_is_composed_not_added(ledger):
    account, other = ledger.account("data", policy()), Event(sampling_rate=0.02, noise_multiplier=0.9, steps=8)
    account.charge("a", ROUND, plan="both")
    assert account.charge("b", other, plan="both") == epsilon([ROUND, other], DELTA)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": 1e-5}, "privacy.delta: 1e-06"),
        ({"unit": "user"}, "privacy.unit: slate"),
        ({"budget_epsilon": 8.0}, "privacy.budget_epsilon: 2.0 or less"),
    ],
)
def test_another_promise_over_the_same_data_is_refused(ledger, changed, message):
    ledger.account("data", policy(budget=2.0)).charge("a", Event(sampling_rate=0.01, noise_multiplier=4.0, steps=1))
    with pytest.raises(PrivacyError, match=message):
        ledger.account("data", policy(**{"budget": 2.0, **changed}) if "budget_epsilon" not in changed else policy(8.0))


def test_a_smaller_budget_holds_and_training_without_privacy_is_held_to_it(ledger):
    account = ledger.account("data", policy(budget=cost(5)))
    account.charge("a", ROUND)
    with pytest.raises(BudgetExhaustedError):
        ledger.account("data", policy(budget=cost(1))).charge("b", ROUND)
    bare = ledger.account("data", policy(mechanism="no_privacy"))
    with pytest.raises(BudgetExhaustedError):
        bare.charge("c", Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1))
    unpromised = ledger.account("other", policy(mechanism="no_privacy"))
    assert unpromised.charge("d", Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)) == math.inf
    with pytest.raises(BudgetExhaustedError):
        ledger.account("other", policy(budget=5.0)).charge("e", ROUND)


def test_a_charge_id_is_bound_to_every_part():
    base = ("data", "run", 1, "client", "hash", 0)
    changed = [
        ("d", "run", 1, "client", "hash", 0),
        ("data", "r", 1, "client", "hash", 0),
        ("data", "run", 2, "client", "hash", 0),
    ]
    changed += [
        ("data", "run", 1, "c", "hash", 0),
        ("data", "run", 1, "client", "h", 0),
        ("data", "run", 1, "client", "hash", 1),
    ]
    assert len({charge_id(*base), *(charge_id(*parts) for parts in changed)}) == 7
    assert charge_id(*base) == charge_id(*base)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but somebody's file" * 100)
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match="can't be opened"):
        Ledger(path).account("data", policy())
    assert path.read_bytes() == before


CHARGER = """
import sys
from mmrank.privacy.accountant import Event
from mmrank.privacy.ledger import Ledger, Policy
from mmrank.errors import BudgetExhaustedError
path, name, budget, durable = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] == "durable"
account = Ledger(path, durable=durable).account("data", Policy(
    mechanism="dp_sgd", unit="slate", delta=1e-6, budget_epsilon=budget))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10_000):
    try:
        account.charge(f"{name}-{number}", Event(sampling_rate=0.05, noise_multiplier=1.2, steps=5))
    except BudgetExhaustedError:
        break
    print(number, flush=True)
"""


def charger(path, name: str, budget: float, kind: str) -> subprocess.Popen:
    """A process that charges round after round, once it is told to begin."""
    command = [sys.executable, "-c", CHARGER, str(path), name, str(budget), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("kind", ["durable", "throwaway"])
def test_every_charge_that_returned_survives_kill_9(tmp_path, kind):
    path = tmp_path / "ledger.sqlite"
    process = charger(path, "a", 1e6, kind)
    begin(process)
    for line in process.stdout:
        if int(line) == 5:
            break
    process.send_signal(signal.SIGKILL)
    returned = 6 + len(process.stdout.read().split())
    process.stdout.close()
    process.stdin.close()
    assert process.wait() == -signal.SIGKILL
    account = Ledger(path).account("data", policy(1e6))
    assert all(account.has(f"a-{number}") for number in range(returned))
    (total,) = account.events()
    assert total.steps in (5 * returned, 5 * (returned + 1))  # one more may have been written, not yet told
    assert account.charge("after", ROUND) > 0


def test_two_processes_cannot_spend_the_same_budget_twice(tmp_path):
    path, budget = tmp_path / "ledger.sqlite", cost(60) + 1e-9
    both = [charger(path, name, budget, "throwaway") for name in ("a", "b")]
    for process in both:
        begin(process)
    spent = [len(process.communicate(timeout=120)[0].split()) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(spent) == 60
    assert min(spent) > 0, "they did not meet"
    assert Ledger(path).account("data", policy(budget)).epsilon() == cost(60)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_opens_the_file_for_itself(ledger):
    account = ledger.account("data", policy())
    account.charge("parent", ROUND)
    child = os.fork()
    if child == 0:
        account.charge("child", ROUND)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert account.has("child")
    assert account.charge("after", ROUND) == cost(3)


def test_clients_with_one_history_look_epsilon_up(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.sqlite", durable=False)
    accounts = [ledger.account(f"client-{row}", policy(5.0)) for row in range(200)]
    accounts[0].charge("first", ROUND)
    accounts[0].charge("second", ROUND)
    monkeypatch.setattr(_pld, "_composed", lambda *_: pytest.fail("composed again"))
    begun = time.process_time()
    for row, account in enumerate(accounts[1:]):
        account.charge(f"first-{row}", ROUND)
        account.charge(f"second-{row}", ROUND)
    per_charge = (time.process_time() - begun) / 398
    assert per_charge < 0.005  # 0.2 ms on a quiet machine


def test_whoever_claims_gets_a_charge_of_its_own(ledger, tmp_path):
    """Two processes that find the same id free must not train on one charge."""
    other = Ledger(tmp_path / "ledger.sqlite")
    accounts = [opened.account("data", policy(budget=cost(3))) for opened in (ledger, other)]
    spent = [accounts[number % 2].claim((f"attempt-{i}" for i in range(9)), ROUND) for number in range(3)]
    assert spent == [cost(1), cost(2), cost(3)]
    with pytest.raises(BudgetExhaustedError):
        accounts[0].claim((f"attempt-{i}" for i in range(9)), ROUND)
    other.close()


def test_a_file_that_was_taken_away_is_charged_no_more(ledger, tmp_path):
    account = ledger.account("data", policy())
    account.charge("a", ROUND)
    (tmp_path / "ledger.sqlite").rename(tmp_path / "elsewhere.sqlite")
    with pytest.raises(PrivacyError, match="removed or replaced"):
        account.charge("b", ROUND)
