"""At stake: the answer in a shop must be the model's, and must follow what the person just did."""

import numpy as np
import pytest
import torch

from mmrank.errors import ConfigError
from mmrank.features import build_features
from mmrank.ranker import gather
from mmrank.ranking import Event, ItemIndex, history_of, parse_event
from mmrank.slates import collate
from tests.ranker.test_ranker import random_ranker
from tests.toys import toy_catalog, toy_model, toy_slates


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    features = build_features(toy_catalog(), toy_model(), cache_dir=tmp_path_factory.mktemp("features"))
    return ItemIndex(random_ranker(), features)


def test_the_cached_path_gives_the_models_own_scores(index):
    slate = toy_slates(1)[0]
    events, now = history_of([slate])
    events = [event for event in events if event.time_days < now]
    answer = index.rank(slate.query, events, now_days=now, top=8, candidates=slate.candidates)
    batch = collate([slate], history_length=6)
    with torch.inference_mode():
        direct = index.ranker(gather(batch, index.features, index.ranker.model))[0]
    expected = dict(zip(slate.candidates.tolist(), direct.tolist(), strict=True))
    assert {line.item for line in answer} == set(expected)
    assert [line.score for line in answer] == sorted((line.score for line in answer), reverse=True)
    for line in answer:
        assert line.score == pytest.approx(expected[line.item], abs=1e-5)


def test_a_new_event_changes_the_next_answer(index):
    events, now = history_of(toy_slates(1))
    before = index.rank("running shoes", events, now_days=now, top=10)
    after = index.rank("running shoes", [*events, Event(item=7, event_type=3, time_days=now)], now_days=now, top=10)
    assert before != after
    assert index.rank("running shoes", events, now_days=now, top=10) == before


def test_retrieval_finds_the_words_in_either_language(tmp_path):
    model = toy_model(text={"name": "tfidf"})
    index = ItemIndex(random_ranker(model), build_features(toy_catalog(), model, cache_dir=tmp_path))
    for query in ("running shoes", "运动鞋"):
        found = index.retrieve(query, limit=8)
        assert np.mean(index.features.category.numpy()[found] == 0) >= 0.7, query
    assert len(index.retrieve("", limit=8)) == 40


def test_history_is_what_was_before_and_what_came_of_each_slate():
    slate = toy_slates(1)[0]
    events, now = history_of([slate])
    assert now == slate.time_days
    assert len(events) == len(slate.history) + int((slate.relevance > 0).sum())
    assert [event.time_days for event in events] == sorted(event.time_days for event in events)
    assert history_of([]) == ([], 0.0)


def test_an_event_as_a_person_types_it():
    catalog = toy_catalog()
    assert parse_event("purchase:item-7", catalog, time_days=2.0) == Event(item=7, event_type=3, time_days=2.0)
    with pytest.raises(ConfigError, match="type:item_id"):
        parse_event("bought:item-7", catalog, time_days=2.0)
    with pytest.raises(ConfigError, match="No item 'item-x'"):
        parse_event("click:item-x", catalog, time_days=2.0)
