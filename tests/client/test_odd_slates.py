"""At stake: one odd slate must not turn an answer into an error, nor a log into a line: both tell that it is there."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from client.vault import Vault
from client.workspace import LEFT_OUT
from tests.client.shop import ToyDataset, toy_features, toy_request, toy_settings, toy_workspace


class WithOne(ToyDataset):
    """The small client's slates, and one more."""

    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def slates(self, client_id, split):
        found = super().slates(client_id, split)
        return [*found, replace(found[0], **self.changes)] if found else found


ODD = {
    "plain": {},
    "an item outside the catalogue": {"candidates": np.arange(8) + 10**6},
    "half a surrogate in the query": {"query": "shoes \ud83d"},
    "NUL in the query": {"query": "\x00"},
    "long query": {"query": "shoe " * 20000},
    "huge relevance": {"relevance": np.full(8, 1e30, np.float32)},
    "float64 relevance": {"relevance": np.full(8, 1e300)},
    "relevance in two columns": {"relevance": np.zeros((8, 2), np.float32)},
    "negative age": {"age_days": np.full(5, -1e30, np.float32)},
    "far position": {"position": np.full(8, 2**62)},
    "uint64 position": {"position": np.full(8, 2**64 - 1, np.uint64)},
    "no candidates": {
        "candidates": np.zeros(0, np.int64),
        "relevance": np.zeros(0, np.float32),
        "position": np.zeros(0, np.int64),
    },
    "person -1": {"user": -1},
    "person 2^63": {"user": 2**63},
    "person by name": {"user": "anna"},
    "float items": {"candidates": np.arange(8) + 0.5},
    "float events": {"event_type": np.full(5, 0.5)},
    "query is numpy text": {"query": np.str_("shoes")},
    "time is text": {"time_days": "yesterday"},
    "time is no number": {"time_days": float("nan")},
    "fewer ages than events": {"age_days": np.full(2, 90.0, np.float32)},
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return toy_features(tmp_path_factory.mktemp("features"))


@pytest.mark.parametrize("unit", ["slate", "user"])
@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_slate_gives_an_answer_like_any_other(name, unit, features, tmp_path, caplog):
    changes = {"unit": "user", "slates_per_user": 2} if unit == "user" else {}
    workspace = toy_workspace(
        tmp_path, features, toy_settings(sampling_rate=1.0, **changes), dataset=WithOne(**ODD[name])
    )
    with caplog.at_level(logging.DEBUG):
        reply = Vault(workspace, "small").train(toy_request(workspace))
    assert reply.code == "ok"
    said = [record for record in caplog.records if "Left out" not in record.getMessage()]  # the owner's own, see below
    assert said == []


def test_a_deployed_client_says_what_was_left_out_at_home_alone(features, tmp_path, caplog):
    settings = toy_settings(
        noise="secure", ledger=str(tmp_path / "ledger.sqlite"), budget_epsilon=50.0, sampling_rate=1.0
    )
    workspace = toy_workspace(tmp_path / "state", features, settings, dataset=WithOne(user="anna"), deployment=True)
    with caplog.at_level(logging.DEBUG):
        assert Vault(workspace, "small").train(toy_request(workspace)).code == "ok"
    assert caplog.records == []
    path = tmp_path / "state" / LEFT_OUT
    assert "small: 1 of 6 slates" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
