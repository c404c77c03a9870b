"""At stake: a promise to whole clients. Each known bug is planted, and one named check must see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmrank.privacy.client_update import ClientUpdate, norm_of
from mmrank.privacy.distributed import plan_distributed
from mmrank.privacy.noise import SeededNoise
from tests.mutants import client_bugs, small_clients
from tests.privacy.test_noise import scale_is_accepted

NOBODY = np.zeros(small_clients.CLIENTS, bool)
UNLIKELY = 3e-7
"""Of each bound of a check on the original, with noise that no seed repeats."""


def mechanism(**changes) -> ClientUpdate:
    """No noise, clip 0.5, unless changed."""
    facts = {"noise_multiplier": 0.0, "max_grad_norm": 0.5, "sampling_rate": 0.5, "cohort_size": 8}
    return ClientUpdate(**{**facts, "steps": 1, "batch_size": 4, **changes})


def mean_of(private: ClientUpdate, learned: dict[str, list[float]]) -> np.ndarray:
    """What the server makes of what clients learned [2]: released, checked, counted."""
    noise = SeededNoise(0)
    sent = {name: private.release({"w": np.array(value)}, clip=0.5, noise=noise) for name, value in learned.items()}
    counted = {name: update for name, update in sent.items() if private.fault(update, clip=0.5) is None}
    return private.aggregate(counted, {"w": np.zeros(2)}, clip=0.5, noise=noise)[0]["w"]


# checks, each given an empty folder


def a_round_has_the_noise_that_is_charged(folder: Path) -> None:
    """Chi-square of 8,000 draws over rounds in which nobody learned anything."""
    asked = small_clients.settings(rounds=16, noise="secure")
    _, reports, _ = small_clients.train(asked, NOBODY, folder)
    draws = np.concatenate([report.noisy_mean["weights"] for report in reports]) * small_clients.CLIENTS
    assert len(draws) == 8000
    assert scale_is_accepted(draws, asked.privacy.noise_multiplier * small_clients.CLIP)


def a_device_adds_the_noise_that_is_charged(folder: Path) -> None:
    sent = mechanism(noise_at="local", noise_multiplier=3.0).release(
        {"w": np.zeros(8000)}, clip=0.5, noise=SeededNoise(5)
    )
    assert scale_is_accepted(sent["w"].astype(float), 1.5)


def shares_add_up_to_the_noise_that_is_charged(folder: Path) -> None:
    """The sum over the fewest honest survivors, 4 of 8, who had nothing to say."""
    shares = plan_distributed(
        noise_multiplier=3.0, max_grad_norm=0.5, dimension=8000, threshold=6, colluders=2, cohort=8
    )
    names = [f"device-{row}" for row in range(8)]
    round_ = shares.sum_round(run="mutants", round_number=1, cohort=names)
    modulus = 2**shares.bits
    total = sum(
        shares.encode(np.zeros(8000), round_=round_, noise=SeededNoise(0, name)).astype(np.int64) for name in names[:4]
    )
    centred = (total + modulus // 2) % modulus - modulus // 2
    assert scale_is_accepted(shares.decode(centred, round_=round_), 3.0 * 0.5)


def a_client_moves_the_sum_by_no_more_than_the_clip(folder: Path) -> None:
    """However much it learned, and whoever else is there."""
    for length in (0.1, 0.5, 40.0, 1e6):
        others = {"b": [0.1, 0.2], "c": [-7.0, 3.0]}
        moved = mean_of(mechanism(), {"a": [length, -length], **others}) - mean_of(mechanism(), others)
        assert norm_of({"w": moved * 8}) <= 0.5


def a_device_sends_no_more_than_the_clip(folder: Path) -> None:
    """The server sees what comes, and has to be trusted with no more than that."""
    sent = mechanism().release({"w": np.array([30.0, 40.0])}, clip=0.5, noise=SeededNoise(0))
    assert norm_of(sent) <= 0.5


def a_longer_update_is_left_out(folder: Path) -> None:
    assert mechanism().fault({"w": np.array([0.3, 0.41], np.float32)}, clip=0.5) is not None


def every_round_stands_in_the_population_ledger(folder: Path) -> None:
    asked = small_clients.settings(rounds=4)
    small_clients.train(asked, NOBODY, folder)
    assert sum(event.steps for event in small_clients.spent(asked, folder)) == 4


def clients_enter_by_independent_coins(folder: Path) -> None:
    """Cohorts' sizes vary as those of coins do: by neither less, as a fixed size, nor more."""
    clients, rounds, rate = 40, 120, 0.3
    asked = small_clients.settings(rounds=rounds, sampling_rate=rate, noise="secure")
    devices, _, _ = small_clients.train(asked, np.zeros(clients, bool), folder)
    sizes = np.array([len(cohort) for cohort in devices.cohorts])
    spread = float(((sizes - rate * clients) ** 2).sum() / (rate * (1 - rate) * clients))
    assert stats.chi2.ppf(UNLIKELY, rounds) < spread < stats.chi2.isf(UNLIKELY, rounds)
    inclusion = np.array([[name in cohort for name in devices.names] for cohort in devices.cohorts])
    assert stats.binomtest(int(inclusion.sum()), inclusion.size, rate).pvalue > UNLIKELY


def rounds_have_noise_of_their_own(folder: Path) -> None:
    """A correlation of two independent rows of 500 numbers passes 0.3 with probability below 1e-11."""
    for noise in ("seeded", "secure"):
        _, reports, _ = small_clients.train(small_clients.settings(rounds=3, noise=noise), NOBODY, folder / noise)
        rows = [report.noisy_mean["weights"] for report in reports]
        assert np.abs(np.corrcoef(rows)[~np.eye(3, dtype=bool)]).max() < 0.3


def the_number_of_replies_moves_no_denominator(folder: Path) -> None:
    """What one client adds is the same, alone and among others: its update over the public cohort of 8."""
    alone, others = mean_of(mechanism(), {"a": [0.2, 0.0]}), {"b": [0.0, 0.3], "c": [0.0, -0.4]}
    assert alone[0] == mean_of(mechanism(), {"a": [0.2, 0.0], **others})[0]
    assert abs(alone[0] - 0.2 / 8) < 1e-6


def stands(folder: Path, **changes) -> None:
    """500 clients at a claimed epsilon of 1.9; a false alarm has probability 0.001 at most."""
    verdict = small_clients.audit(small_clients.settings(**changes), folder, seed=3)
    assert not verdict.below_resolution
    assert not verdict.refuted


def the_audit_stands(folder: Path) -> None:
    stands(folder)


def the_audit_of_sampled_clients_stands(folder: Path) -> None:
    stands(folder, **SAMPLED)


def the_audit_of_local_noise_stands(folder: Path) -> None:
    stands(folder, **LOCAL)


def the_audit_of_many_rounds_stands(folder: Path) -> None:
    stands(folder, rounds=90, noise_multiplier=12.0)


SAMPLED = {"sampling_rate": 0.5, "noise_multiplier": 3.6}
LOCAL = {"noise_at": "local", "noise_multiplier": 13.0}
QUARTER = client_bugs.noise_times(1 / 4)
Check = Callable[[Path], None]
MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Check]] = {
    "noise a quarter": (QUARTER, a_round_has_the_noise_that_is_charged),
    "noise two thirds": (client_bugs.noise_times(2 / 3), a_round_has_the_noise_that_is_charged),
    "noise three halves": (client_bugs.noise_times(3 / 2), a_round_has_the_noise_that_is_charged),
    "no noise": (client_bugs.noise_times(0), a_round_has_the_noise_that_is_charged),
    "local noise a quarter": (QUARTER, a_device_adds_the_noise_that_is_charged),
    "shares of noise a quarter": (client_bugs.shares_times(1 / 4), shares_add_up_to_the_noise_that_is_charged),
    "shares of noise three halves": (client_bugs.shares_times(3 / 2), shares_add_up_to_the_noise_that_is_charged),
    "shares of noise by the cohort": (
        client_bugs.shares_times((4 / 8) ** 0.5),  # in place of the honest survivors
        shares_add_up_to_the_noise_that_is_charged,
    ),
    "no shares of noise": (client_bugs.shares_times(0), shares_add_up_to_the_noise_that_is_charged),
    "clip not applied by the device": (client_bugs.no_clip, a_device_sends_no_more_than_the_clip),
    "clip not checked by the server": (client_bugs.no_clip_and_no_check, a_longer_update_is_left_out),
    "clip neither applied nor checked": (
        client_bugs.no_clip_and_no_check,
        a_client_moves_the_sum_by_no_more_than_the_clip,
    ),
    "the population's charge forgotten": (
        client_bugs.charge_forgotten,
        every_round_stands_in_the_population_ledger,
    ),
    "cohorts of a fixed size": (client_bugs.fixed_cohorts, clients_enter_by_independent_coins),
    "the same noise in two rounds": (client_bugs.same_noise_each_round, rounds_have_noise_of_their_own),
    "a private denominator": (client_bugs.private_denominator, the_number_of_replies_moves_no_denominator),
    "noise a quarter, by audit": (QUARTER, the_audit_stands),
    "no noise, by audit": (client_bugs.noise_times(0), the_audit_stands),
    "clip neither applied nor checked, by audit": (client_bugs.no_clip_and_no_check, the_audit_stands),
    "noise a quarter, by audit of sampled clients": (QUARTER, the_audit_of_sampled_clients_stands),
    "local noise a quarter, by audit": (QUARTER, the_audit_of_local_noise_stands),
    "local clip not applied, by audit": (client_bugs.no_clip_and_no_check, the_audit_of_local_noise_stands),
    "the population's charge forgotten, by audit": (
        client_bugs.charge_forgotten,
        the_audit_of_many_rounds_stands,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_seen(name, tmp_path, monkeypatch):
    plant, check = MUTANTS[name]
    check(tmp_path / "original")
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path / "mutant")


def test_a_device_that_does_not_clip_is_left_out_by_the_server(tmp_path, monkeypatch):
    """One of the two alone breaks no promise to those who see the models."""
    client_bugs.no_clip(monkeypatch)
    a_client_moves_the_sum_by_no_more_than_the_clip(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, SAMPLED, LOCAL], ids=["central", "sampled", "local"])
def test_twenty_clean_audits_raise_no_alarm(kind, tmp_path):
    """Each at 99.9%, epsilon 1.9, 500 clients; some bounds are above 0, or it would see nothing."""
    verdicts = [
        small_clients.audit(small_clients.settings(seed=seed, **kind), tmp_path / str(seed), seed=seed)
        for seed in range(100, 120)
    ]
    assert all(1 < verdict.claim <= 2 for verdict in verdicts)
    assert not any(verdict.refuted for verdict in verdicts)
    assert not any(verdict.below_resolution for verdict in verdicts)
    # under sampling most clients are absent from most rounds, and an audit of so few sees less of them
    assert sum(verdict.bound > 0 for verdict in verdicts) >= (2 if kind is SAMPLED else 5)
