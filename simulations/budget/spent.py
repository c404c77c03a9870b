"""What a ledger's file says was spent, read for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrank.errors import ConfigError, nearest
from mmrank.privacy.accountant import Event
from mmrank.privacy.ledger import Ledger, Policy
from simulations._folder import RunFolder
from simulations._look import ledgers


def spent_of(where: Path, data: str | None = None) -> tuple[dict[str, Any], tuple[Event, ...]]:
    """(the account's facts, its events): of the data named, or of the data that paid most.

    where: a run's folder, or a ledger's file. Raises ConfigError where there is no such ledger or data.
    """
    accounts = ledgers(where)
    if not accounts:
        raise ConfigError(f"{where} is a ledger without any charge: everything is left; leave --ledger out.")
    account = _chosen(accounts, where, data)
    policy = Policy(
        mechanism=account["mechanism"],
        unit=account["unit"],
        delta=account["delta"],
        budget_epsilon=account["budget"],
    )
    ledger = Ledger(file_of(where))
    try:
        return account, ledger.account(account["data"], policy).events()
    finally:
        ledger.close()


def file_of(where: Path) -> Path:
    """The ledger's file of a run's folder, or the file itself."""
    if not where.is_dir():
        return where
    stored = RunFolder(where).settings().privacy.ledger
    return where / "ledger.sqlite" if stored == "throwaway" else Path(stored).expanduser()


def _chosen(accounts: Sequence[dict[str, Any]], where: Path, data: str | None) -> dict[str, Any]:
    if data is None:
        return max(accounts, key=lambda account: account["epsilon"])
    names = [account["data"] for account in accounts]
    if data not in names:
        raise ConfigError(
            f"No data {data!r} in the ledger of {where}, which holds {len(names)}.{nearest(data, names)} "
            "See mmrank ledger."
        )
    return accounts[names.index(data)]
