"""BM25 over a catalogue's titles (Robertson et al. 1994), by the bm25s library; words are cut as for the encoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmrank.encoders.text._tokens import tokens


class TitleSearch:
    """An index of N titles."""

    def __init__(self, titles: Sequence[str]) -> None:
        import bm25s  # it brings scipy's sparse matrices, which most processes do without

        self._index = bm25s.BM25()
        self._index.index([tokens(title) or [""] for title in titles], show_progress=False)
        self._known = frozenset(self._index.vocab_dict)

    def scores(self, query: str) -> np.ndarray | None:
        """float32 [N], of each title; None where no title has any of the words."""
        words = [word for word in tokens(query) if word in self._known]
        return self._index.get_scores(words) if words else None
