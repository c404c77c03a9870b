"""At stake: hours of encoding survive a kill, processes never spoil each other's rows, nothing is done twice."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrank import _row_cache
from mmrank._row_cache import RowCache, kept_arrays, keys_of, write_array
from mmrank._row_log import read_log
from mmrank.errors import DatasetError


class Encoder:
    """Row i of content "c<i>" is [i, i]; remembers what it was asked for."""

    def __init__(
        self, contents: Sequence[str | None], *, unreadable: Sequence[str] = (), stop_after: int = 10**9
    ) -> None:
        self.contents = contents
        self.unreadable = unreadable
        self.stop_after = stop_after
        self.encoded: list[str] = []

    def __call__(self, positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        if len(self.encoded) >= self.stop_after:
            raise KeyboardInterrupt
        names = [str(self.contents[position]) for position in positions]
        self.encoded += names
        rows = np.array([[float(name[1:])] * 2 for name in names], np.float32)
        present = np.array([name not in self.unreadable for name in names])
        return rows * present[:, None], present


def names(count: int) -> list[str | None]:
    return [f"c{index}" for index in range(1, count + 1)]


def cache(folder: Path) -> RowCache:
    return RowCache(folder, row_shape=(2,), row_dtype="float32")


def table(
    folder: Path, contents: Sequence[str | None], encoder: Encoder, *, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    found = cache(folder).table(keys_of(contents), encoder, batch=3, workers=workers)
    return found.rows, found.present


def test_rows_come_in_the_order_of_the_catalogue_and_absent_ones_are_zero(tmp_path: Path) -> None:
    contents = ["c3", None, "c1", "c3", "c2"]
    encoder = Encoder(contents)
    rows, present = table(tmp_path, contents, encoder)
    assert rows.tolist() == [[3, 3], [0, 0], [1, 1], [3, 3], [2, 2]]
    assert present.tolist() == [True, False, True, True, True]
    assert sorted(encoder.encoded) == ["c1", "c2", "c3"]  # a content that stands twice is encoded once


def test_a_second_call_encodes_nothing(tmp_path: Path) -> None:
    first, _ = table(tmp_path, names(7), Encoder(names(7)))
    again = Encoder(names(7))
    rows, present = table(tmp_path, names(7), again)
    assert again.encoded == []
    np.testing.assert_array_equal(rows, first)
    assert present.all()


def test_a_changed_item_is_encoded_alone(tmp_path: Path) -> None:
    table(tmp_path, names(7), Encoder(names(7)))
    changed = names(7)
    changed[4] = "c99"
    encoder = Encoder(changed)
    rows, _ = table(tmp_path, changed, encoder)
    assert encoder.encoded == ["c99"]
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 99, 6, 7]


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        table(tmp_path, names(10), Encoder(names(10), stop_after=6))
    encoder = Encoder(names(10))
    rows, _ = table(tmp_path, names(10), encoder)
    assert encoder.encoded == ["c7", "c8", "c9", "c10"]
    assert rows[:, 0].tolist() == list(range(1, 11))
    assert not list(tmp_path.glob("part-*"))  # the table holds them now


def test_what_cannot_be_read_is_zero_and_tried_again_with_the_next_table(tmp_path: Path) -> None:
    rows, present = table(tmp_path, names(3), Encoder(names(3), unreadable=["c2"]))
    assert present.tolist() == [True, False, True]
    assert not rows[1].any()
    encoder = Encoder(names(4))
    rows, present = table(tmp_path, names(4), encoder)
    assert encoder.encoded == ["c2", "c4"]
    assert present.all()


def test_progress_counts_what_was_known_and_ends_at_the_total(tmp_path: Path) -> None:
    table(tmp_path, names(4), Encoder(names(4)))
    seen: list[tuple[int, int]] = []
    encoder = Encoder(names(10))
    found = cache(tmp_path).table(
        keys_of(names(10)), encoder, batch=3, progress=lambda done, total: seen.append((done, total))
    )
    assert found.encoded == 6
    assert found.seconds > 0
    assert seen == [(4, 10), (7, 10), (10, 10), (10, 10)]


def _encode_slowly(folder: Path, journal: Path) -> None:
    encoder = Encoder(names(60))

    def slow(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        # it never ends by itself, however late whoever kills it comes to run
        time.sleep(0.02 if positions[0] < 54 else 60)
        with journal.open("a") as file:
            file.write(" ".join(names(60)[position] or "" for position in positions) + "\n")
        return encoder(positions)

    cache(folder).table(keys_of(names(60)), slow, batch=3, workers=2)


def test_a_killed_process_loses_no_more_than_a_batch_a_worker_and_leaves_no_lock(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    process = multiprocessing.get_context("spawn").Process(target=_encode_slowly, args=(tmp_path, journal))
    process.start()
    while not journal.exists() or journal.read_text().count("\n") < 7:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    tried = journal.read_text().split()
    encoder = Encoder(names(60))
    rows, present = table(tmp_path, names(60), encoder)
    assert len(set(tried) & set(encoder.encoded)) <= 2 * 3
    assert len(encoder.encoded) < 60 - 3 * 4
    assert rows[:, 0].tolist() == list(range(1, 61))
    assert present.all()
    assert not [*tmp_path.glob("*.tmp"), *tmp_path.glob("part-*")]


def logged(folder: Path) -> list[float]:
    """First numbers of the rows in the folder's logs."""
    parts = [read_log(path, row_shape=(2,), row_dtype=np.dtype("float32")) for path in folder.glob("part-*")]
    return [float(row[0]) for part in parts for _, rows in part for row in rows]


def interrupted(folder: Path) -> Path:
    """A folder with 6 rows in two records of one log."""
    with pytest.raises(KeyboardInterrupt):
        table(folder, names(10), Encoder(names(10), stop_after=6))
    return next(folder.glob("part-*"))


@pytest.mark.parametrize(("lost", "left"), [(1, 3), (130, 0), (119, 3), (10_000, 0)])
def test_a_log_that_was_torn_ends_before_the_tear(tmp_path: Path, lost: int, left: int) -> None:
    part = interrupted(tmp_path)
    content = part.read_bytes()
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6]
    part.write_bytes(content[: max(len(content) - lost, 0)])
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6][:left]
    part.write_bytes(
        content[: max(len(content) - lost, 0)] + bytes(min(lost, len(content)))
    )  # as after a loss of power
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6][:left]
    encoder = Encoder(names(10))
    rows, _ = table(tmp_path, names(10), encoder)
    assert len(encoder.encoded) == 10 - left
    assert rows[:, 0].tolist() == list(range(1, 11))


def test_what_a_killed_run_left_stays_while_another_catalogue_is_encoded(tmp_path: Path) -> None:
    interrupted(tmp_path)
    table(tmp_path, ["c77"], Encoder(["c77"]))
    encoder = Encoder(names(10))
    table(tmp_path, names(10), encoder)
    assert encoder.encoded == ["c7", "c8", "c9", "c10"]
    assert not logged(tmp_path)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for workers in (1, 2, 5):
        table(tmp_path / str(workers), names(40), Encoder(names(40)), workers=workers)
    one, *others = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("1", "2", "5"))
    assert all(other == one for other in others)


def test_no_more_batches_are_in_work_than_there_are_workers_and_the_first_is_alone(tmp_path: Path) -> None:
    lock, inside, most, first_alone = threading.Lock(), [0], [0], [True]
    encoder = Encoder(names(40))

    def counted(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
            first_alone[0] &= positions[0] != 0 or most[0] == 1
            return encoder(positions)

    cache(tmp_path).table(keys_of(names(40)), counted, batch=3, workers=3)
    assert most == [3]
    assert first_alone == [True]


def test_an_error_in_a_worker_is_raised_and_what_was_done_is_kept(tmp_path: Path) -> None:
    encoder = Encoder(names(30))

    def fails(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        if 15 in positions:
            raise DatasetError("Expected a picture.")
        return encoder(positions)

    with pytest.raises(DatasetError, match="Expected a picture"):
        cache(tmp_path).table(keys_of(names(30)), fails, batch=3, workers=2)
    assert sorted(logged(tmp_path)) == sorted(float(name[1:]) for name in encoder.encoded)
    assert len(encoder.encoded) >= 15


def _encode_thirty(folder: Path, results: Any) -> None:
    encoder = Encoder(names(30))
    rows, present = table(folder, names(30), encoder)
    results.put((len(encoder.encoded), rows[:, 0].tolist(), bool(present.all())))


def test_processes_at_once_agree_and_encode_each_item_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_encode_thirty, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(encoded for encoded, _, _ in found) == 30
    assert all(rows == list(range(1, 31)) and present for _, rows, present in found)


def test_old_tables_go_and_used_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_cache, "TABLES_KEPT", 2)
    for count in (1, 2):
        table(tmp_path, names(count), Encoder(names(count)))
        time.sleep(0.01)
    table(tmp_path, names(1), Encoder(names(1)))  # used again, so it is younger than the one of 2
    time.sleep(0.01)
    table(tmp_path, names(3), Encoder(names(3)))
    assert len(list(tmp_path.glob("table-*.keys.npy"))) == len(list(tmp_path.glob("table-*.rows.npy"))) == 2
    again = Encoder(names(1))
    table(tmp_path, names(1), again)
    assert again.encoded == []


def test_writing_to_a_table_does_not_reach_the_file(tmp_path: Path) -> None:
    rows, _ = table(tmp_path, names(3), Encoder(names(3)))
    rows[0] = 42.0
    fresh, _ = table(tmp_path, names(3), Encoder(names(3)))
    assert fresh[0].tolist() == [1, 1]


def test_a_damaged_block_is_named_with_the_remedy(tmp_path: Path) -> None:
    table(tmp_path, names(3), Encoder(names(3)))
    next(tmp_path.glob("table-*.rows.npy")).write_bytes(b"half a file")
    with pytest.raises(DatasetError, match=r"feature cache's table-\w+ in .* is damaged; delete it"):
        table(tmp_path, names(3), Encoder(names(3)))


def test_keys_tell_contents_apart_and_nothing_from_something() -> None:
    keys = keys_of(["a", None, "b", "a", ""])
    assert keys.shape == (5, 32)
    assert not keys[1].any()
    assert keys[4].any()
    assert len({bytes(key) for key in keys}) == 4


def test_kept_arrays_are_computed_once_and_never_pickled(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"words": np.array(["鞋", "red"]), "idf": np.ones(2, np.float32)}

    first = kept_arrays(tmp_path / "deep" / "state.npz", compute)
    second = kept_arrays(tmp_path / "deep" / "state.npz", compute)
    assert len(calls) == 1
    assert first["words"].tolist() == second["words"].tolist() == ["鞋", "red"]
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_array(tmp_path / "bad.npy", np.array([{}], dtype=object))
    assert not (tmp_path / "bad.npy").exists()
