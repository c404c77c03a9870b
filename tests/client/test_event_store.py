"""At stake: a client keeps events as they were and no longer than promised; who was forgotten is in no byte of it."""

import logging
import math
import os
import random
import sqlite3
import stat
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import _event_table
from client.event_store import CANNOT_UNDO, SHOWN, TYPES, EventStore, LoggedEvent, days_of, moment_of, read_events
from mmrank.errors import ConfigError, DatasetError

NOW = 20_000.0


def event(
    user: str = "007", item: str = "0042", time_days: float = NOW - 1, type: str = "click", **others
) -> LoggedEvent:
    return LoggedEvent(user=user, item=item, time_days=time_days, type=type, **others)


def opened(path: Path, **settings) -> EventStore:
    return EventStore(path, **{"clock": lambda: NOW, "durable": False, **settings})


def batch(number: int, size: int = 5) -> list[LoggedEvent]:
    return [event(user=f"u{at}", item=f"i{number}", time_days=number + at / 50) for at in range(size)]


def held(store: EventStore) -> Counter:
    """How many events of each batch."""
    return Counter(int(found.item[1:]) for found in store.events())


def traces(folder: Path, *words: str) -> list[tuple[str, str]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [(file.name, word) for file in files for word in words if word.encode() in file.read_bytes()]


def sql(path: Path, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own" / "events.sqlite"


@pytest.fixture
def store(path):
    return opened(path)


def test_types_are_those_of_histories_and_shown():
    from mmrank.slates import EVENT_TYPES

    assert (SHOWN, *EVENT_TYPES) == TYPES


def test_events_come_back_by_time_as_they_were(store):
    late = event(query="运动鞋", slate="s-1", position=3, propensity=0.5, key="order-1")
    early = event(user="7", type=SHOWN, time_days=NOW - 2, slate="s-1", position=0)
    assert list(store.events()) == []
    assert store.append([late, early]).added == 2
    first, second = store.events()
    assert second == late
    assert first == event(user="7", type=SHOWN, time_days=NOW - 2, slate="s-1", position=0, key=first.key)
    assert [found.user for found in store.events(since=NOW - 1)] == ["007"]
    assert [found.user for found in store.events(user="7")] == ["7"]
    assert list(store.events(user="07")) == []


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
ids = words.filter(bool)
any_event = st.builds(
    LoggedEvent,
    user=ids,
    item=ids,
    time_days=st.floats(0, NOW + 1),
    type=st.sampled_from(TYPES),
    query=words,
    slate=ids,
    position=st.integers(-1, 1_000_000),
    propensity=st.none() | st.floats(0, 1, exclude_min=True),
    key=words,
)


@given(st.lists(any_event, max_size=5, unique_by=lambda found: found.key or object()))
@settings(max_examples=40)
def test_any_text_comes_back_from_the_store_and_from_its_exports(events):
    with tempfile.TemporaryDirectory() as name:
        store = opened(Path(name) / "events.sqlite")
        appended = store.append(events)
        kept = list(store.events())
        assert len(kept) == appended.added
        plain = {(e.user, e.item, e.time_days, e.type, e.query, e.slate, e.position, e.propensity) for e in events}
        assert plain == {
            (e.user, e.item, e.time_days, e.type, e.query, e.slate, e.position, e.propensity) for e in kept
        }
        for form in ("jsonl", "csv"):
            out = Path(name) / f"out.{form}"
            assert store.export(out, form=form) == len(kept)
            other = opened(Path(name) / f"{form}.sqlite")
            assert other.append(read_events(out)).added == len(kept)
            assert list(other.events()) == kept
            assert store.append(read_events(out)).known == len(kept)


def test_slates_can_be_built_from_what_is_kept(store):
    import numpy as np

    from mmrank.slates import EVENT_TYPES, Slate, fault_of

    seen = [
        event(item=f"{at}", type=SHOWN, slate="a", query="shoes", position=2 - at, propensity=0.5) for at in range(3)
    ]
    bought = event(item="1", type="purchase", slate="a", query="shoes", time_days=NOW - 0.5)
    store.append([event(item="0", type="view", time_days=NOW - 9), *seen, bought])
    mine = list(store.events(user="007"))
    shown = sorted((e for e in mine if e.type == SHOWN and e.slate == "a"), key=lambda e: e.position)
    done = {e.item: e for e in mine if e.type != SHOWN and e.slate == "a"}
    before = [e for e in mine if e.type != SHOWN and e.time_days < shown[0].time_days]
    slate = Slate(
        query=shown[0].query,
        candidates=np.array([int(e.item) for e in shown]),
        relevance=np.array([2.0 * (e.item in done) for e in shown], np.float32),
        position=np.array([e.position for e in shown]),
        propensity=np.array([e.propensity for e in shown], np.float32),
        history=np.array([int(e.item) for e in before]),
        event_type=np.array([EVENT_TYPES.index(e.type) for e in before]),
        age_days=np.array([shown[0].time_days - e.time_days for e in before], np.float32),
        time_days=shown[0].time_days,
        user=0,
    )
    assert fault_of(slate, 3) is None
    assert (slate.candidates.tolist(), slate.relevance.tolist(), slate.history.tolist()) == ([2, 1, 0], [0, 2, 0], [0])


def test_the_same_again_adds_nothing_and_a_key_makes_it_another(store):
    assert store.append([event(), event()]).added == 1
    again = store.append([event(), event(key="second")])
    assert (again.added, again.known) == (1, 1)
    with pytest.raises(DatasetError, match="Event 2 of the batch has the key of another event"):
        store.append([event(time_days=1.0), event(item="9", key="second")])
    assert store.standing().events == 2


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"time_days": math.nan}, r"time_days=nan in \[0, 20001.00\]"),
        ({"time_days": -0.1}, "time_days=-0.1"),
        ({"time_days": NOW + 1.01}, "at most 1 after this machine's clock"),
        ({"time_days": "19999"}, "time_days='19999'"),
        ({"type": "buy"}, "type='buy' to be one of shown, view"),
        ({"user": ""}, "1 to 1,000 characters, not an empty one"),
        ({"item": ""}, "expected item"),
        ({"item": 42}, "not of type int"),
        ({"user": "a\0b"}, "without NUL"),
        ({"user": "secret" * 200}, "not of 1,200"),
        ({"query": "q" * 10_001}, "0 to 10,000 characters, not of 10,001"),
        ({"query": "\ud800"}, "half a surrogate"),
        ({"slate": "s\0"}, "expected slate"),
        ({"position": -2}, "position=-2 in"),
        ({"position": 1.0}, "position=1.0"),
        ({"propensity": 0.0}, "propensity=0.0 in"),
        ({"propensity": math.nan}, "propensity=nan"),
        ({"type": SHOWN}, "slate of a shown item"),
    ],
)
def test_an_event_with_a_fault_leaves_the_whole_batch_out_and_names_nobody(store, bad, why, caplog):
    caplog.set_level(logging.DEBUG)
    store.append([event()])
    with pytest.raises(DatasetError, match=why) as refused:
        store.append([event(item="new"), event(**{"user": "secret", "item": "hidden", "query": "whisper", **bad})])
    said = f"{refused.value} {caplog.text} {event(user='secret')!r}"
    assert "Event 2 of the batch" in said
    assert not any(word in said for word in ("secret", "hidden", "whisper"))
    assert [found.item for found in store.events()] == ["0042"]


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused(path, limit):
    with pytest.raises(ConfigError, match="leave it out"):
        EventStore(path, retention_days=limit)


def test_an_old_event_is_neither_kept_nor_returned_whenever_the_clock_passes_it(path):
    now = [NOW]
    store = opened(path, retention_days=30, clock=lambda: now[0])
    told = store.append([event(time_days=NOW - 30.5), event(item="edge", time_days=NOW - 30), event(time_days=NOW)])
    assert (told.added, told.expired) == (2, 1)
    now[0] += 0.25
    assert [found.time_days for found in store.events()] == [NOW]
    assert store.standing().events == 1
    assert traces(path.parent, "edge")  # not read, and deleted by the next that writes
    store.append([])
    assert sql(path, "SELECT count(*) FROM events") == [(1,)]
    other = opened(path, clock=lambda: now[0])
    assert other.standing().retention_days == 30  # the file says so
    now[0] += 31
    assert list(other.events()) == []
    assert (other.expire(), other.expire()) == (1, 0)
    assert not traces(path.parent, "edge", "0042", "007")


def test_a_shorter_limit_counts_at_once_and_expire_takes_any_day(store, path):
    store.append(batch(19_000) + batch(19_990))
    assert held(opened(path, retention_days=100)) == {19_990: 5}
    assert opened(path, retention_days=100).expire() == 5
    assert store.expire(19_990.03 + 100) == 2
    assert held(store) == {19_990: 3}


def crowd(chance: random.Random) -> list[LoggedEvent]:
    """A batch of rows of many lengths, a tenth of them the victim's: SQLite moves such rows from page to page."""
    events = []
    for at in range(100):
        mine = chance.random() < 0.1
        user = "victim-xyz" if mine else f"u{chance.randrange(50)}"
        item = f"SECRET-ITEM-{at}" if mine else f"item-{at}"
        query = ("whispered " if mine else "loud ") * chance.randrange(30)
        key = f"{user} {chance.random()} {'x' * chance.randrange(40)}"
        events.append(event(user=user, item=item, query=query, time_days=NOW - chance.random() * 100, key=key))
    return events


@pytest.mark.parametrize("seed", range(8))
def test_nobody_who_was_forgotten_is_left_in_any_byte(path, seed):
    chance, store, secrets = random.Random(seed), opened(path), ("victim-xyz", "SECRET-ITEM", "whispered")
    store.append(crowd(chance))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT count(*) FROM events").fetchall()  # keeps the log from being folded into the file
        for number in range(30):
            store.append(crowd(chance))
            if number % 7 == 3:
                opened(path, retention_days=100 - number).append([])
        others = [found for found in store.events() if found.user != "victim-xyz"]
        mine = len(list(store.events(user="victim-xyz")))
        assert {name for name, _ in traces(path.parent, *secrets)} == {"events.sqlite", "events.sqlite-wal"}
        assert store.forget("victim-xyz").events == mine > 100
        assert traces(path.parent, *secrets) == []
        assert list(store.events()) == others
    assert traces(path.parent, *secrets) == []
    assert not store.standing().traces


def test_who_was_forgotten_stays_so_when_the_log_is_imported_again(path):
    now = [NOW]
    store = opened(path, clock=lambda: now[0])
    log = [event(), event(user="8"), event(time_days=NOW - 3)]
    store.append(log)
    assert store.forget("007").events == 2
    again = opened(path).append([*log, event(time_days=NOW, item="new")])
    assert (again.added, again.known, again.forgotten) == (0, 1, 3)
    assert store.standing().forgotten == 1
    assert store.forget("never seen").events == 0
    assert store.append([event(user="never seen")]).forgotten == 1
    assert not store.readmit("8")
    assert store.readmit("007")
    now[0] += 1
    back = store.append([*log, event(time_days=NOW + 0.5)])  # the person came back, and their past did not
    assert (back.added, back.forgotten) == (1, 2)
    assert store.readmit("007", since=0)
    assert store.append(log).added == 2
    assert store.standing().forgotten == 1


def test_what_forgetting_cannot_undo_is_said(store):
    note = " ".join(store.forget("007").note)
    assert store.forget("007").note == CANNOT_UNDO
    for word in ("mmrank ledger show", "epsilon", "unit", "Personal parts", "backups", "Other clients"):
        assert word in note
    with pytest.raises(DatasetError, match="Expected user to be a text"):
        store.forget("")
    with pytest.raises(DatasetError, match="since=nan"):
        store.readmit("007", since=math.nan)


def test_a_reader_in_the_way_leaves_traces_that_are_told_and_overwritten_later(path):
    store = opened(path, busy_seconds=0.05)
    store.append([event(user="victim", query="whispered"), event(user="8")])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    with pytest.raises(DatasetError, match="deleted for good, but traces of them may be left"):
        store.forget("victim")
    assert [found.user for found in store.events()] == ["8"]
    assert store.standing().traces
    assert store.append([event(user="9")]).added == 1  # new events do not wait for it
    assert traces(path.parent, "victim", "whispered")
    reader.close()
    store.append([])
    assert traces(path.parent, "victim", "whispered") == []
    assert not store.standing().traces


def test_a_long_reading_sees_what_there_was_less_what_is_forgotten_meanwhile(store, monkeypatch):
    monkeypatch.setattr(_event_table, "PAGE", 7)
    store.append(found for number in range(8) for found in batch(number))
    reading = store.events()
    seen = [next(reading) for _ in range(7)]
    store.append(batch(19))
    assert store.forget("u1").events == 9
    seen += reading
    assert [found.time_days for found in seen] == sorted(found.time_days for found in seen)
    assert Counter(found.user for found in seen) == {"u0": 8, "u1": 2, "u2": 8, "u3": 8, "u4": 8}
    assert len(list(store.events())) == 36


def test_readers_go_on_while_one_writes_and_a_second_writer_waits_or_is_told(path):
    store, hasty = opened(path), opened(path, busy_seconds=0.05)
    store.append(batch(1))

    def slowly():
        yield from batch(2)
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["events.sqlite", "events.sqlite-shm", "events.sqlite-wal"]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
        assert held(hasty) == {1: 5}
        with pytest.raises(DatasetError, match=r"busy: another process has held it for 0\.05 seconds"):
            hasty.append(batch(3))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()

    waiting = threading.Thread(target=lambda: opened(path).append(batch(4)))
    store.append(slowly())
    waiting.join()
    assert held(hasty) == {1: 5, 2: 5, 4: 5}
    assert [file.name for file in path.parent.iterdir()] == ["events.sqlite"]


def spoiled_wal(path: Path) -> None:
    path.unlink()
    path.with_name("events.sqlite-wal").touch(0o600)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def foreign(path: Path) -> None:
    path.unlink()
    path.touch(0o600)
    sql(path, "CREATE TABLE spent (epsilon REAL)")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (linked, "symbolic link.*name the file itself"),
        (folder, "no plain file"),
        (lambda path: path.chmod(0o640), r"others can read it \(mode 640\); chmod 600"),
        (foreign, "no store of events; name another file"),
        (
            lambda path: sql(path, "PRAGMA user_version = 2"),
            "schema 2, and this release knows 1; use the release that wrote it",
        ),
        (lambda path: path.write_bytes(b""), "Move it and its -wal away.*forget again whoever"),
        (lambda path: path.write_bytes(b"no database " * 1000), "file is not a database.*name another file"),
        (lambda path: os.truncate(path, 8192), "the file is damaged. Move it"),
        (lambda path: sql(path, "DELETE FROM about"), "lost its salt"),
        (spoiled_wal, "-wal lies there without its store"),
    ],
)
def test_what_is_no_store_of_ones_own_is_refused_and_left_as_it_is(store, path, spoil, why):
    store.append(batch(1))
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    for call in (lambda: store.append(batch(2)), lambda: store.forget("u1"), lambda: opened(path).expire()):
        with pytest.raises(DatasetError, match=why):
            call()
    if path.exists():
        with pytest.raises(DatasetError, match=why):
            list(opened(path).events())
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_an_export_is_whole_its_owners_alone_and_never_the_store(store, path, tmp_path):
    store.append(batch(1) + [event(query='a,"b"\r\nc')])
    out = tmp_path / "person.csv"
    out.write_text("older")
    out.chmod(0o644)
    assert store.export(out, form="csv", user="007") == 1
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (found,) = read_events(out)
    assert (found.user, found.query) == ("007", 'a,"b"\r\nc')
    for own in (path, path.with_name("events.sqlite-wal"), path.parent / ".." / "own" / "events.sqlite"):
        with pytest.raises(DatasetError, match="is the store itself"):
            store.export(own, form="jsonl")
    with pytest.raises(DatasetError, match="No such file or directory"):
        store.export(tmp_path / "absent" / "out.csv", form="csv")
    path.chmod(0o644)
    with pytest.raises(DatasetError, match="chmod 600"):
        store.export(out, form="csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["own", "person.csv"]
    assert len(list(read_events(out))) == 1


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("log.csv", "user,item,time,type\n7,8,2024-01-01T00:00:00,view\n", "line 2: time='2024.*with its offset"),
        ("log.csv", "user,item,time\n", "line 1: no column type"),
        ("log.csv", "user,item,time,type,pric\n", "line 1: unknown column 'pric'"),
        ("log.csv", "user,item,time,type,time_days\n", "time and time_days are one"),
        ("log.csv", "user,item,time,type\n7,8,1\n", "line 2 has more or fewer fields"),
        ("log.csv", "user,item,time,type,position\n7,8,1,view,top\n", "position='top'"),
        ("log.csv", 'user,item,time,type\n7,"8"x,1,view\n', "line 2 is no CSV"),
        ("log.jsonl", '{"user": "7"\n', "line 1 is no JSON"),
        ("log.jsonl", '\n["7"]\n', "line 2 is no JSON object"),
        ("log.jsonl", '{"user": "7", "item": "8", "time": 1, "type": "view", "querry": ""}', "Did you mean 'query'"),
        ("log.txt", "", "end in .jsonl or .csv"),
    ],
)
def test_a_log_that_cannot_be_read_names_its_line(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=why):
        list(read_events(tmp_path / name))


def test_a_log_has_times_with_an_offset_or_days(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,time,type\n007,08,1970-01-02T18:00:00+06:00,view\n7,8,1.5,cart\n")
    (tmp_path / "a.jsonl").write_text('{"user": "007", "item": "08", "time_days": 1.5, "type": "view", "query": null}')
    found = [*read_events(tmp_path / "a.csv"), *read_events(tmp_path / "a.jsonl")]
    assert [(e.user, e.item, e.time_days) for e in found] == [("007", "08", 1.5), ("7", "8", 1.5), ("007", "08", 1.5)]
    assert days_of(moment_of(NOW + 0.5)) == NOW + 0.5
    (tmp_path / "a.csv").write_bytes(b"user,item,time,type\n\xff,8,1,view\n")
    with pytest.raises(DatasetError, match="not UTF-8"):
        list(read_events(tmp_path / "a.csv"))
    with pytest.raises(DatasetError, match="No such file"):
        list(read_events(tmp_path / "b.csv"))
