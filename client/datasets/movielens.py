"""MovieLens ratings, in the layouts of ml-latest, ml-25m and ml-32m (CSV), ml-1m and ml-10m (`::`) and ml-100k.

The folder `root` holds movies.csv and ratings.csv, or movies.dat and ratings.dat, or u.item and u.data, as GroupLens
packs them (files.grouplens.org/datasets/movielens: ml-latest-README.html, ml-10m-README.html, ml-1m-README.txt,
ml-100k-README.txt), and may hold posters/MOVIE_ID.jpg, which are not GroupLens' own. Titles are in UTF-8, those of
ml-1m and ml-100k in Latin-1.

A rating of at least `liked` stars is relevant, one below stands beside it as seen and not liked. The title is the
title and the genres; a title's last article is put back to its front ("Matrix, The (1999)"); the first genre is the
category. There are no queries: they may be derived (`queries: derive`). Licence: for research, with citation (Harper
and Konstan 2015); not for redistribution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.datasets._reading.behaviour import EventColumns, Vocabulary, read_events
from client.datasets._reading.blocks import Layout, Progress
from client.datasets._reading.files import text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import LONGEST_TITLE, ItemColumns, items_of, read_items
from client.datasets._shaping.loader import loader
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from mmrank.errors import DatasetError
from mmrank.settings import bounded, parse_table

HOLDS = "movies.csv and ratings.csv (ml-latest), movies.dat and ratings.dat (ml-1m), or u.item and u.data (ml-100k)"
SIZE = "ml-100k to ml-32m, as the names say"
LATEST = ItemColumns(file="movies.csv", id="movieId", title=("title",), fields={"genres": "genres"})
RATED = ("userId", "movieId", "rating", "timestamp")
RATINGS = EventColumns(
    file="ratings.csv", user="userId", item="movieId", time="timestamp", time_unit="s", weight="rating", liked=4.0
)
DOUBLED = ("userId", "_1", "movieId", "_2", "rating", "_3", "timestamp")
"""ratings.dat has two colons between its fields: to a parser of single ones, an empty field."""
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
Films = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Ids, titles, genres with | between."""
_ARTICLE = re.compile(
    r"(.*), (The|A|An|La|Le|Les|L'|Un|Une|Il|Lo|Gli|El|Los|Las|Una|Das|Der|Die|Den|Det)((?: \(.*\))?)"
)


@dataclass(frozen=True, kw_only=True)
class Own:
    """The settings of this reader; see read."""

    liked: float = 4.0

    def __post_init__(self) -> None:
        bounded("dataset.liked", self.liked, 0.0, 5.0)


def read(
    root: Path,
    *,
    liked: float = 4.0,
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. liked: from so many stars on an item was liked.

    Raises ConfigError for a setting, DatasetError (file, line, what to do) for files that are no MovieLens.
    """
    liked = parse_table(Own, {"liked": liked}, "dataset").liked
    file, (ids, titles, genres), ratings = _layout(root, findings, progress)
    kinds = [[kind for kind in row.split("|") if not kind.startswith("(no ")] for row in genres]
    made = items_of(
        ids,
        [". ".join(filter(None, (in_order(title), " ".join(kind)))) for title, kind in zip(titles, kinds, strict=True)],
        name="movielens",
        file=file,
        root=root,
        pictures=[f"posters/{item_id}.jpg" for item_id in ids],
        categories=[kind[0] if kind else "" for kind in kinds],
    )
    names = Vocabulary()
    columns = replace(ratings, liked=liked)
    events = read_events(root, columns, made, names, findings=findings, now_days=now_days, progress=progress)
    return Source(
        name="movielens",
        catalog=made.catalog,
        findings=findings,
        events=events,
        users=names.users.names(),
        user_column="userId",
    )


def _layout(root: Path, findings: Findings, progress: Progress | None) -> tuple[str, Films, EventColumns]:
    """(the file of films, the films, where the ratings are) of the layout that is there."""
    if (root / LATEST.file).is_file():
        items = read_items(root, LATEST, name="movielens", findings=findings, progress=progress)
        return LATEST.file, (items.catalog.item_ids, items.catalog.titles, items.fields["genres"]), RATINGS
    if (root / "movies.dat").is_file():
        layout = Layout(format="csv", header=DOUBLED, separator=":", quotes=False)
        films = _films(root, "movies.dat", _doubled, findings)
        return "movies.dat", films, replace(RATINGS, file="ratings.dat", layout=layout)
    if (root / "u.item").is_file():
        layout = Layout(format="tsv", header=RATED)
        films = _films(root, "u.item", _flagged, findings)
        return "u.item", films, replace(RATINGS, file="u.data", layout=layout)
    raise DatasetError(f"{root}: no MovieLens in it; it should hold {HOLDS}.")


def in_order(title: str) -> str:
    """A title with its article in front.

    >>> in_order("Matrix, The (1999)"), in_order("Heat (1995)")
    ('The Matrix (1999)', 'Heat (1995)')
    """
    found = _ARTICLE.fullmatch(title)
    if found is None:
        return title
    name, article, year = found.groups()
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{name}{year}"


def _films(root: Path, file: str, split: Callable[[str], tuple[str, str, str] | None], findings: Findings) -> Films:
    """The films of the older layouts."""
    made: dict[str, tuple[str, str]] = {}
    for line in text_lines(root, file, findings=findings, encoding="latin-1"):
        findings.rows[line.file] += 1
        fields = split(line.text)
        if fields is None:
            code = "ragged"
            text = "no film, left out; expected id::title::genres (ml-1m), or 24 fields with | between (ml-100k)"
        elif not fields[0] or not fields[0].isprintable():
            code, text = "id", "no id; the row is left out"
        elif fields[0] in made:
            code, text = "duplicate_item", "an item whose id an earlier row has; the row is left out"
        else:
            made[fields[0]] = (_decoded(fields[1])[:LONGEST_TITLE], fields[2])
            continue
        findings.add("warning", code, line.file, text, lines=(line.number,), by_row=False, lost=True)
    if not made:
        raise DatasetError(f"{file}: no film in it; each line should be id::title::genres, or u.item's 24 fields.")
    return list(made), [title for title, _ in made.values()], [genres for _, genres in made.values()]


def _doubled(text: str) -> tuple[str, str, str] | None:
    """
    >>> _doubled("260::Star Wars: Episode IV - A New Hope (1977)::Action|Adventure")
    ('260', 'Star Wars: Episode IV - A New Hope (1977)', 'Action|Adventure')
    """
    item_id, first, rest = text.partition("::")
    title, second, genres = rest.rpartition("::")
    return (item_id.strip(), title.strip(), genres.strip()) if first and second else None


def _flagged(text: str) -> tuple[str, str, str] | None:
    fields = text.split("|")
    if len(fields) != 5 + len(GENRES_100K):
        return None
    flags = zip(GENRES_100K, fields[5:], strict=True)
    return fields[0].strip(), fields[1].strip(), "|".join(name for name, flag in flags if flag.strip() == "1")


def _decoded(text: str) -> str:
    """What was read as Latin-1, as the UTF-8 that it is in ml-10m.

    >>> _decoded("MisÃ©rables"), _decoded("Misérables")
    ('Misérables', 'Misérables')
    """
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


load = loader(read, holds=HOLDS)
