"""How a source is cut into clients, parts, slates and candidates: the keys that all readers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

from mmrank.errors import ConfigError
from mmrank.settings import bounded, parse_table


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Who is a client. by: `user`, `merchant`, `all` (one client, whose name is `id`), or a column of the items or of
    the behaviour; `auto` is a person where there are people, else the merchant, else ten parts of the queries.

    kind: device or merchant; a person is a device and all else a merchant where `auto`. min_slates: clients with fewer
    are left out, as simulation design. partition: people (queries where there are none) dealt to `clients` artificial
    clients by `seed`: iid, quantity (sizes by a power law with exponent `exponent`), dirichlet (`alpha`, over the item
    column `over`, Hsu et al. 2019), or the name of a partitioner of flwr-datasets, with `options` for it: its table has
    a row a person, with the columns person, label (the value of `over` that they chose most) and slates.
    """

    by: str = "auto"
    kind: Literal["auto", "device", "merchant"] = "auto"
    min_slates: int = 1
    id: str = "all"
    partition: str = "none"
    clients: int = 10
    alpha: float = 0.5
    exponent: float = 1.0
    over: str = "category"
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        bounded("dataset.clients.min_slates", self.min_slates, 1, 1_000_000)
        bounded("dataset.clients.clients", self.clients, 1, 1_000_000)
        bounded("dataset.clients.alpha", self.alpha, 1e-3, 1e6)
        bounded("dataset.clients.exponent", self.exponent, 0.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Which slates are for training, validation and test.

    by: `time`; `query` (a hash of the words: all slates of a query lie in one part); `column`, what the file says;
    `auto` takes the column where there is one, else time where there are times, else the query. The fractions are of
    the moments, in time, or of the queries. validation_from, test_from, until: public days (YYYY-MM-DD) in place of
    fractions, which are read off everybody's times and so hold in simulations alone.
    """

    by: Literal["auto", "time", "query", "column"] = "auto"
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    validation_from: str | None = None
    test_from: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        bounded("dataset.split.validation_fraction", self.validation_fraction, 0.0, 0.9)
        bounded("dataset.split.test_fraction", self.test_fraction, 0.0, 0.9)
        if self.validation_fraction + self.test_fraction > 0.95:
            raise ConfigError(
                f"Expected dataset.split.validation_fraction={self.validation_fraction} and test_fraction="
                f"{self.test_fraction} to leave at least 0.05 for training; lower one."
            )
        given = [name for name in ("validation_from", "test_from") if getattr(self, name) is not None]
        if len(given) == 1:
            raise ConfigError(
                f"Expected dataset.split.{given[0]} beside its other half; set validation_from and test_from both."
            )
        edges = self.edges
        if edges is not None and not edges[0] <= edges[1] <= edges[2]:
            raise ConfigError(
                f"Expected dataset.split.validation_from={self.validation_from}, test_from={self.test_from} and until="
                f"{self.until} in this order."
            )

    @property
    def edges(self) -> tuple[float, float, float] | None:
        """Where validation and test begin and test ends, in days since 1970; None where fractions say it."""
        if self.validation_from is None or self.test_from is None:
            return None
        end = float("inf") if self.until is None else _day("split.until", self.until)
        return _day("split.validation_from", self.validation_from), _day("split.test_from", self.test_from), end


@dataclass(frozen=True, kw_only=True)
class QuerySettings:
    """Where the words come from. derive: the share of moments without words that are given some, made of the chosen
    item's own public fields; 0 where nobody asks, and those slates are browsed. fields: which fields, all where empty.
    """

    derive: float = 0.0
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounded("dataset.queries.derive", self.derive, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class CandidateSettings:
    """What a slate holds beside what was chosen. negatives: how many others; test_negatives: in validation and test, as
    many where None. start: `from` of the YAML.

    others_same_window: what others chose within `window_days` after, in proportion; no client can know it, so it is
    for simulation only, as is same_query: what others chose for the same words. catalogue: any item alike. bm25: those
    whose titles are nearest to the words, any item where there are none. `auto`: others_same_window where there are
    times, else catalogue. Lists that were shown or judged are taken as they are, and filled up only where `fill`.
    """

    negatives: int = 19
    test_negatives: int | None = None
    origin: Literal["auto", "others_same_window", "same_query", "catalogue", "bm25"] = "auto"
    window_days: int = 21
    fill: bool = False

    def __post_init__(self) -> None:
        bounded("dataset.candidates.negatives", self.negatives, 1, 100_000)
        if self.test_negatives is not None:
            bounded("dataset.candidates.test_negatives", self.test_negatives, 1, 100_000)
        bounded("dataset.candidates.window_days", self.window_days, 0, 36_525)


@dataclass(frozen=True, kw_only=True)
class HarmoniseSettings:
    """What makes several shops' catalogues comparable; public facts alone.

    categories: a table under the root with the columns merchant (blank for all), from, to: the common name of each
    shop's category. currency: what prices are in after `rates`, a factor by merchant, or a table under the root with
    the columns merchant (blank for all others), rate: `rates` is then its name, kept as rates_file. prices:
    `by_merchant` and `by_category` put an index in place of each price, which says how dear the item is within its
    shop or its category, so that what is cheap in a dear shop is cheap.
    """

    categories: str | None = None
    currency: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    rates_file: str | None = None
    prices: Literal["as_they_are", "by_merchant", "by_category"] = "as_they_are"

    def __post_init__(self) -> None:
        if (self.currency is None) != (not self.rates and self.rates_file is None):
            raise ConfigError(
                f"Expected dataset.harmonise.currency={self.currency} and rates together: a rate turns a shop's prices "
                "into that currency; set both, for example currency: EUR and rates: {shop: 0.92}, or neither."
            )
        if self.rates and self.rates_file is not None:
            raise ConfigError("Expected dataset.harmonise.rates as factors or as a table, not both; leave one out.")
        for merchant, rate in self.rates.items():
            bounded(f"dataset.harmonise.rates.{merchant}", rate, 1e-9, 1e9)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything that readers share. moment: what a person did together is one slate: of a day, an hour or each event.

    rows: TREC run files under the root, by the name of the row that each becomes. seed: of candidates and derived
    queries. identity: names the data in privacy ledgers, in place of the root's path; keep it for good.
    bad_rows: the share of a table's rows that may be left out. harmonise: several shops' catalogues made comparable.
    """

    clients: ClientSettings = field(default_factory=ClientSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    queries: QuerySettings = field(default_factory=QuerySettings)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    moment: Literal["day", "hour", "event"] = "day"
    rows: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    identity: str | None = None
    bad_rows: float = 0.01
    harmonise: HarmoniseSettings = field(default_factory=HarmoniseSettings, repr=False)
    """Not in the text that a version is made of: all that it changes is in the catalogue, whose digest is."""

    def __post_init__(self) -> None:
        bounded("dataset.bad_rows", self.bad_rows, 0.0, 1.0)


def shape_of(values: Mapping[str, Any]) -> Shape:
    """The shape in those keys of a data set's settings. Raises ConfigError for an unknown key or a wrong type.

    >>> shape_of({"clients": "user", "candidates": {"from": "catalogue"}}).candidates.origin
    'catalogue'
    """
    given = dict(values)
    if isinstance(given.get("clients"), str):
        given["clients"] = {"by": given["clients"]}
    if isinstance(given.get("split"), str):
        given["split"] = {"by": given["split"]}
    if given.get("queries") == "derive":
        given["queries"] = {"derive": 0.3}
    candidates = given.get("candidates")
    if isinstance(candidates, str):
        given["candidates"] = {"origin": candidates}
    elif isinstance(candidates, Mapping) and "from" in candidates:
        given["candidates"] = {"origin" if key == "from" else key: value for key, value in candidates.items()}
    harmonise = given.get("harmonise")
    if isinstance(harmonise, Mapping) and isinstance(harmonise.get("rates"), str):
        given["harmonise"] = {"rates_file" if key == "rates" else key: value for key, value in harmonise.items()}
    split = given.get("split")
    if isinstance(split, Mapping):  # YAML reads a bare 2024-01-31 as a date
        given["split"] = {key: str(value) if isinstance(value, date) else value for key, value in split.items()}
    return parse_table(Shape, given, "dataset")


def _day(name: str, value: str) -> float:
    try:
        return datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() / 86_400
    except ValueError:
        raise ConfigError(f"Expected dataset.{name}={value!r} as YYYY-MM-DD, for example 2024-06-01.") from None
