"""Chinese as one language: traditional and regional words become the mainland's, and a run of it is cut into words.

OpenCC's t2s knows which simplified character a traditional one stands for, jieba where a word ends.
"""

from __future__ import annotations

import re
from functools import cache

import opencc
import rjieba

from mmrank.encoders.text._chinese_words import REGIONAL, SHOP_WORDS, VARIANTS
from mmrank.encoders.text._stop_words import STOP_WORDS

# The iteration mark and the zero, the blocks of the BMP, and the planes 2 and 3.
HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_HAN = re.compile(f"[{HAN}]")
_VARIANT = re.compile(f"[{''.join(map(chr, VARIANTS))}]")
_MAINLAND = {theirs for word, theirs in REGIONAL.items() if theirs != word}


def _alone(word: str) -> str:
    """A pattern of `word`; a letter at an end of it may not be one of an English word.

    Each begins with a character, not with a look behind: by those first ones the regex machine skips through text.
    """
    first = word[0] + (f"(?<![a-z0-9]{word[0]})" if word[0].isascii() else "")
    return first + word[1:] + ("(?![a-z0-9])" if word[-1].isascii() else "")


# Longest first, so that 光碟机 is not read as 光碟.
_REGIONAL = re.compile("|".join(map(_alone, sorted(REGIONAL, key=len, reverse=True))))


def simplified(text: str) -> str:
    """`text` in simplified characters; the same object where it holds no Chinese.

    Simplified text comes back as it is, but for a handful of classical phrases (乾清宫, 颠乾倒坤).

    >>> simplified("乾淨的頭髮、皇后在後面"), simplified("皇后在后面")
    ('干净的头发、皇后在后面', '皇后在后面')
    """
    if _HAN.search(text) is None:
        return text
    found = _converter().convert(text)
    if found != text:
        # A few phrases are known in traditional characters alone: 乾清宮 becomes 乾清宫, but that becomes 干清宫.
        found = _converter().convert(found)
    return found.translate(VARIANTS) if _VARIANT.search(found) else found


def mainland(text: str) -> str:
    """Simplified, lower-cased `text` with the mainland's words for products.

    >>> mainland("无线滑鼠"), mainland("软体沙发")
    ('无线鼠标', '软体沙发')
    """
    return _REGIONAL.sub(_renamed, text)


def _renamed(match: re.Match[str]) -> str:
    word = REGIONAL[match[0]]
    before = match.string[match.start() - 1 : match.start()]
    glued = word != match[0] and word[0].isascii() and before.isascii() and before.isalnum()
    return f" {word}" if glued else word  # 64gb随身碟 is 64gb u盘


def cut(run: str) -> tuple[list[str], list[str]]:
    """(words, pieces) of a run of simplified Chinese, both without stop words.

    words: in order, those inside a compound before it. pieces: what is left of the run, in one piece where its words
    were neighbours; characters are paired inside of one.

    >>> cut("我的跑步运动鞋包邮黑色")
    (['跑步', '运动', '运动鞋', '黑色'], ['跑步运动鞋', '黑色'])
    """
    words: list[str] = []
    pieces: list[str] = []
    start = end = len(run)  # of the piece, from behind
    outer = len(run)  # where the last whole word starts; what begins after it lies inside
    dropping = False
    for word, first, last in reversed(_segmenter().tokenize(run, "search")):
        stopped = word in STOP_WORDS
        if last <= outer:
            outer, dropping = first, stopped
            if stopped:
                pieces += [run[start:end]] if start < end else []
                end = first
            start = first
        if not stopped and not dropping:
            words.append(word)
    pieces += [run[start:end]] if start < end else []
    return words[::-1], pieces[::-1]


@cache
def _converter() -> opencc.OpenCC:
    return opencc.OpenCC("t2s")


@cache
def _segmenter() -> rjieba.Jieba:
    # An instance of its own: the module's default one changes when anybody adds a word to it.
    segmenter = rjieba.Jieba()
    # The short ones first: a word gets the frequency that wins against its parts as they are by then.
    for word in sorted({*SHOP_WORDS, *STOP_WORDS, *_MAINLAND}, key=lambda word: (len(word), word)):
        if len(word) > 1 and not word.isascii() and not segmenter.has_word(word):
            segmenter.add_word(word, None, None)
    return segmenter
