"""Logs written to disk as their publishers do: RecBole, MIND, MovieLens; what is common to them."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.datasets._reading.findings import Findings
from client.datasets._shaping.settings import shape_of
from client.datasets._source import Source

DAY = 86_400
FIRST = 1_572_566_400
"""2019-11-01."""
PEOPLE, ITEMS = 24, 60
GENRES = ("Comedy", "Drama", "Action", "Thriller", "Children's")


def read_logs(module: Any, root: Path, **settings: Any) -> Source:
    """The source of a reader, with its findings in `source.findings`."""
    return module.read(root, shape=shape_of({}), findings=Findings(), **settings)


def found(source: Source, code: str) -> list[str]:
    """What was found of that code, as it is printed."""
    return [str(finding) for finding in source.findings if finding.code == code]


def ratings(seed: int = 7) -> Iterator[tuple[int, int, int, int]]:
    """(person, item, stars, second) of everybody, by person, over three months."""
    draw = random.Random(seed)
    for person in range(1, PEOPLE + 1):
        for _ in range(draw.randint(12, 24)):
            second = FIRST + draw.randrange(90) * DAY + draw.randrange(DAY)
            yield person, draw.randrange(1, ITEMS + 1), draw.choice((1, 3, 4, 5, 5)), second


def write_lines(path: Path, lines: Iterable[str], *, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


# RecBole


def write_recbole(root: Path) -> None:
    """ml-100k as RecBole ships it: user_id, item_id, rating, timestamp; title and class are sequences."""
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    rows = [f"{person}\t{item}\t{stars}\t{second}" for person, item, stars, second in ratings()]
    write_lines(root / "ml-100k.inter", [header, *rows])
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    rows = [f'{item}\t"Film" No {item}\t{1990 + item % 9}\t{GENRES[item % 5]} War' for item in range(1, ITEMS + 1)]
    write_lines(root / "ml-100k.item", [header, *rows])
    write_lines(root / "ml-100k.user", ["user_id:token\tage:token", "1\t24"])


# MIND


def news(item: int) -> str:
    """A row of news.tsv."""
    entities = '[{"Label": "PGA Tour", "Type": "O", "WikidataId": "Q910409", "SurfaceForms": ["PGA Tour"]}]'
    kind, under = (("sports", "golf"), ("health", "weightloss"), ("news", "newsus"))[item % 3]
    return "\t".join(
        [f"N{item}", kind, under, f'"Title {item}" it said', f"Abstract {item}.", "https://x/y.html", entities, "[]"]
    )


def clock(second: int) -> str:
    """As MIND writes a time: no zero before the month, the day or the hour."""
    at = datetime.fromtimestamp(second, UTC)
    half = "AM" if at.hour < 12 else "PM"
    return f"{at.month}/{at.day}/{at.year} {at.hour % 12 or 12}:{at:%M:%S} {half}"


def write_mind(root: Path, *, packed_as: str = "") -> None:
    """train (9 to 14 November 2019), dev (the 15th) and test, which has no clicks; a person has one history in all."""
    draw = random.Random(11)
    items = list(range(1, ITEMS + 1))
    rows: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for person in range(1, PEOPLE + 1):
        history = " ".join(f"N{item}" for item in draw.sample(items, draw.randrange(6)))
        for hour in draw.sample(range(8 * 24, 16 * 24), 14):
            day = hour // 24
            part = "train" if day < 14 else "dev" if day == 14 else "test"
            shown, clicked = draw.sample(items, 8), draw.randint(1, 2)
            flags = draw.sample([1] * clicked + [0] * (8 - clicked), 8)
            entries = [
                f"N{item}" + ("" if part == "test" else f"-{flag}") for item, flag in zip(shown, flags, strict=True)
            ]
            when = clock(FIRST + hour * 3600 + draw.randrange(3000))
            number = len(rows[part]) + 1
            rows[part].append("\t".join([str(number), f"U{person}", when, history, " ".join(entries)]))
    for part, lines in rows.items():
        folder = root / f"{packed_as}{part}"
        write_lines(folder / "behaviors.tsv", draw.sample(lines, len(lines)))
        write_lines(folder / "news.tsv", [news(item) for item in items])
        write_lines(folder / "entity_embedding.vec", ["Q42306013\t0.014516\t-0.106958"])


# MovieLens

FILMS: Sequence[tuple[str, str]] = (
    ("Toy Story (1995)", "Adventure|Animation|Children's|Comedy"),
    ("American President, The (1995)", "Comedy|Drama|Romance"),
    ("City of Lost Children, The (Cité des enfants perdus, La) (1995)", "Adventure|Sci-Fi"),
    ("Misérables, Les (1995)", "Drama|Musical"),
    ("Star Wars: Episode IV - A New Hope (1977)", "Action|Adventure|Sci-Fi"),
    ('"Great Performances" Cats (1998)', "Musical"),
    ("Enfer, L' (1994)", "Drama"),
)


def films() -> list[tuple[int, str, str]]:
    """(id, title, genres)."""
    made = [(place, *film) for place, film in enumerate(FILMS, 1)]
    return made + [(item, f"Film {item} (2001)", GENRES[item % 5]) for item in range(len(made) + 1, ITEMS + 1)]


def write_movielens(root: Path) -> None:
    """ml-latest: CSV, titles with commas in quotes, half stars."""
    for name, rows in (
        ("movies.csv", [("movieId", "title", "genres"), *films()[:-1], (ITEMS, "Film", "(no genres listed)")]),
        ("ratings.csv", [("userId", "movieId", "rating", "timestamp"), *(halved(row) for row in ratings())]),
    ):
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        write_lines(root / name, text.getvalue().split("\r\n")[:-1])


def halved(row: tuple[int, int, int, int]) -> tuple[int, int, float, int]:
    person, item, stars, second = row
    return person, item, stars - 0.5, second


def write_movielens_1m(root: Path, *, encoding: str = "latin-1") -> None:
    """ml-1m; in UTF-8 it is ml-10m."""
    lines = [f"{item}::{title}::{genres}" for item, title, genres in films()]
    write_lines(root / "movies.dat", lines, encoding=encoding)
    write_lines(root / "ratings.dat", ["::".join(map(str, row)) for row in ratings()])
    write_lines(root / "users.dat", ["1::F::1::10::48067"])


def write_movielens_100k(root: Path) -> None:
    """ml-100k: 19 flags for the genres."""
    order = (
        *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
        *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
    )
    lines = []
    for item, title, genres in films():
        flags = "|".join(str(int(name in genres.split("|"))) for name in order)
        lines.append(f"{item}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story|{flags}")
    write_lines(root / "u.item", lines, encoding="latin-1")
    write_lines(root / "u.data", ["\t".join(map(str, row)) for row in ratings()])
