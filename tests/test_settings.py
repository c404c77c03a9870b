"""At stake: a mistyped setting must stop the run, not be ignored."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrank._secure_settings import largest_cohort, secure_threshold
from mmrank.errors import ConfigError
from mmrank.settings import Settings, parse


def test_who_renews_the_populations_budget_agrees_with_who_drops_old_data():
    """Under central noise the server renews, and each device drops; elsewhere each party keeps a promise of its own."""
    central = {"mechanism": "client_update", "unit": "client", "noise_multiplier": 1.0, "noise": "secure"}
    for privacy, alike in ((central, False), ({**central, "noise_at": "local"}, True)):
        plain = parse({"privacy": privacy})
        renewed = parse({"privacy": {**privacy, "renew_every_days": 30, "retention_days": 30}})
        assert (plain.agreed_sha256 == renewed.agreed_sha256) == alike


def test_no_settings_are_the_defaults():
    assert parse({}) == Settings()


def test_what_is_written_is_read_again_the_same():
    settings = parse({"privacy": {"mechanism": "dp_sgd", "epsilon": "2", "delta": "1e-6"}, "dataset": "marketplace"})
    assert parse(settings.to_dict()) == settings
    assert parse(settings.to_dict()).sha256 == settings.sha256


def test_the_hash_moves_with_any_setting():
    assert parse({"seed": 1}).sha256 != parse({}).sha256
    assert parse({"dataset": {"name": "marketplace", "items": 5}}).sha256 != parse({}).sha256


OWN_CHANGES = [
    {"dataset": {"name": "marketplace", "items": 5}, "device": "cpu", "features_cache": "/var/cache/mmrank"},
    {"privacy": {"ledger": "/var/lib/mmrank/ledger.sqlite", "budget_epsilon": 1.0}},
    {"privacy": {"renew_every_days": 90.0, "retention_days": 365.0}},
]
AGREED_CHANGES = [
    {"seed": 1},
    {"model": {"dim": 9}},
    {"training": {"local_steps": 3}},
    {"federation": {"rounds": 3}},
    {"privacy": {"delta": 1e-5}},
    {"privacy": {"noise": "seeded"}},
]


@pytest.mark.parametrize("changes", OWN_CHANGES)
def test_each_party_has_its_own_places_and_budget(changes):
    assert parse(changes).agreed_sha256 == parse({}).agreed_sha256
    assert parse(changes).sha256 != parse({}).sha256


@pytest.mark.parametrize("changes", AGREED_CHANGES)
def test_what_a_round_costs_and_means_must_be_agreed(changes):
    assert parse(changes).agreed_sha256 != parse({}).agreed_sha256


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"privcy": {}}, "Unknown setting 'privcy'.*Did you mean 'privacy'"),
        ({"privacy": {"epsilom": 1}}, "Unknown setting 'privacy.epsilom'.*Did you mean 'epsilon'"),
        ({"privacy": {"sampling_rate": 1.4}}, r"privacy.sampling_rate=1.4 in \(0, 1\]"),
        ({"privacy": {"delta": 0}}, "privacy.delta=0"),
        ({"privacy": {"mechanism": "dpsgd"}}, "Did you mean 'dp_sgd'"),
        ({"privacy": {"mechanism": "dp_sgd"}}, "Expected one of privacy.epsilon=None"),
        ({"privacy": {"mechanism": "dp_sgd", "epsilon": 1, "noise_multiplier": 1}}, "Expected one of privacy.epsilon"),
        ({"privacy": {"epsilon": float("nan")}}, "finite"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate='fast' to be a number"),
        ({"federation": {"rounds": 2.5}}, "federation.rounds=2.5 to be of type int"),
        ({"federation": {"rounds": True}}, "federation.rounds=True to be of type int"),
        ({"federation": {"cohort_size": 2, "min_replies": 3}}, "federation.min_replies=3"),
        ({"model": 3}, "Expected model to be a table"),
        ({"model": {"text": {"dim": 3}}}, "a table with a `name`"),
        ({"evaluation": {"rows": "random"}}, "to be a list"),
    ],
)
def test_a_bad_setting_names_value_bound_and_remedy(raw, message):
    with pytest.raises(ConfigError, match=message):
        parse(raw)


SUMS = {"mechanism": "client_update", "unit": "client", "noise_at": "distributed", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("privacy", "federation", "message"),
    [
        ({"clipping": "adaptive"}, {}, "privacy.clipping=adaptive to be fixed"),
        ({"noise_cohort_size": 1000}, {}, "privacy.noise_cohort_size=1000 to be left out"),
        ({"secure_threshold": 10}, {}, r"above \(cohort=20 \+ colluders=0\) / 2.*set at least 11"),
        ({"secure_threshold": 13, "colluders": 6}, {}, r"above \(cohort=20 \+ colluders=6\) / 2"),
        ({"secure_threshold": 21}, {}, r"threshold=21 in \[2, 20\]"),
        ({"secure_cohort": 19}, {}, "privacy.secure_cohort=19 to be at least federation.cohort_size=20"),
        ({"colluders": -1}, {}, "privacy.colluders=-1"),
        ({"colluders": 30}, {}, "threshold=26 in"),
        ({}, {"aggregation": "median"}, "federation.aggregation=median to be one of fedadam, fedavg, fedprox"),
        ({}, {"min_replies": 3}, "federation.min_replies=3 to be left out"),
        ({"noise_at": "local", "secure_threshold": 11}, {}, "privacy.secure_threshold=11 with privacy.noise_at"),
        ({"noise_at": "central", "colluders": 1}, {}, "privacy.colluders=1 with privacy.noise_at"),
    ],
)
def test_what_a_masked_sum_excludes_is_refused(privacy, federation, message):
    raw = {
        "privacy": {**SUMS, "sampling_rate": 1.0, **privacy},
        "federation": {"cohort_size": 20, **federation},
    }
    with pytest.raises(ConfigError, match=message):
        parse(raw)


def test_the_largest_cohort_and_the_threshold_follow_from_the_expected_cohort():
    settings = parse({"privacy": {**SUMS, "sampling_rate": 0.05}, "federation": {"cohort_size": 500}})
    cohort = largest_cohort(settings.privacy, settings.federation)
    assert cohort == 500 + math.ceil(4 * math.sqrt(500 * 0.95))
    assert 2 * secure_threshold(settings.privacy, settings.federation) in (cohort + 1, cohort + 2)


@given(st.floats(min_value=1e-9, max_value=1.0))
def test_every_rate_in_the_bounds_is_taken(rate):
    assert parse({"privacy": {"sampling_rate": rate}}).privacy.sampling_rate == rate
