"""Words for slates whose data have none: made of an item's own public fields, as a shopper would name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.datasets._source import Source
from mmrank.errors import ConfigError, nearest

Template = Callable[[int], str]
"""From an item to words, '' where its fields are blank."""

MOST_VALUES = 0.2
"""A field with more values than this share of the items names products, not kinds of them."""
TITLE_WORDS, TITLE_LETTERS = 3, 8


def templates_of(source: Source, wanted: Sequence[str]) -> tuple[Template, ...]:
    """The ways to ask for an item: its category, then each field beside it; the beginning of its title where it has
    neither. wanted: names of fields, all that have few values where empty. Raises ConfigError for an unknown one.
    """
    category = _column(source, "category")
    known = ["category", "merchant", *source.fields]
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"No field {name!r} for dataset.queries.fields; available: {', '.join(known)}.{nearest(name, known)}"
            )
    names = list(wanted) or [name for name in source.fields if _few(source.fields[name])]
    beside = [_column(source, name) for name in names if name != "category"]
    made: list[Template] = []
    if any(category):
        made.append(lambda item: category[item].lower())
        made += [_pair(column, category) for column in beside]
    else:
        made += [_single(column) for column in beside]
    titles = source.catalog.titles
    return tuple(made) or (lambda item: beginning(titles[item]),)


def beginning(title: str) -> str:
    """The first words of a title; of one that is written without spaces its first letters.

    >>> beginning("Nike Air Max 270 React"), beginning("运动鞋男士透气跑步鞋")
    ('nike air max', '运动鞋男士透气跑')
    """
    words = title.lower().split()[:TITLE_WORDS]
    return " ".join(words) if len(words) > 1 else "".join(words)[:TITLE_LETTERS]


def columns_of(source: Source) -> list[Sequence[str]]:
    """The fields by which an item is asked for: those that have few values, then the category."""
    columns = [values for values in source.fields.values() if _few(values)]
    category = _column(source, "category")
    return [*columns, category] if any(category) else columns


def _column(source: Source, name: str) -> Sequence[str]:
    catalog = source.catalog
    if name == "category":
        return [catalog.category_names[index] for index in catalog.categories.tolist()]
    if name == "merchant":
        return [catalog.merchant_names[index] for index in catalog.merchants.tolist()]
    return source.fields[name]


def _few(values: Sequence[str]) -> bool:
    present = [value for value in values if value]
    return bool(present) and len(set(present)) <= max(MOST_VALUES * len(present), 2)


def _single(column: Sequence[str]) -> Template:
    return lambda item: column[item].lower()


def _pair(column: Sequence[str], category: Sequence[str]) -> Template:
    return lambda item: " ".join(filter(None, (column[item], category[item]))).lower()
