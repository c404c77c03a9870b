"""Slates and scores as files that trec_eval, ir-measures and other tools of the field read: qrels and runs.

A query is one slate, CLIENT.PART.PLACE: `shop-1.test.12` is the twelfth test slate of that client, counted from 1 in
the data set's own order, by time, whichever slates are exported. What a name may not hold here (white space, `#`, which
begins a comment, and `%`) stands as %XX of its UTF-8 bytes, so that item ids can be told from another.

Such files are copies of behaviour, under no promise of privacy: they are made in simulations alone, and readable by
their owner alone. Formats: get_qrels.c, get_trec_results.c and form_res_rels.c of github.com/usnistgov/trec_eval.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from client.datasets import Dataset, Split
from mmrank.errors import ConfigError, DatasetError
from mmrank.slates import Slate
from simulations.evaluation import Chunk, Evaluator, RowResult, Scorer

FACTORS = (1, 2, 4, 5, 10, 20, 100, 1000)
"""Qrels hold whole grades; linear gains are the same for all grades times one number."""
LARGEST_GRADE = 1_000_000
"""trec_eval speaks of 127 and counts up to any; it keeps a table of so many levels."""


@dataclass(frozen=True, kw_only=True)
class Qrels:
    """What was written. queries: slates that have something relevant; rows: candidates; grades_times: see FACTORS."""

    queries: int
    rows: int
    grades_times: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was written. result: mmrank's own measures of the same slates. tied: in how many of them scores tie, which
    trec_eval breaks by item id, and mmrank by the mean over all orders; constant: in how many all are one score.
    """

    queries: int
    tied: int
    constant: int
    result: RowResult


def query_id(client: str, split: Split, place: int) -> str:
    """The name of a client's place-th slate (from 1) of a part, without a blank.

    >>> query_id("shop 1", "test", 12)
    'shop%201.test.12'
    """
    return f"{escaped(client)}.{split}.{place}"


def escaped(name: str) -> str:
    """A name as one word that is no comment; two names stay two.

    >>> escaped("a b"), escaped("100%#1"), escaped("运动鞋")
    ('a%20b', '100%25%231', '运动鞋')
    """
    special = (letter.isspace() or letter in "%#\0" for letter in name)
    if not any(special):
        return name
    return "".join(
        "".join(f"%{byte:02X}" for byte in letter.encode()) if letter.isspace() or letter in "%#\0" else letter
        for letter in name
    )


def write_qrels(path: Path, evaluator: Evaluator, split: Split) -> Qrels:
    """The relevance of every candidate of the slates that are measured: `query 0 item grade` a line.

    Slates without anything relevant are left out, as they are from every measure here; trec_eval would count them as 0.
    Raises DatasetError for grades that no factor makes whole.
    """
    chunks = _chunks(evaluator, split)
    factor = _factor([slate.relevance for chunk in chunks for slate in chunk.slates])
    ids, items = _QueryIds(evaluator.dataset, split), evaluator.dataset.catalog.item_ids
    rows = 0
    with _written(path) as file:
        for chunk in chunks:
            for name, slate in zip(ids.of(chunk), chunk.slates, strict=True):
                grades = np.rint(slate.relevance.astype(np.float64) * factor).astype(np.int64)
                rows += len(grades)
                for item, grade in zip(slate.candidates.tolist(), grades.tolist(), strict=True):
                    file.write(f"{name} 0 {escaped(items[item])} {grade}\n")
    return Qrels(queries=sum(len(chunk.slates) for chunk in chunks), rows=rows, grades_times=factor)


def write_run(path: Path, evaluator: Evaluator, scorer: Scorer, split: Split, *, tag: str) -> Run:
    """What the scorer makes of the same slates: `query Q0 item rank score tag` a line, ranks from 1, scores descending.

    Equal scores stand in descending order of the item ids' bytes, as trec_eval takes them whatever their ranks are.
    Scores are written as 32-bit numbers, which it may hold them in; those of a slate that would tie so, or that are not
    finite, are written as 0, 1, 2, ... in the same order. Raises ConfigError for a tag that is no plain word.
    """
    if not tag or escaped(tag) != tag:
        raise ConfigError(f"Expected tag={tag!r} to be one word without white space, % or #.")
    ids, items = _QueryIds(evaluator.dataset, split), evaluator.dataset.catalog.item_ids
    tied = constant = 0
    with _written(path) as file:

        def score(chunk: Chunk) -> np.ndarray:
            nonlocal tied, constant
            scores = scorer(chunk)
            for name, slate, row in zip(ids.of(chunk), chunk.slates, scores, strict=True):
                shown = _comparable(row[: len(slate.candidates)])
                levels = len(np.unique(shown))
                tied, constant = tied + (levels < len(shown)), constant + (levels == 1)
                names = [escaped(items[item]) for item in slate.candidates.tolist()]
                for rank, place in enumerate(_order(shown, names), 1):
                    file.write(f"{name} Q0 {names[place]} {rank} {shown[place]!s} {tag}\n")
            return scores

        result = evaluator.measure(score, split)
    return Run(queries=len(result.owner), tied=tied, constant=constant, result=result)


def _comparable(scores: np.ndarray) -> np.ndarray:
    """float32 [L] in the same order, with the same ties; what is not a number is last.

    >>> [str(value) for value in _comparable(np.array([0.1, np.nan, np.inf]))]
    ['1.0', '0.0', '2.0']
    >>> _comparable(np.array([1.0, 1.0 + 1e-12, 0.5])).tolist()
    [1.0, 2.0, 0.0]
    """
    key = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    with np.errstate(over="ignore"):
        single = key.astype(np.float32)
    levels, places = np.unique(key, return_inverse=True)
    if np.isfinite(single).all() and len(np.unique(single)) == len(levels):
        return single + np.float32(0)  # without the sign of -0.0
    return places.astype(np.float32)


def _order(scores: np.ndarray, names: Sequence[str]) -> list[int]:
    keys = [(score, name.encode()) for score, name in zip(scores.tolist(), names, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)


def _factor(relevances: Sequence[np.ndarray]) -> int:
    values = np.unique(np.concatenate([np.zeros(1), *relevances])).astype(np.float64)
    for factor in FACTORS:
        grades = np.rint(values * factor)
        whole = (np.abs(values * factor - grades) < 1e-3).all() and ((grades > 0) == (values > 0)).all()
        if whole and grades.max() <= LARGEST_GRADE:
            return factor
    shown = ", ".join(f"{value:g}" for value in values[:8])
    raise DatasetError(
        f"Expected grades that are whole numbers up to {LARGEST_GRADE:,}, or thousandths of some, and they are "
        f"{shown} and so on; qrels hold whole numbers alone, so bring them as such."
    )


def _chunks(evaluator: Evaluator, split: Split) -> list[Chunk]:
    """The slates that are measured, in their order."""
    found: list[Chunk] = []

    def keep(chunk: Chunk) -> np.ndarray:
        found.append(chunk)
        return np.zeros(chunk.batch.candidates.shape)

    evaluator.measure(keep, split)
    return found


class _QueryIds:
    """Names for the slates of an evaluator as they come: some of each client's, in the data set's order."""

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self._dataset, self._split = dataset, split
        self._client, self._place = "", 0
        self._slates: Sequence[Slate] = ()

    def of(self, chunk: Chunk) -> list[str]:
        return [self._next(client, slate) for client, slate in zip(chunk.clients, chunk.slates, strict=True)]

    def _next(self, client: str, slate: Slate) -> str:
        if client != self._client:
            self._client, self._place = client, 0
            self._slates = self._dataset.slates(client, self._split)
        for place in range(self._place, len(self._slates)):
            if _same(self._slates[place], slate):
                self._place = place + 1
                return query_id(client, self._split, self._place)
        raise DatasetError(f"The slates of {client} changed while they were exported; export them again.")


def _same(one: Slate, other: Slate) -> bool:
    if one is other:
        return True
    return (one.query, one.user, one.time_days) == (other.query, other.user, other.time_days) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("candidates", "relevance", "history")
    )


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A file that is there whole or not at all, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.unlink(missing_ok=True)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
