"""RecBole's atomic files: NAME.inter (who did what), NAME.item (titles), any of its 40 converted data sets.

Tables with tabs between; the first line names each column as `field:type`, type one of token, token_seq, float and
float_seq; a sequence has spaces between its parts; quotes are letters
(recbole.io/docs/user_guide/data/atomic_files.html; github.com/RUCAIBox/RecSysDatasets). The data set's name is the stem
of its files; NAME.part1.inter, ... of a benchmark are read as one, since the parts here are by time. Beside them may
lie images/ITEM_ID.jpg, which are not RecBole's.
NAME.user, .net, .kg and .link are not read: a ranker here knows of a person what they did, and no more.

A rating of at least `liked` is relevant, one below stands beside it as seen and not liked; a `label` (1 clicked, 0
only shown) is taken where there is no rating, and every row is a click where there is neither. Without a timestamp the
order of the file stands for it. There are no queries: they may be derived (`queries: derive`). What the converters
wrote for a missing value (nan) is absent. Licence: that of each data set. Citation: Zhao et al. 2021, RecBole, CIKM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.datasets._reading import values
from client.datasets._reading.behaviour import EventColumns, Vocabulary, read_events
from client.datasets._reading.blocks import Layout, Progress, names_of
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, ItemColumns, Items, coded, read_items
from client.datasets._reading.pictures import FolderPictures
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from mmrank.errors import ConfigError, DatasetError, nearest
from mmrank.settings import bounded, parse_table

HOLDS = "NAME.inter and NAME.item, RecBole's atomic files"
SIZE = "that of each data set"
TYPES = ("token", "token_seq", "float", "float_seq")
TITLES = (
    *("title", "item_name", "name", "movie_title", "movie_name", "book_title", "product_title", "item_title"),
    *("app_name", "game_name", "song_name", "track_name", "venue_name"),
)
CATEGORIES = ("category", "categories", "item_category", "category_name", "genre", "genres", "class", "type")
MERCHANTS = ("merchant", "store", "shop", "seller_id", "seller", "brand")
RATING, LABEL, TIME, PRICE = "rating", "label", "timestamp", "price"
ABSENT = ("nan", "NaN", "None")
UNUSED = (("user", "people"), ("net", "who knows whom"), ("kg", "a graph"), ("link", "a graph's items"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """Fields by their names without types; what is None is found by the usual names, or absent."""

    stem: str | None = None
    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    time: str | None = None
    title: tuple[str, ...] = ()
    category: str | None = None
    liked: float = 4.0
    field_separator: str = "\t"
    seq_separator: str = " "

    def __post_init__(self) -> None:
        bounded("dataset.liked", self.liked, -1e9, 1e9)
        if not self.seq_separator:
            raise ConfigError("Expected dataset.seq_separator to be what stands between a sequence's parts: ' '.")


def read(
    root: Path,
    *,
    stem: str | None = None,
    user: str = "user_id",
    item: str = "item_id",
    rating: str | None = None,
    time: str | None = None,
    title: str | Sequence[str] = (),
    category: str | None = None,
    liked: float = 4.0,
    field_separator: str = "\t",
    seq_separator: str = " ",
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. stem: NAME, where several lie in one folder. user, item, rating, time, title, category: fields;
    title: one or several, joined. liked: from this rating on an item was liked; of a label, from 1.

    Raises ConfigError for a setting, DatasetError (file, line, what to do) for files that can't be used.
    """
    given: dict[str, Any] = {"stem": stem, "user": user, "item": item, "rating": rating, "time": time}
    given |= {"title": [title] if isinstance(title, str) else title, "category": category, "liked": liked}
    given |= {"field_separator": field_separator, "seq_separator": seq_separator}
    own: Own = parse_table(Own, given, "dataset")
    layout = Layout(format="tsv", separator=own.field_separator)
    name, acts = _files(root, own.stem)
    items = _items(root, f"{name}.item", own, layout, findings, progress)
    for ending, what in UNUSED:
        if (root / f"{name}.{ending}").is_file():
            findings.add("note", "unused", f"{name}.{ending}", f"{what}, not read")
    names = Vocabulary()
    events = read_events(
        root,
        _event_columns(root, acts, own, layout),
        items,
        names,
        findings=findings,
        now_days=now_days,
        progress=progress,
    )
    return Source(
        name="recbole",
        catalog=items.catalog,
        fields=items.fields,
        findings=findings,
        events=events,
        users=names.users.names(),
        user_column=own.user,
    )


def _files(root: Path, stem: str | None) -> tuple[str, str]:
    """(NAME, the file or pattern of what people did)."""
    found = sorted(path.name.removesuffix(".inter") for path in root.glob("*.inter"))
    if stem is None:
        parts = {name.rpartition(".")[0] for name in found}
        if len(found) > 1 and (len(parts) > 1 or parts == {""}):
            raise DatasetError(f"{root}: several data sets in it ({', '.join(found)}); set dataset.stem to one.")
        if not found:
            raise DatasetError(f"{root}: no file NAME.inter in it; it should hold {HOLDS}.")
        stem = found[0] if len(found) == 1 else parts.pop()
    whole = stem in found
    if not whole and not any(name.startswith(f"{stem}.") for name in found):
        raise DatasetError(f"{root}: there is no file {stem}.inter; it has {', '.join(found)}.{nearest(stem, found)}")
    if not (root / f"{stem}.item").is_file():
        raise DatasetError(
            f"{root}: there is no file {stem}.item, and {stem}.inter alone says nothing of an item; put it there."
        )
    return stem, f"{stem}.inter" if whole else f"{stem}.*.inter"


def _types(root: Path, pattern: str, layout: Layout) -> dict[str, str]:
    """The type of each field of a table. Raises DatasetError for a header that is none of RecBole's."""
    found: dict[str, str] = {}
    for name in names_of(root, pattern, layout=layout, findings=Findings()):
        field, _, kind = name.partition(":")
        if not field or kind not in TYPES:
            told = f"the column {name!r} is no field:type with a type of {', '.join(TYPES)}"
            raise DatasetError(f"{pattern}, line 1: {told}; it should be for example user_id:token or rating:float.")
        found[field] = kind
    return found


def _column(types: Mapping[str, str], field: str, file: str) -> str:
    """A field with its type, as the header has it."""
    if field not in types:
        raise DatasetError(f"{file}, line 1: no field {field!r}; it has {', '.join(types)}.{nearest(field, types)}")
    return f"{field}:{types[field]}"


def _one_of(types: Mapping[str, str], usual: Sequence[str], file: str, named: str | None = None) -> str | None:
    """The field that is named, or the first usual one, with its type; None where there is none."""
    found = named if named is not None else next((field for field in usual if field in types), None)
    return None if found is None else _column(types, found, file)


def _items(root: Path, file: str, own: Own, layout: Layout, findings: Findings, progress: Progress | None) -> Items:
    types = _types(root, file, layout)
    titles = [_column(types, field, file) for field in own.title]
    titles = titles or [column for column in [_one_of(types, TITLES, file)] if column]
    if not titles:
        text = f"no field of titles, so they are blank; name one with title: {' | '.join(types)}"
        findings.add("warning", "title", file, text, by_row=False)
    columns = _item_columns(types, own, file, layout)
    public = [name for name, kind in types.items() if kind == "token"]
    public = [name for name in public if _column(types, name, file) not in (*columns.columns(), *titles)]
    named = {name: _column(types, name, file) for name in public} | {f"title {column}": column for column in titles}
    columns = dataclasses.replace(columns, fields=named)
    found = read_items(root, columns, name="recbole", findings=findings, progress=progress)
    written = [[_plain(text, own) for text in found.fields[f"title {column}"]] for column in titles]
    sequence = columns.category is not None and columns.category.endswith("_seq")
    categories, category_names = _recoded(
        found.catalog.categories, [_kind(name, own, sequence) for name in found.catalog.category_names]
    )
    merchants, merchant_names = _recoded(
        found.catalog.merchants, ["" if name in ABSENT else name for name in found.catalog.merchant_names]
    )
    catalog = dataclasses.replace(
        found.catalog,
        titles=tuple(values.joined(written, between=". ")) if written else found.catalog.titles,
        categories=categories,
        category_names=category_names,
        merchants=merchants,
        merchant_names=merchant_names,
        images=FolderPictures(root=root, paths=[f"images/{item_id}.jpg" for item_id in found.catalog.item_ids]),
    )
    fields = {name: ["" if text in ABSENT else text for text in found.fields[name]] for name in public}
    return Items(catalog=catalog, fields=fields, file=file)


def _item_columns(types: Mapping[str, str], own: Own, file: str, layout: Layout) -> ItemColumns:
    return ItemColumns(
        file=file,
        id=_column(types, own.item, file),
        merchant=_one_of(types, MERCHANTS, file),
        category=_one_of(types, CATEGORIES, file, own.category),
        price=_one_of(types, (PRICE,), file),
        layout=layout,
    )


def _recoded(codes: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes for names that were changed, by number before: (int64 [N], the names by number)."""
    again, made = coded(names)
    return again[codes], made


def _plain(text: str, own: Own) -> str:
    """A title, which may be a sequence of words."""
    plain = text if own.seq_separator == " " else text.replace(own.seq_separator, " ")
    return "" if text in ABSENT else plain[:LONGEST_TITLE]


def _kind(text: str, own: Own, sequence: bool) -> str:
    """A category; of several the first."""
    first = text.split(own.seq_separator)[0].strip(" ,") if sequence else text
    return "" if first in ABSENT else first


def _event_columns(root: Path, file: str, own: Own, layout: Layout) -> EventColumns:
    types = _types(root, file, layout)
    rating = _one_of(types, (RATING, LABEL), file, own.rating)
    labelled = own.rating is None and rating is not None and rating.startswith(f"{LABEL}:")
    return EventColumns(
        file=file,
        user=_column(types, own.user, file),
        item=_column(types, own.item, file),
        time=_one_of(types, (TIME,), file, own.time),
        weight=rating,
        liked=None if rating is None else 1.0 if labelled else own.liked,
        layout=layout,
    )


load = loader(read, holds=HOLDS)
