"""A plan of rounds, and every epsilon that it may claim: for whom, against whom, and whom one has to trust.

A plan is public and fixed before the first round. The same plan costs one epsilon against those who see the released
models alone and another against the server, which drew the cohort; each is a `Claim`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Accountant, Event, check_delta, epsilon

PlannedMechanism = Literal["dp_sgd", "client_update"]
Unit = Literal["slate", "user", "client"]
NoiseAt = Literal["client", "central", "distributed", "local"]
Viewer = Literal["released models", "server"]

MAX_PLANNED_STEPS = 1_000_000
NOISE_RANGE = (0.01, 1e5)
UNITS: dict[str, tuple[Unit, ...]] = {"dp_sgd": ("slate", "user"), "client_update": ("client",)}
PLACES: dict[str, tuple[NoiseAt, ...]] = {"dp_sgd": ("client",), "client_update": ("central", "distributed", "local")}
ACCOUNTANTS = {"pld": "PLD (dp-accounting)", "rdp": "zCDP, by Renyi DP (dp-accounting)"}

ZERO_OUT = "zero-out one client (its update or none; with Poisson sampling, add/remove one)"
BOTH = "the server, and everybody who sees the released models"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One epsilon that may be stated, with all that it rests on.

    viewer: who looks. view: the same in words. trusted: who must behave. event: what one round costs against that
    viewer, None where nothing is promised (epsilon is infinite). accountant: how rounds compose.
    """

    viewer: Viewer
    view: str
    trusted: str
    adjacency: str
    sampler: str
    event: Event | None
    accountant: Accountant = "pld"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`rounds` rounds of one mechanism, planned in public.

    sampling_rate: Poisson rate q, of units in a local step (dp_sgd) or of clients in a round (client_update).
    noise_multiplier: standard deviation over the clip; with distributed noise that of the sum, after dropouts,
    colluders and rounding. steps_per_round: local steps, 1 for client_update. noise_at: who adds the noise; `client`
    for dp_sgd, which adds it inside the client at every step.
    Raises PrivacyError for what can't be planned.
    """

    mechanism: PlannedMechanism
    unit: Unit
    sampling_rate: float
    noise_multiplier: float
    delta: float
    rounds: int
    steps_per_round: int = 1
    noise_at: NoiseAt = "client"

    def __post_init__(self) -> None:
        check_shape(self.mechanism, self.unit, self.noise_at, self.steps_per_round)
        check_delta(self.delta)
        check_steps(self.rounds, self.steps_per_round)
        low, high = NOISE_RANGE
        if not low <= self.noise_multiplier <= high:
            raise PrivacyError(
                f"Expected noise_multiplier={self.noise_multiplier} in [{low:g}, {high:g}]; set the noise multiplier "
                "(below it there is no privacy to plan), or give epsilon and have it computed."
            )
        _ = self.claims

    @property
    def steps(self) -> int:
        """In all."""
        return self.rounds * self.steps_per_round

    @property
    def claims(self) -> tuple[Claim, Claim]:
        """Against those who see the released models, and against the server."""
        return claims_of(
            mechanism=self.mechanism,
            unit=self.unit,
            noise_at=self.noise_at,
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps_per_round=self.steps_per_round,
        )

    @property
    def headline(self) -> Claim:
        """The widest claim that is finite: against the server too, but for central noise, which trusts it."""
        released, server = self.claims
        return released if server.event is None else server

    def claim(self, viewer: Viewer) -> Claim:
        """The one against that viewer."""
        released, server = self.claims
        return released if viewer == "released models" else server

    def epsilon(self, claim: Claim | None = None, *, rounds: int | None = None) -> float:
        """After `rounds` rounds (all of them by default), for a client that takes part in each; inf without a claim."""
        claim = claim or self.headline
        if claim.event is None:
            return float("inf")
        event = repeated(claim.event, self.rounds if rounds is None else rounds)
        return epsilon([event], self.delta, accountant=claim.accountant)

    def epsilon_of_participations(self, rounds: int) -> float:
        """Against everybody, for a client that was drawn in `rounds` rounds: what its own ledger would say."""
        return self.epsilon(self.claim("server"), rounds=rounds)


def repeated(event: Event, rounds: int) -> Event:
    """The event of `rounds` rounds."""
    return replace(event, steps=event.steps * rounds)


def claims_of(
    *,
    mechanism: PlannedMechanism,
    unit: Unit,
    noise_at: NoiseAt,
    sampling_rate: float,
    noise_multiplier: float,
    steps_per_round: int = 1,
) -> tuple[Claim, Claim]:
    """What one round may claim against (those who see the released models, the server). Raises PrivacyError.

    dp_sgd and local noise: the noise is in what leaves the client, so both see the same. Central noise: sampling of
    clients amplifies against those who don't know the cohort; the server sees every update. Distributed noise: the
    server knows the cohort, so q = 1; the noise is discrete, for which no amplified bound is claimed to others either.
    """
    drawn = Event(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps_per_round)
    if mechanism == "dp_sgd":
        both = {
            "view": BOTH,
            "trusted": "the client itself, which samples and adds the noise; nobody outside it",
            "adjacency": f"add/remove one {unit}" + ("'s whole contribution" if unit == "user" else ""),
            "sampler": f"Poisson, of {unit}s, in each local step inside the client",
            "event": drawn,
        }
    elif noise_at == "central":
        return (
            Claim(
                viewer="released models",
                view="whoever sees the released models, and not who took part in which round",
                trusted="the server: it sees every update, adds the noise and keeps the cohorts secret",
                adjacency=ZERO_OUT,
                sampler="Poisson, of clients, in each round",
                event=drawn,
            ),
            Claim(
                viewer="server",
                view="the server, which sees each clipped update before the noise",
                trusted="nobody, so nothing is promised",
                adjacency=ZERO_OUT,
                sampler="none that counts: it drew the cohort",
                event=None,
            ),
        )
    elif noise_at == "local":
        both = {
            "view": BOTH,
            "trusted": "the device itself, which adds the noise; nobody outside it",
            "adjacency": "replace one (a client's update by any other: sensitivity 2C)",
            "sampler": "none that counts (q = 1): the server sees who takes part",
            # N(0, z^2 C^2) against a distance of 2C
            "event": Event(sampling_rate=1.0, noise_multiplier=noise_multiplier / 2, steps=1),
        }
    else:
        both = {
            "view": BOTH,
            "trusted": "enough honest devices to add their shares of the noise, and a server that follows the "
            "protocol: it sees masked sums alone",
            "adjacency": ZERO_OUT,
            "sampler": "none that counts (q = 1): the server sees who takes part",
            "event": Event(sampling_rate=1.0, noise_multiplier=noise_multiplier, steps=1),
            # discrete noise is known to be concentrated, not to have a Gaussian's distribution of losses
            "accountant": "rdp",
        }
    return Claim(viewer="released models", **both), Claim(viewer="server", **both)  # type: ignore[arg-type]


def check_shape(mechanism: str, unit: str, noise_at: str, steps_per_round: int) -> None:
    """Raise PrivacyError for a unit or a place of noise that the mechanism does not have."""
    if mechanism not in UNITS:
        raise PrivacyError(
            f"Expected mechanism={mechanism!r} to be one of {', '.join(UNITS)}; others promise nothing to plan."
        )
    for name, value, allowed in (("unit", unit, UNITS[mechanism]), ("noise_at", noise_at, PLACES[mechanism])):
        if value not in allowed:
            raise PrivacyError(
                f"Expected {name}={value!r} to be one of {', '.join(allowed)} with mechanism {mechanism}; set {name}."
            )
    if mechanism == "client_update" and steps_per_round != 1:
        raise PrivacyError(
            f"Expected steps_per_round={steps_per_round} to be 1 with client_update, which clips and charges a whole "
            "update once a round; leave local steps out."
        )


def check_steps(rounds: int, steps_per_round: int) -> None:
    """Raise PrivacyError for no rounds, or more steps than a plan is computed for."""
    for name, value in (("rounds", rounds), ("local steps", steps_per_round)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PrivacyError(f"Expected {name}={value!r} to be a whole number of at least 1; plan at least one.")
    if rounds * steps_per_round > MAX_PLANNED_STEPS:
        raise PrivacyError(
            f"Expected {rounds} rounds of {steps_per_round} steps to be at most {MAX_PLANNED_STEPS:,} steps in all; "
            "plan fewer, or plan a part and compose with --spent."
        )
