"""At stake: what `append` returned for is there and no half of a batch is, whatever processes and disks go through."""

import ctypes
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrank.errors import DatasetError
from tests.client.test_event_store import batch, event, held, opened, traces

ROOT = Path(__file__).parents[2]
CODE = "import json, sys; from {} import {} as run; json.dump(run(*json.loads(sys.argv[1])), sys.stdout)"


@pytest.fixture
def folder():
    """In memory where there is such a disk: thousands of writes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def path(folder):
    (folder / "own").mkdir()
    return folder / "own" / "events.sqlite"


def apart(function: Callable, *given: object, preload: Path | None = None) -> list:
    """What the function of this module returns in a bare process of its own, which may fork; as JSON, both ways."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"LD_PRELOAD": str(preload)} if preload else {})
    words = json.dumps([str(value) if isinstance(value, Path) else value for value in given])
    command = [sys.executable, "-c", CODE.format(__name__, function.__name__), words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_child(work: Callable, *given: object, kill_after: float | None = None) -> tuple[int, list[str]]:
    """How a fork ended that called work(tell, ...), and what it told; killed so many seconds after the first of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda word: os.write(writer, f"{word}\n".encode()), *given)
        except BaseException as error:
            os.write(writer, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        first = "" if kill_after is None else pipe.readline()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        told = f"{first}{pipe.read()}".split("\n")[:-1]
    return os.waitpid(child, 0)[1], told


def append_for_ever(tell: Callable, path: Path, begun: int, durable: bool) -> None:
    store, number = opened(path, durable=durable), begun
    while True:
        store.append(batch(number, 40))
        tell(number)
        number += 1


def killed_appends(name: str, kills: int, durable: bool) -> list:
    """Of each kill: how the child ended, the batches that it told, and how many events of each are there."""
    chance, outcomes, begun, path = random.Random(0), [], 0, Path(name)
    for _ in range(kills):
        status, told = in_child(append_for_ever, path, begun, durable, kill_after=chance.uniform(0, 0.02))
        there = Counter(int(found.item[1:]) for found in opened(path).events(since=begun - 0.1))
        outcomes.append([status, [int(word) for word in told], sorted(there.items())])
        begun += len(there)
    return outcomes


@pytest.mark.parametrize(
    ("kills", "durable"),
    [(50, True), pytest.param(500, True, marks=pytest.mark.slow), pytest.param(200, False, marks=pytest.mark.slow)],
)
def test_a_killed_writer_loses_nothing_that_returned_and_leaves_no_half_of_a_batch(path, kills, durable):
    outcomes, begun = apart(killed_appends, path, kills, durable), 0
    for status, told, there in outcomes:
        assert status == signal.SIGKILL
        assert told == [*range(begun, begun + len(told))]
        assert there == [[number, 40] for number in range(begun, begun + len(there))]
        assert len(told) <= len(there) <= len(told) + 1
        begun += len(there)
    assert len(outcomes) == kills
    assert held(opened(path)) == dict.fromkeys(range(begun), 40)
    again = opened(path).append(found for number in range(begun + 1) for found in batch(number, 40))
    assert (again.added, again.known) == (40, 40 * begun)


def forget(tell: Callable, path: Path) -> None:
    tell("begins")
    opened(path).forget("victim")


def killed_forgets(name: str, kills: int) -> list:
    """Of each kill: events of the person that were left, traces where it was none, whether any are owed, others'."""
    chance, outcomes, path = random.Random(1), [], Path(name)
    for _ in range(kills):
        for file in path.parent.iterdir():
            file.unlink()
        fill_with_victim(path)
        status, _ = in_child(forget, path, kill_after=chance.uniform(0, 0.015))
        store = opened(path)
        store.append(batch(2))
        left = len(list(store.events(user="victim")))
        owed = traces(path.parent, "victim", "SECRET-", "whispered") if left == 0 else []
        outcomes.append([status, left, owed, store.standing().traces, store.standing().events - left])
    return outcomes


@pytest.mark.parametrize("kills", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_killed_forgetting_is_all_or_nothing_and_the_next_writer_ends_it(path, kills):
    outcomes = apart(killed_forgets, path, kills)
    for _, left, owed, promised, others in outcomes:
        assert left in (0, 300)
        assert (owed, promised, others) == ([], False, 405)
    assert {left for status, left, *_ in outcomes if status} == {0, 300}  # killed before it, and after


def append_six(tell: Callable, path: Path, disk: ctypes.CDLL, mode: int, at: int) -> None:
    disk.arm(mode, ctypes.c_long(at))
    store = opened(path, durable=True)
    for number in range(6):
        try:
            store.append(batch(number, 40))
            tell(number)
        except DatasetError as error:
            tell(error)
    tell(f"counted {disk.count_writes()} {disk.count_syncs()}")


def on_a_failing_disk(name: str, library: str, trials: list) -> list:
    """Of each trial (tests/privacy/failing_disk.c): how the child ended, what it told, and the batches that are
    there."""
    disk, outcomes, path = ctypes.CDLL(library), [], Path(name) / "ledger.sqlite"  # the disk fails by that name
    for mode, at in trials:
        shutil.rmtree(path.parent, ignore_errors=True)
        status, told = in_child(append_six, path, disk, mode, at)
        opened(path).append(batch(90, 40))  # it goes on
        outcomes.append([mode, status, told, sorted(held(opened(path)).items())])
    return outcomes


@pytest.fixture
def disk(folder):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library, source = folder / "failing_disk.so", ROOT / "tests" / "privacy" / "failing_disk.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("step", [24, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failing_disk_keeps_whole_batches_and_all_that_returned(folder, disk, step):
    ((_, _, told, _),) = apart(on_a_failing_disk, folder / "trial", disk, [[9, 0]], preload=disk)
    writes, syncs = (int(word) for word in told.pop().split()[1:])
    assert told == ["0", "1", "2", "3", "4", "5"]
    assert writes > 60
    assert syncs > 12  # at least one a batch, and one when it is folded into the file
    trials = [[mode, at] for mode in (3, 4, 5, 6, 8) for at in range(0, writes, step)]
    trials += [[mode, at] for mode in (1, 2, 7) for at in range(0, syncs, max(1, step // 8))]
    ends = Counter()
    for mode, status, told, there in apart(on_a_failing_disk, folder / "trial", disk, trials, preload=disk):
        returned = {int(word) for word in told if word.isdigit()}
        assert {size for _, size in there} == {40}
        assert {number for number, _ in there} >= returned | {90}
        assert status in ((0, signal.SIGKILL) if mode in (5, 6, 7) else (0,)), told
        refused = [word for word in told if not word.isdigit() and "counted" not in word]
        assert all("look after the disk" in word or "can't be made" in word for word in refused), refused
        ends[mode, "died" if status else "refused" if refused else "went on"] += 1
    assert min(ends[6, "died"], ends[4, "refused"], ends[2, "refused"]) > 1


def fill_with_victim(path: Path) -> None:
    opened(path).append(batch(1, 400))
    opened(path).append(event(user="victim", item=f"SECRET-{at}", query="whispered") for at in range(300))


def forget_on_disk(tell: Callable, path: Path, disk: ctypes.CDLL, mode: int, at: int) -> None:
    disk.arm(mode, ctypes.c_long(at))
    try:
        tell(opened(path, durable=True).forget("victim").events)
    except DatasetError as error:
        tell(error)
    tell(f"counted {disk.count_writes()} {disk.count_syncs()}")


def forgets_on_a_failing_disk(name: str, library: str, trials: list) -> list:
    """Of each trial: how the child ended, what it told, the person's traces at once, events left, traces at last."""
    disk, outcomes, path = ctypes.CDLL(library), [], Path(name) / "ledger.sqlite"
    words = ("victim", "SECRET-", "whispered")
    for mode, at in trials:
        shutil.rmtree(path.parent, ignore_errors=True)
        fill_with_victim(path)
        status, told = in_child(forget_on_disk, path, disk, mode, at)
        at_once = traces(path.parent, *words)
        opened(path).append(batch(2))
        left = len(list(opened(path).events(user="victim")))
        outcomes.append([mode, status, told, at_once, left, [] if left else traces(path.parent, *words)])
    return outcomes


@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_forgetting_on_a_failing_disk_is_done_or_says_so_and_is_ended_later(folder, disk, step):
    ((_, _, told, *rest),) = apart(forgets_on_a_failing_disk, folder / "trial", disk, [[9, 0]], preload=disk)
    writes, syncs = (int(word) for word in told.pop().split()[1:])
    assert (told, rest) == (["300"], [[], 0, []])
    trials = [[mode, at] for mode in (3, 4, 5, 6, 8) for at in range(0, writes, step)]
    trials += [[mode, at] for mode in (1, 2, 7) for at in range(0, syncs, max(1, step // 8))]
    ends = Counter()
    found = apart(forgets_on_a_failing_disk, folder / "trial", disk, trials, preload=disk)
    for _, status, told, at_once, left, at_last in found:
        assert left in (0, 300)
        assert at_last == []
        if told[:1] == ["300"]:
            assert (at_once, left) == ([], 0)
        elif not status:
            assert "look after the disk" in told[0], told
            assert left == 0 or "deleted for good" not in told[0]
        ends["died" if status else "done" if told[0] == "300" else "said so"] += 1
    assert min(ends["died"], ends["done"], ends["said so"]) > 0


def read_beside_a_writer(name: str, times: int) -> list:
    """What each of so many readings saw while another process appended."""
    path = Path(name)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        append_for_ever(lambda word: os.write(writer, b"."), path, 0, True)
    os.read(reader, 1)
    seen = [sorted(held(opened(path)).items()) for _ in range(times)]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return seen


def test_readers_beside_a_writer_see_whole_batches_and_never_fewer(path):
    seen = apart(read_beside_a_writer, path, 30)
    for there in seen:
        assert there == [[number, 40] for number in range(len(there))]
    lengths = [len(there) for there in seen]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0] > 0


def without_room(name: str) -> list:
    """What a store says whose file may not grow, and what it holds afterwards."""
    store = opened(Path(name))
    store.append(batch(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        store.append(found for number in range(2, 600) for found in batch(number))
    except DatasetError as error:
        return [str(error), sorted(held(store).items())]
    return []


def test_a_full_disk_is_one_clear_line_and_the_batch_is_left_out(path):
    said, there = apart(without_room, path)
    assert "look after the disk (room, quota, health) and call again" in said
    assert there == [[1, 5]]


def without_rights(name: str) -> list:
    """What a store says to one who may not write in its folder."""
    if os.getuid() == 0:
        os.chown(name, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)
    said, there = [], Path(name) / "events.sqlite"
    opened(there).append(batch(1))
    os.chmod(name, 0o500)
    for call in (
        lambda: opened(Path(name) / "other.sqlite").append([]),
        lambda: opened(there).append(batch(2)),
        lambda: list(opened(there).events()),
    ):
        try:
            call()
        except DatasetError as error:
            said.append(str(error))
    os.chmod(name, 0o700)
    return said


def test_a_folder_that_cannot_be_written_is_one_clear_line(folder):
    said = apart(without_rights, folder)
    assert len(said) == 3
    assert all("must be this user's to write" in line for line in said), said


def copies(path: Path) -> tuple[Path, Path]:
    """Ten batches of twenty events: a store as a kill leaves it, with a log, and one that was closed."""
    store = opened(path)
    for number in range(5):
        store.append(batch(number, 20))
    reader = sqlite3.connect(path)
    reader.execute("SELECT count(*) FROM events").fetchall()
    for number in range(5, 10):
        store.append(batch(number, 20))
    killed, closed = path.parent / "killed", path.parent / "closed"
    for copy in (killed, closed):
        copy.mkdir()
        for name in ("events.sqlite", "events.sqlite-wal"):
            shutil.copy(path.with_name(name), copy / name)
    reader.close()
    assert held(opened(closed / path.name)) == dict.fromkeys(range(10), 20)
    return killed / path.name, closed / path.name


def left(source: Path, work: Path, name: str, content: bytes) -> Counter | None:
    """How many events of each item a copy of the store holds with that file replaced; None where it refuses."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source.parent, work)
    (work / name).write_bytes(content)
    store = opened(work / source.name)
    try:
        there = Counter(found.item for found in store.events())
        store.append(batch(50))
    except DatasetError:
        return None
    return there


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_cut_anywhere_holds_whole_batches_or_is_refused(path, folder, step):
    killed, closed = copies(path)
    content = closed.read_bytes()
    for cut in range(0, len(content), step * 211):
        assert left(closed, folder / "work", closed.name, content[:cut]) is None, cut
    log, ends = killed.with_name("events.sqlite-wal"), set()
    content = log.read_bytes()
    for cut in (*range(0, len(content), step * 997), len(content)):
        there = left(killed, folder / "work", log.name, content[:cut])
        # SQLite can't tell a log that was cut from one that was never longer
        assert there == {f"i{number}": 20 for number in range(len(there))}
        ends.add(len(there))
    assert len(there) == 10
    assert len(ends) > 2


@pytest.mark.parametrize("count", [100, pytest.param(4000, marks=pytest.mark.slow)])
def test_a_changed_byte_anywhere_is_refused_or_harms_what_it_stands_in(path, folder, count):
    chance, ends = random.Random(3), Counter()
    for source in copies(path):
        files = [file for file in sorted(source.parent.iterdir()) if file.stat().st_size]
        for _ in range(count // 2):
            file = chance.choice(files)
            content = bytearray(file.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            there = left(source, folder / "work", file.name, bytes(content))
            ends["refused" if there is None else "whole" if sum(there.values()) == 200 else "fewer"] += 1
    assert min(ends["refused"], ends["whole"]) > 0
    assert sum(ends.values()) == count
