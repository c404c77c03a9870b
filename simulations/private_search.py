"""A search for hyper-parameters that pays for what it looked at: `mmrank tune`.

A random number of independent private runs, compared by a private score, and the best of them alone
(mmrank.privacy.tuning). Until it ends, everything lies in `private/` of its folder, for the owner alone; then the
winner is written and, where only the winner was paid for, the rest is erased. How long it took tells how many runs it
had: let nobody else see the clock.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy.client_update import ClientUpdate
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise
from mmrank.privacy.run_counts import FixedRuns, PoissonRuns, RunCount, TruncatedNegativeBinomial
from mmrank.privacy.tuning import History, PrivateSelection, View
from mmrank.settings import Settings
from simulations._facts import model_facts
from simulations._folder import write_json
from simulations._private_score import private_score
from simulations._stage import Shared
from simulations._winner import WINNER, Scored, check_budget, hide_duration, promised, publish, trained
from simulations.run import trial as run_trial
from simulations.sweep import Range, Settle, Space, combinations, overrides_of

if TYPE_CHECKING:
    import optuna

    from simulations._draws import Trial

FIXED = ("evaluation.seeds=1", "tracking=none")
"""One trial is one training, and leaves no trace elsewhere."""
MOVES_FEATURES = (
    "model.feature_dim",
    "model.style_dim",
    "model.text",
    "model.image",
    "model.towers",
    *(f"model.use_{name}" for name in ("text", "image", "looks")),
)
MAY_MOVE = (
    "training.",
    "model.",
    "federation.",
    "privacy.max_grad_norm",
    "privacy.expected_batch_size",
    "privacy.sampling_rate",
    "privacy.noise_multiplier",
    "privacy.epsilon",
)
MOVES_THE_CHARGE = (
    "training.local_steps",
    "federation.rounds",
    "federation.cohort_size",
    "privacy.sampling_rate",
    "privacy.noise_multiplier",
    "privacy.epsilon",
)
"""Searched by a list of values: the charge is that of the dearest. A trial that costs another history is refused."""
PRIVATE = "private"


@dataclass(frozen=True, kw_only=True)
class PrivateSearch:
    """What is searched and what is promised; public.

    space: by dotted setting, as simulations.sweep reads it. score_noise_multiplier: of the release by which trials are
    compared. view: `released`, for those who see the winner alone, or `server`, which sees every trial.
    """

    space: Space
    runs: RunCount
    view: View
    score_noise_multiplier: float = 10.0

    def facts(self) -> dict[str, Any]:
        """Plain values: what a resumed search must agree with."""
        space = {key: vars(over) if isinstance(over, Range) else list(over) for key, over in self.space.items()}
        runs = {"distribution": type(self.runs).__name__, **vars(self.runs)}
        runs.pop("gamma", None)  # follows from the mean
        return {"space": space, "runs": runs, "view": self.view, "score_noise_multiplier": self.score_noise_multiplier}


def parse_runs(text: str) -> RunCount:
    """
    >>> parse_runs("geometric:10")
    TruncatedNegativeBinomial(mean=10.0, shape=1.0)
    >>> parse_runs("negative-binomial:10:0.5").shape
    0.5
    """
    name, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if name == "negative-binomial" and len(values) == 2:
        return TruncatedNegativeBinomial(mean=values[0], shape=values[1])
    if name in ("geometric", "logarithmic") and len(values) == 1:
        return TruncatedNegativeBinomial(mean=values[0], shape=1.0 if name == "geometric" else 0.0)
    if name == "poisson" and len(values) == 1:
        return PoissonRuns(mean=values[0])
    if name == "fixed" and len(values) == 1 and values[0].is_integer():
        return FixedRuns(runs=int(values[0]))
    raise ConfigError(
        f"Expected --runs {text!r} as geometric:MEAN, logarithmic:MEAN, poisson:MEAN, negative-binomial:MEAN:SHAPE or "
        "fixed:RUNS; for example --runs geometric:10."
    )


def private_search(
    search: PrivateSearch, *, settle: Settle, out: Path, resume: bool = False, study: optuna.Study | None = None
) -> dict[str, Any]:
    """Search in the folder `out` and return winner.json's content; a finished search is not done again.

    out: winner.json, winner.yaml, model.safetensors (absent where no run was drawn). study: draws the choices; it is
    refused unless its draws are independent. Raises ConfigError, PrivacyError or BudgetExhaustedError before anything
    is trained, CheckpointError for a plan that was lost.
    """
    base = settle(FIXED)
    release, selection = promise(search, settle)
    _begin(out, search, base, resume)
    winner = out / WINNER
    if not winner.exists():
        if search.view == "released":
            check_budget(selection.epsilon(base.privacy.delta), base)
        trials = _planned(search, base, out / PRIVATE, study)
        drawn = [training_history(_settled(trial, settle), search.view) for trial in trials]
        for history in drawn:
            selection.history(history)  # one that was not declared is refused here, before the first trial
        epsilon = selection.epsilon(base.privacy.delta, drawn)
        check_budget(epsilon, base)
        scored = _run_all(search, base, release, trials, out, settle)
        facts = promised(selection, release, base) | {"runs": search.facts()["runs"], "epsilon": epsilon}
        publish(out, facts, scored, release=release, view=search.view, base=base)
    if search.view == "released":
        if (out / PRIVATE).exists():
            shutil.rmtree(out / PRIVATE)
        hide_duration(out)
    return json.loads(winner.read_text(encoding="utf-8"))


def promise(search: PrivateSearch, settle: Settle) -> tuple[MetricRelease, PrivateSelection]:
    """(the release that scores a trial, what the search costs), before anything is drawn.

    Raises ConfigError or PrivacyError where the search could not keep it.
    """
    base = settle(FIXED)
    training_history(base, search.view)
    if base.privacy.ledger != "throwaway":
        raise ConfigError(
            f"Expected privacy.ledger={base.privacy.ledger!r} to be throwaway in a search: a ledger holds events, not "
            "the charge of a best run; add --set privacy.ledger=throwaway."
        )
    for key, over in search.space.items():
        if not key.startswith(MAY_MOVE):
            raise ConfigError(
                f"Expected {key} not to be searched: it moves what is protected or measured; leave it out."
            )
        if key.startswith(MOVES_FEATURES):
            raise ConfigError(
                f"Expected {key} not to be searched: each value leaves features in features_cache, which would tell "
                "how many were tried; set it beforehand."
            )
        if key in MOVES_THE_CHARGE and isinstance(over, Range):
            raise ConfigError(f"Expected a list of values for {key}, which moves the charge; write {key}=a,b,c.")
    charged = {key: list(over) for key, over in search.space.items() if not isinstance(over, Range)}
    charged = {key: values for key, values in charged.items() if key in MOVES_THE_CHARGE}
    local = search.view == "server" and base.privacy.unit == "client"
    release = MetricRelease(
        noise_multiplier=search.score_noise_multiplier,
        measures=("ndcg@10",),
        unit=base.privacy.unit,
        noise_at="local" if local else "sum",
    )
    histories = {
        training_history(settle([*FIXED, *overrides_of(choices)]), search.view) for choices in combinations(charged)
    }
    score = release.event
    if base.privacy.noise_at == "local" and not local:  # the trials promise replace-one: a sum moves twice as far
        score = replace(score, noise_multiplier=score.noise_multiplier / 2)
    return release, PrivateSelection(runs=search.runs, training=tuple(sorted(histories)), score=score, view=search.view)


def training_history(settings: Settings, view: View) -> History:
    """What one training may cost one unit: of a client that takes part in every round, or under central noise of
    anybody who is registered.

    Raises PrivacyError for a mechanism that promises nothing against that view.
    """
    mechanism = build_mechanism(
        settings.privacy,
        settings.training,
        settings.federation,
        dimension=model_facts(settings)["trainable_parameters"],
    )
    if settings.privacy.mechanism == "no_privacy":
        raise PrivacyError(
            f"Expected privacy.mechanism={settings.privacy.mechanism} to be one with a promise in a private search; "
            "use mmrank sweep where there is no promise to keep."
        )
    if settings.privacy.metrics is not None:
        raise ConfigError(
            "Expected privacy.metrics to be left out of a private search, which compares its trials by releases of its "
            "own; set privacy.metrics: null."
        )
    event = mechanism.event
    if settings.privacy.central and isinstance(mechanism, ClientUpdate):
        if view == "server":
            raise PrivacyError(
                "privacy.noise_at=central promises nothing against the server, which sees each update; "
                "search with --view released, or set privacy.noise_at: local."
            )
        event = mechanism.population_event
        if settings.privacy.stream:  # the whole run's, once
            return (event,)
    return (replace(event, steps=event.steps * settings.federation.rounds),)


def _begin(out: Path, search: PrivateSearch, base: Settings, resume: bool) -> None:
    path, about = out / "search.json", {"search": search.facts(), "config_sha256": base.sha256}
    if out.exists() and any(out.iterdir()):
        if not resume:
            raise ConfigError(
                f"{out} already holds files; add --resume to go on with the search in it, or choose another --out. "
                "Nothing was changed."
            )
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if stored != json.loads(json.dumps(about)):
            raise ConfigError(
                f"{out} holds another search ({path}); resume it as it was begun, or choose another --out."
            )
    else:
        write_json(path, about)


def _planned(search: PrivateSearch, base: Settings, private: Path, study: optuna.Study | None) -> list[Trial]:
    """The plan of the search: drawn once, and written before the first trial."""
    try:
        from simulations._draws import draw, keep_plan, kept_plan
    except ModuleNotFoundError as error:
        raise ConfigError("A search needs optuna, which is not installed; pip install 'mmrank[sim]'.") from error
    trials = kept_plan(private, config_sha256=base.sha256)
    if trials is None:
        trials = draw(search.space, search.runs, _noise(base, "plan"), study=study)
        trials = keep_plan(private, trials, config_sha256=base.sha256)
    return trials


def _settled(trial: Trial, settle: Settle) -> Settings:
    return settle([*FIXED, f"seed={trial.seed}", *overrides_of(trial.choices)])


def _run_all(
    search: PrivateSearch, base: Settings, release: MetricRelease, trials: Sequence[Trial], out: Path, settle: Settle
) -> list[Scored]:
    """Each trial, trained and measured once; what a kill cut short goes on."""
    shared, scored = Shared(), []
    for number, trial in enumerate(trials):
        settings, folder = _settled(trial, settle), out / PRIVATE / "trials" / f"{number:04d}"
        stored = folder / "score.json"
        if not stored.exists():
            run_trial(settings, folder, shared=shared)
            vector, releases = private_score(
                settings,
                trained(folder, settings),
                shared=shared,
                base=base,
                release=release,
                view=search.view,
                noise=_noise(base, "score", number),
            )
            write_json(stored, {"vector": [float(value) for value in vector], "releases": releases})
        kept = json.loads(stored.read_text(encoding="utf-8"))
        vector = np.array([float(value) for value in kept["vector"]])
        scored.append(
            Scored(
                choices=trial.choices, settings=settings, folder=folder, vector=vector, releases=int(kept["releases"])
            )
        )
    return scored


def _noise(base: Settings, *names: str | int) -> Noise:
    """Secure, or where a simulation's noise is seeded a stream of that name."""
    if base.privacy.noise == "secure":
        return SecureNoise()
    return SeededNoise(base.seed, "private-search", base.sha256, *names)
