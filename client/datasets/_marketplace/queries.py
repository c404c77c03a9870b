"""What people ask for: a type alone, or with a colour, a style or a pattern, in either language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.datasets._marketplace.vocabulary import ATTRIBUTES, TYPES, Attribute

ASKED: tuple[Attribute, ...] = tuple(attribute for attribute in ATTRIBUTES if attribute.asked)
"""Attributes that stand in queries; `pattern` is in no title, so only a picture can answer it."""

CHINESE, ENGLISH = 0, 1


@dataclass(frozen=True, order=True)
class Intent:
    """A type (index), and one wanted value of one attribute ('' and -1 where the type alone is asked for)."""

    product: int
    attribute: str = ""
    value: int = -1


def intents(types: int) -> list[Intent]:
    """Every intent over the first `types` types: 23 for each."""
    wanted = [(attribute.name, code) for attribute in ASKED for code in range(len(attribute.values))]
    return [Intent(product, *want) for product in range(types) for want in [("", -1), *wanted]]


def phrase(intent: Intent, language: int, type_word: int, value_word: int) -> str:
    """The query; words are counted from 0 and wrap around.

    >>> phrase(Intent(0), CHINESE, 1, 0), phrase(Intent(0, "colour", 0), ENGLISH, 0, 0)
    ('运动鞋', 'red running shoes')
    """
    kind = TYPES[intent.product]
    names = kind.zh if language == CHINESE else kind.en
    name = names[type_word % len(names)]
    if not intent.attribute:
        return name
    attribute = next(attribute for attribute in ASKED if attribute.name == intent.attribute)
    value = attribute.values[intent.value]
    words = value.zh if language == CHINESE else value.en
    word = words[value_word % len(words)]
    return f"{word}{name}" if language == CHINESE else f"{word} {name}"


def phrases(intent: Intent) -> Iterator[str]:
    """Every way in which people write the intent."""
    kind = TYPES[intent.product]
    for language, names in ((CHINESE, kind.zh), (ENGLISH, kind.en)):
        for type_word in range(len(names)):
            for value_word in range(2 if intent.attribute else 1):
                yield phrase(intent, language, type_word, value_word)
