"""`mmrank data export`: qrels of a data set's slates, and for a finished run what its model and rows make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from client.datasets import Dataset, Split
from mmrank import components
from mmrank.errors import ConfigError, PrivacyError
from mmrank.ranker import build_ranker
from mmrank.settings import Settings
from server.checkpoint import read_model
from simulations import config as configs
from simulations._federation import Parameters, reported_row
from simulations._folder import RunFolder
from simulations._measures import wanted_rows
from simulations._stage import Stage, set_up
from simulations.evaluation import Evaluator, Scorer
from simulations.progress import Display
from simulations.report import read_result
from simulations.rows import RowSkippedError, _personalised, build_row
from simulations.rows._ranker import ranker_scorer
from simulations.trec import Run, write_qrels, write_run

MEASURES = ("ndcg@10", "mrr", "recall@10", "hit@3")
STORED = ("federated", "federated_dp", "centralised")
"""Rows whose model the run kept."""


def export(
    source: Path,
    overrides: Iterable[str],
    *,
    part: Split,
    out: Path,
    rows: Sequence[str] = (),
    allow_private_copy: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write qrels.txt, and for the folder of a run run.txt (its model) and run-ROW.txt, into `out`; what was written.

    rows: these beside the model, all that keep a model or need none by default; of the first repetition. The means
    told are over slates, as trec_eval takes them; those of result.json are over clients.
    Raises PrivacyError for data that are not synthetic unless `allow_private_copy`, ConfigError for what can't be had.
    """
    overrides, display = list(overrides), Display(console)
    if not source.is_dir():
        if rows:
            raise ConfigError(f"Expected a run's folder with --row, and {source} is none; rows are those of a run.")
        settings = configs.load(source, overrides)
        with display.phase("Data set", kind="setup"):
            dataset = components.build("client.datasets", settings.dataset, entry="load")
        check_copy(dataset.name, dataset.synthetic, allow_private_copy)
        return _judged(_evaluator(dataset, settings), part, out)
    if overrides:
        raise ConfigError("Expected no --set with a run, whose settings are its own; give a configuration instead.")
    about = read_result(source)["dataset"]
    check_copy(about["name"], about["synthetic"], allow_private_copy)
    folder = RunFolder(source)
    names = _rows(folder.settings(), rows)
    stage = set_up(folder.settings(), folder, display)
    check_copy(stage.dataset.name, stage.dataset.synthetic, allow_private_copy)
    return _judged(stage.evaluator, part, out) | _ranked_by(stage, names, part, out)


def check_copy(name: str, synthetic: bool, allowed: bool) -> None:
    """Raise PrivacyError for data of real people, unless somebody says that they may be copied."""
    if not synthetic and not allowed:
        raise PrivacyError(
            f"{name} is not synthetic: qrels and runs are a copy of what its people were shown and chose, which no "
            "epsilon covers. Where you may copy that (your own data, or a public collection), add --allow-private-copy."
        )


def _judged(evaluator: Evaluator, part: Split, out: Path) -> dict[str, Any]:
    if not evaluator.slates(part):
        raise ConfigError(
            f"{evaluator.dataset.name} has no {part} slate with something relevant; choose another --part."
        )
    written = write_qrels(out / "qrels.txt", evaluator, part)
    return {
        "qrels": str(out / "qrels.txt"),
        "part": part,
        **vars(written),
        "clients": len(evaluator.client_ids(part)),
        "copy_of_private_data": not evaluator.dataset.synthetic,
    }


def _evaluator(dataset: Dataset, settings: Settings) -> Evaluator:
    return Evaluator(dataset, settings.evaluation, history_length=settings.model.history_length, seed=settings.seed)


def _rows(settings: Settings, chosen: Sequence[str]) -> list[str]:
    """The model's row, then the others."""
    configs.check_rows(chosen)
    reported = reported_row(settings)
    known = wanted_rows(settings.evaluation.rows, reported == "federated_dp", bool(settings.model.personal))
    return [reported, *(name for name in dict.fromkeys(chosen or known) if name != reported)]


def _ranked_by(stage: Stage, names: Sequence[str], part: Split, out: Path) -> dict[str, Any]:
    runs: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for place, name in enumerate(names):
        path = out / ("run.txt" if place == 0 else f"run-{name}.txt")
        try:
            with stage.display.phase(f"Row {name}", kind="evaluation") as stage.update:
                written = write_run(path, stage.evaluator, _scorer(stage, name), part, tag=name)
        except RowSkippedError as reason:
            skipped[name] = str(reason)
            continue
        if written.constant == written.queries:
            path.unlink()
            skipped[name] = "it gives all items of a slate one score, and a run would order them by their ids"
        else:
            runs[name] = {"file": str(path), **_means(written), "tied": written.tied}
    return {"runs": runs, "skipped": skipped}


def _means(written: Run) -> dict[str, float]:
    return {name: float(np.nanmean(written.result.values[name])) for name in MEASURES}


def _scorer(stage: Stage, name: str) -> Scorer:
    """What a row ranks with, out of what the finished run kept. Raises RowSkippedError."""
    settings, folder, context = stage.settings, stage.folder, stage.context
    if name == reported_row(settings):
        return _ranked(stage, read_model(folder.model))
    if name == "unpersonalised":
        if not settings.model.use_behaviour:
            raise RowSkippedError("the model reads no history (model.use_behaviour: false)")
        return _ranked(stage, read_model(folder.model), empty_history=True)
    if name in STORED:
        kept = folder.trained(name, settings.seed)
        if not kept.exists():
            raise RowSkippedError("the run did not keep its model")
        return _ranked(stage, read_model(kept))
    context.on_progress = stage.on_progress
    if name == "personalised":
        return _personalised.scorer(context, read_model(folder.model))
    return build_row(name, context)


def _ranked(stage: Stage, parameters: Parameters, *, empty_history: bool = False) -> Scorer:
    ranker = build_ranker(stage.settings.model, seed=stage.settings.seed)
    return ranker_scorer(ranker, stage.features, parameters, empty_history=empty_history, device=stage.device)
