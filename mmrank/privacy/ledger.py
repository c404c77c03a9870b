"""The durable record of what each client's data has paid, charged before training.

One SQLite file may hold the ledgers of many clients; each is keyed by the identity of the data, so that every run
over that data draws on the same budget. Charges are kept as events, chained by hash, and never changed; epsilon is
recomputed from all of them. A charge costs the same after one round and after a thousand.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmrank.errors import BudgetExhaustedError, PrivacyError
from mmrank.privacy import _admission, _chain, _records
from mmrank.privacy._chain import NO_HEAD, Entry, Head
from mmrank.privacy._composition import (
    Composition,
    Declared,
    Plan,
    Planned,
    default_plan,
    lifetime,
    period_of,
    plan_name,
    spent,
)
from mmrank.privacy._guard import Guard
from mmrank.privacy._population import Charged, Round, charge_all
from mmrank.privacy._records import Row
from mmrank.privacy._standing import Standing, standing
from mmrank.privacy.accountant import Event, merged
from mmrank.privacy.database import Database
from mmrank.privacy.policy import Policy
from mmrank.privacy.renyi_filter import order_for

__all__ = ["Account", "Charged", "Declared", "Head", "Ledger", "Policy", "Standing", "charge_id"]

SECONDS_A_DAY = 86_400.0


def charge_id(
    ledger: str, run: str, round_number: int, client: str, input_hash: str, attempt: int, *, kind: str = "train"
) -> str:
    """Names one charge: another input, round, run, attempt or kind of release is another charge."""
    parts = (ledger, run, int(round_number), client, input_hash, int(attempt))
    text = repr(parts if kind == "train" else (*parts, kind))  # so training's ids stay those of older ledgers
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """A file of ledgers, one for each client's data.

    durable: as mmrank.privacy.database.Database; a ledger that outlives its run must be. A durable one is checked
    when it is opened, and a file beside it (`.witness`) tells where its newest charges were lost.
    clock_days: days since 1970-01-01 UTC, for policies that renew.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        durable: bool = True,
        clock_days: Callable[[], float] = lambda: time.time() / SECONDS_A_DAY,
    ) -> None:
        guard = Guard(Path(path).expanduser(), durable=durable)
        self.database = Database(path, "", durable=durable, before=guard.before, opened=guard.opened)
        self.clock_days, self._guard = clock_days, guard

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.database.path

    def account(self, key: str, policy: Policy) -> Account:
        """The ledger of the data `key` under `policy`; nothing is written before its first charge.

        Raises PrivacyError where the ledger was begun with another delta, unit or renewal, or a smaller budget.
        """
        account = Account(self, key, policy)
        with self.database.read() as connection:
            account._row(connection)
        return account

    def charge_many(
        self,
        charge: str,
        keys: Iterable[str],
        policy: Policy,
        event: Event,
        *,
        plan: str | None = None,
        acknowledged: Mapping[str, Head] | None = None,
    ) -> Charged:
        """Charge `event` under the id `charge` to the data of every key: one transaction for a whole population.

        Those who may not take part are named with the reason, and must be left out. Asked again with the same id,
        nobody pays twice. acknowledged: by key, as in `Account.charge`.
        """
        charging = Round(
            charge=charge,
            event=event,
            plan=default_plan(event) if plan is None else plan,
            clock_days=self.clock_days(),
            secret_salt=self.database.durable,
        )
        with self._writing() as connection:
            return charge_all(connection, keys, policy, charging, acknowledged or {})

    def keys(self) -> list[str]:
        """The identities of all data charged here, sorted."""
        with self.database.read() as connection:
            return [row.key for row in _records.every(connection)]

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self.database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self.database.write() as connection:
            yield connection
            mark = _records.newest(connection)
        self._guard.committed(mark)


class Account:
    """One client's ledger; made by `Ledger.account`."""

    def __init__(self, ledger: Ledger, key: str, policy: Policy) -> None:
        self.ledger, self.key, self.policy = ledger, key, policy

    def charge(self, charge: str, event: Event, *, plan: Plan = None, acknowledged: Head | None = None) -> float:
        """Write `event` under the id `charge` and return the epsilon with it, as `epsilon` does. Train only after this.

        A charge that is there already is not written twice: for what gives the same bytes whenever it is computed.
        plan: what was declared beforehand and the charge belongs to: a name (a hash of public facts), or a Declared,
        which counts its steps; by default, as many steps of the same parameters as the budget holds. acknowledged: the
        head that the server acknowledged last.
        Raises, with nothing written: BudgetExhaustedError where epsilon would pass the budget; OptedOutError;
        LedgerRolledBackError where the chain lacks `acknowledged`; PrivacyError where `charge` stands for another
        event or the disk fails.
        """
        return self._write((charge,), event, plan, acknowledged, again=True)

    def claim(
        self, charges: Iterable[str], event: Event, *, plan: Plan = None, acknowledged: Head | None = None
    ) -> float:
        """Write `event` under the first of the ids `charges` that nobody took, and return the epsilon with it.

        Whoever calls it gets a charge of its own, also where several processes ask at once: each draw of secret
        noise needs one. `charges` must not end before a free one. Raises as `charge`.
        """
        return self._write(charges, event, plan, acknowledged, again=False)

    def affords(self, event: Event, *, plan: Plan = None, acknowledged: Head | None = None) -> bool:
        """Whether `event` would be charged now and not pass the budget; nothing is written, and nothing is promised.

        Raises OptedOutError where the data may not be used at all, and LedgerRolledBackError as `charge`.
        """
        with self.ledger.database.read() as connection:
            _admission.check_acknowledged(connection, self.key, self._row(connection), acknowledged)
        row, history = self._history()
        _admission.check_taking_part(self.key, row)
        period = _admission.current_period(row, self.policy, self.ledger.clock_days())
        try:
            self._admitted(row, history, event, plan_name(plan, event, history), period)
        except BudgetExhaustedError:
            return False
        return True

    def opt_out(self) -> None:
        """Stop all use of this data for good: every later charge is refused, by whichever run. Can't be undone."""
        with self.ledger._writing() as connection:
            row = self._row(connection)
            if row is not None and row.opted_out:
                return
            if row is None:
                event = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
                row = self._begin(connection, order_for(event, self.policy.budget_epsilon, self.policy.delta))
            now = self.ledger.clock_days()
            period = _admission.current_period(row, self.policy, now)
            entry = Entry(kind=_chain.OPT_OUT, period=period, clock_period=self.policy.period(now))
            _records.append(connection, row, entry)

    def has(self, charge: str) -> bool:
        """Whether that charge was written."""
        with self.ledger.database.read() as connection:
            return bool(_records.charged(connection, _chain.digest(charge)))

    def events(self) -> tuple[Event, ...]:
        """The whole history, equal events merged."""
        return merged(part.event for part in self._history()[1])

    def epsilon(self) -> float:
        """The most that one datum can have paid so far, over the periods that it lived through, at the policy's delta.

        `standing().epsilon` is the current period's, which the budget is for.
        """
        return self.standing().lifetime_epsilon

    @property
    def composition(self) -> Composition:
        """Whether the charges make one plan declared beforehand, or a filter's rule holds."""
        return self.standing().composition

    def standing(self) -> Standing:
        """All of it at one moment."""
        row, history = self._history()
        period = _admission.current_period(row, self.policy, self.ledger.clock_days())
        return standing(row, history, self.policy, period=period)

    def head(self) -> Head:
        """(entries, hash of the last one): what a server acknowledges. It tells nothing of the data but its charges."""
        with self.ledger.database.read() as connection:
            row = self._row(connection)
        return NO_HEAD if row is None else row.head

    def knows(self, count: int, digest: str) -> bool:
        """Whether that head stands in this chain; (0, "") always does."""
        with self.ledger.database.read() as connection:
            return _admission.knows(connection, self._row(connection), (count, digest))

    def _write(
        self, charges: Iterable[str], event: Event, plan: Plan, acknowledged: Head | None, *, again: bool
    ) -> float:
        now = self.ledger.clock_days()
        self._look_ahead(event, plan, now)
        with self.ledger._writing() as connection:
            row = self._row(connection)
            _admission.check_acknowledged(connection, self.key, row, acknowledged)
            _admission.check_taking_part(self.key, row)
            charge = next(c for c in charges if again or not self._known(connection, row, c, event))
            history = () if row is None else _records.histories(connection, [row])[row.id]
            if again and self._known(connection, row, charge, event) and row is not None:
                return lifetime(history, self.policy, order=row.order, clock_went_back=row.clock_went_back)
            period = _admission.current_period(row, self.policy, now)
            named = plan_name(plan, event, history)
            after = self._admitted(row, history, event, named, period)
            if row is None:
                row = self._begin(connection, self._order(None, event))
            entry = _admission.entry_of(charge, event, named, period=period, policy=self.policy, clock_days=now)
            _records.append(connection, row, entry)
        return _admission.told(row, history, entry, event, after=after, policy=self.policy)

    def _look_ahead(self, event: Event, plan: Plan, now: float) -> None:
        """Outside of the lock: the first epsilon of a new history takes tens of milliseconds, then it is looked up."""
        row, history = self._history()
        period = _admission.current_period(row, self.policy, now)
        spent(
            (*period_of(history, period), Planned(period, plan_name(plan, event, history), event)),
            self.policy.delta,
            order=self._order(row, event),
        )

    def _admitted(self, row: Row | None, history: Iterable[Planned], event: Event, plan: str, period: int) -> float:
        budget = self.policy.budget_epsilon
        return _admission.admitted(
            history,
            event,
            plan,
            period=period,
            policy=self.policy,
            budget=budget if row is None else min(budget, row.policy.budget_epsilon),
            order=self._order(row, event),
        )

    def _order(self, row: Row | None, event: Event) -> float:
        return order_for(event, self.policy.budget_epsilon, self.policy.delta) if row is None else row.order

    def _begin(self, connection: sqlite3.Connection, order: float) -> Row:
        secret = self.ledger.database.durable
        return _records.begin(connection, self.key, self.policy, order, secret_salt=secret)

    def _row(self, connection: sqlite3.Connection) -> Row | None:
        """The ledger's row or None, after checking the policy against the recorded one."""
        row = _records.find(connection, [self.key]).get(self.key)
        if row is not None:
            _admission.check_promise(self.key, row.policy, self.policy)
        return row

    def _history(self) -> tuple[Row | None, tuple[Planned, ...]]:
        with self.ledger.database.snapshot() as connection:
            row = self._row(connection)
            return row, () if row is None else _records.histories(connection, [row])[row.id]

    def _known(self, connection: sqlite3.Connection, row: Row | None, charge: str, event: Event) -> bool:
        """Whether the id was charged here; PrivacyError where it stands for another event, or other data's."""
        found = _records.charged(connection, _chain.digest(charge))
        if not found:
            return False
        if row is None or row.id not in found:
            raise PrivacyError(
                f"Charge {charge[:12]} stands for another event of other data than {self.key}; charge under an id of "
                "its own."
            )
        _admission.check_same_event(charge, found[row.id][0], event)
        return True
