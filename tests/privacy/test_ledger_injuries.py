"""At stake: a charge that was acknowledged is never lost in silence, whatever the disk and the process go through."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from mmrank.errors import PrivacyError
from mmrank.privacy.ledger import Ledger
from tests.privacy.ledger_injuries import POLICY, ROUND

DIES = {5, 6, 7, "kill"}
"""Injuries to the process alone: afterwards the ledger must open."""


@pytest.fixture(scope="module")
def folder():
    """In memory where there is such a disk: thousands of syncs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def disk(folder):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def outcomes(folder: Path, disk: Path, trials: list) -> list[dict]:
    environment = os.environ | {"LD_PRELOAD": str(disk)}
    command = [sys.executable, "-m", "tests.privacy.ledger_injuries", str(folder), str(disk)]
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        command, input=json.dumps(trials), capture_output=True, text=True, env=environment, cwd=root, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: list[dict]) -> Counter:
    """Nothing that was told is lost, unless the ledger refuses by name; how each kind of trial ended."""
    ends = Counter()
    for outcome in found:
        assert outcome["checked"] == 0, outcome
        died = outcome["mode"] in DIES and outcome["status"] != 0
        assert outcome["status"] == (9 if died else 0), outcome
        if outcome["held"] is None:
            assert not died, f"refuses to open although only the process died: {outcome}"
            assert "nothing may be charged" in outcome["why"] or "can't be" in outcome["why"], outcome
        else:
            assert set(outcome["told"]) <= set(outcome["held"]), outcome
            assert outcome["steps"] == len(outcome["held"]), outcome
        refused = outcome["held"] is None or (not died and len(outcome["told"]) < 8)
        ends[outcome["mode"], "died" if died else "refused" if refused else "went on"] += 1
    return ends


def every(writes: int, syncs: int, step: int) -> list:
    trials = [[mode, at] for mode in (3, 4, 5, 6, 8) for at in range(0, writes, step)]
    return trials + [[mode, at] for mode in (1, 2, 7) for at in range(0, syncs, max(1, step // 8))]


def test_a_failing_disk_loses_nothing_in_silence(folder, disk):
    (whole,) = outcomes(folder, disk, [[9, 0]])
    assert whole["held"] == whole["told"] == list(range(8))
    writes, syncs = whole["counts"]
    assert writes > 50
    assert syncs > 8  # at least one a charge
    ends = check(outcomes(folder, disk, every(writes, syncs, 48) + [["kill", 3], ["kill", 11]]))
    assert ends[6, "died"] > 2  # the injuries do happen
    assert ends[2, "refused"] > 2
    assert ends[4, "refused"] > 2


@pytest.mark.slow
def test_a_disk_that_fails_at_any_write_or_sync_loses_nothing_in_silence(folder, disk):
    (whole,) = outcomes(folder, disk, [[9, 0]])
    ends = check(outcomes(folder, disk, every(*whole["counts"], 4)))
    assert sum(ends.values()) > 200
    assert ends[5, "died"] == ends[6, "died"] > 30


@pytest.mark.slow
def test_hundreds_of_kills_at_any_moment_lose_no_charge_that_returned(folder, disk):
    chance = random.Random(0)
    found = outcomes(folder, disk, [["kill", chance.uniform(0, 25)] for _ in range(200)])
    assert check(found)["kill", "died"] == 200
    assert len({len(outcome["told"]) for outcome in found}) > 5  # at different moments


def charged(folder: Path, *, closed: bool) -> tuple[Path, int]:
    """A ledger with its log (as after a kill) or without (as after closing), and how many charges it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "ledger.sqlite"
    ledger = Ledger(path)
    for number in range(12):
        ledger.account("data", POLICY).charge(f"charge-{number}", ROUND)
        if number == 6:
            ledger.close()
    if closed:
        ledger.close()
        return path, 12
    copy = folder / "copy"
    copy.mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite.witness"):
        shutil.copy(folder / name, copy / name)
    ledger.close()
    return copy / "ledger.sqlite", 12


def injured(source: Path, work: Path, name: str, content: bytes) -> str:
    """How a copy of `source` does with the file `name` replaced: `holds` or `refuses`; fails where charges are lost."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source.parent, work)
    (work / name).write_bytes(content)
    ledger = Ledger(work / source.name)
    try:
        account = ledger.account("data", POLICY)
        held = [account.has(f"charge-{number}") for number in range(12)]
        steps = sum(event.steps for event in account.events())
        account.charge("after", ROUND)
    except PrivacyError:
        return "refuses"
    finally:
        ledger.close()
    assert all(held), f"{name}: {held.count(False)} charges lost in silence"
    assert steps == 12
    return "holds"


def cuts(size: int, chance: random.Random, count: int) -> list[int]:
    """Lengths to cut to: around each page and each frame of the log, and `count` at random."""
    edges = {edge + off for edge in (*range(0, size, 4096), *range(32, size, 4120)) for off in (-1, 0, 1)}
    return sorted({cut for cut in edges if 0 <= cut < size} | {chance.randrange(size) for _ in range(count)})


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9])
def test_a_file_cut_anywhere_holds_every_charge_or_refuses(folder, closed, step):
    source, _ = charged(folder / "source", closed=closed)
    ends = Counter()
    for file in sorted(source.parent.iterdir()):
        if not file.is_file():
            continue
        content = file.read_bytes()
        small = len(content) < 1024
        lengths = range(len(content)) if small else cuts(len(content), random.Random(1), 300)
        for length in lengths[:: step * (3 if small else 1)]:
            ends[file.name, injured(source, folder / "work", file.name, content[:length])] += 1
    assert ends["ledger.sqlite", "refuses"] > 5
    if closed:
        assert ends["ledger.sqlite", "holds"] == 0
    else:
        assert ends["ledger.sqlite-wal", "refuses"] > 5  # SQLite alone would go on without the last charges
    assert ends["ledger.sqlite.witness", "holds"] > 3


@pytest.mark.parametrize("count", [pytest.param(600, marks=pytest.mark.slow), 40])
def test_a_changed_byte_anywhere_loses_no_charge_in_silence(folder, count):
    chance, ends = random.Random(2), Counter()
    for closed in (True, False):
        source, _ = charged(folder / "source", closed=closed)
        files = [file for file in sorted(source.parent.iterdir()) if file.is_file()]
        for _ in range(count // 2):
            file = chance.choice(files)
            content = bytearray(file.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            ends[injured(source, folder / "work", file.name, bytes(content))] += 1
    assert min(ends["holds"], ends["refuses"]) > 1


def test_a_ledger_without_its_file_or_its_log_refuses(folder):
    source, _ = charged(folder / "source", closed=False)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite.witness"):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source.parent, work)
        (work / name).unlink()
        with pytest.raises(PrivacyError, match="nothing may be charged|missing or damaged|lacks|can't be"):
            Ledger(work / "ledger.sqlite").account("data", POLICY).charge("after", ROUND)
