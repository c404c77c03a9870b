"""The sentences of a privacy statement, from the public facts of result.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulations.report import _outwards as outwards
from simulations.report._meaning import belief_after, belief_before, detections, right_guesses, strength

UNITS = {
    "slate": "one record: one search or browsing page of one person, with the products shown, what the person did, and "
    "the earlier behaviour that stood beside it",
    "user": "one person at one merchant: everything of that person that the merchant trains on",
    "client": "one device, which stands for one person: everything that it trains on",
}
NAMES = {"slate": "one record (slate)", "user": "one person at one merchant", "client": "one person's device"}
_OWN = "the merchant or device that holds the records: it draws them by chance and adds the noise itself"
_DEVICE = "the device that holds the records: it adds the noise itself"
_MANY = (
    "enough honest devices to add their shares of the noise, and a server that follows the protocol, so that it sees "
    "sums and no single contribution"
)
TRUSTED = {
    "client": (_OWN, _OWN),
    "local": (_DEVICE, _DEVICE),
    "distributed": (_MANY, _MANY),
    "central": (
        "the operator of the server: it sees each contribution, adds the noise, and keeps secret who took part in "
        "which round",
        "nobody, so nothing is promised",
    ),
}
"""By place of the noise: who has to be trusted (against those who see the models, against the server)."""
PRIORS = (0.01, 0.1, 0.5)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What result.json says of privacy, read once.

    epsilon: against those who see the released models, as the page prints it (three digits, rounded up), so that every
    figure on the page follows from that one.
    """

    facts: Mapping[str, Any]
    epsilon: float
    epsilon_server: float
    delta: float
    unit: str
    mechanism: str
    noise_at: str
    rounds: int

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Promise:
        """From result.json's content, in which an infinite number is a word."""
        facts = result["privacy"]
        return cls(
            facts=facts,
            epsilon=outwards.up(float(facts["epsilon_max"])),
            epsilon_server=outwards.up(float(facts["epsilon_server_view"])),
            delta=float(facts["delta"]),
            unit=str(facts["unit"]),
            mechanism=str(facts["mechanism"]),
            noise_at="client" if facts["mechanism"] == "dp_sgd" else str(facts.get("noise_at", "central")),
            rounds=int(result["rounds"]),
        )

    @property
    def private(self) -> bool:
        return self.mechanism != "no_privacy" and math.isfinite(self.epsilon)

    @property
    def throwaway(self) -> bool:
        return self.facts["ledger"] == "throwaway"

    @property
    def noise_cohort_size(self) -> int | None:
        """The real cohort that a small simulated one stands for; None where the cohort is its own."""
        size = self.facts.get("noise_cohort_size")
        return None if size is None else int(size)

    @property
    def seeded(self) -> bool:
        return self.facts["noise"] == "seeded"


def sections_of(promise: Promise) -> list[dict[str, Any]]:
    """Headings, paragraphs and tables, in the order of the page; keywords of a statement's part."""
    if not promise.private:
        return [
            {
                "heading": "In one paragraph",
                "paragraphs": (
                    "What each client computed from its records left it as it was, without added noise. Whoever sees "
                    "it may be able to tell whether a record was used, and what it said. No figure on this page bounds "
                    "that. (Technically: epsilon, the measure of what can be learned of one record, is infinite.) The "
                    "records themselves stayed where they were; that is a habit of the system, and no mathematical "
                    "protection.",
                ),
            }
        ]
    return [
        _summary(promise),
        _whom(promise),
        _how_much(promise),
        _table(promise),
        _trust(promise),
        _how_often(promise),
    ]


def _summary(promise: Promise) -> dict[str, Any]:
    name = NAMES.get(promise.unit, promise.unit)
    return {
        "heading": "In one paragraph",
        "paragraphs": (
            f"The program adds random noise, so that whatever comes out could have come out without {name} as well: no "
            f"result is more than {outwards.factor(promise.epsilon)} times as likely with it as without, or the other "
            "way round. This is measured by a number called epsilon (ε), which is here "
            f"{outwards.number(promise.epsilon)}: {strength(promise.epsilon)}. The promise may fail altogether with a "
            f"probability of at most {outwards.chance(promise.delta)} (called delta, δ). It holds against readers of "
            "the released models who know everything else about everybody, however much they compute.",
        ),
    }


def _whom(promise: Promise) -> dict[str, Any]:
    facts = promise.facts
    told = [f"The protected unit is {UNITS.get(promise.unit, promise.unit)}."]
    if promise.unit == "slate":
        people = facts.get("person_with_slates") or {}
        figures = [f"ε = {outwards.number(float(value))} for one with {slates}" for slates, value in people.items()]
        told.append(
            "A person usually has many records, and is as a whole protected less than one of them: the figures on this "
            "page are for a record and may not be quoted as a person's."
            + (f" A person's own figure is {', and '.join(figures)}." if figures else "")
        )
    if promise.unit == "user":
        limit = facts.get("slates_per_user")
        told.append(
            "A person who buys at several merchants has such a promise from each; together they are weaker than one."
            + (f" At most {limit} records of one person are used at a time." if limit else "")
        )
    if promise.unit == "client":
        told.append("A person with several devices has such a promise for each; together they are weaker than one.")
    told.append(
        "What is compared is two worlds that differ in one such unit alone: in one it took part, in the other it did "
        f"not. The noise hides which of them is ours. (Technically, the adjacency: {facts['adjacency']}.)"
    )
    return {"heading": "What is protected, and for whom", "paragraphs": tuple(told)}


def _how_much(promise: Promise) -> dict[str, Any]:
    epsilon, delta = promise.epsilon, promise.delta
    return {
        "heading": "By how much",
        "paragraphs": (
            f'ε = {outwards.number(epsilon)} means: whatever is released, the odds that somebody gives to "this unit '
            f'took part" may rise or fall by a factor of at most {outwards.factor(epsilon)} (e to the power of ε), '
            "but for cases "
            f"that have together a probability of at most {outwards.chance(delta)}. With ε = 0 nothing can be "
            "learned; each step of 1 multiplies the factor by 2.72.",
            "A worked example. An outsider thinks that it is as likely as not (50%) that a certain unit was used. "
            "After having seen everything that was released, the outsider may at most come to believe it with "
            f"{outwards.percent(belief_after(0.5, epsilon), up=True)}, and at least with "
            f"{outwards.percent(belief_before(0.5, epsilon), up=False)}. Who bets on it for a thousand units, each of "
            "which was used or not by the fall of a coin, is right at most "
            f"{outwards.of_a_thousand(right_guesses(epsilon, delta))} times on average; who guesses blindly is right "
            "500 times.",
            "Seen as a search: somebody who is ready to accuse by mistake 50 of every 1,000 that were not used can "
            f"rightly accuse at most {outwards.of_a_thousand(detections(0.05, epsilon, delta))} of every 1,000 that "
            "were. Without any information it would be 50.",
        ),
    }


def _table(promise: Promise) -> dict[str, Any]:
    lines = [("belief before", "at least after", "at most after")]
    for prior in PRIORS:
        least, most = belief_before(prior, promise.epsilon), belief_after(prior, promise.epsilon)
        lines.append((f"{prior:.0%}", outwards.percent(least, up=False), outwards.percent(most, up=True)))
    return {
        "heading": "Beliefs before and after",
        "paragraphs": (
            "How far the belief that a unit took part can move for those who see the released models, but for the "
            f"{outwards.chance(promise.delta)}:",
        ),
        "table": lines,
    }


def _trust(promise: Promise) -> dict[str, Any]:
    facts = promise.facts
    released, server = TRUSTED[promise.noise_at]
    rate = float(facts.get("client_sampling_rate") or facts["sampling_rate"])
    return {
        "heading": "Against whom, and whom one has to trust",
        "table": [
            ("who looks", "ε", "who has to be trusted"),
            ("whoever sees the released models", outwards.number(promise.epsilon), released),
            ("the operator of the server", outwards.number(promise.epsilon_server), server),
        ],
        "paragraphs": (
            f"Units are drawn by chance, {rate:.3g} for each (technically, the sampler: {facts['sampler']}). What the "
            f"noise costs was counted with {facts['accountant']}. The noise's size is "
            f"{float(facts['noise_multiplier']):.3g} times the most that one unit can change a result.",
        ),
    }


def _how_often(promise: Promise) -> dict[str, Any]:
    facts = promise.facts
    budget = float(facts["budget"])
    limit = (
        f"A client refuses to go on before its own ε would pass {outwards.number(budget)}. Where the end of the "
        "training was chosen in view of results, that limit is the figure that holds."
        if math.isfinite(budget)
        else "No limit was set at which a client would refuse to go on."
    )
    return {
        "heading": "How often results were released",
        "paragraphs": (
            f"{promise.rounds} model{'s' if promise.rounds != 1 else ''}, one after each round of training. All of "
            "them together are covered by the figures above, which are those of the client that spent most; the median "
            f"client spent ε = {outwards.number(float(facts['epsilon_median']))}. {limit}",
        ),
    }


def not_protected(promise: Promise) -> list[str]:
    """What no reader should take as promised."""
    points = [
        "That somebody is registered, was asked in a round, answered, and how long it took.",
        "The public catalogue: titles, pictures, prices, and what their statistics say.",
        "What is true of people at large. If many buy a thing together, the model learns it, and it may be concluded "
        "of a person who was never part of the data.",
        "The records where they lie: whoever can read a merchant's tables or a person's device reads them.",
        "Questions that are sent to a server to be answered there. (By default they are answered on the client.)",
        "Other uses of the same records that are not counted in the same record of spending (ledger).",
    ]
    if promise.private and promise.unit == "slate":
        points.insert(0, "A person as a whole. The promise is for one record; it weakens with each further one.")
    if promise.private and math.isinf(promise.epsilon_server):
        points.insert(0, "Anything against the operator of the server, who sees each contribution before the noise.")
    if not promise.private:
        points.insert(0, "Every record: nothing bounds what the released models and updates tell about it.")
    return points
