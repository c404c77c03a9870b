"""The tables and pictures of the public H&M data, read with the csv module and checked row by row."""

from __future__ import annotations

import csv
import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from client.datasets._reading.pictures import decoded
from mmrank.errors import ConfigError, DatasetError

ARTICLES, TRANSACTIONS = "articles.csv", "transactions_train.csv"
ARTICLE_COLUMNS = (
    "article_id",
    "prod_name",
    "product_type_name",
    "colour_group_name",
    "section_name",
    "detail_desc",
)
TRANSACTION_COLUMNS = ("t_dat", "customer_id", "article_id", "price")


class _BadValueError(Exception):
    """One row cannot be used: the column and why."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


@dataclass(frozen=True, kw_only=True)
class Articles:
    """The rows of articles.csv as columns of N strings."""

    columns: dict[str, list[str]]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> list[str]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["article_id"])


@dataclass(frozen=True, kw_only=True)
class Purchases:
    """One row for each (day, customer, item), sorted so; exact repeats are quantities and were merged.

    day: int64 [P], from the first day of the table. customer, item: int64 [P], indices.
    price: float32 [P], the mean over the merged rows. customer_ids: by customer index, sorted.
    first_day: the calendar day 0.
    """

    day: np.ndarray
    customer: np.ndarray
    item: np.ndarray
    price: np.ndarray
    customer_ids: tuple[str, ...]
    first_day: date
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.day)


def data_folder(root: str | Path | None) -> Path:
    """`root` as the folder that holds both tables; ConfigError says how to name it."""
    remedy = f"set it to the folder that holds {ARTICLES}, {TRANSACTIONS} and images/: --set dataset.root=PATH."
    if not root:
        raise ConfigError(f"Expected dataset.root={root!r} to be a folder; {remedy}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"Expected dataset.root={str(folder)!r} to be a folder that exists; {remedy}")
    for table in (ARTICLES, TRANSACTIONS):
        if not (folder / table).is_file():
            raise ConfigError(f"Expected dataset.root={str(folder)!r} to hold {table}; {remedy}")
    return folder


def read_articles(folder: Path, *, extra: Sequence[str], bad_rows: float) -> Articles:
    """articles.csv with ARTICLE_COLUMNS and the columns `extra`.

    bad_rows: the share of rows that may be dropped. Raises DatasetError with file, column and line.
    """
    names = [*ARTICLE_COLUMNS, *(name for name in extra if name not in ARTICLE_COLUMNS)]
    columns: list[list[str]] = [[] for _ in names]
    seen: set[str] = set()

    def take(row: Sequence[str]) -> None:
        _check_article_id(row[0])
        if row[0] in seen:
            raise _BadValueError("article_id", f"{row[0]!r} stands in an earlier row already")
        seen.add(row[0])
        for column, value in zip(columns, row, strict=True):
            column.append(value)

    notes = _read(folder / ARTICLES, names, take, bad_rows)
    return Articles(columns=dict(zip(names, columns, strict=True)), notes=notes)


def read_purchases(folder: Path, index_of: dict[str, int], *, bad_rows: float) -> Purchases:
    """transactions_train.csv; items are looked up in `index_of`. Raises as `read_articles`."""
    day_of: dict[str, int] = {}
    customers: dict[str, int] = {}
    days, buyers, items, prices = array("q"), array("q"), array("q"), array("d")  # the full data has 31 million rows

    def take(row: Sequence[str]) -> None:
        day_text, customer, article, price_text = row
        day = day_of.get(day_text)
        if day is None:
            day = day_of[day_text] = _day(day_text)
        if not customer:
            raise _BadValueError("customer_id", "is empty")
        item = index_of.get(article)
        if item is None:
            _check_article_id(article)
            raise _BadValueError("article_id", f"{article!r} is not in {ARTICLES}")
        prices.append(_price(price_text))
        days.append(day)
        buyers.append(customers.setdefault(customer, len(customers)))
        items.append(item)

    notes = _read(folder / TRANSACTIONS, TRANSACTION_COLUMNS, take, bad_rows)
    names = sorted(customers)
    rank = np.empty(len(names), np.int64)
    rank[[customers[name] for name in names]] = np.arange(len(names))
    shape = (max(days) - min(days) + 1, len(names), len(index_of))
    keys = np.ravel_multi_index((np.asarray(days) - min(days), rank[np.asarray(buyers)], np.asarray(items)), shape)
    key, inverse, quantity = np.unique(keys, return_inverse=True, return_counts=True)
    day, customer, item = (part.astype(np.int64) for part in np.unravel_index(key, shape))
    price = np.bincount(inverse.reshape(-1), weights=np.asarray(prices)) / quantity
    return Purchases(
        day=day,
        customer=customer,
        item=item,
        price=price.astype(np.float32),
        customer_ids=tuple(names),
        first_day=date.fromordinal(min(days)),
        notes=notes,
    )


def _read(path: Path, names: Sequence[str], take: Callable[[Sequence[str]], None], bad_rows: float) -> tuple[str, ...]:
    """Hand each row's fields `names` to `take`, which raises _BadValueError before it keeps anything of a bad one."""
    first_bad, good, bad, line = "", 0, 0, 1
    for line, row in _rows(path, names):
        try:
            if row is None:
                raise _BadValueError(names[0], "the row has another number of fields than the header")
            take(row)
            good += 1
        except _BadValueError as error:
            bad += 1
            first_bad = first_bad or f"line {line}, column {error.column}: {error.reason}"
    total = good + bad
    allowed = math.ceil(bad_rows * total)
    if bad > allowed:
        raise DatasetError(
            f"{path.name}, {first_bad}. {bad} of {total} rows are bad and at most {allowed} are dropped; "
            "mend the table, or raise dataset.bad_rows."
        )
    if not good:
        raise DatasetError(f"{path.name}, line {line}: no usable row after the header; {first_bad or 'it is empty'}.")
    return (f"{path.name}: {bad} of {total} rows dropped; the first is {first_bad}",) if bad else ()


def _rows(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str] | None]]:
    """(line, the fields `names`) of each row; None where the row has another number of fields than the header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            for name in names:
                if name not in header:
                    raise DatasetError(
                        f"{path.name}, line 1 lacks the column {name!r}; it has: {', '.join(header) or 'none'}."
                    )
            places = [header.index(name) for name in names]
            for row in reader:
                yield reader.line_num, [row[place] for place in places] if len(row) == len(header) else None
        except (csv.Error, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{path.name}, line {reader.line_num + 1}, columns {', '.join(names)}: {error}; "
                "save the table as CSV in UTF-8."
            ) from error


def _check_article_id(text: str) -> None:
    if len(text) != 10 or not (text.isascii() and text.isdigit()):
        lost = "a spreadsheet drops the leading zero: keep the column as text"
        raise _BadValueError("article_id", f"{text!r} is not a string of ten digits ({lost})")


def _day(text: str) -> int:
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        raise _BadValueError("t_dat", f"{text!r} is not a day such as 2019-09-20") from None


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise _BadValueError("price", f"{text!r} is not a number above 0")
    return value


@dataclass(eq=False)
class Pictures:
    """images/0xx/ARTICLE_ID.jpg of each item, decoded when asked for.

    missing: how many items have no file. unreadable: items whose file could not be decoded so far.
    """

    folder: Path
    item_ids: Sequence[str]
    missing: int = field(init=False)
    unreadable: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        present = {path.stem for path in self.folder.glob("*/*.jpg")}
        self.missing = sum(item_id not in present for item_id in self.item_ids)

    def __call__(self, index: int) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where the file is absent, too large or broken."""
        path = self.path(index)
        if path is None:
            return None
        found = decoded(Path(path))
        if isinstance(found, str):
            self.unreadable.add(index)
            return None
        return found

    def digest(self, index: int) -> str | None:
        """sha256 of the file, or None where there is none."""
        path = self.path(index)
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def path(self, index: int) -> str | None:
        """Where the picture lies, or None where there is no file."""
        item_id = self.item_ids[index]
        path = self.folder / item_id[:3] / f"{item_id}.jpg"
        return str(path) if path.is_file() else None


def codes(values: Iterable[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 [N] and the sorted names that the codes stand for."""
    names, index = np.unique(np.array(list(values)), return_inverse=True)
    return index.reshape(-1).astype(np.int64), tuple(str(name) for name in names)
