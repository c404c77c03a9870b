"""What tells an item from others of its own category: the directions that taste moves along.

A shopper who asked for shoes sees shoes; which of them they like has little to do with what sets shoes apart
from lamps, which is most of an encoder's variance. So each category's mean is taken off before the principal
components are. Everything comes from the public catalogue.
"""

from __future__ import annotations

import numpy as np

from mmrank.encoders._linear import fix_signs, pad_columns, unit_length

_CHUNK = 4096
_SHRINKAGE = 5.0
"""A category of n items keeps n / (n + 5) of its own mean, the rest is the catalogue's."""

_RIDGE = 1.0
"""Times the mean of the text rows' squared singular values: they are of unit length, so the catalogue sets no scale."""


def style_rows(rows: np.ndarray, present: np.ndarray, category: np.ndarray, dim: int) -> np.ndarray:
    """float32 [N, dim] of unit length: whitened leading components of rows [N, width] within their category.

    rows: of a frozen encoder, may be memory-mapped. present: bool [N]; an absent row stays zero and takes no part.
    category: int64 [N]. Too small a catalogue leaves columns of zeros.
    """
    means = _category_means(rows, present, category)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for chunk, at in _chunks(rows, present):
        centred = chunk - means[category[at]]
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / max(int(present.sum()), 1))
    values, vectors = values[::-1][:dim], fix_signs(vectors[:, ::-1][:, :dim])
    usable = values > 1e-9 * max(values[0], 1e-30)
    components = pad_columns(np.where(usable, vectors / np.sqrt(np.where(usable, values, 1.0)), 0.0), dim)
    style = np.zeros((len(rows), dim), np.float32)
    for chunk, at in _chunks(rows, present):
        style[at] = unit_length((chunk - means[category[at]]) @ components)
    return style


def text_looks(text: np.ndarray, style: np.ndarray, present: np.ndarray) -> np.ndarray:
    """float32 [width, 2 * dim]: what words look like, the ridge regression of style on text rows over the catalogue.

    text: [N, width] of unit length. style: [N, 2 * dim], text half then image half. present: bool [N, 2], which items
    have a text, and which a picture as well. Each half is scaled so that a title's looks are of length 1 on average.
    """
    width, dim = text.shape[1], style.shape[1] // 2
    looks = np.zeros((width, 2 * dim), np.float32)
    for half in range(2):
        columns = slice(half * dim, (half + 1) * dim)
        squares, products = np.zeros((width, width)), np.zeros((width, dim))
        for rows, at in _chunks(text, present[:, half]):
            squares += rows.T @ rows
            products += rows.T @ style[at, columns].astype(np.float64)
        count = int(present[:, half].sum())
        if not count:
            continue
        fitted = np.linalg.solve(squares + _RIDGE * count / width * np.eye(width), products)
        length = sum(float(np.linalg.norm(rows @ fitted, axis=1).sum()) for rows, _ in _chunks(text, present[:, half]))
        looks[:, columns] = fitted * (count / length if length > 0 else 0.0)
    return looks


def _category_means(rows: np.ndarray, present: np.ndarray, category: np.ndarray) -> np.ndarray:
    """float64 [categories, width], shrunk towards the catalogue's mean."""
    total = np.zeros((int(category.max(initial=0)) + 1, rows.shape[1]))
    for chunk, at in _chunks(rows, present):
        np.add.at(total, category[at], chunk)
    count = np.bincount(category[present], minlength=len(total)).astype(np.float64)[:, None]
    overall = total.sum(0) / max(count.sum(), 1.0)
    return (total + _SHRINKAGE * overall) / (count + _SHRINKAGE)


def _chunks(rows: np.ndarray, present: np.ndarray):
    """(float64 [n, width], their indices), a few thousand at a time."""
    places = np.flatnonzero(present)
    for start in range(0, len(places), _CHUNK):
        at = places[start : start + _CHUNK]
        yield np.asarray(rows[at], np.float64), at
