"""What is asked of the planner: two of noise, epsilon and rounds; the third is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

from mmrank.errors import ConfigError, PrivacyError, nearest
from mmrank.privacy.accountant import Event, check_delta
from mmrank.privacy.client_update import participations
from mmrank.privacy.federations import check_budget, planned_noise, rounds_left
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.plans import PLACES, UNITS, Plan, check_shape, check_steps
from mmrank.settings import Settings
from simulations._facts import model_facts

Unknown = Literal["epsilon", "noise_multiplier", "rounds"]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One group of clients. Of noise_multiplier, epsilon and rounds (or steps) exactly two are given.

    unit, noise_at: the mechanism's first where None. steps: in all, for dp_sgd planned without rounds.
    """

    mechanism: str = "dp_sgd"
    unit: str | None = None
    noise_at: str | None = None
    sampling_rate: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    rounds: int | None = None
    local_steps: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The plan with nothing left open; which of its numbers was computed; what it counts in (rounds or steps).

    room: how many rounds fit where that was the question; the plan has at least one.
    """

    plan: Plan
    unknown: Unknown
    counted: Literal["round", "step"]
    room: int | None = None


def settled(ask: Ask, *, spent: Iterable[Event] = (), declared: bool = False) -> Settled:
    """Compute what is missing. Raises ConfigError or PrivacyError, each with value, bound and remedy."""
    spent = tuple(spent)
    if ask.sampling_rate is None or ask.delta is None:
        raise ConfigError("Expected --sampling-rate and --delta, which are public facts of every plan; give both.")
    unit = ask.unit or UNITS.get(ask.mechanism, ("",))[0]
    noise_at = ask.noise_at or PLACES.get(ask.mechanism, ("",))[0]
    check_shape(ask.mechanism, unit, noise_at, 1)
    check_delta(ask.delta)
    rounds, per_round, counted = _counted(ask)
    shape: Any = {"mechanism": ask.mechanism, "unit": unit, "noise_at": noise_at, "sampling_rate": ask.sampling_rate}
    if rounds is not None:
        check_steps(rounds, per_round)
    if ask.epsilon is not None:
        check_budget(ask.epsilon)
    noise, unknown, room = ask.noise_multiplier, _unknown(ask, rounds), None
    if unknown == "noise_multiplier":
        if spent:
            raise ConfigError(
                "Expected no --spent or --ledger where the noise is computed; give --noise-multiplier as well, and the "
                "rounds that are left for it are computed."
            )
        noise = planned_noise(
            **shape, rounds=cast(int, rounds), steps_per_round=per_round, epsilon=cast(float, ask.epsilon),
            delta=ask.delta,
        )  # fmt: skip
    facts = {**shape, "noise_multiplier": cast(float, noise), "steps_per_round": per_round}
    one = Plan(**facts, rounds=1, delta=ask.delta)
    if rounds is None:
        room = rounds_left(one.headline, cast(float, ask.epsilon), ask.delta, spent=spent, declared=declared)
        rounds = max(room, 1)
    return Settled(plan=dataclasses.replace(one, rounds=rounds), unknown=unknown, counted=counted, room=room)


def _unknown(ask: Ask, rounds: int | None) -> Unknown:
    given = [ask.noise_multiplier is not None, ask.epsilon is not None, rounds is not None]
    if sum(given) != 2:
        raise ConfigError(
            "Expected one of --noise-multiplier and --epsilon beside the rounds (or --steps), and the other is "
            "computed; or both without rounds, and the rounds that fit are computed."
        )
    if not given[0]:
        return "noise_multiplier"
    return "rounds" if not given[2] else "epsilon"


def _counted(ask: Ask) -> tuple[int | None, int, Literal["round", "step"]]:
    """(rounds or None, steps of each, what to call one)."""
    if ask.mechanism == "client_update":
        for name, value in (("steps", ask.steps), ("local-steps", ask.local_steps)):
            if value is not None:
                raise ConfigError(
                    f"Expected no --{name}={value} with client_update, which is charged once a round; give --rounds."
                )
        return ask.rounds, 1, "round"
    if ask.steps is not None:
        if ask.rounds is not None or ask.local_steps is not None:
            raise ConfigError(
                f"Expected --steps={ask.steps} alone, or --rounds={ask.rounds} with --local-steps={ask.local_steps}; "
                "steps are rounds times local steps."
            )
        return ask.steps, 1, "step"
    if ask.rounds is not None and ask.local_steps is None:
        raise ConfigError(
            f"Expected --local-steps beside --rounds={ask.rounds} with dp_sgd, which is charged for every local step; "
            "give it, or --steps in all."
        )
    if ask.local_steps is None:
        return None, 1, "step"
    return ask.rounds, ask.local_steps, "round"


def ask_of(settings: Settings) -> Ask:
    """The plan of a run's configuration. Raises ConfigError where it has no mechanism to plan."""
    privacy, rounds = settings.privacy, settings.federation.rounds
    if privacy.metrics is not None:
        raise ConfigError(
            "Expected privacy.metrics to be left out of a plan, which is of training alone; add --set "
            "privacy.metrics=null, and what its releases cost as --spent 1,NOISE_MULTIPLIER,RELEASES."
        )
    common: dict[str, Any] = {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit,
        "delta": privacy.delta,
        "noise_multiplier": privacy.noise_multiplier,
        "epsilon": privacy.epsilon,
        "rounds": rounds,
    }
    if privacy.mechanism == "dp_sgd":
        return Ask(**common, sampling_rate=privacy.sampling_rate, local_steps=settings.training.local_steps)
    if privacy.mechanism not in UNITS:
        raise ConfigError(
            f"Expected privacy.mechanism={privacy.mechanism} to be one that promises something: "
            f"{', '.join(UNITS)}; there is no epsilon to plan."
        )
    if privacy.distributed and privacy.noise_multiplier is not None:  # the plan counts what rounding leaves of it
        dimension = model_facts(settings)["trainable_parameters"]
        mechanism = build_mechanism(privacy, settings.training, settings.federation, dimension=dimension)
        common["noise_multiplier"] = mechanism.event.noise_multiplier
    if privacy.stream:
        raise ConfigError(
            "Expected privacy.cohorts=stream to be poisson in a plan by rounds: a stream is one release for the whole "
            f"run, at epsilon={privacy.epsilon} or noise_multiplier={privacy.noise_multiplier}; plan it with "
            "--mechanism client_update --sampling-rate 1 --rounds 1."
        )
    if not privacy.central:  # noise that no sampling amplifies is planned for a client's own rounds
        common["rounds"] = participations(privacy, rounds)
    return Ask(**common, sampling_rate=privacy.sampling_rate, noise_at=privacy.noise_at)


def parse_ask(text: str, *, delta: float | None) -> Ask:
    """A second group in one line: "mechanism=client_update,noise_multiplier=1,sampling_rate=0.05,rounds=100".

    Raises ConfigError for an unknown key or a value of the wrong kind.
    """
    kinds: dict[str, Any] = {
        "mechanism": str, "unit": str, "noise_at": str, "sampling_rate": float, "delta": float,
        "noise_multiplier": float, "epsilon": float, "rounds": int, "local_steps": int, "steps": int,
    }  # fmt: skip
    values: dict[str, Any] = {"delta": delta}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, separator, word = (piece.strip() for piece in entry.partition("="))
        key = key.replace("-", "_")
        if not separator or key not in kinds:
            raise ConfigError(
                f"Expected --beside {entry!r} as key=value of {', '.join(kinds)}.{nearest(key, kinds)} For example "
                "--beside mechanism=client_update,noise_multiplier=1,sampling_rate=0.05,rounds=100"
            )
        values[key] = number(word, kinds[key], f"--beside {key}")
    return Ask(**values)


def parse_spent(text: str) -> tuple[Event, ...]:
    """
    >>> parse_spent("0.05,1.2,100; 1,10,5")[1]
    Event(sampling_rate=1.0, noise_multiplier=10.0, steps=5)
    """
    events = []
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        words = entry.split(",")
        if len(words) != 3:
            raise ConfigError(
                f"Expected --spent {entry!r} as sampling_rate,noise_multiplier,steps; for example --spent "
                "'0.05,1.2,100; 0.1,2,50'."
            )
        rate, noise, steps = (
            number(word, kind, "--spent") for word, kind in zip(words, (float, float, int), strict=True)
        )
        events.append(Event(sampling_rate=rate, noise_multiplier=noise, steps=steps))
    if not events:
        raise ConfigError(f"Expected --spent {text!r} to hold an event, sampling_rate,noise_multiplier,steps.")
    return tuple(events)


def number(word: str, kind: Any, where: str) -> Any:
    """`word` as `kind`. Raises ConfigError that says where; a number that is not finite is none."""
    try:
        value = kind(word.strip())
    except ValueError:
        raise ConfigError(f"Expected {where} {word!r} to be a {'whole ' if kind is int else ''}number.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise PrivacyError(f"Expected {where} {word!r} to be finite; give a number.")
    return value
