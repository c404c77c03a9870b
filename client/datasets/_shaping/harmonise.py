"""Several shops' catalogues in one speech: common names of categories, one currency, prices of one scale.

Everything here is of public facts (what the catalogue shows, and tables that whoever runs it brings), so nothing is
charged. Further columns of the items (`fields`) stay as they were written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from client.datasets._reading.blocks import Layout, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import coded
from client.datasets._reading.values import numbers, strings
from client.datasets._shaping.settings import HarmoniseSettings
from client.datasets._source import Source
from mmrank.catalog import Catalog

ALL = ""
"""The merchant of a line that is for every shop."""
FEW = 10
"""Prices of a group: fewer have no mean and no spread of their own, and are measured by the whole catalogue's."""
USUAL, SPREAD, FARTHEST = 5.0, 0.5, 6.0
"""Of an index in place of a price, as log1p: its middle, what one standard deviation is, and the most of them."""
SETTINGS = "dataset.harmonise"
FAULTS = {
    "map-blank": "a category without a common name (to is blank), left out",
    "map-merchant": "a merchant that the catalogue lacks",
    "map-category": "a category that the catalogue lacks, or that merchant",
    "map-twice": "a category that an earlier line gives another name; the earlier one stands",
    "rate": "a rate that is no number above 0, left out",
    "rate-merchant": "a rate of a merchant that the catalogue lacks",
    "rate-twice": "a merchant that an earlier line gives another rate; the earlier one stands",
}
"""What may be wrong with a line, by the code of its finding."""


def harmonised(source: Source, settings: HarmoniseSettings, *, root: Path) -> Source:
    """The source with its categories renamed, its prices turned into one currency, then put on one scale.

    Findings say what a table names that the catalogue lacks (warnings, by line) and what no line speaks of (notes).
    Raises DatasetError for a table that can't be read.
    """
    catalog = source.catalog
    if settings.categories is not None:
        catalog = _renamed(catalog, settings.categories, root, source.findings)
    if settings.rates or settings.rates_file is not None:
        catalog = replace(catalog, prices=_exchanged(catalog, settings, root, source.findings))
    if settings.prices != "as_they_are":
        groups = catalog.merchants if settings.prices == "by_merchant" else catalog.categories
        catalog = replace(catalog, prices=indexed_prices(catalog.prices, groups))
    return source if catalog is source.catalog else replace(source, catalog=catalog)


def indexed_prices(prices: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float32 [N]: an index in place of each price, which says how dear the item is within its group; NaN where the
    price is absent (NaN, infinite or negative).

    z = (log1p(p) - mean of the group) / std of the group, within ±FARTHEST; the index is expm1(USUAL + SPREAD z), 147
    for what is usual there. mmrank.features takes log1p and standardises over the catalogue: since each group's z has
    mean 0 and variance 1, what it gives is z itself, whoever else is in the catalogue; nearly so where a group has one
    price for all (each z is 0), or fewer than FEW prices, which are measured by the mean and spread of all.
    prices: float [N]; groups: int64 [N].
    """
    known = np.isfinite(prices) & (np.nan_to_num(prices, nan=-1.0) >= 0)
    found = np.full(len(prices), np.nan, np.float32)
    if not known.any():
        return found
    logs, group = np.log1p(prices[known].astype(np.float64)), groups[known]
    count = np.bincount(group)
    size = np.maximum(count, 1)
    mean = np.bincount(group, weights=logs) / size
    spread = np.sqrt(np.bincount(group, weights=(logs - mean[group]) ** 2) / size)
    few = count < FEW
    mean[few], spread[few] = logs.mean(), logs.std()
    z = (logs - mean[group]) / np.maximum(spread[group], 1e-9)  # one price for all: every z is 0
    found[known] = np.expm1(USUAL + SPREAD * z.clip(-FARTHEST, FARTHEST))
    return found


@dataclass
class _CategoryMap:
    """to: the common name by (merchant or ALL, name in that shop)."""

    known: frozenset[tuple[str, str]]
    merchants: frozenset[str]
    to: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, merchant: str, old: str, new: str) -> str | None:
        """Take a line. Returns which of FAULTS it has, or None."""
        if not new:
            return "map-blank"
        if merchant != ALL and merchant not in self.merchants:
            return "map-merchant"
        if (merchant, old) not in self.known:
            return "map-category"
        if self.to.setdefault((merchant, old), new) != new:
            return "map-twice"
        return None

    def new_name(self, merchant: str, old: str) -> str | None:
        """A shop's own line goes before one for all."""
        return self.to.get((merchant, old), self.to.get((ALL, old)))


def _renamed(catalog: Catalog, file: str, root: Path, findings: Findings) -> Catalog:
    pairs = list(
        zip(
            [catalog.merchant_names[index] for index in catalog.merchants.tolist()],
            [catalog.category_names[index] for index in catalog.categories.tolist()],
            strict=True,
        )
    )
    items_of = Counter(pairs)
    table = _CategoryMap(
        known=frozenset(items_of) | {(ALL, name) for _, name in items_of}, merchants=frozenset(catalog.merchant_names)
    )
    for name, line, (merchant, old, new) in _lines(root, file, ("merchant", "from", "to"), findings):
        _say(findings, name, line, table.add(merchant, old, new))
    names = {pair: table.new_name(*pair) for pair in items_of}
    common = set(table.to.values())
    left = [pair for pair, new in names.items() if new is None and pair[1] not in common and pair[1]]
    if left:
        first = left[0]
        items = sum(items_of[pair] for pair in left)
        text = (
            f"{len(left)} categories of shops, of {items} items in all, stand in no line and keep their names; "
            f"the first is {first[1]!r} of {first[0] or 'the shop'!r}"
        )
        findings.add("note", "unmapped", file, text)
    codes, category_names = coded([pair[1] if names[pair] is None else str(names[pair]) for pair in pairs])
    return replace(catalog, categories=codes, category_names=category_names)


def _exchanged(catalog: Catalog, settings: HarmoniseSettings, root: Path, findings: Findings) -> np.ndarray:
    """float32 [N]: each price times the rate of its shop; what has no rate is taken to be in the currency already."""
    merchants = frozenset(catalog.merchant_names)
    rates: dict[str, float] = {}
    for place, line, merchant, rate in _rates(settings, root, findings):
        fault = None
        if not 0 < rate < np.inf:
            fault = "rate"
        elif merchant != ALL and merchant not in merchants:
            fault = "rate-merchant"
        elif rates.setdefault(merchant, rate) != rate:
            fault = "rate-twice"
        _say(findings, place, line, fault)
    usual = rates.get(ALL)
    without = [name for name in catalog.merchant_names if name not in rates]
    if without and usual is None:
        text = (
            f"{len(without)} of {len(merchants)} merchants have no rate; their prices are taken to be in "
            f"{settings.currency}; the first is {without[0]!r}"
        )
        findings.add("note", "no-rate", settings.rates_file or f"{SETTINGS}.rates", text)
    factors = np.array([rates.get(name, usual or 1.0) for name in catalog.merchant_names])
    return (catalog.prices.astype(np.float64) * factors[catalog.merchants]).astype(np.float32)


def _rates(settings: HarmoniseSettings, root: Path, findings: Findings) -> Iterator[tuple[str, int | None, str, float]]:
    """(file, line, merchant, rate); a rate that is no number is NaN."""
    if settings.rates_file is None:
        written: Mapping[str, float] = settings.rates
        for merchant, rate in written.items():
            yield f"{SETTINGS}.rates", None, merchant, rate
        return
    for block in blocks(root, settings.rates_file, ("merchant", "rate"), layout=Layout(), findings=findings):
        found, _ = numbers(block["rate"])
        rows = zip(block.rows.tolist(), strings(block["merchant"]), found.tolist(), strict=True)
        for line, merchant, rate in rows:
            yield block.file, line, merchant, rate


def _lines(
    root: Path, file: str, columns: Sequence[str], findings: Findings
) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """(file, row, texts) of each row of a table."""
    for block in blocks(root, file, columns, layout=Layout(), findings=findings):
        texts = zip(*(strings(block[name]) for name in columns), strict=True)
        for line, row in zip(block.rows.tolist(), texts, strict=True):
            yield block.file, line, row


def _say(findings: Findings, file: str, line: int | None, fault: str | None) -> None:
    if fault is not None:
        lines = () if line is None else (line,)
        findings.add("warning", fault, file, FAULTS[fault], lines=lines, by_row=line is not None)
