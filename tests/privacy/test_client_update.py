"""At stake: one person's whole update is clipped once, and what is added to the sum is what the ledger is told."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.client_update import CLIP, ClientUpdate, norm_of
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.settings import FederationSettings, PrivacySettings, TrainingSettings
from tests.privacy.test_noise import scale_is_accepted

LIKE = {"w": np.zeros((40, 25), np.float32), "b": np.zeros(7, np.float32)}
SIZE = 1007


def mechanism(**changes):
    facts = {
        "noise_multiplier": 1.3,
        "max_grad_norm": 0.5,
        "sampling_rate": 0.1,
        "cohort_size": 10,
        "steps": 2,
        "batch_size": 4,
    }
    return ClientUpdate(**{**facts, **changes})


def update(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {name: (scale * draw.standard_normal(array.shape)).astype(np.float32) for name, array in LIKE.items()}


def flat(arrays):
    return np.concatenate([arrays[name].ravel() for name in sorted(LIKE)])


@given(
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
    clip=st.sampled_from([1e-6, 0.5, 1e6]),
)
@settings(max_examples=200, deadline=None)
def test_what_leaves_a_client_is_within_the_clip_whatever_it_learned(values, clip):
    learned = {"w": np.array(values[:2], np.float32), "b": np.array(values[2:], np.float32)}
    sent = mechanism().release(learned, clip=clip, noise=SecureNoise())
    assert norm_of(sent) <= clip
    assert mechanism().fault(sent, clip=clip) is None


def test_a_short_update_keeps_its_length_and_a_long_one_its_direction():
    short, long = update(1, 1e-3), update(1, 10.0)
    np.testing.assert_allclose(flat(mechanism().release(short, clip=0.5, noise=SecureNoise())), flat(short), rtol=2e-6)
    sent = flat(mechanism().release(long, clip=0.5, noise=SecureNoise()))
    np.testing.assert_allclose(sent, 0.5 * flat(long) / np.linalg.norm(flat(long)), rtol=1e-5)


def test_the_sum_moves_by_at_most_the_clip_when_a_client_becomes_empty():
    updates = {f"c{i}": mechanism().release(update(i), clip=0.5, noise=SecureNoise()) for i in range(5)}
    silent = {**updates, "c3": {name: np.zeros_like(array) for name, array in LIKE.items()}}
    means = [
        flat(mechanism(noise_multiplier=1e-9).aggregate(cohort, LIKE, clip=0.5, noise=SeededNoise(0, "same"))[0])
        for cohort in (updates, silent)
    ]
    assert np.linalg.norm(means[0] - means[1]) * 10 <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("cohort", [{}, {"one": update(1, 1e-9)}])
def test_the_sum_gets_the_noise_that_is_charged_whoever_replied(cohort):
    """sigma is accepted, two thirds and three halves of it are not."""
    central = mechanism(cohort_size=1)
    drawn = np.concatenate([flat(central.aggregate(cohort, LIKE, clip=0.5, noise=SecureNoise())[0]) for _ in range(20)])
    assert scale_is_accepted(drawn, 1.3 * 0.5)
    assert not scale_is_accepted(drawn, 1.3 * 0.5 * 2 / 3)
    assert not scale_is_accepted(drawn, 1.3 * 0.5 * 3 / 2)


def test_a_device_that_adds_its_own_noise_adds_all_of_it():
    local = mechanism(noise_at="local")
    sent = np.concatenate([flat(local.release(update(1, 0.0), clip=0.5, noise=SecureNoise())) for _ in range(20)])
    assert scale_is_accepted(sent, 1.3 * 0.5)
    mean, _ = local.aggregate({"a": update(1), "b": update(2)}, LIKE, clip=0.5, noise=SecureNoise())
    np.testing.assert_allclose(flat(mean), (flat(update(1)).astype(float) + flat(update(2))) / 10, rtol=1e-12)


def test_the_events_are_made_of_the_fields_that_run():
    assert mechanism().population_event == Event(sampling_rate=0.1, noise_multiplier=1.3, steps=1)
    assert mechanism().event == Event(sampling_rate=1.0, noise_multiplier=1.3, steps=1)
    # replace-one: two updates are up to 2 C apart
    assert mechanism(noise_at="local").event == Event(sampling_rate=1.0, noise_multiplier=0.65, steps=1)


def test_the_order_of_replies_does_not_matter_bit_for_bit():
    updates = {f"c{i}": update(i) for i in range(6)}
    one, _ = mechanism().aggregate(updates, LIKE, clip=0.5, noise=SeededNoise(1))
    other, _ = mechanism().aggregate(dict(reversed(updates.items())), LIKE, clip=0.5, noise=SeededNoise(1))
    assert flat(one).tobytes() == flat(other).tobytes()


def test_a_reply_above_the_clip_or_with_a_strange_bit_is_a_fault():
    assert "above the clip" in mechanism().fault(update(1), clip=0.5)
    adaptive = mechanism(count_noise=5.0)
    sent = adaptive.release(update(1), clip=0.5, noise=SecureNoise())
    assert adaptive.fault(sent, clip=0.5) is None
    assert "none of 0, 1/2 and 1" in adaptive.fault({**sent, CLIP: np.array([9.0], np.float32)}, clip=0.5)


@pytest.mark.parametrize(
    "learned", [[0.0, 0.0], [1e-9, 0.0], [0.3, 0.4], [0.3, 0.41], [1e9, -1e9], [np.nan, 1.0], [np.inf, 0.0]]
)
def test_under_an_adaptive_clip_a_client_moves_neither_sum_by_more_than_is_charged(learned):
    """Against an update of zeros, which is what zero-out makes of it: by C, and by 1/2."""
    adaptive = mechanism(noise_multiplier=1.0, count_noise=5.0)
    sent, empty = (
        adaptive.release({"b": np.array(update, np.float32)}, clip=0.5, noise=SecureNoise())
        for update in (learned, [0.0, 0.0])
    )
    assert adaptive.fault(sent, clip=0.5) is None
    assert adaptive.fault(empty, clip=0.5) is None
    assert abs(sent[CLIP].item() - empty[CLIP].item()) <= 0.5
    assert norm_of({"b": sent["b"] - empty["b"]}) <= 0.5
    told = [
        adaptive.aggregate(found, {"b": np.zeros(2)}, clip=0.5, noise=SeededNoise(1))[1] for found in ({}, {"a": empty})
    ]
    assert told[0] == told[1]  # who has nothing to say says nothing of the quantile


@pytest.mark.parametrize("start", [0.1, 10.0])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_the_clip_finds_the_quantile_in_40_rounds_from_far_away(start, quantile):
    """From a tenth and from ten times the true quantile, with noise, to within 10% (Andrew et al. 2021)."""
    draw = np.random.default_rng(5)
    norms = draw.lognormal(0.0, 0.6, 20_000)
    wanted = float(np.quantile(norms, quantile))
    adaptive = mechanism(count_noise=5.0, cohort_size=100, clip_quantile=quantile)
    clip, noise, late = start * wanted, SeededNoise(3, "clip", str(start), str(quantile)), []
    for number in range(60):
        cohort = {
            f"c{i}": adaptive.release({"b": np.array([norm], np.float32)}, clip=clip, noise=noise)
            for i, norm in enumerate(draw.choice(norms, 100))
        }
        _, clip = adaptive.aggregate(cohort, {"b": np.zeros(1)}, clip=clip, noise=noise)
        if number >= 39:
            late.append(clip)
    assert abs(np.median(late) / wanted - 1) < 0.1
    assert abs(late[0] / wanted - 1) < 0.2


def test_the_count_is_paid_for_by_more_noise_on_the_update():
    adaptive = mechanism(noise_multiplier=1.0, count_noise=5.0)
    assert adaptive.update_noise == pytest.approx(1.005, abs=1e-3)
    # both releases together, as one Gaussian of two blocks: the distance of the means over the deviations
    distance = math.hypot(1 / adaptive.update_noise, 0.5 / 5.0)
    assert distance == pytest.approx(1 / adaptive.noise_multiplier)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count_noise": 0.6}, "alone would cost more"),
        ({"count_noise": 5.0, "noise_at": "local"}, "says nothing of a quantile"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
    ],
)
def test_what_would_break_the_promise_is_refused(changes, said):
    with pytest.raises(PrivacyError, match=said):
        mechanism(**changes)


def built(rounds=50, **privacy):
    facts = {"mechanism": "client_update", "unit": "client", "epsilon": 2.0, "sampling_rate": 0.1}
    return build_mechanism(
        PrivacySettings(**{**facts, **privacy}), TrainingSettings(), FederationSettings(rounds=rounds, cohort_size=40)
    )


def test_a_target_is_calibrated_over_the_rounds_or_over_the_participations():
    central, local = built(), built(noise_at="local", participations=8)
    assert 1.98 <= epsilon([central.population_event] * 50, 1e-6) <= 2.0
    assert 1.98 <= epsilon([local.event] * 8, 1e-6) <= 2.0
    assert built(clipping="adaptive").count_noise == 2.0


def test_a_small_cohort_that_stands_for_a_large_one_draws_a_share_of_the_noise():
    stands_for = mechanism(cohort_size=10, noise_cohort_size=1000)
    mean, _ = stands_for.aggregate({}, LIKE, clip=0.5, noise=SecureNoise())
    assert scale_is_accepted(flat(mean), 1.3 * 0.5 / 1000)
    assert stands_for.population_event == mechanism().population_event


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"mechanism": "client_update", "unit": "slate", "epsilon": 1.0}, "privacy.unit=slate"),
        ({"mechanism": "dp_sgd", "unit": "client", "epsilon": 1.0}, "privacy.unit=client"),
        ({"mechanism": "dp_sgd", "epsilon": 1.0, "noise_at": "local"}, "privacy.noise_at=local"),
        ({"mechanism": "dp_sgd", "epsilon": 1.0, "clipping": "adaptive"}, "privacy.clipping=adaptive"),
        ({"mechanism": "client_update", "unit": "client"}, "one of privacy.epsilon"),
    ],
)
def test_settings_that_no_mechanism_keeps_are_refused(raw, said):
    with pytest.raises(ConfigError, match=said):
        PrivacySettings(**raw)
