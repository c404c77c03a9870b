"""Many short runs over a grid or a search space, compared on validation alone: a sweep never reads the test part.

Each trial is a folder of its own, finished or to be resumed. A trial of a private federation spends privacy like any
run, so a sweep over a ledger that lasts is refused: it belongs in a simulation, with throwaway ledgers.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrank.errors import ConfigError
from mmrank.settings import Settings
from simulations._folder import write_json, write_text
from simulations.config import dump, yaml_value

Choices = Mapping[str, Any]
"""One trial: values by dotted setting."""
Settle = Callable[[Sequence[str]], Settings]
"""The settings with "a.b=value" overrides laid over them."""
Measure = Callable[[Settings, Path], Mapping[str, float]]
"""Trains in a folder and returns validation measures, "ndcg@10" among them."""


@dataclass(frozen=True)
class Range:
    """low..high of one setting; whole where both ends are; `log` draws its logarithm evenly."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Range | Sequence[Any]]


def parse_grid(text: str) -> dict[str, list[Any]]:
    """
    >>> parse_grid("training.learning_rate=0.01,0.1; model.dim=16,32")
    {'training.learning_rate': [0.01, 0.1], 'model.dim': [16, 32]}
    """
    grid = {}
    for key, values in _entries(text, "--grid", "training.learning_rate=0.01,0.1;model.dim=16,32"):
        grid[key] = _values(key, values)
    return grid


def parse_space(text: str) -> dict[str, Range | list[Any]]:
    """
    >>> parse_space("training.learning_rate=log:1e-3..1e-1;training.loss=softmax,bce")
    {'training.learning_rate': Range(low=0.001, high=0.1, log=True), 'training.loss': ['softmax', 'bce']}
    """
    space: dict[str, Range | list[Any]] = {}
    for key, values in _entries(text, "--search", "training.learning_rate=log:1e-3..1e-1;model.dim=8..64"):
        space[key] = _range(key, values) if ".." in values else _values(key, values)
    return space


def combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the last setting turning fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def sweep(
    plan: Mapping[str, Any],
    *,
    settle: Settle,
    measure: Measure,
    out: Path,
    resume: bool,
    on_trial: Callable[[dict[str, Any], int], None] | None = None,
) -> dict[str, Any]:
    """Run {"grid": ...} or {"search": ..., "trials": n} and return {"trials", "best"}, best first.

    out: sweep.json, sweep.csv, best.yaml and trials/N/. on_trial(trial, total) follows each.
    Raises ConfigError for a folder that is in use without `resume`, that holds another sweep, or for a durable ledger.
    """
    base = settle([])
    if base.privacy.ledger != "throwaway":
        raise ConfigError(
            f"Expected privacy.ledger={base.privacy.ledger!r} to be throwaway in a sweep, where every trial would be "
            "charged to it; add --set privacy.ledger=throwaway."
        )
    _begin(out, {"plan": _plain(plan), "config_sha256": base.sha256}, resume)
    finished: list[dict[str, Any]] = []

    def run(number: int, choices: Choices) -> dict[str, Any]:
        trial = _trial(number, choices, settle=settle, measure=measure, folder=out / "trials" / f"{number:04d}")
        finished.append(trial)
        _write(out, finished)
        return trial

    if "grid" in plan:
        choices = list(combinations(plan["grid"]))
        for number, choice in enumerate(choices):
            trial = run(number, choice)
            if on_trial is not None:
                on_trial(trial, len(choices))
    else:
        _search(plan, out, base.seed, run, on_trial)
    ranked = _ranked(finished)
    dump(settle(overrides_of(ranked[0]["choices"])), out / "best.yaml")
    return {"trials": ranked, "best": ranked[0], "best_config": str(out / "best.yaml")}


def _trial(number: int, choices: Choices, *, settle: Settle, measure: Measure, folder: Path) -> dict[str, Any]:
    """The stored trial, or a new one; a setting that can't be is an error before anything is trained."""
    stored = folder / "trial.json"
    if stored.exists():
        return json.loads(stored.read_text(encoding="utf-8"))
    settings = settle(overrides_of(choices))
    trial = {"trial": number, "choices": dict(choices), "validation": dict(measure(settings, folder))}
    write_json(stored, trial)
    return trial


def _search(
    plan: Mapping[str, Any],
    out: Path,
    seed: int,
    run: Callable[[int, Choices], dict[str, Any]],
    on_trial: Callable[[dict[str, Any], int], None] | None,
) -> None:
    """Optuna's TPE over an SQLite study; a killed trial is taken up again where its folder has a checkpoint."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--optuna needs optuna, which is not installed; pip install 'mmrank[sim]', or use --grid."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'optuna.sqlite'}",
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # killed: its draw is done again
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    for trial in done:
        run(trial.user_attrs["folder"], trial.params)
    for number in range(len(done), plan["trials"]):
        study.sampler = optuna.samplers.TPESampler(seed=seed + number)  # a resumed search draws as an unbroken one
        asked = study.ask()
        choices = {key: suggested(asked, key, values) for key, values in plan["search"].items()}
        asked.set_user_attr("folder", number)
        result = run(number, choices)
        study.tell(asked, _score(result))
        if on_trial is not None:
            on_trial(result, plan["trials"])


def suggested(trial: Any, key: str, values: Range | Sequence[Any]) -> Any:
    """What an optuna trial is given for that setting."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))
    if values.whole:
        return trial.suggest_int(key, values.low, values.high, log=values.log)
    return trial.suggest_float(key, float(values.low), float(values.high), log=values.log)


def _begin(out: Path, about: Mapping[str, Any], resume: bool) -> None:
    path = out / "sweep.json"
    if out.exists() and any(out.iterdir()):
        if not resume:
            raise ConfigError(
                f"{out} already holds files; add --resume to go on with the sweep in it, or choose another --out. "
                "Nothing was changed."
            )
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if stored is not None and _same(stored) != _same(about):
            raise ConfigError(
                f"{out} holds another sweep ({path}); resume it as it was begun, or choose another --out."
            )
    write_json(path, about)


def _same(about: Mapping[str, Any]) -> Any:
    """What must not change; the number of trials may be raised."""
    plan = {key: value for key, value in about["plan"].items() if key != "trials"}
    return json.loads(json.dumps([plan, about["config_sha256"]]))


def _plain(plan: Mapping[str, Any]) -> dict[str, Any]:
    search = {
        key: vars(value) if isinstance(value, Range) else list(value) for key, value in plan.get("search", {}).items()
    }
    return {**plan, **({"search": search} if search else {})}


def _score(trial: Mapping[str, Any]) -> float:
    value = trial["validation"]["ndcg@10"]
    return value if isinstance(value, float) and math.isfinite(value) else 0.0


def _ranked(trials: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(trials, key=lambda trial: (-_score(trial), trial["trial"]))


def _write(out: Path, trials: Sequence[dict[str, Any]]) -> None:
    """sweep.csv anew: it is small."""
    names = sorted({name for trial in trials for name in trial["choices"]})
    measures = sorted({name for trial in trials for name in trial["validation"]})
    write_text(out / "sweep.csv", "")
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *names, *measures])
        for trial in sorted(trials, key=lambda trial: trial["trial"]):
            values = [trial["choices"].get(name) for name in names]
            writer.writerow([trial["trial"], *values, *(trial["validation"].get(name) for name in measures)])


def overrides_of(choices: Choices) -> list[str]:
    """As --set takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in choices.items()]


def _entries(text: str, flag: str, example: str) -> Iterator[tuple[str, str]]:
    entries = [entry.strip() for entry in text.split(";") if entry.strip()]
    for entry in entries:
        key, separator, values = entry.partition("=")
        if not separator or not key.strip() or not values.strip():
            raise ConfigError(f"Expected {flag} {entry!r} as setting=values, for example {flag} '{example}'.")
        yield key.strip(), values.strip()
    if not entries:
        raise ConfigError(f"Expected {flag} to name a setting, for example {flag} '{example}'.")


def _values(key: str, text: str) -> list[Any]:
    values = yaml_value(f"[{text}]", f"the values of {key}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"Expected values for {key}, separated by commas, not {text!r}.")
    return values


def _range(key: str, text: str) -> Range:
    log = text.startswith("log:")
    low, _, high = text.removeprefix("log:").partition("..")
    try:
        ends = [int(end) if end.strip().lstrip("-").isdigit() else float(end) for end in (low, high)]
    except ValueError:
        raise ConfigError(f"Expected the range of {key} as low..high or log:low..high, not {text!r}.") from None
    if not ends[0] < ends[1] or (log and ends[0] <= 0):
        raise ConfigError(f"Expected {key}={text} to rise{' from above 0' if log else ''}; write it as low..high.")
    return Range(ends[0], ends[1], log)
