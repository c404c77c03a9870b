"""The durable record of what each client's data has paid, charged before training.

One SQLite file may hold the ledgers of many clients; each is keyed by the identity of the data, so that
every run over that data draws on the same budget. Charges are kept as events and epsilon is recomputed
from all of them.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmrank.errors import BudgetExhaustedError, PrivacyError
from mmrank.privacy.accountant import Event, check_delta, epsilon, merged
from mmrank.privacy.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledgers (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
    mechanism TEXT NOT NULL, unit TEXT NOT NULL, delta REAL NOT NULL, budget REAL NOT NULL);
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY, ledger INTEGER NOT NULL REFERENCES ledgers (id), charge TEXT NOT NULL UNIQUE,
    sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL, steps INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS charges_by_ledger ON charges (ledger, sampling_rate, noise_multiplier, steps);
"""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The promise that stands over a ledger: recorded with its first charge, and kept.

    budget_epsilon: where the ledger refuses; inf for no limit. unit: what one event protects.
    """

    mechanism: str
    unit: str
    delta: float
    budget_epsilon: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if math.isnan(self.budget_epsilon) or self.budget_epsilon <= 0:
            raise PrivacyError(f"Expected budget_epsilon={self.budget_epsilon} above 0; set privacy.budget_epsilon.")


def charge_id(ledger: str, run: str, round_number: int, client: str, input_hash: str, attempt: int) -> str:
    """Names one charge: another input, round, run or attempt is another charge."""
    text = repr((ledger, run, int(round_number), client, input_hash, int(attempt)))
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """A file of ledgers, one for each client's data.

    durable: as mmrank.privacy.database.Database; a ledger that outlives its run must be.
    """

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self.database = Database(path, _SCHEMA, durable=durable)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.database.path

    def account(self, key: str, policy: Policy) -> Account:
        """The ledger of the data `key` under `policy`; nothing is written before its first charge.

        Raises PrivacyError where the ledger was begun with another delta or unit, or a smaller budget.
        """
        account = Account(self, key, policy)
        with self.database.read() as connection:
            account._row(connection)
        return account

    def keys(self) -> list[str]:
        """The identities of all data charged here, sorted."""
        with self.database.read() as connection:
            return [key for (key,) in connection.execute("SELECT key FROM ledgers ORDER BY key")]

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self.database.close()


class Account:
    """One client's ledger; made by `Ledger.account`."""

    def __init__(self, ledger: Ledger, key: str, policy: Policy) -> None:
        self.ledger, self.key, self.policy = ledger, key, policy

    def charge(self, charge: str, event: Event) -> float:
        """Write `event` under the id `charge` and return the epsilon with it. Train only after this returns.

        A charge that is there already is not written twice: for what gives the same bytes whenever it is computed.
        Raises BudgetExhaustedError, with nothing written, where epsilon would pass the budget; PrivacyError where
        `charge` stands for another event.
        """
        return self._write((charge,), event, again=True)

    def claim(self, charges: Iterable[str], event: Event) -> float:
        """Write `event` under the first of the ids `charges` that nobody took, and return the epsilon with it.

        Whoever calls it gets a charge of its own, also where several processes ask at once: each draw of secret
        noise needs one. `charges` must not end before a free one. Raises as `charge`.
        """
        return self._write(charges, event, again=False)

    def _write(self, charges: Iterable[str], event: Event, *, again: bool) -> float:
        self._epsilon_with(event)  # outside of the lock: the first of a new history takes tens of milliseconds
        with self.ledger.database.write() as connection:
            ledger, budget = self._row(connection)
            charge = next(c for c in charges if again or not self._known(connection, ledger, c, event))
            if again and self._known(connection, ledger, charge, event):
                return epsilon(self._events(connection, ledger), self.policy.delta)
            after = epsilon((*self._events(connection, ledger), event), self.policy.delta)
            if after > budget:
                raise BudgetExhaustedError(
                    f"{event} would bring epsilon to {after:.4g} at delta={self.policy.delta:g}, "
                    f"past budget_epsilon={budget:.4g}; this data takes no further part."
                )
            if ledger is None:
                ledger = self._begin(connection)
            connection.execute(
                "INSERT INTO charges (ledger, charge, sampling_rate, noise_multiplier, steps) VALUES (?, ?, ?, ?, ?)",
                (ledger, charge, event.sampling_rate, event.noise_multiplier, event.steps),
            )
        return after

    def has(self, charge: str) -> bool:
        """Whether that charge was written."""
        with self.ledger.database.read() as connection:
            return connection.execute("SELECT 1 FROM charges WHERE charge = ?", (charge,)).fetchone() is not None

    def events(self) -> tuple[Event, ...]:
        """The whole history, equal events merged."""
        with self.ledger.database.read() as connection:
            return self._events(connection, self._row(connection)[0])

    def epsilon(self) -> float:
        """What the data has paid so far, at the policy's delta; 0 before the first charge."""
        return epsilon(self.events(), self.policy.delta)

    def _epsilon_with(self, event: Event) -> float:
        return epsilon((*self.events(), event), self.policy.delta)

    def _row(self, connection: sqlite3.Connection) -> tuple[int | None, float]:
        """(the ledger's row or None, the budget that holds), after checking the policy against the recorded one."""
        row = connection.execute("SELECT id, unit, delta, budget FROM ledgers WHERE key = ?", (self.key,)).fetchone()
        if row is None:
            return None, self.policy.budget_epsilon
        ledger, unit, delta, budget = row
        for name, recorded, asked in (("delta", delta, self.policy.delta), ("unit", unit, self.policy.unit)):
            if recorded != asked:
                raise PrivacyError(
                    f"The ledger of {self.key} in {self.ledger.path} was begun with {name}={recorded}, not {asked}; "
                    f"set privacy.{name}: {recorded}."
                )
        if self.policy.budget_epsilon > budget and self.policy.mechanism != "no_privacy":
            raise PrivacyError(
                f"The ledger of {self.key} in {self.ledger.path} promises budget_epsilon={budget}, below "
                f"{self.policy.budget_epsilon}; set privacy.budget_epsilon: {budget} or less."
            )
        return ledger, min(budget, self.policy.budget_epsilon)

    def _begin(self, connection: sqlite3.Connection) -> int:
        policy = self.policy
        cursor = connection.execute(
            "INSERT INTO ledgers (key, mechanism, unit, delta, budget) VALUES (?, ?, ?, ?, ?)",
            (self.key, policy.mechanism, policy.unit, policy.delta, policy.budget_epsilon),
        )
        return int(cursor.lastrowid or 0)

    @staticmethod
    def _known(connection: sqlite3.Connection, ledger: int | None, charge: str, event: Event) -> bool:
        row = connection.execute(
            "SELECT ledger, sampling_rate, noise_multiplier, steps FROM charges WHERE charge = ?", (charge,)
        ).fetchone()
        if row is not None and row != (ledger, event.sampling_rate, event.noise_multiplier, event.steps):
            raise PrivacyError(
                f"Charge {charge[:12]} stands for another event than {event}; charge under an id of its own."
            )
        return row is not None

    @staticmethod
    def _events(connection: sqlite3.Connection, ledger: int | None) -> tuple[Event, ...]:
        rows = connection.execute(
            "SELECT sampling_rate, noise_multiplier, SUM(steps) FROM charges WHERE ledger = ? "
            "GROUP BY sampling_rate, noise_multiplier",
            (ledger,),
        )
        return merged(Event(sampling_rate=rate, noise_multiplier=noise, steps=steps) for rate, noise, steps in rows)
