"""At stake: somebody who writes otherwise than the shop finds the product all the same."""

from __future__ import annotations

from functools import cache

import bm25s
import numpy as np
import pytest

from mmrank.encoders.text import hashing, tfidf
from mmrank.encoders.text._tokens import tokens
from tests.encoders.chinese_titles import SEARCHES, TITLES

QUERIES = [(query, title) for title, queries in SEARCHES.items() for query in queries]


@cache
def scorer(kind: str) -> object:
    if kind == "tfidf":
        return tfidf.build(feature_dim=len(TITLES)).fit(TITLES)
    return hashing.build(feature_dim=1024).fit(TITLES)


@pytest.mark.parametrize("kind", ["tfidf", "hashing"])
@pytest.mark.parametrize(("query", "title"), QUERIES)
def test_a_query_from_elsewhere_finds_its_product_first(kind: str, query: str, title: str) -> None:
    encoder = scorer(kind)
    scores = encoder.rows(TITLES) @ encoder.rows([query])[0]  # type: ignore[attr-defined]
    assert TITLES[int(np.argmax(scores))] == title


def test_so_does_bm25() -> None:
    index = bm25s.BM25()
    index.index([tokens(title) for title in TITLES], show_progress=False)
    for query, title in QUERIES:
        scores = index.get_scores([word for word in tokens(query) if word in index.vocab_dict])
        assert TITLES[int(np.argmax(scores))] == title, query
