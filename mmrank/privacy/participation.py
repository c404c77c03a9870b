"""Who may take part when: the constraint that the sensitivity of correlated noise rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmrank.errors import PrivacyError
from mmrank.privacy.correlated import CorrelatedNoise


@dataclass(frozen=True, kw_only=True)
class Participation:
    """What every client of a run has taken part in; `admit` gives the next state, and refuses what the plan rules out.

    max_participations and min_separation are the mechanism's (see `of`). taken: client -> (rounds taken, the last one).
    A client takes part in a round once its contribution may have entered the sum, whether or not the sum was released.
    Keep `to_dict` durably before a cohort is asked: a participation that is forgotten is one too many later.
    """

    rounds: int
    max_participations: int
    min_separation: int
    round_number: int = 0
    taken: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, mechanism: CorrelatedNoise) -> Participation:
        """Nobody has taken part yet."""
        return cls(
            rounds=mechanism.rounds,
            max_participations=mechanism.max_participations,
            min_separation=mechanism.min_separation,
        )

    def refusal(self, client: str, round_number: int) -> str | None:
        """Why that client can't take part in that round; None where it can."""
        count, last = self.taken.get(client, (0, 0))
        if count >= self.max_participations:
            return f"has taken part in {count} of at most max_participations={self.max_participations} rounds"
        if count and round_number - last < self.min_separation:
            return (
                f"took part in round {last}, and may again from round {last + self.min_separation} on "
                f"(min_separation={self.min_separation})"
            )
        return None

    def eligible(self, clients: Iterable[str], round_number: int) -> list[str]:
        """Those of `clients` that can take part in that round, in their order."""
        return [client for client in clients if self.refusal(client, round_number) is None]

    def admit(self, cohort: Iterable[str], round_number: int) -> Participation:
        """The state once `cohort` takes part in that round; all of it, or nobody and PrivacyError.

        Rounds only go on: a round has one cohort. After a restart `cohort_of` says who it was.
        """
        members = list(cohort)
        if not self.round_number < round_number <= self.rounds:
            raise PrivacyError(
                f"Expected round={round_number} after {self.round_number} and within {self.rounds}: a round's cohort "
                "is admitted once; go on with the next round."
            )
        if len(set(members)) < len(members):
            raise PrivacyError("Expected each client once in a cohort: a second contribution doubles its sensitivity.")
        for client in members:
            reason = self.refusal(client, round_number)
            if reason is not None:
                raise PrivacyError(f"Client {client} {reason}; draw the cohort from `eligible`.")
        entered = {client: (self.taken.get(client, (0, 0))[0] + 1, round_number) for client in members}
        return Participation(
            rounds=self.rounds,
            max_participations=self.max_participations,
            min_separation=self.min_separation,
            round_number=round_number,
            taken={**self.taken, **entered},
        )

    def cohort_of(self, round_number: int) -> list[str]:
        """Who was admitted to that round, if it is the last one of each."""
        return [client for client, (_, last) in self.taken.items() if last == round_number]

    def to_dict(self) -> dict[str, object]:
        """Plain numbers and words, for JSON."""
        facts = ("rounds", "max_participations", "min_separation", "round_number")
        taken = {client: list(rounds) for client, rounds in self.taken.items()}
        return {**{name: getattr(self, name) for name in facts}, "taken": taken}

    def restored(self, state: Mapping[str, object]) -> Participation:
        """The state that `to_dict` gave, under this plan. Raises PrivacyError where it was another plan's."""
        for name in ("rounds", "max_participations", "min_separation"):
            if state[name] != getattr(self, name):
                raise PrivacyError(
                    f"Expected participations under {name}={getattr(self, name)}, not {state[name]}; "
                    "a run keeps the plan that it was charged for."
                )
        taken, number = state["taken"], state["round_number"]
        if not isinstance(taken, dict) or not isinstance(number, int):
            raise PrivacyError("The kept participations are damaged; begin and charge a new run.")
        return Participation(
            rounds=self.rounds,
            max_participations=self.max_participations,
            min_separation=self.min_separation,
            round_number=number,
            taken={client: (int(count), int(last)) for client, (count, last) in taken.items()},
        )
