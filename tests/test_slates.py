"""At stake: padding must never look like an item, and histories keep their newest events."""

import numpy as np
import torch

from mmrank.slates import PADDING, Slate, collate


def slate(candidates, history=(), query="red shoes"):
    return Slate(
        query=query,
        candidates=np.array(candidates, np.int64),
        relevance=np.arange(len(candidates), dtype=np.float32),
        position=np.arange(len(candidates)),
        history=np.array(history, np.int64),
        event_type=np.ones(len(history), np.int64),
        age_days=np.arange(len(history), 0, -1, dtype=np.float32),
        time_days=3.0,
        user=0,
    )


def test_short_slates_are_padded_and_long_histories_keep_the_newest():
    batch = collate([slate([5, 6, 7], [1, 2, 3]), slate([8])], history_length=2)
    assert batch.candidates.tolist() == [[5, 6, 7], [8, PADDING, PADDING]]
    assert batch.candidate_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.history.tolist() == [[2, 3], [PADDING, PADDING]]
    assert batch.age_days.tolist() == [[2.0, 1.0], [0.0, 0.0]]


def test_a_public_width_tells_nothing_of_the_slates():
    assert collate([slate([5])], history_length=4, slate_length=6).candidates.shape == (1, 6)
    assert collate([slate(range(9))], history_length=4, slate_length=6).candidates.tolist() == [list(range(6))]
    assert collate([], history_length=4, slate_length=6).candidates.shape == (0, 6)


def test_selecting_keeps_slates_whole_and_none_is_allowed():
    batch = collate([slate([5], query="a"), slate([6], query="b"), slate([7], query="c")], history_length=2)
    picked = batch.select([2, 0])
    assert picked.query == ("c", "a")
    assert picked.candidates.flatten().tolist() == [7, 5]
    assert len(batch.select(torch.zeros(0, dtype=torch.int64))) == 0


def test_without_history_is_a_stranger():
    assert len(slate([1], [2, 3]).without_history().history) == 0
