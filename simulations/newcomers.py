"""Merchants that were not there: what a federation is worth to a shop that it never saw, and to one with a few slates.

For each merchant M the federation is trained without M, and measured on M's test slates as it is (`left_out`), beside
the frozen encoders alone (`content`) and the federation with M (`joined`). Then M comes with n of its training slates:
`fitted-n` trains the left-out model on them at home, `local_only-n` the common untrained one, by the same options.

Simulation only: M's validation slates choose how long both train, which a shop with ten slates does not have; what is
fitted at home has no noise, and never leaves it. M's catalogue is public and lies in the features; people's histories
are what a shop knows of them when it ranks, whatever it trains on. Ledgers are throwaway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from client.datasets import Dataset, Kind, Split
from client.training import fit
from mmrank.errors import ConfigError, nearest
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, load_parameters, parameters_of
from mmrank.settings import Settings
from mmrank.slates import Slate, collate
from simulations._federation import Parameters, federate, reported_row
from simulations._folder import RunFolder, write_json
from simulations._intervals import ci95
from simulations._stage import Stage, set_up
from simulations.evaluation import HEADLINE, Chunk, Evaluator, RowResult, Scorer, pooled
from simulations.progress import Display
from simulations.rows import RowSkippedError, build_row
from simulations.rows._ranker import ranker_scorer
from simulations.run import seeds_of
from simulations.tracking import Nothing

SIZES = (10, 100, 1000)
RATES = (None, 0.01, 0.001)
"""What is tried of training at home: as the configuration says (None), or AdamW with that learning rate."""
STOPS = (10, 30, 100, 300)
"""Steps after which training may stop; 0 leaves the model as it began."""
NOTE = (
    "Simulation only: another shop's validation and test slates are looked at, and the number of steps is chosen on "
    "validation slates that a newcomer does not have."
)
RESULT = "newcomers.json"


class Members:
    """A data set with some of its clients: a view, nothing is copied."""

    def __init__(self, dataset: Dataset, clients: Sequence[str]) -> None:
        self._dataset = dataset
        self.name, self.version, self.synthetic = dataset.name, dataset.version, dataset.synthetic
        self.simulation_only, self.epoch_days = dataset.simulation_only, dataset.epoch_days
        self.catalog = dataset.catalog
        self.client_ids: Sequence[str] = tuple(clients)

    def kind(self, client_id: str) -> Kind:
        return self._dataset.kind(client_id)

    def data_identity(self, client_id: str) -> str:
        return self._dataset.data_identity(client_id)

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        return self._dataset.slates(client_id, split)


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a model is trained at home: see RATES; steps: 0 or one of STOPS."""

    rate: float | None
    steps: int


def newcomers(
    settings: Settings,
    *,
    out: Path,
    merchants: Sequence[str] = (),
    sizes: Sequence[int] = SIZES,
    resume: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Each of `merchants` (all where none is named) as a newcomer; newcomers.json's content, which lies in `out`.

    Figures are of M's test slates, averaged within each person and then over persons, with intervals by person; `all`
    averages merchants, with intervals by merchant. What is finished is kept, by (merchant, size, seed). Raises
    ConfigError for a merchant that is none, an engine other than inline, and a folder in use without `resume`.
    """
    settings = _prepared(settings, sizes)
    folder = RunFolder(out)
    folder.check(settings, resume=resume)
    stage = set_up(settings, folder, Display(console))
    chosen = _merchants(stage.dataset, merchants)
    folder.begin(settings)
    found = {name: _Newcomer(stage, name).measured(sizes) for name in chosen}
    stage.keep_seconds()
    result = {
        "simulation_only": NOTE,
        "config_sha256": settings.sha256,
        "federation": reported_row(settings),
        "seeds": settings.evaluation.seeds,
        "merchants": found,
        "all": _over_merchants(list(found.values()), settings),
    }
    write_json(out / RESULT, result)
    return result


def differences_of(sizes: Sequence[int]) -> list[tuple[str, str]]:
    """The pairs of rows whose difference is told."""
    pairs = [("left_out", "content"), ("joined", "left_out")]
    return pairs + [(f"fitted-{size}", f"local_only-{size}") for size in sizes]


@dataclass
class _Newcomer:
    """One merchant, left out and then there."""

    stage: Stage
    name: str
    folder: RunFolder = field(init=False)
    evaluator: Evaluator = field(init=False)

    def __post_init__(self) -> None:
        settings, dataset = self.stage.settings, self.stage.dataset
        self.folder = RunFolder(self.stage.folder.path / "without" / self.name)
        self.evaluator = Evaluator(
            Members(dataset, [self.name]),
            settings.evaluation,
            history_length=settings.model.history_length,
            seed=settings.seed,
        )
        stored = self._choices.read_text(encoding="utf-8") if self._choices.exists() else "{}"
        self.chosen = {row: Option(**option) for row, option in json.loads(stored).items()}

    @property
    def _choices(self) -> Path:
        return self.folder.debug / "choices.json"

    def measured(self, sizes: Sequence[int]) -> dict[str, Any]:
        """The merchant's part of newcomers.json."""
        results: dict[str, RowResult] = {}
        skipped: dict[str, str] = {}
        for row, scorer in self._rows(sizes):
            if isinstance(scorer, str):
                skipped[row] = scorer
                continue
            seeds = seeds_of(self.stage.settings)
            try:
                results[row] = pooled(
                    [self._kept(row, seed, scorer) for seed in (seeds[:1] if row == "content" else seeds)]
                )
            except RowSkippedError as reason:
                skipped[row] = str(reason)
        return {
            "slates": {"train": len(self._train), "test": self.evaluator.slates("test")},
            "rows": {row: self._summary(result) for row, result in results.items()},
            "differences": {
                f"{row} - {base}": self.evaluator.difference(results[row], results[base])
                for row, base in differences_of(sizes)
                if row in results and base in results
            },
            "chosen": {row: vars(self.chosen[row]) for row in results if row in self.chosen},
            "skipped": skipped,
        }

    def _rows(self, sizes: Sequence[int]) -> Iterator[tuple[str, Callable[[int], Scorer] | str]]:
        """(row, what builds its scorer for a seed, or why there is none)."""
        yield "content", lambda seed: build_row("content", self.stage.context.for_seed(seed))
        yield "left_out", lambda seed: self._ranked(self._without(seed), seed)
        yield "joined", lambda seed: self._ranked(self._joined(seed), seed)
        for size in sizes:
            few = f"has {len(self._train)} training slates" if len(self._train) < size else ""
            yield f"fitted-{size}", few or self._trained_from(f"fitted-{size}", self._without, size)
            yield f"local_only-{size}", few or self._trained_from(f"local_only-{size}", self._untrained, size)

    @cached_property
    def _train(self) -> list[Slate]:
        return self.stage.dataset.slates(self.name, "train")

    @cached_property
    def _people(self) -> np.ndarray:
        """int64 [S]: the person of each test slate, numbered from 0."""
        users: list[int] = []

        def look(chunk: Chunk) -> np.ndarray:
            users.extend(slate.user for slate in chunk.slates)
            return np.zeros(chunk.batch.candidates.shape, np.float32)

        self.evaluator.measure(look, "test")
        return np.unique(np.array(users, np.int64), return_inverse=True)[1]

    def _summary(self, result: RowResult) -> dict[str, Any]:
        found = self.evaluator.summary(result)
        return {**{name: value for name, value in found.items() if name != "clients"}, "people": found["clients"]}

    def _kept(self, row: str, seed: int, scorer: Callable[[int], Scorer]) -> RowResult:
        """The row's values, slate by slate with the person as owner; what was measured before is read."""
        path = self.folder.row(row, seed)
        if not path.exists():
            with self.stage.display.phase(f"{self.name}: {row}, seed {seed}", kind="evaluation"):
                values = self.evaluator.measure(scorer(seed), "test").values
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(path.name + ".part")
            with beside.open("wb") as file:
                np.savez(file, allow_pickle=False, **values)
            beside.replace(path)
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        return RowResult(values=values, owner=self._people, clients=int(self._people.max(initial=-1)) + 1)

    def _ranked(self, parameters: Parameters, seed: int) -> Scorer:
        stage = self.stage
        return ranker_scorer(
            build_ranker(stage.settings.model, seed=seed), stage.features, parameters, device=stage.device
        )

    def _joined(self, seed: int) -> Parameters:
        folder = RunFolder(self.stage.folder.path / "joined")
        folder.begin(self.stage.settings)
        return federate(replace(self.stage, folder=folder), reported_row(self.stage.settings), seed, Nothing())

    def _without(self, seed: int) -> Parameters:
        """The federation of all the others; its curve is of the newcomer's validation slates."""
        stage = self.stage
        self.folder.begin(stage.settings)
        rest = Members(stage.dataset, [client for client in stage.dataset.client_ids if client != self.name])
        context = replace(stage.context, dataset=rest, evaluator=self.evaluator)
        alone = replace(stage, folder=self.folder, dataset=rest, context=context)
        return federate(alone, reported_row(stage.settings), seed, Nothing())

    def _untrained(self, seed: int) -> Parameters:
        return parameters_of(build_ranker(self.stage.settings.model, seed=seed))

    def _trained_from(self, row: str, start: Callable[[int], Parameters], size: int) -> Callable[[int], Scorer]:
        """Rate and steps are chosen on M's validation slates with the first seed, then kept for the others."""

        def build(seed: int) -> Scorer:
            if row not in self.chosen:
                first = self.stage.settings.seed
                self.chosen[row], _ = self.evaluator.choose(
                    (option, self._ranked(parameters, first))
                    for option, parameters in self._options(start(first), size, first, RATES)
                )
                write_json(self._choices, {name: vars(option) for name, option in self.chosen.items()})
            option = self.chosen[row]
            options = self._options(start(seed), size, seed, (option.rate,))
            return self._ranked(next(model for found, model in options if found == option), seed)

        return build

    def _options(
        self, start: Parameters, size: int, seed: int, rates: Sequence[float | None]
    ) -> Iterator[tuple[Option, Parameters]]:
        """The model as it begins, then after each of STOPS by each rate, on the same draw of slates for one seed."""
        settings = self.stage.settings
        yield Option(rate=rates[0], steps=0), start
        batch = collate(
            drawn(self._train, size, seed=seed, name=self.name),
            history_length=settings.model.history_length,
            slate_length=settings.training.slate_length,
        )
        # a step's loss is divided by the batch size, so that a client of few slates speaks softly: not at home
        own = replace(settings.training, batch_size=min(settings.training.batch_size, size))
        for rate in rates:
            training = own if rate is None else replace(own, optimizer="adamw", learning_rate=rate)
            ranker = build_ranker(settings.model, seed=seed)
            load_parameters(ranker, start)
            shuffle = numpy_generator(seed, "newcomer-shuffle", self.name, size)
            done = 0
            for stop in STOPS:
                fit(
                    ranker,
                    batch,
                    self.stage.features,
                    training=training,
                    steps=stop - done,
                    shuffle=shuffle,
                    device=self.stage.device,
                )
                done = stop
                yield Option(rate=rate, steps=stop), parameters_of(ranker)


def drawn(slates: Sequence[Slate], size: int, *, seed: int, name: str) -> list[Slate]:
    """`size` of the slates by lot, in their order; those of a smaller size are among those of a larger one."""
    order = numpy_generator(seed, "newcomer", name).permutation(len(slates))[:size]
    return [slates[index] for index in np.sort(order).tolist()]


def _prepared(settings: Settings, sizes: Sequence[int]) -> Settings:
    if settings.engine != "inline":
        raise ConfigError(
            f"Expected engine={settings.engine} to be inline, which takes a registry without a merchant; add "
            "--set engine=inline."
        )
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"Expected --sizes {list(sizes)} to be numbers of slates from 1 on, for example 10,100,1000.")
    return replace(settings, tracking="none", privacy=replace(settings.privacy, ledger="throwaway"))


def _merchants(dataset: Dataset, wanted: Sequence[str]) -> list[str]:
    """Those to leave out. A registry of devices by the thousand is looked through once."""
    known = [client for client in dataset.client_ids if dataset.kind(client) == "merchant"]
    if len(dataset.client_ids) < 2 or not known:
        raise ConfigError(
            f"Expected data set {dataset.name} to have 2 clients or more, and merchants among them; it has "
            f"{len(dataset.client_ids)} clients and {len(known)} merchants; set dataset.clients."
        )
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"No merchant {name!r} in {dataset.name}; it has {', '.join(known[:20])}.{nearest(name, known)}"
            )
    return list(dict.fromkeys(wanted)) or known


def _over_merchants(found: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """nDCG@10 by row, and each difference: the mean over the merchants that have it, with intervals by merchant."""
    options = {"samples": settings.evaluation.bootstrap, "seed": settings.seed}
    rows: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for one in found:
        for name, summary in one["rows"].items():
            rows.setdefault(name, []).append(summary[HEADLINE]["mean"])
        for name, gain in one["differences"].items():
            gains.setdefault(name, []).append(gain["mean"])

    def over(values: list[float]) -> dict[str, Any]:
        return {HEADLINE: ci95(np.array(values, float), **options), "merchants": len(values)}

    return {
        "rows": {name: over(values) for name, values in rows.items()},
        "differences": {name: over(values) for name, values in gains.items()},
    }
