"""What the ledger commands tell: each account of a run's ledger or of a ledger's file, its faults, its entries."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmrank.errors import ConfigError, nearest
from mmrank.privacy import inspection
from mmrank.privacy.inspection import Looked
from mmrank.privacy.ledger import SECONDS_A_DAY, Head, Ledger
from server.population import LEDGER as POPULATION
from simulations._folder import RunFolder

EXPORT = ".jsonl"


def show(where: Path) -> list[dict[str, Any]]:
    """One line for each ledger: what it paid, by which rule, and what its budget is."""
    with inspection.reading(ledger_file(where)) as connection:
        return [_account(found) for found in inspection.look(connection, clock_days=time.time() / SECONDS_A_DAY)]


def verify(where: Path, heads: Iterable[str] = (), *, new_witness: bool = False) -> dict[str, Any]:
    """Whether a ledger's file, or an export of one, holds together; `faults` is empty where it does.

    heads: texts `DATA=COUNT:HASH`, each an acknowledged head that must stand in the chain of that data.
    new_witness: make the file beside the ledger anew where it is lost, once all else holds.
    """
    known = dict(_head(text) for text in heads)
    path = where if where.suffix == EXPORT else ledger_file(where)
    if path.suffix == EXPORT:
        if new_witness:
            raise ConfigError(f"{path} is an export, which has no witness; leave --new-witness out.")
        found = inspection.faults_of_export(_lines(path), known)
    else:
        with inspection.reading(path) as connection:
            if new_witness:
                inspection.new_witness(connection, path)
            found = inspection.faults(connection, path, known)
    return {
        "ledger": str(path),
        "whole": not found,
        "faults": [{"data": fault.key, "entry": fault.position, "fault": fault.message} for fault in found],
    }


def export(where: Path) -> Iterator[dict[str, Any]]:
    """Each ledger's promise and entries with their hashes, in order."""
    with inspection.reading(ledger_file(where)) as connection:
        yield from inspection.export(connection)


def opt_out(where: Path, data: str, *, yes: bool) -> dict[str, Any]:
    """Stop all use of the data of that identity for good, under the promise that its ledger was begun with.

    Raises ConfigError for data that the file does not know, or without `yes`.
    """
    path = ledger_file(where)
    with inspection.reading(path) as connection:
        found = {line.key: line for line in inspection.look(connection, clock_days=time.time() / SECONDS_A_DAY)}
    if data not in found:
        raise ConfigError(
            f"Expected --data {data!r} to be an identity in {path}, as ledger show tells them.{nearest(data, found)} "
            "Data that was never charged has no entry there: leave it out of what the client serves."
        )
    if not yes and not found[data].standing.opted_out:
        raise ConfigError(
            f"This stops all use of {data} for good, in every run that is charged to {path}, and can't be undone; add "
            "--yes."
        )
    ledger = Ledger(path, durable=Path(f"{path}.witness").exists())
    try:
        account = ledger.account(data, found[data].policy)
        account.opt_out()
        entries, digest = account.head()
    finally:
        ledger.close()
    return {"ledger": str(path), "data": data, "opted_out": True, "head": {"entries": entries, "hash": digest}}


def ledger_file(where: Path) -> Path:
    """The file that holds a run's promise (the population's, where the server adds the noise), or `where` itself.

    Raises ConfigError where there is none.
    """
    path = where
    if where.is_dir():
        privacy = RunFolder(where).settings().privacy
        thrown = where / (POPULATION if privacy.central else "ledger.sqlite")
        path = thrown if privacy.ledger == "throwaway" else Path(privacy.ledger).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{path} is no ledger: no such file. Give a run's folder or a ledger's file; a run without a privacy "
            "mechanism that was charged has none."
        )
    return path


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"{path} is no export of a ledger: no such file; make one with mmrank ledger export.")
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ConfigError(
                    f"{path}, line {number} is no JSON ({error}); give an export of a ledger, whole."
                ) from error
            if not isinstance(line, dict):
                raise ConfigError(f"{path}, line {number} is no JSON object; give an export of a ledger, whole.")
            yield line


def _head(text: str) -> tuple[str, Head]:
    data, _, head = text.rpartition("=")
    count, _, digest = head.partition(":")
    if not (data and count.isdigit() and len(digest) == 64):
        raise ConfigError(
            f"Expected head {text!r} as DATA=COUNT:HASH with a hash of 64 digits, as ledger show --json tells it."
        )
    return data, (int(count), digest)


def _account(found: Looked) -> dict[str, Any]:
    policy, standing = found.policy, found.standing
    spent, budget = standing.epsilon, policy.budget_epsilon
    line: dict[str, Any] = {
        "data": found.key,
        "mechanism": policy.mechanism,
        "unit": policy.unit,
        "charges": standing.charges,
        "steps": sum(event.steps for event in standing.events),
        "epsilon": spent,
        "delta": policy.delta,
        "composition": standing.composition,
        "budget": budget,
        "remaining": max(budget - spent, 0.0) if math.isfinite(spent) and not standing.opted_out else 0.0,
        "opted_out": standing.opted_out,
        "head": {"entries": standing.head[0], "hash": standing.head[1]},
        "delta_in_all": standing.delta,
        "filter_order": standing.filter_order,
    }
    if policy.renew_every_days is not None:
        line |= {
            "renew_every_days": policy.renew_every_days,
            "retention_days": policy.retention_days,
            "period": standing.period,
            "lifetime_periods": policy.lifetime_periods,
            "lifetime_epsilon": standing.lifetime_epsilon,
        }
    return line
