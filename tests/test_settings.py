"""At stake: a mistyped setting must stop the run, not be ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrank.errors import ConfigError
from mmrank.settings import Settings, parse


def test_no_settings_are_the_defaults():
    assert parse({}) == Settings()


def test_what_is_written_is_read_again_the_same():
    settings = parse({"privacy": {"mechanism": "dp_sgd", "epsilon": "2", "delta": "1e-6"}, "dataset": "marketplace"})
    assert parse(settings.to_dict()) == settings
    assert parse(settings.to_dict()).sha256 == settings.sha256


def test_the_hash_moves_with_any_setting():
    assert parse({"seed": 1}).sha256 != parse({}).sha256
    assert parse({"dataset": {"name": "marketplace", "items": 5}}).sha256 != parse({}).sha256


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


@given(st.floats(min_value=1e-9, max_value=1.0))
def test_every_rate_in_the_bounds_is_taken(rate):
    assert parse({"privacy": {"sampling_rate": rate}}).privacy.sampling_rate == rate
