"""The configuration as frozen dataclasses, from plain dictionaries.

YAML is read elsewhere (simulations/config.py, client/app.py, server/app.py): here it is already a
dictionary. Unknown keys fail with the nearest match; each bound names the value and the remedy.
A component is a dictionary with a `name`; its other keys go to the component's `build` unchanged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from mmrank._secure_settings import check_distributed, check_secure_cohorts
from mmrank.errors import ConfigError, nearest
from mmrank.metrics import METRICS

SMALLEST_DELTA = 1e-10
"""Below it the rounding errors of the accountant's Fourier transforms are as large as delta."""

Component = Mapping[str, Any]


def _component(name: str, **settings: Any) -> Any:
    return field(default_factory=lambda: {"name": name, **settings})


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The ranker. `towers: frozen` encodes the catalogue once; `end_to_end` trains text and image encoders too.

    use_looks: what the catalogue shows beside a query's words counts as a feature, where towers are frozen.
    trainable: beginnings of the names of the parameters that are trained, all where empty; the rest stays as the seed
    made it. The fewer, the less noise a promise needs. personal: the same of parameters that no federation trains: each
    client may fit them at home, over the finished shared part, and never sends them.
    """

    towers: Literal["frozen", "end_to_end"] = "frozen"
    text: Component = _component("tfidf")
    image: Component = _component("efficientnet")
    behaviour: Component = _component("attention")
    fusion: Component = _component("concatenation")
    dim: int = 16
    feature_dim: int = 128
    style_dim: int = 32
    history_length: int = 20
    use_text: bool = True
    use_image: bool = True
    use_behaviour: bool = True
    use_event_type: bool = True
    use_time_gap: bool = True
    use_price: bool = True
    use_category: bool = True
    use_position: bool = True
    use_looks: bool = True
    content_prior: bool = True
    trainable: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounded("model.dim", self.dim, 1, 4096)
        bounded("model.feature_dim", self.feature_dim, 1, 4096)
        bounded("model.style_dim", self.style_dim, 1, 4096)
        bounded("model.history_length", self.history_length, 1, 1000)
        for own in self.personal:
            for shared in self.trainable:
                if own.startswith(shared) or shared.startswith(own):
                    raise ConfigError(
                        f"Expected model.personal={own!r} apart from model.trainable={shared!r}: a part that is fitted "
                        "without noise beside a shared part in training would show in what is shared; name it in one."
                    )

    @property
    def with_looks(self) -> bool:
        """Whether the ranker has that feature."""
        return self.use_looks and self.use_text and self.towers == "frozen"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Local training; public, the same for every client."""

    loss: Component = _component("softmax")
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32
    local_steps: int = 10
    slate_length: int = 20

    def __post_init__(self) -> None:
        _positive("training.learning_rate", self.learning_rate)
        bounded("training.momentum", self.momentum, 0.0, 0.999)
        bounded("training.weight_decay", self.weight_decay, 0.0, 10.0)
        bounded("training.batch_size", self.batch_size, 1, 1_000_000)
        bounded("training.local_steps", self.local_steps, 1, 1_000_000)
        bounded("training.slate_length", self.slate_length, 2, 10_000)


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """The server's side of a run; public.

    merchants_per_round: how many of the cohort are merchants (as many as there are, at most), the rest devices;
    all clients alike where None. merchant_weight: a merchant's weight in the mean, a device's being 1.
    """

    rounds: int = 20
    cohort_size: int = 50
    merchants_per_round: int | None = None
    merchant_weight: float = 1.0
    aggregation: Component = _component("fedavg")
    min_replies: int = 1
    reply_timeout_seconds: float = 3600.0

    def __post_init__(self) -> None:
        bounded("federation.rounds", self.rounds, 1, 1_000_000)
        bounded("federation.cohort_size", self.cohort_size, 1, 10_000_000)
        if self.merchants_per_round is not None:
            bounded("federation.merchants_per_round", self.merchants_per_round, 0, self.cohort_size)
        _positive("federation.merchant_weight", self.merchant_weight)
        bounded("federation.min_replies", self.min_replies, 1, self.cohort_size)
        _positive("federation.reply_timeout_seconds", self.reply_timeout_seconds)

    @property
    def proximal_mu(self) -> float:
        """FedProx' mu, which clients train under; 0 for every other rule."""
        return float(self.aggregation.get("mu", 0.0)) if self.aggregation["name"] == "fedprox" else 0.0


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Measures of the validation slates that clients release with noise, each release charged as a training is.

    noise_multiplier: standard deviation of the noise over the release's sensitivity. max_slates: the most of a
    person's or device's slates that its mean is taken over. every: after which rounds clients are asked. asked: who
    is: the round's cohort, every merchant, or everybody.
    """

    noise_multiplier: float = 20.0
    measures: tuple[str, ...] = ("ndcg@10", "mrr")
    max_slates: int = 20
    every: int = 5
    asked: Literal["cohort", "merchants", "all"] = "cohort"

    def __post_init__(self) -> None:
        _positive("privacy.metrics.noise_multiplier", self.noise_multiplier)
        bounded("privacy.metrics.max_slates", self.max_slates, 1, 10_000)
        bounded("privacy.metrics.every", self.every, 1, 1_000_000)
        if not self.measures or len(set(self.measures)) < len(self.measures) or set(self.measures) - set(METRICS):
            raise ConfigError(
                f"Expected privacy.metrics.measures={list(self.measures)} to be different ones of "
                f"{', '.join(METRICS)}; set privacy.metrics.measures."
            )


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """What each client promises its people; public, and never derived from the client's data.

    unit: whom or what the promise protects; a `user` is bundles of at most `slates_per_user` of a person's slates.
    sampling_rate: Poisson rate q of a slate or user in one local step, or of a client in one round.
    expected_batch_size: the public denominator of a step's noisy sum (of a round's: federation.cohort_size).
    max_grad_norm: the clip C of a unit's gradient, or of a client's whole update. epsilon: the target from which
    the noise multiplier is calibrated over the whole run; give it or noise_multiplier, not both. budget_epsilon:
    where the ledger that is charged refuses (the target where absent). participations: of one client in a run, for
    which noise that no sampling amplifies is calibrated (the rounds where absent). participation_epsilon: where a
    device's own ledger refuses under central noise. clipping adaptive: C follows the quantile `clip_quantile` of
    the updates' norms, at the cost of a noisy count with standard deviation `clip_count_noise` (a twentieth of the
    cohort where absent). noise_cohort_size: a simulation's small cohort stands for one of that size. cohorts:
    `poisson`, or `stream` where nobody vouches for a sample: noise correlated over the rounds, charged once a run,
    and no device in more than `participations` rounds. population: names the people of a population ledger. ledger:
    `throwaway` or the path of a file. noise: `seeded` in simulations only. With noise_at distributed:
    secure_threshold, the fewest survivors of a round, over whom the noise is spread (just above half of
    secure_cohort where absent); secure_cohort, the largest cohort that is asked (the expected one and four standard
    deviations where absent); colluders, how many devices may tell the server their noise. metrics: what clients
    tell of the model's quality, nothing where absent. renew_every_days: the budget holds for each such period of
    the public calendar, which needs retention_days: older slates and events are dropped before training.
    """

    mechanism: Literal["no_privacy", "dp_sgd", "client_update"] = "no_privacy"
    unit: Literal["slate", "user", "client"] = "slate"
    slates_per_user: int = 8
    sampling_rate: float = 0.05
    expected_batch_size: float = 64.0
    max_grad_norm: float = 1.0
    noise_multiplier: float | None = None
    epsilon: float | None = None
    budget_epsilon: float | None = None
    delta: float = 1e-6
    noise: Literal["secure", "seeded"] = "secure"
    ledger: str = "throwaway"
    grad_sample: Literal["opacus", "vmap"] = "opacus"
    micro_batch_size: int = 64
    noise_at: Literal["central", "distributed", "local"] = "central"
    secure_threshold: int | None = None
    secure_cohort: int | None = None
    colluders: int = 0
    participations: int | None = None
    participation_epsilon: float | None = None
    clipping: Literal["fixed", "adaptive"] = "fixed"
    clip_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    clip_count_noise: float | None = None
    noise_cohort_size: int | None = None
    cohorts: Literal["poisson", "stream"] = "poisson"
    population: str = "population"
    metrics: MetricsSettings | None = None
    renew_every_days: float | None = None
    retention_days: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(
                f"Expected privacy.sampling_rate={self.sampling_rate} in (0, 1]; set privacy.sampling_rate."
            )
        if not SMALLEST_DELTA <= self.delta < 1:
            raise ConfigError(
                f"Expected privacy.delta={self.delta} in [{SMALLEST_DELTA}, 1); set privacy.delta, for example 1e-6."
            )
        for name in ("expected_batch_size", "max_grad_norm", "clip_learning_rate"):
            _positive(f"privacy.{name}", getattr(self, name))
        bounded("privacy.micro_batch_size", self.micro_batch_size, 1, 1_000_000)
        bounded("privacy.slates_per_user", self.slates_per_user, 1, 10_000)
        bounded("privacy.clip_quantile", self.clip_quantile, 0.01, 0.99)
        for name in (
            "noise_multiplier",
            "epsilon",
            "budget_epsilon",
            "participations",
            "participation_epsilon",
            "clip_count_noise",
            "noise_cohort_size",
            "secure_threshold",
            "secure_cohort",
        ):
            value = getattr(self, name)
            if value is not None:
                _positive(f"privacy.{name}", value)
        self._check_metrics()
        self._check_calendar()
        if self.mechanism != "no_privacy":
            self._check_mechanism()

    def _check_metrics(self) -> None:
        """Whether there is a promise that released measures can be charged to, at who adds their noise."""
        if self.metrics is None:
            return
        if self.mechanism == "no_privacy":
            raise ConfigError(
                "Expected privacy.metrics with a mechanism whose budget they are charged to, not with "
                "privacy.mechanism=no_privacy; set privacy.mechanism, or leave privacy.metrics out."
            )
        if self.mechanism == "client_update" and self.noise_at != "local":
            raise ConfigError(
                f"Expected privacy.noise_at={self.noise_at} to be local with privacy.metrics: the server would see "
                "each client's measures without noise; set privacy.noise_at: local, or leave privacy.metrics out."
            )
        if self.unit == "client" and self.metrics.asked == "merchants":
            raise ConfigError(
                "Expected privacy.metrics.asked=merchants to be cohort or all with privacy.unit=client, where nobody "
                "is a merchant; set privacy.metrics.asked: cohort."
            )

    def _check_calendar(self) -> None:
        for name in ("renew_every_days", "retention_days"):
            value = getattr(self, name)
            if value is not None:
                bounded(f"privacy.{name}", value, 1, 36_525)
        if self.renew_every_days is not None and self.retention_days is None:
            raise ConfigError(
                f"Expected privacy.retention_days beside privacy.renew_every_days={self.renew_every_days}: a budget "
                "may be renewed only where older data are dropped; set privacy.retention_days."
            )
        if self.retention_days is not None and self.noise == "seeded":
            raise ConfigError(
                f"Expected privacy.noise=seeded to be secure with privacy.retention_days={self.retention_days}: data "
                "age, and the same noise on other data tells them apart; set privacy.noise: secure."
            )

    def _check_mechanism(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ConfigError(
                f"Expected one of privacy.epsilon={self.epsilon} and privacy.noise_multiplier={self.noise_multiplier} "
                f"with mechanism {self.mechanism}; set the target or the noise, and leave the other out."
            )
        units = UNITS[self.mechanism]
        if self.unit not in units:
            raise ConfigError(
                f"Expected privacy.unit={self.unit} to be one of {', '.join(units)} under privacy.mechanism="
                f"{self.mechanism}; set privacy.unit: {units[0]}."
            )
        check_distributed(self)
        if self.mechanism == "client_update":
            self._check_stream()
            return
        for name, plain in (
            ("noise_at", "central"),
            ("clipping", "fixed"),
            ("noise_cohort_size", None),
            ("cohorts", "poisson"),
        ):
            if getattr(self, name) != plain:
                raise ConfigError(
                    f"Expected privacy.{name}={getattr(self, name)} with privacy.mechanism: client_update alone; "
                    f"leave privacy.{name} out with {self.mechanism}."
                )

    def _check_stream(self) -> None:
        if self.cohorts != "stream":
            return
        for name, plain in (("noise_at", "central"), ("clipping", "fixed"), ("noise_cohort_size", None)):
            if getattr(self, name) != plain:
                raise ConfigError(
                    f"Expected privacy.{name}={getattr(self, name)} to be {plain} with privacy.cohorts: stream, whose "
                    f"noise is one plan of the server's; leave privacy.{name} out."
                )
        if self.renew_every_days is not None:
            raise ConfigError(
                f"Expected privacy.renew_every_days={self.renew_every_days} to be left out with cohorts: stream: "
                "a run is charged once, in the period in which it begins, and data of later periods would meet it for "
                "nothing; leave privacy.renew_every_days out."
            )
        if self.participations is None:
            raise ConfigError(
                "Expected privacy.participations with privacy.cohorts: stream: in how many rounds one device takes "
                "part at most, evenly apart; set it, for example to 5."
            )

    @property
    def stream(self) -> bool:
        """Whether the noise is correlated over the rounds of a run whose cohorts nobody sampled."""
        return self.mechanism == "client_update" and self.cohorts == "stream"

    @property
    def central(self) -> bool:
        """Whether the server adds the noise, and is trusted."""
        return self.mechanism == "client_update" and self.noise_at == "central"

    @property
    def distributed(self) -> bool:
        """Whether each device adds a share of the noise, and the server sees nothing but a masked sum."""
        return self.mechanism == "client_update" and self.noise_at == "distributed"

    @property
    def budget(self) -> float:
        """Where the ledger behind the promise refuses; inf without a mechanism or a budget."""
        budget = self.budget_epsilon or self.epsilon if self.mechanism != "no_privacy" else None
        return math.inf if budget is None else budget

    @property
    def charged_unit(self) -> str:
        """What an event in a ledger protects, its adjacency included: events of two kinds do not compose to either."""
        local = self.mechanism == "client_update" and self.noise_at == "local"
        return f"{self.unit}, replaced" if local else self.unit

    @property
    def client_budget(self) -> float:
        """Where a client's own ledger refuses. Under central noise it records participations, unamplified."""
        if self.central:
            return math.inf if self.participation_epsilon is None else self.participation_epsilon
        return self.budget


UNITS = {"dp_sgd": ("slate", "user"), "client_update": ("client",)}
"""The units that a mechanism can protect."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What a simulation measures; none of it crosses the wire."""

    every: int = 5
    clients: int = 200
    seeds: int = 3
    rows: tuple[str, ...] = ()
    bootstrap: int = 1000
    centralised_epochs: int = 10
    local_only_steps: int = 50
    max_slates_per_client: int = 50

    def __post_init__(self) -> None:
        for name in (
            "every",
            "clients",
            "seeds",
            "bootstrap",
            "centralised_epochs",
            "local_only_steps",
            "max_slates_per_client",
        ):
            bounded(f"evaluation.{name}", getattr(self, name), 1, 10_000_000)


OWN = frozenset({"name", "engine", "device", "dataset", "features_cache", "tracking", "evaluation"})
"""Settings that each party of a federation has for itself: where its data, its files and its hardware are."""
RENEWAL = frozenset({"renew_every_days", "retention_days"})
OWN_PRIVACY = frozenset({"ledger", "budget_epsilon", "participation_epsilon"}) | RENEWAL
"""The same under `privacy`: each ends or keeps its own promise, and none of them changes what a round costs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run."""

    name: str = "run"
    seed: int = 0
    engine: str = "inline"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dataset: Component = _component("marketplace")
    features_cache: str = "~/.cache/mmrank"
    tracking: Literal["tensorboard", "wandb_offline", "none"] = "tensorboard"
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        if self.privacy.mechanism == "client_update":
            self._check_cohorts()
        if self.privacy.metrics is not None:
            bounded("privacy.metrics.every", self.privacy.metrics.every, 1, self.federation.rounds)

    def _check_cohorts(self) -> None:
        """What would make a round's cohort other than a Poisson sample of equal clients, or its denominator private."""
        for name, plain in (("min_replies", 1), ("merchants_per_round", None), ("merchant_weight", 1.0)):
            value = getattr(self.federation, name)
            if value != plain:
                raise ConfigError(
                    f"Expected federation.{name}={value} to be left out with privacy.mechanism: client_update: each "
                    "client enters a round alone by privacy.sampling_rate, and a round counts whoever replies."
                )
        if self.privacy.distributed:
            check_secure_cohorts(self.privacy, self.federation)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings: what `parse` takes back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @cached_property
    def sha256(self) -> str:
        """Hash of every setting; equal settings, written in any order, have equal hashes."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def agreed_sha256(self) -> str:
        """Hash of what a server and its clients must have alike: all but OWN and OWN_PRIVACY.

        Under central noise the population's budget is renewed by the server, and what that rests on, that old data are
        dropped, happens on each device: there the two are alike as well.
        """
        own = OWN_PRIVACY - RENEWAL if self.privacy.central else OWN_PRIVACY
        agreed = {name: value for name, value in self.to_dict().items() if name not in OWN}
        agreed["privacy"] = {name: value for name, value in agreed["privacy"].items() if name not in own}
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()


def parse(raw: Mapping[str, Any]) -> Settings:
    """Settings from nested dictionaries.

    Raises ConfigError for an unknown key (with the nearest match), a wrong type, or a value out of bounds.
    """
    return parse_table(Settings, raw, "")


def parse_table(kind: type, raw: Any, where: str) -> Any:
    """`raw` as that dataclass of settings, which stands at `where`. Raises ConfigError as `parse`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"Expected {where or 'the configuration'} to be a table of settings, not {raw!r}.")
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    values = {}
    for key, value in raw.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            raise ConfigError(f"Unknown setting '{path}'; known here: {', '.join(names)}.{nearest(str(key), names)}")
        values[key] = _parse_value(hints[key], value, path)
    return kind(**values)


def _parse_value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse_table(typing.cast(type, hint), value, path)
    if hint == Component:
        return _parse_component(value, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        one_of(path, value, arguments)
        return value
    if origin in (types.UnionType, typing.Union):  # a Literal | None is the latter
        return None if value is None else _parse_value(next(a for a in arguments if a is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ConfigError(f"Expected {path}={value!r} to be a list.")
        return tuple(_parse_value(arguments[0], item, path) for item in value)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"Expected {path}={value!r} to be a table.")
        return {str(key): _parse_value(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    return _parse_scalar(hint, value, path)


def _parse_component(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"Expected {path}={value!r} to be a name, or a table with a `name`.")
    return dict(value)


def _parse_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, str):
        try:  # YAML reads 1e-6 as text
            value = float(value)
        except ValueError:
            raise ConfigError(f"Expected {path}={value!r} to be a number.") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"Expected {path}={value!r} to be of type {hint.__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"Expected {path}={value!r} to be finite.")
    return value


def _positive(path: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"Expected {path}={value} to be above 0; set {path}.")


def one_of(path: str, value: Any, known: Sequence[Any]) -> None:
    """Raise ConfigError, with the nearest, where the setting is none of those."""
    if value not in known:
        words = [str(word) for word in known]
        raise ConfigError(f"Expected {path}={value!r} to be one of {', '.join(words)}.{nearest(str(value), words)}")


def bounded(path: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError where the setting is out of its bounds."""
    if not low <= value <= high:
        raise ConfigError(f"Expected {path}={value} in [{low}, {high}]; set {path}.")
