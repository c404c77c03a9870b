"""`mmrank budget plan`: what a plan costs each viewer, the noise that it needs, or the rounds that are left.

From public facts alone, without data and without training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmrank.errors import MmrankError
from mmrank.privacy.accountant import Event, epsilon, merged
from mmrank.privacy.federations import in_both, rounds_left
from mmrank.privacy.persons import Share, person_epsilon
from mmrank.privacy.plans import ACCOUNTANTS, Claim, Plan, repeated
from mmrank.privacy.renyi_filter import filter_epsilon, order_for
from simulations.budget.ask import Ask, Settled, settled

EVERY_ROUND_UP_TO = 100
POINTS = 25
"""Rounds that are shown of a longer plan."""
PERSON = (5, 10)
"""Slates of a person whose epsilon stands beside that of one slate."""
WEAK_EPSILON = 10.0


def answer(
    ask: Ask,
    *,
    beside: Ask | None = None,
    spent: Iterable[Event] = (),
    declared: bool = False,
    registered: int | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """The whole answer as plain values; "epsilon" is the headline claim's, after every round.

    registered: size of the public registry of clients, or the declared class of records. budget: where a ledger
    refuses. beside: a second group; `person_in_both` composes for one who is in both. Raises ConfigError, PrivacyError.
    """
    spent = tuple(spent)
    one = settled(ask, spent=spent, declared=declared)
    found = described(one)
    if spent:
        found["spent"] = _spent(one.plan, spent, declared, ask.epsilon, room=one.room)
    if budget is not None and math.isfinite(budget):
        found["budget"] = budget
        found["rounds_within_budget"] = rounds_left(one.plan.headline, budget, one.plan.delta)
    if beside is not None:
        try:
            other = settled(beside)
        except MmrankError as error:
            raise type(error)(f"--beside: {error}") from error
        found["beside"] = described(other)
        found["person_in_both"] = together(one.plan, other.plan)
    found["warnings"] = _warnings(found, registered)
    return found


def described(one: Settled) -> dict[str, Any]:
    """One group: its facts, its claims, epsilon round by round, and what people behind many units pay."""
    plan, headline = one.plan, one.plan.headline
    found: dict[str, Any] = {
        "computed": one.unknown,
        "mechanism": plan.mechanism,
        "unit": plan.unit,
        "noise_at": plan.noise_at,
        "epsilon": plan.epsilon() if one.room != 0 else 0.0,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "rounds" if one.counted == "round" else "steps": plan.rounds if one.room is None else one.room,
    }
    if one.counted == "round":
        found |= {"local_steps": plan.steps_per_round, "steps": found["rounds"] * plan.steps_per_round}
    if one.room is not None:
        found[f"{one.counted}s_left"] = one.room
    found |= {
        "delta": plan.delta,
        "adjacency": headline.adjacency,
        "sampler": headline.sampler,
        "view": headline.view,
        "trusted": headline.trusted,
        "accountant": ACCOUNTANTS[headline.accountant],
        "epsilon_server_view": plan.epsilon(plan.claim("server")),
        "claims": [_claim(plan, claim) for claim in plan.claims],
        "counted": one.counted,
        "by_round": by_round(plan) if one.room != 0 else [],
    }
    return found | _people(plan)


def by_round(plan: Plan) -> list[dict[str, float]]:
    """Epsilon of each claim after each round; of a long plan at 25 rounds, the last among them."""
    return [
        {
            "round": number,
            "epsilon": plan.epsilon(rounds=number),
            "epsilon_server_view": plan.epsilon(plan.claim("server"), rounds=number),
        }
        for number in shown_rounds(plan.rounds)
    ]


def shown_rounds(rounds: int) -> list[int]:
    """
    >>> shown_rounds(3), shown_rounds(1000)[:3], shown_rounds(1000)[-1]
    ([1, 2, 3], [1, 40, 80], 1000)
    """
    if rounds <= EVERY_ROUND_UP_TO:
        return list(range(1, rounds + 1))
    return sorted({1, *(rounds * point // POINTS for point in range(1, POINTS + 1))})


def together(first: Plan, second: Plan) -> list[dict[str, Any]]:
    """A person who is in both groups, against each viewer; with slates, for one and, where it is known, for more."""
    if first.unit != "slate" and second.unit == "slate":
        first, second = second, first
    lines = []
    for viewer in ("released models", "server"):
        renyi = "rdp" in (first.claim(viewer).accountant, second.claim(viewer).accountant)
        promised = None not in (first.claim(viewer).event, second.claim(viewer).event)
        for units in (1, *PERSON) if first.unit == "slate" and promised and not renyi else (1,):
            found = in_both(first, second, viewer, first_units=units)
            lines.append(
                {
                    "view": viewer,
                    "person": f"{units} {first.unit}{'s' if units > 1 else ''} and 1 {second.unit}",
                    "epsilon": found.epsilon,
                    "delta": first.delta,
                    "adjacency": _adjacency(first, second, viewer),
                    "trusted": _trusted(first, second, viewer) if promised else "nobody, so nothing is promised",
                    "accountant": ACCOUNTANTS.get(found.accountant, found.accountant),
                }
            )
    return lines


def _trusted(first: Plan, second: Plan, viewer: Any) -> str:
    return "; and ".join(dict.fromkeys((first.claim(viewer).trusted, second.claim(viewer).trusted)))


def _adjacency(first: Plan, second: Plan, viewer: Any) -> str:
    return " and, at once, ".join((first.claim(viewer).adjacency, second.claim(viewer).adjacency))


def _claim(plan: Plan, claim: Claim) -> dict[str, Any]:
    return {
        "viewer": claim.viewer,
        "epsilon": plan.epsilon(claim),
        "unit": plan.unit,
        "adjacency": claim.adjacency,
        "delta": plan.delta,
        "sampler": claim.sampler,
        "view": claim.view,
        "trusted": claim.trusted,
        "accountant": "none" if claim.event is None else ACCOUNTANTS[claim.accountant],
    }


def _people(plan: Plan) -> dict[str, Any]:
    """What the headline does not say by itself."""
    event = plan.headline.event
    if event is None:
        return {}
    whole = repeated(event, plan.rounds)
    if plan.mechanism == "dp_sgd":
        found: dict[str, Any] = {
            f"one_{plan.unit}_at_two_merchants": person_epsilon([Share(event=whole)] * 2, plan.delta)
        }
        if plan.unit == "slate":
            found["person_with_slates"] = {
                str(units): person_epsilon([Share(event=whole, units=units)], plan.delta) for units in PERSON
            }
        return found
    if plan.noise_at == "central":
        known = Event(sampling_rate=1.0, noise_multiplier=plan.noise_multiplier, steps=plan.rounds)
        return {"epsilon_where_cohorts_are_known": epsilon([known], plan.delta)}
    expected = max(math.ceil(plan.sampling_rate * plan.rounds), 1)
    return {"participations": {"expected": expected, "epsilon": plan.epsilon_of_participations(expected)}}


def _spent(
    plan: Plan, spent: Sequence[Event], declared: bool, budget: float | None, *, room: int | None
) -> dict[str, Any]:
    """The history before the plan, and epsilon with the plan behind it."""
    event = plan.headline.event
    events = list(merged(spent))
    found: dict[str, Any] = {"steps": sum(each.steps for each in events), "epsilon": epsilon(spent, plan.delta)}
    ahead = [] if event is None or room == 0 else [repeated(event, plan.rounds)]
    if declared:
        accountant = plan.headline.accountant
        found |= {
            "composed": f"one plan, declared before its first round: {ACCOUNTANTS[accountant]}",
            "epsilon_with_plan": epsilon([*events, *ahead], plan.delta, accountant=accountant),
        }
        return found
    target = found["epsilon"] if budget is None else budget
    with_plan = [
        filter_epsilon([*events, *ahead], plan.delta, order=order_for(first, max(target, 1e-3), plan.delta))
        for first in events
        if first.noise_multiplier > 0
    ]
    return found | {
        "composed": "a Renyi filter of one order: the plan may have been chosen in view of what was spent",
        "epsilon_with_plan": max(with_plan, default=math.inf),
    }


def _warnings(found: Mapping[str, Any], registered: int | None) -> list[str]:
    warnings = []
    delta = found["delta"]
    if registered is not None and delta * registered >= 1:
        warnings.append(
            f"delta={delta:g} is at least 1/{registered:,} = {1 / registered:.2g}: printing one of the {registered:,} "
            f"at random, in full, would satisfy it. Take a delta well below, for example {registered**-1.1:.1g}."
        )
    if found["epsilon"] > WEAK_EPSILON:
        warnings.append(
            f"epsilon={found['epsilon']:.3g} is above {WEAK_EPSILON:g}: odds may rise by more than 20,000 times, which "
            "by itself promises next to nothing. Add noise, sample less, or take fewer rounds."
        )
    return warnings
