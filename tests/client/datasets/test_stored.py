"""At stake: what a client kept since its tables were written is trained on, and stays in its own folder."""

from __future__ import annotations

import time

import numpy as np
import pytest

from client.datasets.tables import load
from client.event_store import SHOWN, EventStore, LoggedEvent
from client.promises import check_deployment
from client.workspace import open_workspace
from mmrank.errors import DatasetError, PrivacyError
from mmrank.settings import parse
from tests.client.datasets import shops

NOW = time.time() / 86_400
ALONE = {"clients": {"by": "all", "id": "shop-1"}, "candidates": "catalogue", "identity": "shop", "bad_rows": 1.0}
PUBLIC = {"validation_from": "2200-01-01", "test_from": "2200-01-01"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    shops.write_shop(root)
    return root


def event(item, days_ago, kind="click", **changes):
    return LoggedEvent(user="u1", item=item, time_days=NOW - days_ago, type=kind, **changes)


def stored(root, name, *events):
    EventStore(root / name, durable=False).append(events)
    return load(root=root, items=shops.ITEMS, store=name, split=PUBLIC, **ALONE)


def test_new_events_are_slates_with_what_the_person_did_before(written):
    dataset = stored(written, "a.sqlite", event("00001", 5), event("00002", 3, "purchase"), event("00003", 3, "view"))
    first, second = dataset.slates("shop-1", "train")
    index = dataset.catalog.index_of
    assert first.candidates[first.relevance > 0].tolist() == [index["00001"]]
    assert second.candidates[second.relevance > 0].tolist() == [index["00002"]]
    assert index["00003"] in second.candidates, "what was only seen stands beside it"
    assert second.history.tolist() == [index["00001"]]
    assert second.age_days[0] == pytest.approx(2.0, abs=1e-3)


def test_what_was_shown_is_a_slate_in_its_order_with_what_was_done(written):
    shown = [event(f"0000{n}", 2, SHOWN, slate="s1", position=3 - n, query="red", propensity=0.5) for n in (1, 2, 3)]
    dataset = stored(
        written, "b.sqlite", event("00009", 8), *shown, event("00002", 2, "purchase", slate="s1", query="red")
    )
    (slate,) = dataset.slates("shop-1", "train")
    index = dataset.catalog.index_of
    assert slate.candidates.tolist() == [index["00003"], index["00002"], index["00001"]]
    assert slate.relevance.tolist() == [0.0, 2.0, 0.0]
    assert slate.position.tolist() == [0, 1, 2]
    assert slate.query == "red"
    assert np.allclose(slate.propensity, 0.5)
    assert slate.history.tolist() == [index["00009"]]


def test_events_of_tables_and_store_are_one_history(written):
    EventStore(written / "c.sqlite", durable=False).append([event("00001", 1)])
    dataset = load(root=written, items=shops.ITEMS, events=shops.EVENTS, store="c.sqlite", split=PUBLIC, **ALONE)
    last = dataset.slates("shop-1", "train")[-1]
    assert last.time_days == pytest.approx(NOW - 1, abs=1e-6)
    assert len(last.history) > 5, "u1 has a past in the tables"


def test_a_store_that_is_not_there_yet_and_tables_without_a_row_are_a_client_without_data(written, tmp_path):
    shops.write_csv(tmp_path / "items.csv", ["item_id", "title"], [["1", "a"], ["2", "b"]])
    shops.write_csv(tmp_path / "events.csv", ["user_id", "item_id", "timestamp", "event_type", "query"], [])
    items = {"file": "items.csv", "id": "item_id", "title": "title"}
    for tables in ({"events": shops.EVENTS}, {"events": shops.EVENTS, "store": "none.sqlite"}):
        dataset = load(root=tmp_path, items=items, split=PUBLIC, **tables, **ALONE)
        assert list(dataset.client_ids) == ["shop-1"]
        assert dataset.slates("shop-1", "train") == []
    assert not (tmp_path / "none.sqlite").exists()


def test_a_store_outside_of_the_folder_is_refused(written, tmp_path):
    with pytest.raises(DatasetError, match="leads out of"):
        load(root=written, items=shops.ITEMS, store="../elsewhere.sqlite", **ALONE)


def deployed(root, **changes):
    privacy = {
        "mechanism": "dp_sgd",
        "epsilon": 4.0,
        "ledger": str(root / "ledger.sqlite"),
    }
    shape = {**ALONE, "split": PUBLIC, **changes}
    events = {**shops.EVENTS, "time_unit": "s"}
    spec = {"name": "tables", "root": str(root), "items": shops.ITEMS, "events": events, **shape}
    return parse({"privacy": privacy, "dataset": spec}), load(**{k: v for k, v in spec.items() if k != "name"})


def test_a_deployment_takes_a_folder_that_is_one_client_and_refuses_all_else(written):
    check_deployment(*deployed(written))
    for changes, said in (
        ({"clients": "user"}, "by: all"),
        ({"clients": "merchant"}, "by: all"),
        ({"clients": {"partition": "iid", "clients": 3}}, "by a seed"),
        ({"identity": None}, "dataset.identity"),
        ({"bad_rows": 0.01}, "dataset.bad_rows: 1"),
        ({"events": shops.EVENTS}, "dataset.events.time_unit"),
        ({"split": None}, "validation_from"),
        ({"candidates": None}, "candidates.from: catalogue"),
    ):
        settings, dataset = deployed(written, **changes)
        with pytest.raises(PrivacyError, match=said):
            check_deployment(settings, dataset)


def test_a_nodes_own_folder_takes_the_place_of_the_root(written, tmp_path):
    config = tmp_path / "node.yaml"
    config.write_text(
        f"""
dataset:
  name: tables
  root: /nowhere
  items: {{file: items.csv, id: item_id, title: title}}
  events: {{file: events.csv, user: user_id, item: item_id, time: timestamp, type: event_type}}
  clients: {{by: all, id: shop-1}}
model: {{text: hashing, image: histogram, feature_dim: 16, dim: 8}}
features_cache: {tmp_path / "cache"}
"""
    )
    workspace = open_workspace(config, tmp_path / "state", data_path=written)
    assert workspace.dataset.root == written
    assert len(workspace.slates("shop-1", "train")) > 10
