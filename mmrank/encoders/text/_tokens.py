"""Words of Chinese and English text, the same for every text encoder.

Text is NFKC-folded and lower-cased. A run of Chinese is cut by jieba in search mode, which gives the words
inside a compound as well; its character bigrams are added, so that a compound that the dictionary lacks
still meets one that shares two characters. English words lose a plural ending. Digits stay.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import rjieba

from mmrank.errors import ConfigError

VERSION = "tokens-1"
"""Part of the version of every encoder that uses these tokens."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A single letter before Chinese belongs to it: t恤, v领.
_RUN = re.compile(rf"(?P<han>(?:(?<![^\W_])[a-z])?[{_HAN}]+)|(?P<word>[^\W_{_HAN}]+(?:\.\d+)?)")
_HAN_RUN = re.compile(rf"[{_HAN}]+")
_HYPHENATED = re.compile(r"(?<![^\W_])([a-z])-(?=[a-z])")
_POSSESSIVE = re.compile(r"['’]s?(?![^\W_])")

STOP_WORDS = frozenset(
    (  # noqa: SIM905 - a list of a hundred quoted words would read worse
        "a an and are as at be by for from has have in into is it its of on or our so that the their these this "
        "those to was we were which will with you your "
        "的 了 和 与 及 或 是 在 有 也 都 就 等 之 而 被 把 让 给 对 从 为 以 于 这 那 我 你 您 他 她 它 们 "
        "我们 你们 他们 一个 一种 可以 非常 以及"
    ).split()
)
"""Words of both languages that name no product; a public table, not a statistic of anyone's text."""

_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "knives": "knife"}


def tokens(text: str, *, bigrams: bool = True) -> list[str]:
    """Words of `text` in order, stop words left out; `bigrams` adds those of Chinese characters.

    >>> tokens("The Women's Running Shoes")
    ['woman', 'running', 'shoe']
    >>> tokens("跑步运动鞋", bigrams=False)
    ['跑步', '运动', '运动鞋']
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    folded = _HYPHENATED.sub(r"\1", _POSSESSIVE.sub("", folded))
    return [token for token in _words(folded, bigrams) if token not in STOP_WORDS]


def _words(folded: str, bigrams: bool) -> Iterator[str]:
    for match in _RUN.finditer(folded):
        run = match.group("han")
        if run is None:
            yield singular(match.group("word"))
            continue
        words = _segmenter().cut_for_search(run)
        yield from words
        if bigrams:
            known = set(words)
            yield from (pair for pair in map("".join, zip(run, run[1:], strict=False)) if pair not in known)


@cache
def _segmenter() -> rjieba.Jieba:
    # An instance of its own: the module's default one changes when anybody adds a word to it.
    return rjieba.Jieba()


@lru_cache(maxsize=2**16)
def singular(word: str) -> str:
    """`word` without an English plural ending; only the common endings, so that both numbers meet.

    >>> [singular(word) for word in ("shoes", "dresses", "watches", "accessories", "dress", "2024")]
    ['shoe', 'dress', 'watch', 'accessory', 'dress', '2024']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.isascii() or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1]


def features(text: str) -> list[str]:
    """What TF-IDF and hashing count, each kind with a prefix: words (w), pairs of neighbouring words (p), and
    characters (c): single ones and bigrams of Chinese, 3- and 4-grams of Latin words.

    >>> features("跑鞋 t-shirt")[:4]
    ['w:跑鞋', 'w:tshirt', 'p:跑鞋 tshirt', 'c:跑']
    """
    words = tokens(text, bigrams=False)
    found = [f"w:{word}" for word in words]
    found += [f"p:{left} {right}" for left, right in zip(words, words[1:], strict=False)]
    for run in _HAN_RUN.findall(unicodedata.normalize("NFKC", text)):
        found += [f"c:{character}" for character in run if character not in STOP_WORDS]
        found += [f"c:{left}{right}" for left, right in zip(run, run[1:], strict=False)]
    for word in words:
        found += _latin_grams(word)
    return found


@lru_cache(maxsize=2**16)
def _latin_grams(word: str) -> tuple[str, ...]:
    if not word.isascii() or len(word) <= 3:  # the word itself says as much
        return ()
    padded = f" {word} "
    return tuple(f"c:{padded[i : i + size]}" for size in (3, 4) for i in range(len(padded) - size + 1))


def hashed_ids(texts: Sequence[str], *, buckets: int, length: int) -> np.ndarray:
    """int32 [len(texts), length]: ids of the first `length` tokens in [1, buckets), 0 where padded.

    CRC-32 needs no vocabulary, and is the same in every process and on every machine.
    Raises ConfigError where buckets < 2 or length < 1.
    """
    if buckets < 2 or length < 1:
        raise ConfigError(
            f"Expected buckets={buckets} of at least 2 and length={length} of at least 1; set both on model.text."
        )
    ids = np.zeros((len(texts), length), np.int32)
    for row, text in enumerate(texts):
        found = [1 + zlib.crc32(token.encode()) % (buckets - 1) for token in tokens(text)[:length]]
        ids[row, : len(found)] = found
    return ids
