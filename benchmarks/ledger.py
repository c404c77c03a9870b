"""What it costs to charge a round: a population's in one transaction, and one client's, after many rounds.

    python benchmarks/ledger.py --clients 10000 --rounds 1000

Every round before the measured ones is charged the same way, so that the file is what it would be. Prints one JSON
value: milliseconds a client, amortised, at the given rounds; those of a single durable charge; the size of the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmrank.privacy.accountant import Event
from mmrank.privacy.ledger import Ledger, Policy

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.0, steps=1)
POLICY = Policy(mechanism="dp_sgd", unit="slate", delta=1e-6, budget_epsilon=100.0)
LAST = 20
"""Rounds that a figure is the median of."""


def bulk(ledger: Ledger, *, clients: int, rounds: int) -> dict[str, Any]:
    """Charge `rounds` rounds to all clients; milliseconds a client of the first and the last rounds."""
    keys = [f"device-{number:06d}" for number in range(clients)]
    spent, busy = [], []
    for number in range(rounds):
        begun, begun_busy = time.perf_counter(), time.process_time()
        answer = ledger.charge_many(f"round-{number}", keys, POLICY, ROUND)
        spent.append((time.perf_counter() - begun) * 1e3 / clients)
        busy.append((time.process_time() - begun_busy) * 1e3 / clients)
        if len(answer.epsilon) != clients:
            raise SystemExit(f"{len(answer.refused)} clients were refused; raise the budget")
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {rounds} rounds, {spent[-1]:.4f} ms a client", end="", file=sys.stderr)
    early, late = spent[1 : 1 + LAST], spent[-LAST:]
    return {
        "clients": clients,
        "rounds": rounds,
        "beginning_ms_a_client": spent[0],
        "early_ms_a_client": statistics.median(early),
        "late_ms_a_client": statistics.median(late),
        "late_worst_ms_a_client": max(late),
        "early_cpu_ms_a_client": statistics.median(busy[1 : 1 + LAST]),
        "late_cpu_ms_a_client": statistics.median(busy[-LAST:]),
        "epsilon": next(iter(answer.epsilon.values())),
    }


def single(ledger: Ledger, *, clients: int) -> dict[str, float]:
    """Milliseconds of one client's own charge, at the history that the file now holds."""
    spent = []
    for number in range(min(clients, 200)):
        account = ledger.account(f"device-{number:06d}", POLICY)
        begun = time.perf_counter()
        account.charge(f"own-{number}", ROUND)
        spent.append((time.perf_counter() - begun) * 1e3)
    return {"single_ms_median": statistics.median(spent), "single_ms_worst": max(spent)}


def main() -> None:
    """Measure in a folder that is deleted afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--throwaway", action="store_true", help="without fsync, as in a simulation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = Ledger(path, durable=not arguments.throwaway)
        found = bulk(ledger, clients=arguments.clients, rounds=arguments.rounds)
        found |= single(ledger, clients=arguments.clients)
        ledger.close()
        found["file_mib"] = path.stat().st_size / 2**20
        print(json.dumps({"durable": not arguments.throwaway, **found}, indent=1))


if __name__ == "__main__":
    main()
