"""If an interaction misses its ranking, or a history looks ahead, the log trains on what never happened."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.datasets import metarank
from client.datasets._reading.findings import Findings
from client.datasets._shaping.settings import shape_of
from mmrank.errors import ConfigError, DatasetError
from mmrank.slates import EVENT_TYPES
from tests.client.datasets.fixtures_search import (
    FIRST,
    METARANK,
    assert_survives,
    event,
    injuries,
    named,
    slates_of,
    source_of,
    write_events,
    write_metarank,
)

LATER = {"validation_from": "2030-01-01", "test_from": "2030-01-02"}
LIKE = {"types": {"like": "cart"}}


@pytest.fixture
def root(tmp_path):
    write_events(tmp_path / "events.jsonl", METARANK)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metarank")
    write_metarank(folder, people=2)
    return folder


def test_of_an_item_that_comes_again_each_field_is_the_newest(root):
    source = source_of(metarank, root, fields=["is_cute"], **LIKE)
    catalog = source.catalog
    assert catalog.item_ids == ("7", "8", "9")
    assert catalog.titles == ("Nice jeans", "Red hat", "Old boots")
    np.testing.assert_allclose(catalog.prices, [19.5, 9.0, np.nan])
    assert [catalog.category_names[index] for index in catalog.categories.tolist()] == ["trousers", "hats", "shoes"]
    assert source.fields["is_cute"] == ["", "true", ""]


def test_a_ranking_is_a_slate_with_what_was_done_with_it(root):
    dataset = metarank.load(root=root, split=LATER, bad_rows=1.0, **LIKE)
    assert dataset.client_ids == ("ann", "s2")
    split, slate = slates_of(dataset)["hat"]
    assert split == "train"
    assert named(dataset, slate.candidates) == ["7", "8", "9"]
    assert slate.relevance.tolist() == [0.0, 2.0, 3.0]  # a click before its ranking and a purchase after; a label
    assert slate.position.tolist() == [0, 1, 3]  # what stood third is not described
    np.testing.assert_allclose(slate.scores["production"], [2.0, 1.5, 0.5])
    assert slate.time_days == pytest.approx((FIRST + 5) / 86_400)
    assert named(dataset, slate.history) == ["9", "7"]
    assert [EVENT_TYPES[kind] for kind in slate.event_type.tolist()] == ["cart", "click"]
    np.testing.assert_allclose(slate.age_days, np.array([3, 2]) / 86_400, atol=1e-7)
    (other,) = dataset.slates("s2", "train")
    assert named(dataset, other.candidates) == ["9", "8"]
    assert other.time_days == 19_676.0
    assert len(other.history) == 0


def test_without_rankings_what_people_did_makes_slates(tmp_path):
    did = [one for one in METARANK if one["event"] in ("item", "metadata")]
    did += [
        event(
            "interaction",
            FIRST + 86_400 * day,
            id=f"c{day}",
            item=item,
            user="ann",
            type="click",
            fields={"query": "hat"},
        )
        for day, item in enumerate("789")
    ]
    write_events(tmp_path / "log.jsonl", did)
    dataset = metarank.load(root=tmp_path, split=LATER, candidates="catalogue")
    found = dataset.slates("ann", "train")
    assert [named(dataset, slate.candidates[slate.relevance > 0]) for slate in found] == [["7"], ["8"], ["9"]]
    assert [slate.query for slate in found] == ["hat"] * 3
    assert named(dataset, found[2].history) == ["7", "8"]


def test_packed_and_plain_files_are_one_log_and_tenants_may_be_clients(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as packed:
        packed.writelines(json.dumps({**one, "tenant": "Shop 1"}) + "\n" for one in METARANK[:6])
    write_events(tmp_path / "b.jsonl", [{**one, "tenant": "Shop 1"} for one in METARANK[6:]])
    dataset = metarank.load(root=tmp_path, clients="tenant", split=LATER, bad_rows=1.0, **LIKE)
    assert len(dataset.client_ids) == 1
    assert dataset.client_ids[0].startswith("shop-1-")
    assert slates_of(dataset)["hat"][1].relevance.tolist() == [0.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "stamp",
    [(FIRST + 5) * 1000, str((FIRST + 5) * 1000), FIRST + 5, "2023-11-14T22:13:25Z", "2023-11-15T06:13:25+08:00"],
)
def test_a_time_may_be_written_in_each_documented_form(tmp_path, stamp):
    write_events(tmp_path / "events.jsonl", [METARANK[0], METARANK[1], {**METARANK[5], "timestamp": stamp}])
    assert source_of(metarank, tmp_path).lists[0].time[0] == pytest.approx((FIRST + 5) / 86_400, abs=1e-9)


def test_bad_lines_are_left_out_with_their_number_and_the_rest_goes_on(root):
    wrong = [
        {"event": "click", "id": "1", "timestamp": "1700000000000"},
        event("item", "soon", item="10"),
        event("item", 4_000_000_000, item="10"),
        event("item", FIRST, item=""),
        event("ranking", FIRST, id="r1", items=[{"id": "7"}]),
        event("ranking", FIRST, id="r3", items=[]),
        event("interaction", FIRST, id="c9", item="404", user="bob", type="click"),
        event("interaction", FIRST, id="c9", item="7", user="bob", type="Wave"),
        {**event("item", FIRST, item="11"), "fields": [{"value": 3}, {"name": "title", "value": "Sock"}]},
        event("ranking", FIRST, id="r4", items=[{"id": "7"}, {"name": "8"}]),
    ]
    with (root / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in wrong)
        file.write('{"event": "item", \n["a list"]\n')
    source = source_of(metarank, root, now_days=20_000.0, **LIKE)
    found = {found.code: (found.text.split(";")[0], found.lines) for found in source.findings}
    assert found == {
        "event": ("no event of item, user, ranking or interaction, left out", (13,)),
        "time": ("timestamp: no milliseconds since 1970 and not ISO 8601", (14,)),
        "time_future": ("timestamp: before 1970 or in the future", (15,)),
        "id": ("item: no id of 1 to 1000 letters", (16,)),
        "duplicate_ranking": ("a ranking whose id an earlier one has", (17,)),
        "ranking": ("a ranking without id or items", (18,)),
        "type": ("type: 'Wave' means nothing here", (20,)),
        "fields": ("fields: no list of {name, value}", (21,)),
        "ranking_item": ("an item of a ranking without id", (22,)),
        "json": (found["json"][0], (23, 24)),
        "item_join": ("an item that no event describes", (6,)),
        "act_join": ("an item that no event describes", (19,)),
        "ranking_join": ("an interaction of a ranking that is not there, or that did not show the item", (9,)),
        "ranking_user": ("a ranking without user or session", (22,)),
    }
    assert found["json"][0].startswith("not JSON")
    assert source.catalog.titles[-1] == "Sock"
    assert source.lists[0].query_id == ("r1", "r2", "r4")
    assert source.events is not None
    assert len(source.events) == 2
    with pytest.raises(DatasetError, match="of 24 rows are left out"):
        metarank.load(root=root, **LIKE)


def test_a_value_of_another_type_is_taken_for_none(tmp_path):
    beside = [{"id": 1, "fields": [{"name": "stock", "value": 3}], "relevancy": 0.5}, {"id": "2", "label": 1e300}]
    events = [
        event("item", FIRST, item=1, fields={"title": ["Sock", "red", 7, {"a": 1}], "price": "free"}),
        event("item", FIRST, item="2", fields={"title": None, "price": 1e300}),
        {**event("item", FIRST, item="3"), "timestamp": True},
        event("ranking", FIRST, id="r", user=5, fields={"query": ["red", "sock"]}, items=beside),
        {**event("interaction", FIRST, item={"id": 1}, type="click"), "fields": "none"},
    ]
    write_events(tmp_path / "events.jsonl", events)
    source = source_of(metarank, tmp_path)
    assert source.catalog.item_ids == ("1", "2")
    assert source.catalog.titles == ("Sock red 7", "")
    assert np.isnan(source.catalog.prices).all()
    assert source.users == ("5",)
    assert source.queries == ("red sock",)
    lists = source.lists[0]
    np.testing.assert_allclose(lists.score, [0.5, np.nan])
    assert lists.relevance.tolist() == [0.0, 0.0]
    assert {found.code: found.lines for found in source.findings} == {"time": (3,), "id": (5,), "price": ()}


def test_a_title_that_no_item_has_is_said_with_those_there_are(root):
    found = [str(found) for found in source_of(metarank, root, title="name", **LIKE).findings]
    assert any(
        "no item has a field name, so none has a title; set dataset.title to one of: category, is_cute" in text
        for text in found
    )
    assert (
        source_of(metarank, root, title=["title", "category"], **LIKE).catalog.titles[0] == "Nice jeans. trousers sale"
    )


def test_files_that_are_none_are_refused_in_words(tmp_path):
    with pytest.raises(DatasetError, match=r"no file is called \*\.jsonl\*"):
        source_of(metarank, tmp_path)
    write_events(tmp_path / "events.jsonl", METARANK[3:6])
    with pytest.raises(DatasetError, match="no event of an item in it"):
        source_of(metarank, tmp_path)
    for types, words in (({"like": "love"}, "like='love' to be one of view, click"), (["like"], "as {like: cart}")):
        with pytest.raises(ConfigError, match=words):
            source_of(metarank, tmp_path, types=types)


def test_lines_are_told_as_they_are_read(whole):
    seen: list[int] = []
    metarank.read(whole.resolve(), shape=shape_of({}), findings=Findings(), progress=seen.append)
    lines = len(METARANK) + (whole / "events-2.jsonl").read_text().count("\n")
    assert sum(seen) == lines


@given(file=st.sampled_from(["events-1.jsonl.gz", "events-2.jsonl"]), injury=injuries())
@settings(max_examples=80)
def test_a_damaged_file_is_read_or_refused(whole, file, injury):
    assert_survives(metarank, whole, file, injury)
