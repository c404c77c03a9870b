"""At stake: an audit that cries wolf is ignored, and one that proves nothing is worse than none."""

import math

import numpy as np
import pytest
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.privacy._tradeoff import Profile
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.audit import (
    guess_grid,
    judge,
    lower_bound,
    p_value,
    profile,
    refuted,
    right_guesses,
)

GAUSSIAN = (Event(sampling_rate=1.0, noise_multiplier=10.0, steps=25),)
"""mu = 0.5: epsilon 1.99 at delta 1e-5."""


def too_many(alarms: int, runs: int, rate: float) -> bool:
    """Whether so many false alarms could not come from that rate, but with probability 1e-6."""
    return alarms > stats.binom.ppf(1 - 1e-6, runs, rate)


def reference_p_value(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """Theorem 5.2 by exact sums of binomial probabilities, without scipy."""
    q = math.exp(eps) / (1 + math.exp(eps))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:])
    alpha = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, beta + 2 * m * delta * alpha)


@pytest.mark.parametrize(("m", "r", "v"), [(5, 5, 5), (20, 10, 8), (100, 40, 0), (100, 40, 33), (60, 60, 30)])
@pytest.mark.parametrize(("eps", "delta"), [(0.0, 0.0), (0.7, 1e-3), (2.0, 1e-5), (3.0, 0.0)])
def test_the_p_value_is_the_theorems(m, r, v, eps, delta):
    got = p_value(canaries=m, guesses=r, correct=v, epsilon=eps, delta=delta)
    assert got == pytest.approx(reference_p_value(m, r, v, eps, delta), rel=1e-9)


def test_counts_out_of_order_are_refused():
    for m, r, v in ((10, 11, 5), (10, 5, 6), (10, 5, -1)):
        with pytest.raises(PrivacyError, match=f"guesses={r}"):
            p_value(canaries=m, guesses=r, correct=v, epsilon=1.0, delta=0.0)


def test_the_bound_grows_with_right_guesses_and_shrinks_with_confidence():
    def bound(correct, significance=0.05):
        return lower_bound(canaries=200, guesses=100, correct=correct, delta=1e-5, significance=significance)

    bounds = [bound(correct) for correct in range(40, 101)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert bounds[-1] > 3
    assert bound(90, 0.001) < bound(90, 0.05)


@pytest.mark.parametrize("eps", [0.3, 1.0, 2.0])
def test_randomised_response_alarms_no_more_often_than_stated_and_is_found_out(eps):
    """Each canary's coin is told truly with e^eps / (1 + e^eps): pure epsilon, and the worst that there is."""
    draw, runs, m = np.random.default_rng(1), 4000, 400
    correct = draw.binomial(m, math.exp(eps) / (1 + math.exp(eps)), runs)
    bounds = {v: lower_bound(canaries=m, guesses=m, correct=int(v), delta=0.0, significance=0.05) for v in set(correct)}
    found = np.array([bounds[v] for v in correct])
    assert not too_many(int((found > eps).sum()), runs, 0.05)
    assert (found > eps).mean() > 0.01  # the theorem is tight here: a bound that never alarms would be a weak one
    assert np.median(found) > eps - 0.3


def test_a_leak_with_probability_delta_is_allowed_for():
    """A canary is told in full with probability delta, and by randomised response otherwise."""
    draw, runs, m, eps, delta = np.random.default_rng(2), 3000, 200, 0.5, 0.01
    leaks = draw.random((runs, m)) < delta
    right = leaks | (draw.random((runs, m)) < math.exp(eps) / (1 + math.exp(eps)))
    order = np.argsort(~leaks, axis=1, kind="stable")[:, :100]  # it knows which leaked, and guesses those first
    correct = np.take_along_axis(right, order, axis=1).sum(1)
    alarms = sum(p_value(canaries=m, guesses=100, correct=int(v), epsilon=eps, delta=delta) < 0.05 for v in correct)
    assert not too_many(alarms, runs, 0.05)


def gaussian_scores(draw, m: int, mu: float) -> tuple[np.ndarray, np.ndarray]:
    included = draw.random(m) < 0.5
    return included * mu + draw.standard_normal(m), included


@pytest.mark.parametrize("guesses", [20, 100, 400])
def test_a_gaussian_mechanism_under_its_own_curve_alarms_no_more_often_than_stated(guesses):
    draw, runs, m, curve = np.random.default_rng(3), 600, 400, profile(GAUSSIAN)
    alarms = 0
    for _ in range(runs):
        correct = right_guesses(*gaussian_scores(draw, m, 0.5), guesses)
        alarms += refuted(canaries=m, guesses=guesses, correct=correct, curve=curve, significance=0.05)
    assert not too_many(alarms, runs, 0.05)


def test_a_randomised_response_under_its_own_curve_alarms_no_more_often_than_stated():
    draw, runs, m = np.random.default_rng(4), 3000, 300
    curve = Profile.of([(1.0, 0.0)])
    correct = draw.binomial(m, math.e / (1 + math.e), runs)
    known = {v: refuted(canaries=m, guesses=m, correct=int(v), curve=curve, significance=0.05) for v in set(correct)}
    assert not too_many(sum(known[v] for v in correct), runs, 0.05)
    assert refuted(canaries=m, guesses=m, correct=int(0.82 * m), curve=curve, significance=0.05)  # 0.73 are expected


def test_the_curve_is_that_of_the_gaussian():
    """P[right] at the best test of a given P[wrong]: Phi(Phi^-1(x) + mu), below which no point of the curve may lie."""
    slopes, intercepts = profile(GAUSSIAN).lines()
    for right in (0.05, 0.2, 0.5, 0.8, 0.99):
        least_wrong = float(np.max(slopes * right + intercepts))
        truth = float(stats.norm.cdf(stats.norm.ppf(right) - 0.5))
        assert truth * 0.93 - 1e-6 <= least_wrong <= truth


def test_refutation_grows_with_right_guesses_and_a_smaller_claim():
    curve = profile(GAUSSIAN)
    said = [refuted(canaries=400, guesses=100, correct=v, curve=curve, significance=0.01) for v in range(101)]
    assert said == sorted(said)
    assert not said[0]
    assert said[-1]
    weaker = Profile.of([(math.inf, 1e-3)])
    assert not refuted(canaries=400, guesses=100, correct=100, curve=weaker, significance=0.01)


def test_guesses_are_counted_at_both_ends():
    scores = np.array([5.0, 4.0, 0.0, -1.0, -2.0, -3.0])
    included = np.array([True, False, True, False, True, False])
    assert right_guesses(scores, included, 2) == 2
    assert right_guesses(scores, included, 4) == 2
    assert right_guesses(scores, included, 6) == 4
    assert right_guesses(np.zeros(6), included, 6) == 2  # ties fall by place, which no coin knows
    assert right_guesses(-scores, included, 6) == 2
    assert [right_guesses(scores, included, guesses, "in") for guesses in (1, 2, 3, 6)] == [1, 1, 2, 3]


def test_the_grid_of_guesses_knows_the_number_of_canaries_alone():
    assert guess_grid(1000) == (62, 124, 250, 500, 1000)
    assert guess_grid(2) == (2,)
    assert all(count % 2 == 0 and count <= m for m in range(2, 60) for count in guess_grid(m))


def test_more_scores_make_no_more_false_alarms():
    """Twenty scores, each at the claim, would alarm twenty times as often without the correction."""
    draw, runs, m = np.random.default_rng(5), 40, 400
    alarms = 0
    for _ in range(runs):
        included = draw.random(m) < 0.5
        scores = {str(k): included * 0.5 + draw.standard_normal(m) for k in range(20)}
        alarms += judge(scores, included, events=GAUSSIAN, delta=1e-5, confidence=0.95).refuted
    assert not too_many(alarms, runs, 0.05)


@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_a_claim_is_bounded_from_below_and_a_quarter_of_the_noise_is_found_out(confidence):
    draw = np.random.default_rng(6)
    for factor, broken in ((1, False), (4, True)):
        scores, included = gaussian_scores(draw, 1000, 0.5 * factor)
        verdict = judge({"score": scores}, included, events=GAUSSIAN, delta=1e-5, confidence=confidence)
        assert verdict.claim == epsilon(GAUSSIAN, 1e-5)
        assert verdict.refuted == broken
        assert not verdict.below_resolution
        assert 0 < verdict.bound < verdict.ceiling
        assert verdict.bound > verdict.claim if broken else verdict.bound < verdict.claim


def test_the_whole_curve_proves_more_than_one_point():
    scores, included = gaussian_scores(np.random.default_rng(7), 2000, 1.0)
    events = (Event(sampling_rate=1.0, noise_multiplier=5.0, steps=25),)
    verdict = judge({"score": scores}, included, events=events, delta=1e-5, confidence=0.95)
    assert verdict.best.method == "whole curve"
    alone = max(
        lower_bound(
            canaries=2000,
            guesses=guesses,
            correct=right_guesses(scores, included, guesses),
            delta=1e-5,
            significance=0.05 / verdict.tests,
        )
        for guesses in guess_grid(2000)
    )
    assert verdict.bound > 1.2 * alone


def test_few_canaries_are_below_resolution():
    scores, included = gaussian_scores(np.random.default_rng(8), 40, 3.0)
    events = (Event(sampling_rate=1.0, noise_multiplier=1.0, steps=9),)
    verdict = judge({"score": scores}, included, events=events, delta=1e-5, confidence=0.999)
    assert verdict.below_resolution
    assert not verdict.refuted
    assert verdict.ceiling < verdict.claim


def test_a_run_without_a_promise_is_bounded_and_never_refuted():
    scores, included = gaussian_scores(np.random.default_rng(9), 400, 50.0)
    events = (Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1),)
    verdict = judge({"score": scores}, included, events=events, delta=1e-5, confidence=0.999)
    assert verdict.claim == math.inf
    assert 1.4 < verdict.bound <= verdict.ceiling  # delta weighs 2 m delta: more canaries would not help
    assert not verdict.refuted
    assert verdict.below_resolution


def test_a_claim_of_nothing_is_refuted_by_anything():
    """A ledger that charges nothing claims 0."""
    scores, included = gaussian_scores(np.random.default_rng(9), 400, 50.0)
    verdict = judge({"score": scores}, included, events=(), delta=1e-5, confidence=0.999)
    assert verdict.claim == 0.0
    assert verdict.refuted
    nothing = judge({"score": np.zeros(400)}, included, events=(), delta=1e-5, confidence=0.999)
    assert not nothing.refuted


@pytest.mark.parametrize("wrong", [{}, {"s": np.zeros(3)}, {"s": np.array([0.0, np.nan])}])
def test_scores_that_are_none_are_refused(wrong):
    with pytest.raises(PrivacyError, match="score"):
        judge(wrong, np.array([True, False]), events=GAUSSIAN, delta=1e-5, confidence=0.95)
