"""What a ledger's file says was spent, read for a plan; looking changes nothing there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrank.errors import ConfigError, nearest
from mmrank.privacy import inspection
from mmrank.privacy.accountant import Event
from mmrank.privacy.inspection import Looked
from mmrank.privacy.ledger import SECONDS_A_DAY
from simulations._ledgers import ledger_file


def spent_of(where: Path, data: str | None = None) -> tuple[dict[str, Any], tuple[Event, ...]]:
    """(the account's facts, its events): of the data named, or of the data that paid most.

    where: a run's folder, or a ledger's file. Raises ConfigError where there is no such ledger or data.
    """
    with inspection.reading(ledger_file(where)) as connection:
        accounts = inspection.look(connection, clock_days=time.time() / SECONDS_A_DAY)
    if not accounts:
        raise ConfigError(f"{where} is a ledger without any charge: everything is left; leave --ledger out.")
    account = _chosen(accounts, where, data)
    facts = {
        "data": account.key,
        "mechanism": account.policy.mechanism,
        "unit": account.policy.unit,
        "delta": account.policy.delta,
        "budget": account.policy.budget_epsilon,
        "epsilon": account.standing.epsilon,
    }
    return facts, account.standing.events


def _chosen(accounts: Sequence[Looked], where: Path, data: str | None) -> Looked:
    if data is None:
        return max(accounts, key=lambda account: account.standing.lifetime_epsilon)
    names = [account.key for account in accounts]
    if data not in names:
        raise ConfigError(
            f"No data {data!r} in the ledger of {where}, which holds {len(names)}.{nearest(data, names)} "
            "See mmrank ledger."
        )
    return accounts[names.index(data)]
