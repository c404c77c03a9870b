"""At stake: hours of encoding survive a kill, processes never spoil each other's rows, nothing is done twice."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrank import _row_cache
from mmrank._row_cache import RowCache, kept_arrays, keys_of, write_array
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

    def load(self, positions: Sequence[int]) -> list[str]:
        return [str(self.contents[position]) for position in positions]

    def __call__(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if len(self.encoded) >= self.stop_after:
            raise KeyboardInterrupt
        self.encoded += names
        rows = np.array([[float(name[1:])] * 2 for name in names], np.float32)
        present = np.array([name not in self.unreadable for name in names])
        return rows * present[:, None], present


def names(count: int) -> list[str | None]:
    return [f"c{index}" for index in range(1, count + 1)]


def cache(folder: Path) -> RowCache:
    return RowCache(folder, row_shape=(2,), row_dtype="float32")


def table(folder: Path, contents: Sequence[str | None], encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    return cache(folder).table(keys_of(contents), encoder.load, encoder, batch=3)


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


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_cache, "_PART_SECONDS", 0.0)
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
    cache(tmp_path).table(
        keys_of(names(10)), encoder.load, encoder, batch=3, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(4, 10), (7, 10), (10, 10), (10, 10)]


def _encode_slowly(folder: Path, started: Any) -> None:
    _row_cache._PART_SECONDS = 0.0
    encoder = Encoder(names(60))

    def slow(contents: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if encoder.encoded:
            started.set()
            # it never ends by itself, however late whoever kills it comes to run
            time.sleep(0.05 if len(encoder.encoded) < 54 else 60)
        return encoder(contents)

    cache(folder).table(keys_of(names(60)), encoder.load, slow, batch=3)


def test_a_killed_process_leaves_whole_blocks_and_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_encode_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    time.sleep(0.1)
    process.kill()
    process.join()
    encoder = Encoder(names(60))
    rows, present = table(tmp_path, names(60), encoder)
    assert 0 < len(encoder.encoded) < 60
    assert rows[:, 0].tolist() == list(range(1, 61))
    assert present.all()
    assert not list(tmp_path.glob("*.tmp"))


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
