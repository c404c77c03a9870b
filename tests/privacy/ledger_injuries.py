"""Runs in a process of its own, under a disk that fails on demand: charges in a child, injures it, looks afterwards.

    LD_PRELOAD=failing.so python -m tests.privacy.ledger_injuries FOLDER failing.so < trials.json > outcomes.json

A trial is [mode, at] (tests/privacy/failing_disk.c), or ["kill", milliseconds]. An outcome: `told`, the charges whose
call returned; `held`, those that the ledger has afterwards, or None where it refuses to open; `steps` it counts.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event
from mmrank.privacy.ledger import Ledger, Policy

ROUND = Event(sampling_rate=0.05, noise_multiplier=1.2, steps=1)
POLICY = Policy(mechanism="dp_sgd", unit="slate", delta=1e-6, budget_epsilon=1e6)
CHARGES = 8


def charge(path: Path, told: int, *, endless: bool) -> None:
    """Charge, opening the file anew after every third; tell each charge that returned."""
    ledger, refused, number = Ledger(path), 0, 0
    while refused < 3 and (endless or number < CHARGES):
        try:
            ledger.account("data", POLICY).charge(f"charge-{number}", ROUND)
            os.write(told, f"{number}\n".encode())
        except PrivacyError:
            refused += 1
        if number % 3 == 2:
            ledger.close()
        number += 1
    ledger.close()


def in_child(work: Any) -> tuple[int, str]:
    """(how the child ended, what it told)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            work(writer)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        if getattr(work, "kill_after", None) is not None:
            pipe.readline()
            time.sleep(work.kill_after)
            os.kill(child, signal.SIGKILL)
        text = pipe.read()
    return os.waitpid(child, 0)[1], text


def look(path: Path, told: int, *, tried: int) -> None:
    """Tell which of the first charges the ledger holds, and charge once more."""
    try:
        account = Ledger(path).account("data", POLICY)
        held = [number for number in range(tried) if account.has(f"charge-{number}")]
        steps = sum(event.steps for event in account.events())
        account.charge("after", ROUND)
        account.ledger.close()
        answer: dict[str, Any] = {"held": held, "steps": steps}
    except PrivacyError as error:
        answer = {"held": None, "why": str(error)}
    os.write(told, json.dumps(answer).encode())


def trial(folder: Path, disk: ctypes.CDLL, mode: int | str, at: int) -> dict[str, Any]:
    """One injury in a fresh folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "ledger.sqlite"

    def injured(told: int) -> None:
        if isinstance(mode, int):
            disk.arm(mode, ctypes.c_long(at))
        charge(path, told, endless=mode == "kill")
        if mode == 9:
            os.write(told, f"{disk.count_writes()} {disk.count_syncs()}\n".encode())

    if mode == "kill":
        injured.kill_after = at / 1e3
    status, text = in_child(injured)
    lines = text.split("\n")[:-1]
    counts = [int(value) for value in lines.pop().split()] if mode == 9 else None
    first = [0] if mode == "kill" else []  # read before the kill
    returned = first + [int(line) for line in lines]
    tried = CHARGES + 3 + max(returned, default=0)
    checked, seen = in_child(lambda told: look(path, told, tried=tried))
    return {
        "mode": mode,
        "at": at,
        "status": status,
        "told": returned,
        "counts": counts,
        "checked": checked,
        **json.loads(seen or "{}"),
    }


def main() -> None:
    """Run the trials of stdin."""
    folder, disk = Path(sys.argv[1]), ctypes.CDLL(sys.argv[2])
    # what each child needs is computed once, before it is forked
    ledger = Ledger(folder / f"warm-{os.getpid()}.sqlite", durable=False)
    for number in range(40):
        ledger.account("data", POLICY).charge(f"charge-{number}", ROUND)
    ledger.close()
    outcomes = [trial(folder / "trial", disk, mode, at) for mode, at in json.load(sys.stdin)]
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
