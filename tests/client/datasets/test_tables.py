"""At stake: a merchant's tables must mean what the merchant thinks, row by row; each figure and promise rests on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.datasets import tables
from client.workspace import check_deployment, check_unit
from mmrank.errors import ConfigError, DatasetError, PrivacyError
from mmrank.settings import parse
from tests.client.datasets import shops
from tests.client.datasets.shops import write_csv

T0 = 19_700 * 86_400
"""Midnight of 2023-12-09, in seconds."""
SPLITS = ("train", "validation", "test")
ITEMS = {
    "file": "items.csv",
    "id": "id",
    "title": "title",
    "price": "price",
    "category": "category",
    "merchant": "shop",
}
EVENTS = {"file": "events.csv", "user": "user", "item": "item", "time": "time", "type": "type", "query": "query"}
LATE = {"validation_from": "2024-06-01", "test_from": "2024-07-01"}
"""All that is written below is for training."""
OWN = {"split": LATE, "candidates": {"from": "catalogue", "negatives": 3}}


def at(day: float, hour: float = 0) -> int:
    return int(T0 + day * 86_400 + hour * 3600)


def write_items(root: Path, count: int = 12) -> None:
    """Items i0, i1, ...: two categories, three shops."""
    rows = [
        [f"i{n}", f"{('red', 'blue')[n % 2]} thing {n}", n + 0.5, ("shoes", "bags")[n % 2], f"s{n % 3}"]
        for n in range(count)
    ]
    write_csv(root / "items.csv", ["id", "title", "price", "category", "shop"], rows)


def load(root: Path, events=None, *, columns=None, items=None, **shape):
    """Events as (user, item, time, type, query); what is missing at the end of a row is blank."""
    write_items(root)
    given = {"items": {**ITEMS, **(items or {})}}
    if events is not None:
        rows = [[*row, *[""] * (5 - len(row))] for row in events]
        rows = [[*row[:3], row[3] or "click", row[4]] for row in rows]
        write_csv(root / "events.csv", ["user", "item", "time", "type", "query"], rows)
        given["events"] = {**EVENTS, **(columns or {})}
    return tables.load(root=root, **given, **(OWN | shape))


def shown(slate) -> dict[str, float]:
    """Relevance by item id."""
    return {f"i{item}": grade for item, grade in zip(slate.candidates.tolist(), slate.relevance.tolist(), strict=True)}


def chosen(slate) -> dict[str, float]:
    return {item: grade for item, grade in shown(slate).items() if grade > 0}


def all_slates(dataset):
    return [
        (client, split, slate)
        for client in dataset.client_ids
        for split in SPLITS
        for slate in dataset.slates(client, split)
    ]


def same(one, two) -> bool:
    """Whether two slates are the same but for the number of the person."""
    names = ("candidates", "relevance", "position", "history", "event_type", "age_days")
    return (one.query, one.time_days) == (two.query, two.time_days) and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in names
    )


THREE_ACTS = [
    ("ann", "i0", at(0, 9), "purchase"),
    ("ann", "i1", at(0, 15), "click"),
    ("ann", "i2", at(1, 9), "click"),
]


def test_what_was_chosen_on_one_day_is_one_slate_and_history_of_the_next(tmp_path):
    dataset = load(tmp_path, THREE_ACTS)
    first, second = dataset.slates("ann", "train")
    assert chosen(first) == {"i0": 2.0, "i1": 1.0}
    assert chosen(second) == {"i2": 1.0}
    assert len(first.candidates) == 2 + 3
    assert len(second.candidates) == 1 + 3
    assert first.time_days == pytest.approx(19_700 + 9 / 24)
    assert len(first.history) == 0
    assert second.history.tolist() == [0, 1]
    assert second.event_type.tolist() == [3, 1]
    np.testing.assert_allclose(second.age_days, [1.0, 0.75], atol=1e-6)
    assert (first.position == -1).all()
    assert dataset.epoch_days == 0.0
    assert [dataset.kind("ann"), dataset.client_ids] == ["device", ("ann",)]


def test_a_moment_may_be_an_hour_or_an_event(tmp_path):
    events = [("ann", "i0", at(0, 9)), ("ann", "i1", at(0, 9.5)), ("ann", "i2", at(0, 10))]
    by = {moment: load(tmp_path, events, moment=moment).slates("ann", "train") for moment in ("day", "hour", "event")}
    assert [chosen(slate) for slate in by["day"]] == [{"i0": 1.0, "i1": 1.0, "i2": 1.0}]
    assert [chosen(slate) for slate in by["hour"]] == [{"i0": 1.0, "i1": 1.0}, {"i2": 1.0}]
    assert [chosen(slate) for slate in by["event"]] == [{"i0": 1.0}, {"i1": 1.0}, {"i2": 1.0}]
    assert [slate.history.tolist() for slate in by["event"]] == [[], [0], [0, 1]]


def test_what_was_only_seen_stands_beside_what_was_clicked(tmp_path):
    events = [
        ("ann", "i4", at(0), "view"),
        ("ann", "i5", at(0), "view"),
        ("ann", "i5", at(0, 1), "cart"),
        ("ann", "i6", at(1), "view"),
        ("ann", "i7", at(2)),
    ]
    first, second = load(tmp_path, events).slates("ann", "train")
    assert chosen(first) == {"i5": 1.0}
    assert shown(first)["i4"] == 0.0  # i6, of a day of views alone, is no slate, and is in the history
    assert chosen(second) == {"i7": 1.0}
    assert second.history.tolist() == [4, 5, 5, 6]
    assert second.event_type.tolist() == [0, 0, 2, 0]


def test_types_are_told_in_any_language_and_own_words(tmp_path):
    events = [("ann", "i0", at(0), "Purchase"), ("ann", "i1", at(1), "加购"), ("ann", "i2", at(2), "WISH")]
    found = load(tmp_path, events, columns={"types": {"wish": "cart"}})
    last = [
        *load(tmp_path, [*events, ("ann", "i3", at(3))], columns={"types": {"wish": "cart"}}).slates("ann", "train")
    ][-1]
    assert [chosen(slate) for slate in found.slates("ann", "train")] == [{"i0": 2.0}, {"i1": 1.0}, {"i2": 1.0}]
    assert last.event_type.tolist() == [3, 2, 2]


def rated(root: Path, **columns):
    write_items(root)
    rows = [["ann", "i0", 5, at(0)], ["ann", "i1", 3, at(0)], ["ann", "i2", 4, at(0)], ["ann", "i3", 2, at(1)]]
    write_csv(root / "ratings.csv", ["user", "item", "stars", "time"], rows)
    events = {"file": "ratings.csv", "user": "user", "item": "item", "time": "time", "weight": "stars", **columns}
    return tables.load(root=root, items=ITEMS, events=events, **OWN)


def test_liked_is_from_a_threshold_on(tmp_path):
    (slate,) = rated(tmp_path, liked=4).slates("ann", "train")  # the second day has nothing that was liked
    assert chosen(slate) == {"i0": 1.0, "i2": 1.0}
    assert shown(slate)["i1"] == 0.0


def test_a_graded_weight_is_the_relevance(tmp_path):
    first, second = rated(tmp_path, graded=True).slates("ann", "train")
    assert chosen(first) == {"i0": 5.0, "i1": 3.0, "i2": 4.0}
    assert chosen(second) == {"i3": 2.0}


def test_words_make_slates_of_their_own_within_a_day(tmp_path):
    events = [
        ("ann", "i0", at(0, 1), "click", "red shoes"),
        ("ann", "i1", at(0, 2), "click", "bags"),
        ("ann", "i2", at(0, 3), "click", "red shoes"),
        ("ann", "i3", at(0, 4), "click"),
    ]
    found = load(tmp_path, events).slates("ann", "train")
    assert [(slate.query, set(chosen(slate))) for slate in found] == [
        ("red shoes", {"i0", "i2"}),
        ("bags", {"i1"}),
        ("", {"i3"}),
    ]
    for slate in found:  # what was chosen with other words is no example of what nobody wants
        assert not ({"i0", "i1", "i2", "i3"} - set(chosen(slate))) & set(shown(slate))


def test_derived_words_are_made_of_the_items_own_fields(tmp_path):
    found = load(tmp_path, [("ann", f"i{n}", at(n)) for n in range(8)], queries={"derive": 1.0}).slates("ann", "train")
    assert [slate.query for slate in found] == ["shoes", "bags"] * 4
    none = load(tmp_path, [("ann", f"i{n}", at(n)) for n in range(8)]).slates("ann", "train")
    assert {slate.query for slate in none} == {""}
    with pytest.raises(ConfigError, match="No field 'colour'.*category, merchant"):
        load(tmp_path, [("ann", "i0", at(0))], queries={"derive": 1.0, "fields": ["colour"]})


def test_without_times_the_order_of_the_file_is_the_order_of_events(tmp_path):
    write_items(tmp_path)
    write_csv(tmp_path / "events.csv", ["user", "item"], [["ann", f"i{n}"] for n in range(10)] + [["bob", "i0"]])
    dataset = tables.load(
        root=tmp_path,
        items=ITEMS,
        events={"file": "events.csv", "user": "user", "item": "item"},
        candidates="catalogue",
    )
    found = {split: dataset.slates("ann", split) for split in SPLITS}
    assert {split: len(slates) for split, slates in found.items()} == {"train": 7, "validation": 1, "test": 2}
    assert found["test"][1].history.tolist() == list(range(9))
    assert dataset.epoch_days is None
    assert dataset.simulation_only is None  # nobody's times move another's parts


LISTS = (
    ("p1", "ann", 0, ["i3", "i1", "i2"], [0, 2, 0], [1.0, 0.5, 0.25], [0.1, 0.9, 0.5]),
    ("p2", "ann", 1, ["i2", "i4"], [1, 0], [1.0, 0.5], [0.3, 0.2]),
    ("p3", "bob", 1, ["i5", "i6", "i7", "i8"], [0, 0, 0, 1], [1.0, 0.5, 0.25, 0.2], [4, 3, 2, 1]),
)
SHOWN = {"items": "shown", "clicked": "clicked", "user": "user", "time": "time", "propensity": "prop", "score": "score"}


def as_parquet(root):
    columns = zip(*LISTS, strict=True)
    names = ("id", "user", "time", "shown", "clicked", "prop", "score")
    made = {name: list(column) for name, column in zip(names, columns, strict=True)}
    made["time"] = pa.array([at(day) for day in made["time"]])
    pa.parquet.write_table(pa.table(made), root / "shown.parquet")
    return {"file": "shown.parquet", **SHOWN}


def as_json(root, *, clicked_ids=False, ids=True):
    with (root / "shown.jsonl").open("w") as file:
        for name, user, day, items, clicks, prop, score in LISTS:
            row = {"user": user, "time": at(day), "shown": items, "clicked": clicks, "prop": prop, "score": score}
            if clicked_ids:  # a click says 1 of each
                row["clicked"] = [item for item, click in zip(items, clicks, strict=True) if click]
            file.write(json.dumps(row | ({"id": name} if ids else {})) + "\n")
    return {"file": "shown.jsonl", **SHOWN, **({"id": "id"} if ids else {})}


def as_text(root, *, between=" ", brackets=""):
    rows = []
    for name, user, day, *columns in LISTS:
        texts = [between.join(map(str, column)) for column in columns]
        rows.append([name, user, at(day), *(f"[{text}]" if brackets else text for text in texts)])
    write_csv(root / "shown.csv", ["id", "user", "time", "shown", "clicked", "prop", "score"], rows)
    return {"file": "shown.csv", **SHOWN}


def as_rows(root, *, ids=True, first=0):
    rows = [
        [name, user, at(day), item, click, prop, score, place + first]
        for name, user, day, *columns in LISTS
        for place, (item, click, prop, score) in enumerate(zip(*columns, strict=True))
    ]
    rows.reverse()  # positions say the order, not the file
    write_csv(root / "shown.tsv", ["id", "user", "time", "shown", "clicked", "prop", "score", "place"], rows, "\t")
    return {"file": "shown.tsv", **SHOWN, "position": "place", **({"id": "id"} if ids else {})}


FORMS = {
    "list columns in Parquet": as_parquet,
    "JSON lists": as_json,
    "JSON lists without ids": lambda root: as_json(root, ids=False),
    "ids with spaces between": as_text,
    "ids with commas in brackets": lambda root: as_text(root, between=", ", brackets="[]"),
    "an item a row, by id": as_rows,
    "an item a row, by person and time": lambda root: as_rows(root, ids=False),
    "positions from 1": lambda root: as_rows(root, first=1),
}


def open_shown(root, impressions, **shape):
    write_items(root)
    return tables.load(root=root, items=ITEMS, impressions=impressions, **({"split": LATE} | shape))


@pytest.mark.parametrize("form", list(FORMS))
def test_an_impression_is_the_same_slate_in_every_form(form, tmp_path):
    dataset = open_shown(tmp_path, FORMS[form](tmp_path))
    first, second = dataset.slates("ann", "train")
    assert list(shown(first).items()) == [("i3", 0.0), ("i1", 2.0), ("i2", 0.0)]
    assert list(shown(second).items()) == [("i2", 1.0), ("i4", 0.0)]
    assert first.position.tolist() == [0, 1, 2]
    np.testing.assert_allclose(first.propensity, [1.0, 0.5, 0.25])
    np.testing.assert_allclose(first.scores["production"], [0.1, 0.9, 0.5])
    assert (second.history.tolist(), second.event_type.tolist(), second.age_days.tolist()) == ([1], [3], [1.0])
    (of_bob,) = dataset.slates("bob", "train")
    assert list(shown(of_bob).items()) == [("i5", 0.0), ("i6", 0.0), ("i7", 0.0), ("i8", 1.0)]
    assert dataset.brought_rows == ("production",)
    assert dataset.simulation_only is None


def test_of_a_list_the_clicked_ids_may_stand_alone(tmp_path):
    dataset = open_shown(tmp_path, as_json(tmp_path, clicked_ids=True))
    assert [chosen(slate) for slate in dataset.slates("ann", "train")] == [{"i1": 1.0}, {"i2": 1.0}]


def test_flags_are_flags_where_items_are_called_0_and_1(tmp_path):
    """Numbers as ids are common, and [1, 0, 0] is then both: the first was clicked, or the items 1 and 0."""
    write_csv(tmp_path / "items.csv", ["id", "title"], [[n, f"thing {n}"] for n in range(9)])
    rows = [{"user": "ann", "time": at(0), "shown": [5, 1, 0], "clicked": [1, 0, 0]}]
    rows += [{"user": "ann", "time": at(1), "shown": [5, 1, 0], "clicked": [0, 1]}]  # not one for each: ids
    (tmp_path / "shown.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"file": "shown.jsonl", "items": "shown", "clicked": "clicked", "user": "user", "time": "time"}
    dataset = tables.load(root=tmp_path, items={"file": "items.csv", "id": "id"}, impressions=columns, split=LATE)
    assert [chosen(slate) for slate in dataset.slates("ann", "train")] == [{"i5": 1.0}, {"i1": 1.0, "i0": 1.0}]


def test_two_people_who_count_their_impressions_alike_stay_two(tmp_path):
    rows = [["1", user, at(0), item, click] for user in ("ann", "bob") for item, click in (("i1", 1), ("i2", 0))]
    write_csv(tmp_path / "shown.csv", ["id", "user", "time", "shown", "clicked"], rows)
    columns = {"file": "shown.csv", "items": "shown", "clicked": "clicked", "user": "user", "time": "time", "id": "id"}
    dataset = open_shown(tmp_path, columns)
    assert [len(dataset.slates(user, "train")[0].candidates) for user in ("ann", "bob")] == [2, 2]


def test_ids_with_spaces_and_commas_are_ids_where_the_catalogue_has_them(tmp_path):
    write_csv(tmp_path / "items.csv", ["id", "title"], [[f"SKU {n}, new", f"thing {n}"] for n in range(9)])
    rows = [["ann", at(n // 3), f"SKU {n}, new", int(n % 3 == 1)] for n in range(9)]
    write_csv(tmp_path / "shown.csv", ["user", "time", "shown", "clicked"], rows)
    columns = {"file": "shown.csv", "items": "shown", "clicked": "clicked", "user": "user", "time": "time"}
    dataset = tables.load(root=tmp_path, items={"file": "items.csv", "id": "id"}, impressions=columns, split=LATE)
    assert [shown(slate) for slate in dataset.slates("ann", "train")] == [
        {f"i{n}": 0.0, f"i{n + 1}": 1.0, f"i{n + 2}": 0.0} for n in (0, 3, 6)
    ]


def test_events_without_a_time_beside_impressions_with_one_are_not_lost_in_silence(tmp_path):
    write_items(tmp_path)
    write_csv(tmp_path / "events.csv", ["user", "item"], [["ann", "i5"]])
    events = {"file": "events.csv", "user": "user", "item": "item"}
    dataset = tables.load(root=tmp_path, items=ITEMS, events=events, impressions=as_json(tmp_path), split=LATE)
    assert [slate.history.tolist() for slate in dataset.slates("ann", "train")] == [[], [1]]
    (note,) = dataset.notes
    assert note.startswith("tables: its events have no time, and what was shown beside them has")


def test_untimed_impressions_lie_in_parts_by_their_words_or_names(tmp_path):
    rows = [["ann", f"i{n % 12} i{(n + 1) % 12}", "1 0"] for n in range(60)]
    write_csv(tmp_path / "shown.csv", ["user", "shown", "clicked"], rows)
    columns = {"file": "shown.csv", "items": "shown", "clicked": "clicked", "user": "user"}
    dataset = open_shown(tmp_path, columns, split="auto")
    counts = {split: len(dataset.slates("ann", split)) for split in SPLITS}
    assert sum(counts.values()) == 60
    assert counts["train"] > counts["test"] > 0
    with pytest.raises(ConfigError, match="impressions that have times.*set dataset.split.by: query"):
        open_shown(tmp_path, columns, split="time")


def test_lists_that_were_shown_are_filled_up_only_where_it_is_said(tmp_path):
    plain = open_shown(tmp_path, as_json(tmp_path), candidates="catalogue")
    filled = open_shown(tmp_path, as_json(tmp_path), candidates={"from": "catalogue", "negatives": 5, "fill": True})
    for one, two in zip(plain.slates("ann", "train"), filled.slates("ann", "train"), strict=True):
        count = len(one.candidates)
        assert len(two.candidates) == 6
        np.testing.assert_array_equal(two.candidates[:count], one.candidates)
        assert two.relevance[count:].tolist() == [0.0] * (6 - count)
        assert two.position[count:].tolist() == [-1] * (6 - count)
        assert np.isnan(two.propensity[count:]).all()
        assert (two.scores["production"][count:] < one.scores["production"].min()).all()


def judged(root: Path, rows, **columns):
    write_items(root)
    write_csv(root / "judgments.csv", ["query", "item", "grade", "qid", "split"], rows)
    given = {"file": "judgments.csv", "query": "query", "item": "item", "grade": "grade", **columns}
    return tables.load(root=root, items=ITEMS, judgments=given, clients={"by": "all", "id": "shop"})


def test_grades_by_word_and_the_part_that_the_file_says(tmp_path):
    rows = [
        ["red shoes", "i0", "Exact", "q1", "train"],
        ["red shoes", "i1", "Partial", "q1", "train"],
        ["red shoes", "i1", "Irrelevant", "q1", "train"],  # of an item that is judged twice the better grade stands
        ["red shoes", "i2", "Irrelevant", "q1", "train"],
        ["bags", "i3", "Exact", "q2", "dev"],
        ["bags", "i4", "Irrelevant", "q2", "dev"],
        ["red shoes", "i5", "Exact", "q3", "TEST"],  # the same words asked again are another query by its id
        ["red shoes", "i6", "Irrelevant", "q3", "TEST"],
    ]
    gains = {"Exact": 1.0, "Partial": 0.5, "Irrelevant": 0}
    dataset = judged(tmp_path, rows, gains=gains, query_id="qid", split="split")
    found = {split: dataset.slates("shop", split) for split in SPLITS}
    assert [shown(slate) for slate in found["train"]] == [{"i0": 1.0, "i1": 0.5, "i2": 0.0}]
    assert [slate.query for slate in found["validation"]] == ["bags"]
    assert [(slate.query, shown(slate)) for slate in found["test"]] == [("red shoes", {"i5": 1.0, "i6": 0.0})]
    assert all(len(slate.history) == 0 for slates in found.values() for slate in slates)
    assert (dataset.split_by, dataset.simulation_only, dataset.kind("shop")) == ("column", None, "merchant")


def test_the_words_of_a_query_may_stand_in_a_table_of_their_own(tmp_path):
    write_csv(tmp_path / "queries.csv", ["qid", "text"], [["007", "red shoes"], ["8", "bags"]])
    rows = [["007", "i0", 2, "", ""], ["007", "i1", 0, "", ""]]
    dataset = judged(tmp_path, rows, texts={"file": "queries.csv", "id": "qid", "text": "text"})
    (slate,) = [slate for _, _, slate in all_slates(dataset)]
    assert (slate.query, shown(slate)) == ("red shoes", {"i0": 2.0, "i1": 0.0})


def test_a_catalogue_alone_gives_queries_graded_by_what_matches(tmp_path):
    dataset = load(tmp_path, clients="all", identity="shop")
    found = all_slates(dataset)
    assert {split for _, split, _ in found} >= {"train"}
    category = {f"i{n}": ("shoes", "bags")[n % 2] for n in range(12)}
    compared = 0
    for _, _, slate in found:
        if slate.query in ("shoes", "bags"):
            assert shown(slate) == {item: float(category[item] == slate.query) for item in shown(slate)}
            compared += 1
        assert max(slate.relevance) >= 1
    assert compared > 0
    assert (dataset.simulation_only, dataset.stand_in) == (None, None)


def test_a_catalogue_alone_is_the_same_wherever_it_lies(tmp_path):
    one, two = (load(tmp_path / name, clients="all") for name in ("here", "there"))
    assert one.version == two.version
    assert all(same(a, b) for (_, _, a), (_, _, b) in zip(all_slates(one), all_slates(two), strict=True))


def test_items_that_nobody_can_name_make_no_catalogue_alone(tmp_path):
    write_csv(tmp_path / "items.csv", ["id"], [["i0"], ["i1"]])
    with pytest.raises(DatasetError, match="no item has a title"):
        tables.load(root=tmp_path, items={"file": "items.csv", "id": "id"})


MANY = [(f"u{user}", f"i{(user * 5 + n) % 12}", at(n, user % 20)) for user in range(40) for n in range(6)]


@pytest.mark.parametrize(
    ("clients", "names"),
    [
        ("user", {f"u{user}" for user in range(40)}),
        ("merchant", {"s0", "s1", "s2"}),
        ("shop", {"s0", "s1", "s2"}),
        ("category", {"shoes", "bags"}),
        ("all", {"all"}),
        ({"by": "all", "id": "Our Shop"}, {"our-shop-58f871b41693"}),
        ({"by": "user", "min_slates": 7}, None),
    ],
)
def test_clients_are_whoever_the_settings_say(clients, names, tmp_path):
    if names is None:
        with pytest.raises(DatasetError, match="None of the 40 clients of tables has 7 slates; lower"):
            load(tmp_path, MANY, clients=clients)
        return
    dataset = load(tmp_path, MANY, clients=clients)
    assert set(dataset.client_ids) == names
    made = [(slate.time_days, item) for _, _, slate in all_slates(dataset) for item in chosen(slate)]
    assert sorted(made) == sorted((time / 86_400, item) for _, item, time in MANY)
    assert {dataset.kind(client) for client in dataset.client_ids} == {"device" if clients == "user" else "merchant"}


def test_clients_by_a_column_of_the_events_and_a_field_of_the_items(tmp_path):
    write_items(tmp_path)
    rows = [["ann", "i0", at(0), "north"], ["ann", "i1", at(1), "south"], ["bob", "i2", at(0), "south"]]
    write_csv(tmp_path / "events.csv", ["user", "item", "time", "region"], rows)
    events = {"file": "events.csv", "user": "user", "item": "item", "time": "time"}
    by_region = tables.load(root=tmp_path, items=ITEMS, events=events, clients="region", **OWN)
    assert by_region.client_ids == ("north", "south")
    assert by_region.slates("south", "train")[1].history.tolist() == []  # what ann did in the north is not known there
    by_colour = tables.load(
        root=tmp_path, items={**ITEMS, "fields": {"colour": "title"}}, events=events, clients="colour", **OWN
    )
    assert [client[:11] for client in by_colour.client_ids] == ["blue-thing-", "red-thing-0", "red-thing-2"]
    with pytest.raises(DatasetError, match="no column 'regoin'.*Did you mean 'region'"):
        tables.load(root=tmp_path, items=ITEMS, events=events, clients="regoin", **OWN)


def test_two_names_never_share_a_client(tmp_path):
    rows = [["i0", "a", "none"], ["i1", "b", ""], ["i2", "c", "blue"]]
    write_csv(tmp_path / "items.csv", ["id", "title", "colour"], rows)
    write_csv(tmp_path / "events.csv", ["user", "item", "time"], [["ann", f"i{n}", at(n)] for n in range(3)])
    dataset = tables.load(
        root=tmp_path,
        items={"file": "items.csv", "id": "id", "title": "title", "fields": ["colour"]},
        events={"file": "events.csv", "user": "user", "item": "item", "time": "time"},
        clients="colour",
        **(OWN | {"candidates": {"from": "catalogue", "fill": True}}),
    )
    assert len(set(dataset.client_ids)) == len(dataset.client_ids)


def test_a_name_that_looks_like_anothers_id_is_refused(tmp_path):
    with pytest.raises(
        DatasetError, match="Clients '女装', 'c-94409e1f00b4' would have one id, c-94409e1f00b4; rename"
    ):
        load(tmp_path, [("女装", "i0", at(0)), ("c-94409e1f00b4", "i1", at(0))])


@pytest.mark.parametrize("partition", ["iid", "quantity", "dirichlet"])
def test_a_partition_deals_each_person_to_one_client(partition, tmp_path):
    clients = {"partition": partition, "clients": 4, "seed": 3}
    dataset = load(tmp_path, MANY, clients=clients)
    again, other = load(tmp_path, MANY, clients=clients), load(tmp_path, MANY, clients={**clients, "seed": 4})

    def people(source):
        return {client: {slate.user for slate in source.slates(client, "train")} for client in source.client_ids}

    assert people(dataset) == people(again) != people(other)
    dealt = Counter(person for persons in people(dataset).values() for person in persons)
    assert sorted(dealt) == list(range(40))
    assert set(dealt.values()) == {1}
    sizes = sorted(map(len, people(dataset).values()), reverse=True)
    if partition == "iid":
        assert sizes == [10] * 4
    if partition == "quantity":  # shares 1, 1/2, 1/3, 1/4 over their sum 25/12
        np.testing.assert_allclose(sizes, np.array([12, 6, 4, 3]) * 40 / 25, atol=1)
    assert "dealt from one table" in dataset.stand_in
    with pytest.raises(ConfigError, match="clients.clients=41.*at most 40, the people"):
        load(tmp_path, MANY, clients={**clients, "clients": 41})


def test_judged_queries_are_dealt_by_their_seed_where_there_are_no_people(tmp_path):
    rows = [[f"query {n}", item, int(item == "i0")] for n in range(30) for item in ("i0", "i1")]
    write_items(tmp_path)
    write_csv(tmp_path / "judgments.csv", ["query", "item", "grade"], rows)
    columns = {"file": "judgments.csv", "query": "query", "item": "item", "grade": "grade"}

    def dealt(seed):
        items = {"file": "items.csv", "id": "id", "title": "title"}
        dataset = tables.load(root=tmp_path, items=items, judgments=columns, clients={"clients": 3, "seed": seed})
        return {slate.query: client for client, _, slate in all_slates(dataset)}

    one, two = dealt(0), dealt(1)
    assert len(one) == len(two) == 30
    assert set(one.values()) == set(two.values()) == {"client-0", "client-1", "client-2"}
    assert one == dealt(0) != two


def test_lists_that_are_cut_up_until_nothing_is_left_say_so(tmp_path):
    """Items make the clients where they have shops and nobody acts: a list of two items of two shops is then none."""
    rows = [[f"query {n}", item, int(item == "i0"), "", ""] for n in range(30) for item in ("i0", "i1")]
    assert len(all_slates(judged(tmp_path, rows))) == 30
    columns = {"file": "judgments.csv", "query": "query", "item": "item", "grade": "grade"}
    with pytest.raises(DatasetError, match="None of the 3 clients of tables has 1 slates"):
        tables.load(root=tmp_path, items=ITEMS, judgments=columns)


def test_parts_by_fractions_of_the_moments(tmp_path):
    dataset = load(tmp_path, [("ann", f"i{n % 12}", at(n, 12)) for n in range(100)], split="time")
    assert [len(dataset.slates("ann", split)) for split in SPLITS] == [70, 10, 20]
    last = {split: max(slate.time_days for slate in dataset.slates("ann", split)) for split in SPLITS}
    assert last["train"] < last["validation"] < last["test"]


def test_parts_by_public_days(tmp_path):
    split = {"validation_from": "2023-12-12", "test_from": "2023-12-13", "until": "2023-12-15"}
    dataset = load(tmp_path, [("ann", f"i{n}", at(n)) for n in range(10)], split=split)  # at(0) is the 9th
    found = {part: [set(chosen(slate)) for slate in dataset.slates("ann", part)] for part in SPLITS}
    assert found == {"train": [{"i0"}, {"i1"}, {"i2"}], "validation": [{"i3"}], "test": [{"i4"}, {"i5"}]}


def test_parts_by_query_keep_a_querys_slates_together(tmp_path):
    events = [(f"u{n % 7}", f"i{n % 12}", at(n), "click", f"query {n % 30}") for n in range(120)]
    found = all_slates(load(tmp_path, events, split="query"))
    parts = {slate.query: {split for _, split, other in found if other.query == slate.query} for _, _, slate in found}
    assert len(found) == 120
    assert all(len(splits) == 1 for splits in parts.values())
    assert {split for splits in parts.values() for split in splits} == set(SPLITS)


@pytest.mark.parametrize("edges", ["public days", "fractions", "hours of a few days"])
@pytest.mark.parametrize("origin", ["others_same_window", "same_query", "catalogue", "bm25"])
def test_candidates_come_from_their_origin_alone(origin, edges, tmp_path):
    """None was chosen in the moment, each was chosen by others in the window and before the part ends."""
    rng = np.random.default_rng(3)
    days = 4 if edges == "hours of a few days" else 40
    events = [
        (f"u{rng.integers(9)}", f"i{rng.integers(12)}", at(rng.uniform(0, days)), "click", f"thing {rng.integers(12)}")
        for _ in range(400)
    ]
    split = {"validation_from": "2024-01-05", "test_from": "2024-01-10"} if edges == "public days" else "time"
    candidates = {"from": origin, "negatives": 3, "window_days": 2}
    dataset = load(tmp_path, events, candidates=candidates, split=split, moment="hour")
    ends = dict(zip(SPLITS, dataset._parts.edges[1:], strict=True))
    compared = 0
    for client, split_name, slate in all_slates(dataset):
        hour = np.floor(slate.time_days * 24)
        bought = {item for user, item, time, *_ in events if user == client and time // 3600 == hour}
        others = set(shown(slate)) - set(chosen(slate))
        assert not others & bought
        assert len(others) <= 3
        mine = [(item, time / 86_400, query) for user, item, time, _, query in events if user != client]
        if origin == "others_same_window":
            first, last = np.floor(slate.time_days), min(np.floor(slate.time_days) + 3, ends[split_name])
            assert others <= {item for item, day, _ in mine if first <= day < last}
        if origin == "same_query":
            asked = {item for item, day, query in mine if query == slate.query and day < ends[split_name]} - bought
            assert asked <= others or others <= asked
        if origin == "bm25":
            assert f"i{slate.query.split()[1]}" in shown(slate) or f"i{slate.query.split()[1]}" in bought
        compared += len(others)
    assert compared > 400


def test_a_choice_that_finds_no_room_is_no_example_of_what_nobody_wants(tmp_path):
    """Ten were bought and two others fit: the eight that are dropped must not come back as not relevant."""
    events = [("ann", f"i{n}", at(0), "purchase") for n in range(10)]
    for seed in range(10):
        (slate,) = load(tmp_path, events, candidates={"from": "catalogue", "negatives": 2}, seed=seed).slates(
            "ann", "train"
        )
        assert len(chosen(slate)) == 2
        assert set(shown(slate)) - set(chosen(slate)) == {"i10", "i11"}


def test_rows_of_another_ranker_stand_in_the_slates_that_they_name(tmp_path):
    (tmp_path / "base.run").write_text(
        "p1 Q0 i1 1 9.5 base\np1 Q0 i3 2 8 base\np1 Q0 gone 3 7 base\np9 Q0 i1 1 1 base\n"
    )
    impressions = {**as_json(tmp_path), "score": None}
    dataset = open_shown(
        tmp_path, {key: value for key, value in impressions.items() if value}, rows={"base": "base.run"}
    )
    first, second = dataset.slates("ann", "train")
    assert list(first.scores) == ["base"]
    assert first.scores["base"].tolist() == [8.0, 9.5, 7.0]  # i2, which it did not name, lies below all others
    assert second.scores is None
    assert dataset.brought_rows == ("base",)
    assert any("base.run, line 3: an item that the catalogue lacks" in note for note in dataset.notes)
    with pytest.raises(ConfigError, match="with judgments or impressions"):
        load(tmp_path, MANY, rows={"base": "base.run"})


def test_identity_names_the_data_and_not_the_settings(tmp_path):
    one = load(tmp_path, MANY, identity="shop-2024")
    two = load(tmp_path, MANY, identity="shop-2024", seed=5, candidates={"from": "bm25"})
    assert one.data_identity("u1") == two.data_identity("u1") == "tables/shop-2024/user/u1"
    assert load(tmp_path, MANY).data_identity("u1") == f"tables/{tmp_path}/user/u1"
    assert one.version != two.version


FIELD = {"fields": ["colour"]}


def coloured(root: Path, colours, **shape):
    rows = [[f"i{n}", f"thing {n}", colours[n % len(colours)]] for n in range(12)]
    write_csv(root / "items.csv", ["id", "title", "colour"], rows)
    write_csv(root / "events.csv", ["user", "item", "time"], [row[:3] for row in MANY])
    return tables.load(
        root=root,
        items={"file": "items.csv", "id": "id", "title": "title", **FIELD},
        events={"file": "events.csv", "user": "user", "item": "item", "time": "time"},
        **(OWN | {"queries": {"derive": 1.0}} | shape),
    )


def test_the_version_moves_with_what_changes_a_slate(tmp_path):
    base = load(tmp_path / "a", MANY).version
    changed = {
        "another item": [(*MANY[0][:1], "i11", MANY[0][2]), *MANY[1:]],
        "another time": [(*MANY[0][:2], MANY[0][2] + 3600), *MANY[1:]],
        "another type": [(*MANY[0], "purchase"), *MANY[1:]],
        "another query": [(*MANY[0], "click", "shoes"), *MANY[1:]],
        "another person": [("u99", *MANY[0][1:]), *MANY[1:]],
        "one less": MANY[1:],
    }
    versions = {name: load(tmp_path / "a", events).version for name, events in changed.items()}
    for name, shape in {
        "seed": {"seed": 1},
        "negatives": {"candidates": {"from": "catalogue", "negatives": 4}},
        "moment": {"moment": "hour"},
        "split": {"split": {**LATE, "test_from": "2024-07-02"}},
        "clients": {"clients": "merchant"},
    }.items():
        versions[name] = load(tmp_path / "a", MANY, **shape).version
    assert base not in versions.values()
    assert len(set(versions.values())) == len(versions)


def test_the_version_moves_with_a_field_that_words_are_made_of(tmp_path):
    one, two = coloured(tmp_path, ["red", "blue"]), coloured(tmp_path, ["red", "green"])
    assert {slate.query for _, _, slate in all_slates(one)} != {slate.query for _, _, slate in all_slates(two)}
    assert one.version != two.version


def test_the_version_moves_with_scores_that_are_brought(tmp_path):
    versions = set()
    for score in ("9.5", "9.6"):
        (tmp_path / "base.run").write_text(f"p1 Q0 i1 1 {score} base\n")
        versions.add(open_shown(tmp_path, as_json(tmp_path), rows={"base": "base.run"}).version)
    assert len(versions) == 2


def test_the_version_stays_with_what_changes_no_slate(tmp_path):
    base = load(tmp_path / "a", MANY)
    moved = load(tmp_path / "b", MANY)
    named = load(tmp_path / "a", MANY, identity="shop", bad_rows=0.5)
    lost = load(tmp_path / "c", [*MANY, ("u1", "gone", at(1))])  # a row that is left out
    assert base.version == moved.version == named.version == lost.version
    assert [len(base.findings.of("warning")), len(lost.findings.of("warning"))] == [0, 1]


def test_the_source_is_not_touched_by_looking(tmp_path):
    dataset = load(tmp_path, MANY)
    before = [slate.candidates.tolist() for _, _, slate in all_slates(dataset)]
    dataset._composed.cache_clear()
    assert [slate.candidates.tolist() for _, _, slate in reversed(all_slates(dataset))] == before[::-1]


ACT = st.tuples(
    st.integers(0, 11),
    st.integers(0, 30),
    st.integers(0, 23),
    st.sampled_from(["view", "click", "purchase"]),
    st.sampled_from(["", "shoes", "red thing"]),
)
OF_ANN = [(1, 2, 9, "click", ""), (4, 2, 10, "purchase", "shoes"), (7, 5, 1, "view", ""), (3, 9, 3, "click", "")]
CLIENTS_OWN = {
    "events": {},
    "hours and derived words": {"moment": "hour", "queries": {"derive": 0.5}},
    "nearest titles": {"candidates": {"from": "bm25", "negatives": 5}},
    "parts by query": {"split": "query"},
    "everybody at one client": {"clients": "all"},
    "by shop": {"clients": "merchant"},
}


def events_of(name, acts):
    return [(name, f"i{item}", at(day, hour), kind, query) for item, day, hour, kind, query in acts]


def of_person(dataset, name):
    number = list(dataset.source.users).index(name)
    return [(client, split, slate) for client, split, slate in all_slates(dataset) if slate.user == number]


def assert_same_slates(one, two):
    assert [row[:2] for row in one] == [row[:2] for row in two]
    assert all(same(a, b) for (_, _, a), (_, _, b) in zip(one, two, strict=True))


@pytest.mark.parametrize("case", list(CLIENTS_OWN))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.lists(ACT, max_size=8), second=st.lists(ACT, max_size=8), before=st.booleans())
def test_one_persons_events_change_nothing_in_anothers_slates(case, first, second, before, tmp_path):
    shape = CLIENTS_OWN[case]
    found = []
    for acts in (first, second):
        of_bob, of_ann = events_of("bob", acts), events_of("ann", OF_ANN)
        rows = of_bob + of_ann if before else of_ann + of_bob
        found.append(of_person(load(tmp_path, rows, **shape), "ann"))
    assert found[0]
    assert_same_slates(*found)


@pytest.mark.parametrize("split", ["query", LATE])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.lists(ACT, max_size=6), second=st.lists(ACT, max_size=6), ids=st.booleans())
def test_one_persons_impressions_change_nothing_in_anothers_slates(split, first, second, ids, tmp_path):
    found = []
    for acts in (first, second):
        rows = [("bob", number, *act) for number, act in enumerate(acts)]
        rows += [("ann", number, *act) for number, act in enumerate(OF_ANN)]
        lines = [
            {"user": user, "id": str(number), "time": at(day, hour), "shown": [f"i{item}", "i11"], "clicked": [1, 0]}
            for user, number, item, day, hour, *_ in rows
        ]
        (tmp_path / "shown.jsonl").write_text("\n".join(map(json.dumps, lines)))
        columns = {"file": "shown.jsonl", "items": "shown", "clicked": "clicked", "user": "user", "time": "time"}
        candidates = {"from": "catalogue", "negatives": 6, "fill": True}
        dataset = open_shown(tmp_path, columns | ({"id": "id"} if ids else {}), split=split, candidates=candidates)
        found.append(of_person(dataset, "ann"))
    assert len(found[0]) == len(OF_ANN)
    assert_same_slates(*found)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(["ann", "bob", "cid", "dan"]))
def test_the_order_of_people_in_the_file_changes_nothing(order, tmp_path):
    acts = {
        name: [(item + shift) % 12 for item, *_ in OF_ANN] for shift, name in enumerate(["ann", "bob", "cid", "dan"])
    }
    rows = [(name, f"i{item}", at(n)) for name in order for n, item in enumerate(acts[name])]
    plain = [(name, f"i{item}", at(n)) for name in acts for n, item in enumerate(acts[name])]
    one, two = load(tmp_path / "a", plain), load(tmp_path / "b", rows)
    assert set(one.client_ids) == set(two.client_ids)
    for name in acts:
        assert_same_slates(of_person(one, name), of_person(two, name))


REGISTERED, CUT, DEALT, UNNAMED = (
    "A person is registered",
    "cut out of one table",
    "dealt from one table",
    "by the folder",
)
ONLY = {
    "drawn from others": ({"candidates": "others_same_window"}, "other people's choices", REGISTERED),
    "drawn from others by words": ({"candidates": "same_query"}, "other people's choices", REGISTERED),
    "auto": ({"candidates": {"negatives": 3}}, "other people's choices", REGISTERED),
    "cut at fractions": ({"split": "time"}, "fractions of everybody's times", REGISTERED),
    "clients by shop": ({"clients": "merchant"}, None, CUT),
    "dealt": ({"clients": {"partition": "iid", "clients": 4}}, None, DEALT),
    "by person": ({}, None, REGISTERED),
    "by person and query": ({"split": "query"}, None, REGISTERED),
    "one client at fractions": ({"clients": "all", "split": "time"}, "fractions of everybody's times", None),
    "one client": ({"clients": "all", "candidates": "bm25"}, None, None),
    "one client without a name": ({"clients": "all", "identity": None}, None, UNNAMED),
}
PRIVATE = {"mechanism": "dp_sgd", "unit": "user", "noise_multiplier": 1.0, "budget_epsilon": 8.0, "noise": "secure"}
SAFE = {**PRIVATE, "ledger": "/var/lib/ledger.sqlite"}


@pytest.mark.parametrize("case", list(ONLY))
def test_what_holds_for_a_simulation_alone_says_so(case, tmp_path):
    shape, simulation_only, stand_in = ONLY[case]
    dataset = load(tmp_path, MANY, columns={"time_unit": "s"}, **({"identity": "shop", "bad_rows": 1.0} | shape))
    for said, expected in ((dataset.simulation_only, simulation_only), (dataset.stand_in, stand_in)):
        assert (said is None) == (expected is None)
        assert expected is None or expected in said
    user, slate = parse({"privacy": SAFE}), parse({"privacy": {**SAFE, "unit": "slate"}})
    if simulation_only:
        with pytest.raises(PrivacyError, match="privacy.unit=user can't be promised over data set tables"):
            check_unit(user, dataset)
    else:
        check_unit(user, dataset)
    check_unit(slate, dataset)
    if simulation_only or stand_in:
        with pytest.raises(PrivacyError, match="is for simulations only"):
            check_deployment(user, dataset)
    else:
        check_deployment(user, dataset)


def test_a_share_of_bad_rows_that_stops_a_client_is_for_no_deployment(tmp_path):
    dataset = load(tmp_path, MANY, columns={"time_unit": "s"}, clients="all", identity="shop")
    with pytest.raises(PrivacyError, match="dataset.bad_rows=0.01 stops a client"):
        check_deployment(parse({"privacy": SAFE}), dataset)


def test_a_merchants_table_is_no_devices(tmp_path):
    privacy = {"mechanism": "client_update", "unit": "client", "noise_multiplier": 1.0, "sampling_rate": 0.1}
    device = parse({"privacy": privacy})
    check_unit(device, load(tmp_path, MANY))
    with pytest.raises(PrivacyError, match="unit=client means one person, and client all"):
        check_unit(device, load(tmp_path, MANY, clients="all"))
    with pytest.raises(PrivacyError, match="can't be promised"):
        check_unit(device, load(tmp_path, MANY, candidates="others_same_window"))


def test_a_shop_with_all_its_tables_is_read_whole(tmp_path):
    shops.write_shop(tmp_path, items=60, people=10)
    dataset = tables.load(
        root=tmp_path,
        items=shops.ITEMS,
        events=shops.EVENTS,
        impressions=shops.IMPRESSIONS,
        judgments=shops.JUDGMENTS,
        clients="all",
        split=LATE,
    )
    found = all_slates(dataset)
    assert [finding for finding in dataset.findings if finding.level != "note"] == []
    assert sum(1 for _, _, slate in found if len(slate.history)) > 20  # events are the history of what was shown
    assert {slate.user for _, _, slate in found if slate.time_days == 0} & set(range(10)) == set()  # nobody's judgments
    with pytest.raises(ConfigError, match="Unknown setting 'dataset.events.usr'.*Did you mean 'user'"):
        tables.load(root=tmp_path, items=shops.ITEMS, events={**shops.EVENTS, "usr": "x"})
