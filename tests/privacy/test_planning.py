"""At stake: a promise of epsilon is turned into enough noise, and into no more than it needs."""

import json
import time

import pytest

from mmrank.errors import PrivacyError
from mmrank.privacy import planning
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.planning import calibrate


@pytest.mark.parametrize(
    ("rate", "steps", "target", "delta"),
    [(0.05, 200, 2.0, 1e-6), (0.05, 200, 8.0, 1e-6), (0.01, 500, 0.3, 1e-5), (1, 20, 1.0, 1e-6)],
)
def test_calibrated_noise_keeps_the_promise_within_a_percent(rate, steps, target, delta):
    noise = calibrate(sampling_rate=rate, steps=steps, epsilon=target, delta=delta)
    cost = epsilon([Event(sampling_rate=rate, noise_multiplier=noise, steps=steps)], delta)
    assert 0.99 * target <= cost <= target


def test_a_plan_is_calibrated_once_and_fast(monkeypatch):
    begun = time.perf_counter()
    first = calibrate(sampling_rate=0.04, steps=150, epsilon=3.0, delta=1e-6)
    assert time.perf_counter() - begun < 10
    monkeypatch.setattr(planning, "_bracket", lambda *_: pytest.fail("calibrated again"))
    assert calibrate(sampling_rate=0.04, steps=150, epsilon=3.0, delta=1e-6) == first


def test_the_file_serves_other_processes_and_survives_damage(tmp_path, monkeypatch):
    plan = {"sampling_rate": 0.03, "steps": 100, "epsilon": 3.0, "delta": 1e-6}
    noise = calibrate(**plan, cache_dir=tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text()) == {"noise_multiplier": noise}
    for damage in ("", "[]", '{"noise_multiplier": "much"}', '{"noise_multiplier": 1e9}'):
        path.write_text(damage)
        assert calibrate(**plan, cache_dir=tmp_path) == noise
    planning._calibrate.cache_clear()
    monkeypatch.setattr(planning, "_bracket", lambda *_: pytest.fail("calibrated again"))
    assert calibrate(**plan, cache_dir=tmp_path) == noise


def test_an_unreachable_promise_is_refused():
    with pytest.raises(PrivacyError, match="take fewer"):
        calibrate(sampling_rate=1.0, steps=10, epsilon=1e-7, delta=1e-10)


def test_a_promise_of_nothing_is_refused():
    with pytest.raises(PrivacyError, match="privacy.epsilon"):
        calibrate(sampling_rate=0.1, steps=10, epsilon=float("inf"), delta=1e-6)


def test_noise_for_concentrated_composition_is_calibrated_by_that_composition():
    plan = {"sampling_rate": 1.0, "steps": 40, "epsilon": 3.0, "delta": 1e-6}
    noise = calibrate(**plan, accountant="rdp")
    event = Event(sampling_rate=1.0, noise_multiplier=noise, steps=40)
    assert 0.99 * 3 <= epsilon([event], 1e-6, accountant="rdp") <= 3.0
    assert noise > calibrate(**plan)
