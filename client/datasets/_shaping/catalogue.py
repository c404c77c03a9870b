"""Judged lists out of a catalogue alone: what one would ask for, graded by how many of the item's fields match.

For a shop that has products and no behaviour yet. Nobody's behaviour is in it, so nothing in it is private.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.datasets._reading.items import coded
from client.datasets._shaping.queries import beginning, columns_of
from client.datasets._source import Source, lists_of
from mmrank.errors import DatasetError
from mmrank.randomness import numpy_generator

QUERIES = 2000
BY_TITLE = 0.5
MATCHING, OTHERS = 10, 20
"""Of a list: at most so many items that match in anything, and so many that are drawn from the whole catalogue."""


def catalogue_alone(source: Source, *, seed: int) -> Source:
    """The source with lists: an item drawn by lot is asked for by its fields, every other time by the beginning of its
    title as well; each item's grade is the number of those that it shares (0, 1, 2, ...).
    """
    catalog, generator = source.catalog, numpy_generator(seed, "catalogue-alone", source.name)
    columns = [*columns_of(source), [beginning(title) for title in catalog.titles]]
    codes = [coded(column)[0] for column in columns]
    asked: dict[str, int] = {}
    items, grades, sizes = [], [], []
    for item in generator.permutation(len(catalog))[:QUERIES].tolist():
        titled = len(columns) == 1 or generator.random() < BY_TITLE
        used = range(len(columns) if titled else len(columns) - 1)
        words = " ".join(dict.fromkeys(" ".join(columns[place][item] for place in used).lower().split()))
        if not words or words in asked:
            continue
        asked[words] = len(asked)
        match = np.zeros(len(catalog), np.int64)
        for place in used:
            if columns[place][item]:
                match += codes[place] == codes[place][item]
        near = np.flatnonzero(match > 0)
        near = np.union1d(item, generator.choice(near, min(MATCHING - 1, len(near)), replace=False))
        other = generator.choice(len(catalog), min(OTHERS, len(catalog)), replace=False)
        listed = generator.permutation(np.union1d(near, other))
        items.append(listed)
        grades.append(match[listed])
        sizes.append(len(listed))
    if not asked:
        raise DatasetError(
            f"{source.name}: no item has a title, a category or a field by which one could ask for it; name such "
            "columns beside items, or bring what people did."
        )
    start = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    lists = lists_of(
        judged=True,
        start=start,
        item=np.concatenate(items).astype(np.int32),
        relevance=np.concatenate(grades).astype(np.float32),
        query=np.arange(len(asked), dtype=np.int32),
    )
    return replace(source, lists=(lists,), queries=tuple(asked))
