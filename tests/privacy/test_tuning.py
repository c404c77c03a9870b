"""At stake: a search charged less than it tells, which voids the epsilon of whatever it chose."""

import math
from itertools import islice

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.privacy.run_counts import (
    ORDERS,
    FixedRuns,
    PoissonRuns,
    RunCount,
    TruncatedNegativeBinomial,
    draw_runs,
    quantile,
)
from mmrank.privacy.tuning import PrivateSelection, best_index, history_rdp

ROW_A = (Event(sampling_rate=0.01, noise_multiplier=1.0, steps=1000),)
SCORE = Event(sampling_rate=1.0, noise_multiplier=10.0, steps=1)


def searched(runs: RunCount, *, view="released", score="public", training=(ROW_A,)) -> PrivateSelection:
    return PrivateSelection(runs=runs, training=training, score=score, view=view)


@pytest.mark.parametrize(("mean", "best", "composed"), [(10, 4.10, 6.19), (30, 4.69, 11.85)])
def test_the_best_of_a_geometric_number_costs_what_was_measured(mean, best, composed):
    """q = 0.01, sigma = 1, T = 1000, delta = 1e-5: one run is 2.10 by Renyi DP; all of them by PLD beside it."""
    assert epsilon(ROW_A, 1e-5, accountant="rdp") == pytest.approx(2.10, abs=0.005)
    assert searched(TruncatedNegativeBinomial(mean=mean)).epsilon(1e-5) == pytest.approx(best, abs=0.005)
    every = searched(FixedRuns(runs=mean), view="server").epsilon(1e-5, [ROW_A] * mean)
    assert every == pytest.approx(composed, abs=0.006)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("mean", [1.5, 10.0, 100.0])
def test_the_bound_is_dp_accountings(shape, mean):
    """An implementation by others, at the same orders."""
    theirs = RdpAccountant(ORDERS)
    one = PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0))
    theirs.compose(RepeatAndSelectDpEvent(SelfComposedDpEvent(one, 1000), mean, shape))
    runs = PoissonRuns(mean=mean) if math.isinf(shape) else TruncatedNegativeBinomial(mean=mean, shape=shape)
    ours = searched(runs).rdp()
    assert (ours <= theirs.rdp * (1 + 1e-7)).all()
    assert searched(runs).epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-6)


def renyi(p: np.ndarray, q: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Exact Renyi divergence of discrete distributions, the larger direction; float [orders]."""
    log_p, log_q, order = np.log(p), np.log(q), orders[:, None]
    both = [logsumexp(order * a + (1 - order) * b, axis=1) for a, b in ((log_p, log_q), (log_q, log_p))]
    return np.maximum(np.maximum(*both) / (orders - 1), 0.0)


def best_of(p: np.ndarray, runs: RunCount, terms: int) -> np.ndarray:
    """The distribution of the best of K draws from `p` (a higher outcome is better), K summed out term by term; the
    last outcome is "no run at all"."""
    below = np.append(0.0, np.cumsum(p))
    chances = np.array(list(islice(runs.probabilities(), terms)))
    powers = below[:, None] ** np.arange(terms)
    powers[:, 0] = 1.0
    best = np.diff(powers @ chances)
    return np.append(best, chances[0])


COARSE = np.array([1.05, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0, 16.0, 32.0])
weights = st.lists(st.floats(0.02, 1.0), min_size=3, max_size=6)


@st.composite
def neighbours(draw) -> tuple[np.ndarray, np.ndarray]:
    """Outcome distributions of one run on two neighbouring data sets."""
    p = np.array(draw(weights))
    tilt = np.array(draw(st.lists(st.floats(-2, 2), min_size=len(p), max_size=len(p))))
    q = p * np.exp(tilt)
    return p / p.sum(), q / q.sum()


@given(pair=neighbours(), mean=st.floats(1.1, 12), shape=st.sampled_from([0.0, 0.3, 1.0, 2.5]), poisson=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_mechanism_tells_more_than_its_bound(pair, mean, shape, poisson):
    """The exact divergence of the best of K, by brute force, against the bound from one run's exact divergence."""
    runs = PoissonRuns(mean=mean) if poisson else TruncatedNegativeBinomial(mean=mean, shape=shape)
    terms = quantile(runs, 1 - 1e-13) + 1
    best = [best_of(p, runs, terms) for p in pair]
    assert all(values.sum() == pytest.approx(1, abs=1e-9) for values in best)
    shown = best[0] > 1e-12  # what lies below is the rest of the sum
    exact = renyi(best[0][shown], best[1][shown], COARSE)
    assert (exact <= runs.best_of(COARSE, renyi(*pair, COARSE)) + 1e-6).all()


def test_the_check_would_see_a_bound_without_its_terms():
    """One run where a middling outcome is likelier and every better one is rarer beside a unit: the best of a
    geometric number tells three times as much (the paper, section 3.3), so each part of the bound is needed."""
    runs, orders = TruncatedNegativeBinomial(mean=400.0), np.array([1.05, 1.5, 4.0, 32.0, 256.0])
    middling, better, tilt = 1e-3, 0.05, 1.0
    p = np.array([1 - middling - better, middling, better])
    q = np.array([0.0, middling * math.exp(tilt), better * math.exp(-tilt)])
    q[0] = 1 - q.sum()
    exact = renyi(*(best_of(values, runs, quantile(runs, 1 - 1e-13) + 1)[:3] for values in (p, q)), orders)
    one = renyi(p, q, orders)
    bound, last = runs.best_of(orders, one), math.log(runs.mean) / (orders - 1)
    free = (bound - one - last).max()  # (1 + eta) times the least over the second order
    assert (exact <= bound).all()
    assert (exact > one + last).any(), "charged as one run"
    assert (exact > one + last + free / 2).any(), "eta in place of 1 + eta"
    assert (exact > bound - last).any(), "without log E[K]"


@pytest.mark.parametrize(
    "runs",
    [
        TruncatedNegativeBinomial(mean=8.0, shape=0.0),
        TruncatedNegativeBinomial(mean=8.0, shape=0.5),
        TruncatedNegativeBinomial(mean=8.0),
        PoissonRuns(mean=8.0),
    ],
)
def test_the_draw_is_of_the_stated_distribution(runs):
    """Against closed forms: scipy's, or the paper's mean; and by chi-square on what is drawn."""
    known = {
        "geometric": lambda k: stats.geom.pmf(k, 1 / 8),
        "logarithmic": lambda k: stats.logser.pmf(k, 1 - runs.gamma),
        "poisson": lambda k: stats.poisson.pmf(k, 8.0),
        "other": lambda k: (
            np.where(k > 0, stats.nbinom.pmf(k, runs.shape, runs.gamma), 0) / (1 - runs.gamma**runs.shape)
        ),
    }
    shape = getattr(runs, "shape", None)
    name = {None: "poisson", 1.0: "geometric", 0.0: "logarithmic"}.get(shape, "other")
    k = np.arange(2000)
    chances = np.array(list(islice(runs.probabilities(), 2000)))
    assert chances == pytest.approx(known[name](k), abs=1e-12)
    assert chances @ k == pytest.approx(8.0, rel=1e-6)
    source = SeededNoise(5, "runs", name)
    drawn = np.array([draw_runs(runs, source) for _ in range(4000)])
    seen = np.bincount(np.minimum(drawn, 12), minlength=13)[int(name != "poisson") :]
    expected = np.append(chances[:12], 1 - chances[:12].sum())[int(name != "poisson") :] * 4000
    assert stats.chisquare(seen, expected).pvalue > 1e-6


def test_the_number_of_runs_comes_from_any_source_of_noise():
    assert draw_runs(TruncatedNegativeBinomial(mean=3.0), SecureNoise()) >= 1
    runs = PoissonRuns(mean=20.0)
    drawn = [draw_runs(runs, SeededNoise(1, "search", round_number)) for round_number in range(5)]
    assert drawn == [draw_runs(runs, SeededNoise(1, "search", round_number)) for round_number in range(5)]
    assert len(set(drawn)) > 1


def test_the_largest_uniform_ends_the_draw():
    for runs in (TruncatedNegativeBinomial(mean=500.0, shape=0.0), PoissonRuns(mean=500.0), FixedRuns(runs=3)):
        assert quantile(runs, 1 - 2.0**-53) < 200_000


def test_the_charge_is_known_before_the_number_of_runs_and_does_not_move_with_it():
    search = searched(TruncatedNegativeBinomial(mean=10.0), score=SCORE)
    assert search.epsilon(1e-5) == search.epsilon(1e-5, [ROW_A] * 3) == search.epsilon(1e-5, [ROW_A] * 40)


def test_the_score_is_paid_for():
    runs = TruncatedNegativeBinomial(mean=10.0)
    assert searched(runs, score=SCORE).epsilon(1e-5) > searched(runs).epsilon(1e-5) + 0.05
    assert searched(runs, score=SCORE, view="server").epsilon(1e-5, [ROW_A]) > epsilon(ROW_A, 1e-5)


def test_a_choice_that_moves_the_charge_counts_at_its_dearest():
    runs = TruncatedNegativeBinomial(mean=5.0)
    dear = (Event(sampling_rate=0.02, noise_multiplier=1.0, steps=1000),)
    both = searched(runs, training=(ROW_A, dear))
    assert both.epsilon(1e-5) == searched(runs, training=(dear,)).epsilon(1e-5)
    # neither is dearer at every order: the bound is above both
    few_loud = (Event(sampling_rate=1.0, noise_multiplier=2.0, steps=1),)
    mixed = searched(runs, training=(ROW_A, few_loud)).rdp()
    for training in (ROW_A, few_loud):
        assert (mixed >= searched(runs, training=(training,)).rdp() - 1e-12).all()


def test_who_sees_every_trial_pays_for_every_trial():
    search = searched(TruncatedNegativeBinomial(mean=10.0), view="server")
    with pytest.raises(PrivacyError, match="pays for every trial"):
        search.rdp()
    assert search.epsilon(1e-5, [ROW_A] * 4) == epsilon(ROW_A * 4, 1e-5)
    assert search.epsilon(1e-5, [ROW_A] * 40) > searched(TruncatedNegativeBinomial(mean=10.0)).epsilon(1e-5)


def test_a_fixed_number_is_no_random_number():
    with pytest.raises(PrivacyError, match="fixed number"):
        searched(FixedRuns(runs=10))


def test_a_trial_that_was_not_declared_is_refused():
    search = searched(FixedRuns(runs=2), view="server")
    with pytest.raises(PrivacyError, match="did not declare"):
        search.epsilon(1e-5, [(Event(sampling_rate=0.5, noise_multiplier=1.0, steps=1),)])


def test_a_trial_without_noise_costs_everything():
    loud = (Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1),)
    for runs in (TruncatedNegativeBinomial(mean=4.0), PoissonRuns(mean=4.0)):
        assert searched(runs, training=(ROW_A, loud)).epsilon(1e-5) == math.inf


def test_concentrated_events_are_charged_by_their_rho():
    event = Event(sampling_rate=1.0, noise_multiplier=2.0, steps=3, family="concentrated")
    assert history_rdp((event,)) == pytest.approx(3 * ORDERS / 8)
    gaussian = Event(sampling_rate=1.0, noise_multiplier=2.0, steps=3)
    assert history_rdp((gaussian,)) == pytest.approx(3 * ORDERS / 8)


def divergence(sampling_rate: float, sigma: float, order: float) -> float:
    """Renyi divergence of one Poisson-sampled Gaussian step by quadrature, the larger direction."""
    x = np.linspace(-60 * sigma, 60 * sigma + 1, 400_001)
    without = stats.norm.logpdf(x, 0, sigma)
    shifted = stats.norm.logpdf(x, 1, sigma)
    with_it = np.logaddexp(math.log1p(-sampling_rate) + without, math.log(sampling_rate) + shifted)
    both = [
        logsumexp(order * a + (1 - order) * b) + math.log(x[1] - x[0])
        for a, b in ((with_it, without), (without, with_it))
    ]
    return max(both) / (order - 1)


@pytest.mark.parametrize(("sampling_rate", "sigma"), [(0.01, 1.0), (0.08, 0.614671), (0.05, 0.5)])
def test_one_step_is_charged_at_every_order_and_never_below_the_truth(sampling_rate, sigma, caplog):
    """At broken orders and little noise dp-accounting gives up: a chord of a convex curve stands in."""
    event = Event(sampling_rate=sampling_rate, noise_multiplier=sigma, steps=1)
    rdp = history_rdp((event,))
    assert np.isfinite(rdp).all()
    assert not caplog.records
    for order in (1.1, 1.3, 1.6, 2.0, 2.45, 8.0, 30.0):
        exact = divergence(sampling_rate, sigma, order)
        charged = rdp[np.abs(ORDERS - order).argmin()]
        assert exact * (1 - 1e-6) <= charged <= exact * 2.5


def test_the_best_is_the_first_of_the_highest():
    assert best_index([0.1, 0.4, 0.4]) == 1
    assert best_index([math.nan, -5.0]) == 1
    assert best_index([math.nan, math.nan]) == 0
    assert best_index([]) is None


@pytest.mark.parametrize("mean", [1.0, 0.0, -3.0, math.nan, math.inf, 501.0])
def test_an_impossible_mean_is_refused(mean):
    for make in (TruncatedNegativeBinomial, PoissonRuns):
        with pytest.raises(PrivacyError, match="mean"):
            make(mean=mean)


@pytest.mark.parametrize(
    "change",
    [{"view": "everyone"}, {"score": "exact"}, {"training": ()}, {"training": ((),)}],
    ids=["view", "score", "no-history", "empty-history"],
)
def test_an_impossible_search_is_refused(change):
    with pytest.raises(PrivacyError):
        searched(TruncatedNegativeBinomial(mean=4.0), **change)
    with pytest.raises(PrivacyError):
        FixedRuns(runs=0)
    with pytest.raises(PrivacyError, match="shape"):
        TruncatedNegativeBinomial(mean=4.0, shape=-0.5)
