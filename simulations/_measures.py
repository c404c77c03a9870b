"""Rows, measured and kept: a run that was killed does not measure them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client.datasets import Split
from simulations._federation import reported_row
from simulations._folder import write_json
from simulations._stage import Stage
from simulations.evaluation import HEADLINE, Evaluator, RowResult, Scorer, pooled
from simulations.rows import RowSkippedError

ORDER = (
    "random",
    "popularity",
    "bm25",
    "content",
    "collaborative",
    "unpersonalised",
    "local_only",
    "centralised",
    "federated",
    "federated_dp",
    "personalised",
    "oracle",
)
"""Every row, in the order of reports."""

FIRST_LEARNED = ORDER.index("collaborative")
"""What a data set brings stands before what is learned from it."""

TRAINED = ("unpersonalised", "local_only", "centralised", "federated", "federated_dp", "personalised")
"""Rows that depend on the seed of a repetition."""

SPLITS: tuple[Split, Split] = ("validation", "test")


@dataclass(kw_only=True)
class Measured:
    """Results by row, mean over the seeds; why the others are absent."""

    validation: dict[str, RowResult] = field(default_factory=dict)
    test: dict[str, RowResult] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def wanted_rows(rows: Sequence[str], private: bool, personal: bool = False, brought: Sequence[str] = ()) -> list[str]:
    """The rows to compute: those of evaluation.rows, or all; `federated_dp` only where there is a mechanism,
    `personalised` only where a part of the model is personal. brought: rows whose scores the data set brings.
    """
    every = [*ORDER[:FIRST_LEARNED], *brought, *ORDER[FIRST_LEARNED:]]
    names = [row for row in every if row in rows] + [row for row in rows if row not in every] if rows else every
    absent = {"federated_dp": not private, "personalised": not personal}
    return [row for row in names if not absent.get(row, False)]


def measure_all(
    stage: Stage, names: Sequence[str], seeds: Sequence[int], scorer: Callable[[str, int], Scorer]
) -> Measured:
    """Measure each row once for each seed that it depends on, on validation and then on test.

    scorer(row, seed) builds what is measured; it may raise RowSkippedError with the reason.
    """
    measured = Measured()
    for name in names:
        repetitions = seeds if name in TRAINED else seeds[:1]
        try:
            results = [_kept(stage, name, seed, scorer) for seed in repetitions]
        except RowSkippedError as reason:
            measured.skipped[name] = str(reason)
            continue
        measured.validation[name] = pooled([result["validation"] for result in results])
        measured.test[name] = pooled([result["test"] for result in results])
        measured.seeds[name] = len(results)
        stage.keep_choices()
    return measured


def metrics_of(stage: Stage, measured: Measured) -> dict[str, Any]:
    """result.json's `metrics`, `gain_ratio`, `splits`, `validation` and `skipped`; on test but for `validation`."""
    evaluator, test = stage.evaluator, measured.test
    skipped = dict(measured.skipped)
    metrics = {
        name: evaluator.summary(result) | {"seeds": measured.seeds[name]}
        for name, result in test.items()
        if not np.isnan(result.mean())
    }
    skipped |= dict.fromkeys(test.keys() - metrics.keys(), "no slate of the test part counts")
    gains = {}
    if "content" in metrics and "centralised" in metrics:
        ours = reported_row(stage.settings)
        for name in sorted(metrics.keys() - {"content", "centralised"}, key=lambda name: name != ours):
            ratio = evaluator.gain_ratio(test[name], test["content"], test["centralised"])
            if isinstance(ratio, str):
                skipped.setdefault("gain_ratio", f"{name}: {ratio}")  # much the same for every row
            else:
                gains[name] = ratio
    return {
        "metrics": metrics,
        "gain_ratio": {name: gains[name] for name in metrics if name in gains},
        "splits": _splits(stage, {name: test[name] for name in metrics}, skipped),
        **_off_policy(evaluator, {name: test[name] for name in metrics}),
        "validation": {name: result.mean() for name, result in measured.validation.items() if name in metrics},
        "skipped": skipped,
    }


def _off_policy(evaluator: Evaluator, results: Mapping[str, RowResult]) -> dict[str, Any]:
    """result.json's `off_policy`, by row; no key where no slate has propensities."""
    found = {name: evaluator.off_policy(result) for name, result in results.items()}
    known = {name: value for name, value in found.items() if value is not None}
    return {"off_policy": known} if known else {}


def keep_clients(stage: Stage, measured: Measured) -> None:
    """debug/clients.json: each measured client's mean nDCG@10 on test, by row."""
    values = {
        name: [None if np.isnan(mean) else float(mean) for mean in result.client_means(HEADLINE)]
        for name, result in measured.test.items()
    }
    clients = list(stage.evaluator.client_ids("test"))
    write_json(stage.folder.debug / "clients.json", {"clients": clients, HEADLINE: values})


def _splits(stage: Stage, results: Mapping[str, RowResult], skipped: dict[str, str]) -> dict[str, Any]:
    seen = None
    try:
        seen = stage.context.seen_items
    except RowSkippedError as reason:
        skipped["splits by item"] = str(reason)
    return {
        group: {name: stage.evaluator.summary(result, where) for name, result in results.items()}
        for group, where in stage.evaluator.groups("test", seen).items()
        if where.any()
    }


def _kept(stage: Stage, name: str, seed: int, scorer: Callable[[str, int], Scorer]) -> dict[Split, RowResult]:
    path = stage.folder.row(name, seed)
    if path.exists():
        return _read(path)
    trained = name in ("centralised", "local_only")  # federations show phases of their own, inside this one
    with stage.display.phase(_title(name, seed), kind="training" if trained else "evaluation") as stage.update:
        built = scorer(name, seed)
        results: dict[Split, RowResult] = {}
        for split in SPLITS:
            with stage.display.phase(f"Measuring {name} on {split}", kind="evaluation"):
                results[split] = stage.evaluator.measure(built, split, off_policy=split == "test")
    _write(path, results)
    stage.keep_seconds()
    return results


def _title(name: str, seed: int) -> str:
    return f"Row {name}, seed {seed}" if name in TRAINED else f"Row {name}"


def _write(path: Path, results: Mapping[Split, RowResult]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split, result in results.items():
        arrays |= {f"{split}/{name}": value for name, value in result.values.items()}
        arrays |= {f"{split}/owner": result.owner, f"{split}/clients": np.array(result.clients)}
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    beside.replace(path)


def _read(path: Path) -> dict[Split, RowResult]:
    with np.load(path, allow_pickle=False) as stored:
        return {
            split: RowResult(
                values={
                    name.partition("/")[2]: stored[name]
                    for name in stored.files
                    if name.startswith(f"{split}/") and not name.endswith(("/owner", "/clients"))
                },
                owner=stored[f"{split}/owner"],
                clients=int(stored[f"{split}/clients"]),
            )
            for split in SPLITS
        }
