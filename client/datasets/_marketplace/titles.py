"""Titles as merchants write them: Chinese, English, or both, and never quite complete."""

from __future__ import annotations

import numpy as np

from client.datasets._marketplace.items import Items
from client.datasets._marketplace.settings import Shop
from client.datasets._marketplace.vocabulary import (
    COLOUR,
    FEATURE,
    MATERIALS,
    ORIGIN,
    TONE,
    TYPES,
    Value,
    brand,
)
from mmrank.randomness import numpy_generator

BOTH, CHINESE, ENGLISH = range(3)
"""The language of a title."""

WRITTEN = ("tone", "origin", "colour", "material", "feature")
"""Attributes that a title may state, in the order of the random columns."""


def make_titles(shop: Shop, items: Items) -> tuple[list[str], np.ndarray]:
    """N titles ('' where the merchant wrote none), and bool [N, 5]: which of WRITTEN each title states."""
    rng = numpy_generator(shop.seed, "marketplace", "titles", shop.variant)
    language = _languages(shop, items, rng)
    chance = 0.80 if shop.hard else 0.92
    stated = rng.random((len(items), len(WRITTEN))) < np.array([chance, chance, 0.6, chance, chance])
    stated[items.lacks_title] = False
    usual = rng.random((len(items), 6)) > 0.10
    in_chinese = rng.random((len(items), 6)) < 0.5
    titles = [
        "" if items.lacks_title[i] else _title(items, i, int(language[i]), stated[i], usual[i], in_chinese[i])
        for i in range(len(items))
    ]
    return titles, stated


def _languages(shop: Shop, items: Items, rng: np.random.Generator) -> np.ndarray:
    """70 % of titles in both languages, 15 % in each alone; in `hard` each merchant has a mix of its own."""
    share = np.tile([0.70, 0.15, 0.15], (shop.merchants, 1))
    if shop.hard:
        share = rng.dirichlet([2.0, 1.0, 1.0], shop.merchants)
    edges = np.cumsum(share, axis=1)[items.merchants]
    return np.minimum((rng.random(len(items))[:, None] > edges).sum(1), 2)


def _title(items: Items, index: int, language: int, stated: np.ndarray, usual: np.ndarray, zh: np.ndarray) -> str:
    kind = TYPES[items.types[index]]
    code = {name: int(column[index]) for name, column in items.codes.items()}
    values = {"tone": TONE, "origin": ORIGIN, "colour": COLOUR, "feature": FEATURE}
    words: dict[str, tuple[str, str]] = {}
    for place, name in enumerate(WRITTEN):
        if not stated[place]:
            continue
        if name == "material":
            words[name] = MATERIALS[kind.group][code[name]]
        else:
            words[name] = _pick(values[name].values[code[name]], bool(usual[place]))
    name_zh, name_en = (kind.zh[0], kind.en[0]) if usual[5] else (kind.zh[1], kind.en[1])
    brand_zh, brand_en = brand(int(items.merchants[index]))
    if language == CHINESE:
        return " ".join([brand_zh, *(words[w][0] for w in WRITTEN if w in words), name_zh])
    tail = words["feature"][1] if "feature" in words else ""
    before = [w for w in WRITTEN if w in words and w != "feature"]
    if language == ENGLISH:
        return _english([brand_en, *(words[w][1] for w in before), name_en], tail)
    front = [words[w][0] for place, w in enumerate(WRITTEN) if w in words and zh[place]]
    back = [words[w][1] for place, w in enumerate(WRITTEN) if w in before and not zh[place]]
    return " ".join([brand_zh, *front, name_zh]) + " " + _english([*back, name_en], "" if zh[4] else tail)


def _pick(value: Value, usual: bool) -> tuple[str, str]:
    """The value's usual word in both languages, or the other one."""
    return (value.zh[0], value.en[0]) if usual else (value.zh[-1], value.en[-1])


def _english(words: list[str], tail: str) -> str:
    """Title case, as shops write; hyphenated words keep their small second half."""
    phrase = " ".join(word[:1].upper() + word[1:] for word in " ".join(words).split(" "))
    return f"{phrase}, {tail}" if tail else phrase
