"""Words of Chinese and English text, the same for every text encoder.

Text is folded first: full-width and traditional characters, the words of Taiwan and Hong Kong, units, case. A run of
Chinese is cut by jieba in search mode, which gives the words inside a compound as well; its character bigrams are
added, so that a compound that the dictionary lacks still meets one that shares two characters. English words lose a
plural ending. Digits stay. Kana and Hangul are words of their own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from mmrank.encoders.text._chinese import HAN, cut
from mmrank.encoders.text._folding import folded
from mmrank.encoders.text._stop_words import STOP_WORDS
from mmrank.errors import ConfigError

VERSION = "tokens-2"
"""Part of the version of every encoder that uses these tokens."""

_HIRAGANA, _KATAKANA = "\u3041-\u309f", "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb"
_OTHERS = HAN + _HIRAGANA + _KATAKANA + _HANGUL
# A single letter before Chinese belongs to it: t恤, 纯棉v领. The scripts of East Asia need no space between them.
_RUN = re.compile(
    rf"(?P<han>(?:(?<![a-z0-9])[a-z])?[{HAN}]+(?:[a-z][{HAN}]+)*)"
    rf"|(?P<east>[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_HANGUL}]+)"
    rf"|(?P<word>\d+\.\d+[a-z]*|[^\W_{_OTHERS}]+(?:\.\d+)?)"
)
_HAN_RUN = re.compile(rf"[{HAN}]+")
_EAST = re.compile(rf"[{_HIRAGANA}{_KATAKANA}{_HANGUL}]{{3,}}")
_MODEL = re.compile(r"([a-z]{3,})(\d+)([a-z]*)")

_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "knives": "knife"}


def tokens(text: str, *, bigrams: bool = True) -> list[str]:
    """Words of `text` in order, stop words left out; `bigrams` adds those of Chinese characters.

    >>> tokens("The Women's Running Shoes")
    ['woman', 'running', 'shoe']
    >>> tokens("跑步运动鞋", bigrams=False), tokens("【官方正品】跑步運動鞋 包郵", bigrams=False)
    (['跑步', '运动', '运动鞋'], ['跑步', '运动', '运动鞋'])
    >>> tokens("iPhone15 手機 1.5 L", bigrams=False)
    ['iphone', '15', 'iphone15', '手机', '1.5l']
    """
    found: list[str] = []
    for words, pairs, _ in _runs(text):
        found += words
        found += pairs if bigrams else ()
    return found


def _runs(text: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """(words, bigrams of Chinese, characters) of each run of one script; none is a stop word."""
    for match in _RUN.finditer(folded(text)):
        yield _chinese(match[0]) if match.lastgroup == "han" else _spaced(match[0])


@lru_cache(maxsize=2**14)
def _chinese(run: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    words, pieces = cut(run)
    pairs: list[str] = []
    characters: list[str] = []
    for piece in pieces:
        # a letter pairs with what follows it alone: t恤
        pairs += (left + right for left, right in zip(piece, piece[1:], strict=False) if not right.isascii())
        for han in _HAN_RUN.findall(piece):
            characters += han
            characters += map("".join, zip(han, han[1:], strict=False))
    return (
        tuple(words),
        tuple(pair for pair in pairs if pair not in words and pair not in STOP_WORDS),
        tuple(f"c:{gram}" for gram in characters if gram not in STOP_WORDS),
    )


@lru_cache(maxsize=2**15)
def _spaced(word: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    model = _MODEL.fullmatch(word)
    # iphone15 meets "iPhone 15" by its parts
    forms = (*filter(None, model.groups()), word) if model else (singular(word),)
    words = tuple(form for form in forms if form not in STOP_WORDS)
    return words, (), tuple(gram for form in words for gram in _grams(form))


def _grams(word: str) -> Iterator[str]:
    if _EAST.fullmatch(word):
        yield from (f"c:{word[i : i + 2]}" for i in range(len(word) - 1))
    # A short word says as much itself; the parts of iphone15 have grams of their own.
    elif word.isascii() and len(word) > 3 and not _MODEL.fullmatch(word):
        padded = f" {word} "
        yield from (f"c:{padded[i : i + size]}" for size in (3, 4) for i in range(len(padded) - size + 1))


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
    characters (c): single ones and bigrams of Chinese, 3- and 4-grams of Latin words, bigrams of kana and Hangul.

    >>> features("跑鞋 t-shirt")[:4]
    ['w:跑鞋', 'w:tshirt', 'p:跑鞋 tshirt', 'c:跑']
    """
    words: list[str] = []
    characters: list[str] = []
    for run_words, _, run_characters in _runs(text):
        words += run_words
        characters += run_characters
    pairs = [f"p:{left} {right}" for left, right in zip(words, words[1:], strict=False)]
    return [f"w:{word}" for word in words] + pairs + characters


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
