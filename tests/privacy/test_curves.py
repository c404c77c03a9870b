"""At stake: charging ten thousand clients a round: each new history is composed once, and never from its beginning."""

import time

import pytest

from mmrank.privacy import _pld, curves
from mmrank.privacy.accountant import ComposedCurve, Event, epsilon, merged


def event(rate: float, noise: float, steps: int = 1) -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps)


def test_clients_with_one_history_share_one_curve(monkeypatch):
    history = [event(0.031, 1.3, 7), event(0.011, 1.3, 2)]
    value = epsilon(history, 1e-6)
    monkeypatch.setattr(_pld, "_composed", lambda *_: pytest.fail("composed again"))
    assert epsilon(history[::-1], 1e-6) == value
    assert ComposedCurve.of(history) is ComposedCurve.of(history[:1]).then(history[1])
    assert ComposedCurve.of(history).epsilon(1e-6) == value


def unlike(count: int) -> list[Event]:
    return [event(0.02 + 1e-5 * i, 1.0 + 1e-3 * i) for i in range(count)]


def forget(monkeypatch):
    """Whatever was composed before, by this test or another."""
    monkeypatch.setattr(_pld, "_kept", _pld._Kept())
    curves._of.cache_clear()
    curves._then.cache_clear()


def test_one_more_round_of_an_unlike_history_is_one_composition(monkeypatch):
    forget(monkeypatch)
    rounds = unlike(12)
    curve = ComposedCurve.of(rounds[:-1])
    curve.epsilon(1e-6)
    made = []
    monkeypatch.setattr(_pld, "_step", lambda *key: made.append(key) or _pld.step_losses(*key))
    value = curve.then(rounds[-1]).epsilon(1e-6)
    assert len(made) == 1
    forget(monkeypatch)
    afresh = ComposedCurve.of(reversed(rounds))
    assert afresh.epsilon(1e-6) == pytest.approx(value, rel=1e-8)
    assert len(made) == 13


def test_kept_distributions_have_a_bound(monkeypatch):
    monkeypatch.setattr(_pld, "KEPT_POINTS", 50_000)
    kept = _pld._Kept()
    losses = _pld.step_losses(0.1, 1.0, _pld.Relation(), 1e-3)
    for steps in range(1, 30):
        kept.put((_pld.Relation(), 1e-3, (event(0.1, 1.0, steps),)), losses)
    assert sum(map(_pld._points, kept._kept.values())) <= 50_000
    found, rest = kept.nearest(_pld.Relation(), 1e-3, merged([event(0.1, 1.0, 40)]))
    assert found is losses
    assert [e.steps for e in rest] == [11]


def test_a_round_costs_at_most_a_tenth_of_a_millisecond_a_client():
    """1,000 past rounds, all of them unlike; 10,000 clients. The composition of the new round is included."""
    curve = ComposedCurve.of(unlike(20))
    curve.epsilon(1e-6)
    past = ComposedCurve.of([*unlike(20), event(0.0201, 1.5, 980)])
    past.epsilon(1e-6)
    new = event(0.03, 2.0)
    begun = time.process_time()
    values = {past.then(new).epsilon(1e-6) for _ in range(10_000)}
    assert len(values) == 1
    assert (time.process_time() - begun) / 10_000 < 1e-4


@pytest.mark.slow
def test_hundreds_of_unlike_rounds_stay_quick():
    curve = ComposedCurve.of(())
    for one in unlike(300):
        curve = curve.then(one)
        begun = time.process_time()
        curve.epsilon(1e-6)
        last = time.process_time() - begun
    assert last < 1.0  # 10,000 clients at 0.1 ms
