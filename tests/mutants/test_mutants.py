"""At stake: tests that pass whatever the code does. Each known bug is planted, and one named check must see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from client.vault import Vault
from mmrank.errors import PrivacyError, UnsupportedModuleError
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.noise import SecureNoise, SeededNoise
from tests.client.shop import toy_features, toy_request, toy_settings, toy_workspace
from tests.mutants import bugs, small
from tests.privacy import test_dp_sgd, test_traps, test_users
from tests.privacy.models import examples, losses, mechanism, per_unit, train
from tests.privacy.test_noise import scale_is_accepted

SEEN = (AssertionError, pytest.fail.Exception, PrivacyError)
"""A check fails by an assertion, by a refusal that does not come, or since the code refuses its own mutant."""

_features: dict[str, object] = {}


@pytest.fixture(autouse=True)
def shop(tmp_path_factory):
    """Features of the toy shop, encoded once."""
    if not _features:
        _features["toy"] = toy_features(tmp_path_factory.mktemp("mutants"))


def workspace(folder: Path, **privacy):
    return toy_workspace(folder, _features["toy"], toy_settings(**privacy))


# checks, each given an empty folder


def a_step_has_the_noise_that_is_charged(folder: Path) -> None:
    """Chi-square of 8,000 draws, false alarms 1e-6; two thirds and three halves are off by over 100 deviations."""
    private = mechanism(noise_multiplier=1.3, max_grad_norm=0.7, expected_batch_size=16.0)
    draws = np.concatenate([train(private, examples(0), noise=SecureNoise()) * 16.0 for _ in range(70)])
    assert len(draws) > 8000
    assert scale_is_accepted(draws, 1.3 * 0.7)


def a_unit_moves_a_step_by_no_more_than_the_clip(folder: Path) -> None:
    """With and without a unit, over all parameters together, without the noise that would hide it."""
    private = mechanism(noise_multiplier=0.0, max_grad_norm=0.05, expected_batch_size=4.0)
    units = examples(7, seed=6)
    for left_out in range(7):
        fewer = {name: rows[[i for i in range(7) if i != left_out]] for name, rows in units.items()}
        moved = train(private, units, noise=SeededNoise(9)) - train(private, fewer, noise=SeededNoise(9))
        assert np.linalg.norm(moved) <= 0.05 / 4.0 * (1 + 1e-3)


def folded_candidates_are_refused(folder: Path) -> None:
    test_traps.test_candidates_folded_into_the_batch_axis_are_refused_by_hooks()


def a_parameter_without_a_dimension_is_refused(folder: Path) -> None:
    test_traps.test_a_parameter_without_a_dimension_is_refused()


def a_unit_has_its_gradient_in_any_company(folder: Path) -> None:
    test_traps.test_the_loss_is_summed_not_averaged_before_clipping("opacus")


def a_reduced_loss_is_refused(folder: Path) -> None:
    test_traps.test_a_loss_that_is_reduced_or_not_a_units_own_is_refused(
        "opacus", lambda scores, inputs: losses(scores, inputs).mean()
    )


def every_round_stands_in_the_ledger(folder: Path) -> None:
    for noise in ("seeded", "secure"):
        there = workspace(folder / noise, noise=noise)
        for number in (1, 2, 3):
            Vault(there, "large").train(toy_request(there, round_number=number))
        account = there.ledger.account(there.dataset.data_identity("large"), there.policy)
        assert sum(event.steps for event in account.events()) == 3 * there.mechanism.steps


def clients_and_rounds_have_noise_of_their_own(folder: Path) -> None:
    """A correlation of two independent updates of 2,000 numbers passes 0.3 with probability below 1e-30."""
    for noise in ("seeded", "secure"):
        there = workspace(folder / noise, noise=noise, noise_multiplier=50.0)
        asked = [("empty", 1), ("empty", 2), ("one", 1)]
        replies = [Vault(there, client).train(toy_request(there, round_number=number)) for client, number in asked]
        # by name: an outbox gives the arrays back in an order of its own
        flat = [np.concatenate([reply.update[name].ravel() for name in sorted(reply.update)]) for reply in replies]
        assert np.abs(np.corrcoef(flat)[~np.eye(3, dtype=bool)]).max() < 0.3


def steps_have_noise_of_their_own(folder: Path) -> None:
    for source in (SecureNoise(), SeededNoise(3)):
        hooked, seen = per_unit("opacus"), []
        problem = LocalProblem(
            model=hooked.model,
            size=0,
            inputs=lambda rows: examples(len(rows)),
            losses=losses,
            optimizer=torch.optim.SGD(hooked.parameters.values(), lr=0.0),
            adjust=lambda _, p=hooked.parameters, seen=seen: seen.append(
                torch.cat([v.grad.flatten() for v in p.values()])
            ),
            gradients=hooked,
        )
        mechanism(noise_multiplier=1.0, steps=2).train(problem, noise=source, shuffle=np.random.default_rng(0))
        assert abs(float(torch.corrcoef(torch.stack(seen))[0, 1])) < 0.5


def units_enter_by_independent_coins(folder: Path) -> None:
    """Sizes, counts by unit, and pairs: all with false alarms of 1e-6 or less, or by a seed that is known to pass."""
    test_dp_sgd.test_units_enter_a_step_by_independent_coins_of_the_public_rate()


def the_number_of_units_moves_no_denominator(folder: Path) -> None:
    test_traps.test_the_number_of_units_changes_neither_denominator_nor_noise(5)


def a_retry_is_sent_again_and_not_trained_again(folder: Path) -> None:
    there = workspace(folder, noise="secure")
    first, again = (Vault(there, "large").train(toy_request(there)) for _ in range(2))
    assert all(first.update[name].tobytes() == again.update[name].tobytes() for name in first.update)
    account = there.ledger.account(there.dataset.data_identity("large"), there.policy)
    assert sum(event.steps for event in account.events()) == there.mechanism.steps


def the_audit_stands(folder: Path) -> None:
    """500 canaries at a claimed epsilon of 1.99; a false alarm has probability 0.001 at most."""
    verdict = small.audit(small.weak(), seed=1)
    assert not verdict.below_resolution
    assert not verdict.refuted


def a_person_moves_a_step_by_no_more_than_the_clip(folder: Path) -> None:
    test_users.test_a_person_moves_the_sum_by_at_most_the_clip_however_many_slates_they_have()


def the_audit_of_people_stands(folder: Path) -> None:
    """500 people of 1 to 8 slates each; a false alarm has probability 0.001 at most."""
    verdict = small.audit(small.weak(**PEOPLE), seed=1)
    assert not verdict.below_resolution
    assert not verdict.refuted


PEOPLE = {"unit": "user", "slates_per_unit": 8}
Check = Callable[[Path], None]
MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Check]] = {
    "noise a quarter": (bugs.noise_times(1 / 4), a_step_has_the_noise_that_is_charged),
    "noise two thirds": (bugs.noise_times(2 / 3), a_step_has_the_noise_that_is_charged),
    "noise three halves": (bugs.noise_times(3 / 2), a_step_has_the_noise_that_is_charged),
    "no noise": (bugs.noise_times(0), a_step_has_the_noise_that_is_charged),
    "clip not applied": (bugs.no_clip, a_unit_moves_a_step_by_no_more_than_the_clip),
    "bias not clipped": (bugs.biases_not_clipped, a_unit_moves_a_step_by_no_more_than_the_clip),
    "0-d parameter not clipped": (bugs.scalars_let_through, a_parameter_without_a_dimension_is_refused),
    "candidates folded into the batch axis": (bugs.candidates_folded, folded_candidates_are_refused),
    "a loss that ignores its reduction": (bugs.mean_for_sum, a_unit_has_its_gradient_in_any_company),
    "a reduced loss let through": (bugs.reduced_loss_let_through, a_reduced_loss_is_refused),
    "a charge forgotten": (bugs.charge_forgotten, every_round_stands_in_the_ledger),
    "the same noise for two clients, seeded": (bugs.one_seed_for_all, clients_and_rounds_have_noise_of_their_own),
    "the same noise for two clients, secure": (bugs.one_key_for_all, clients_and_rounds_have_noise_of_their_own),
    "the same noise twice": (bugs.noise_drawn_once, steps_have_noise_of_their_own),
    "Poisson replaced by shuffling": (bugs.shuffling, units_enter_by_independent_coins),
    "a private denominator": (bugs.private_denominator, the_number_of_units_moves_no_denominator),
    "a recompute on retry": (bugs.recompute_on_retry, a_retry_is_sent_again_and_not_trained_again),
    "noise a quarter, by audit": (bugs.noise_times(1 / 4), the_audit_stands),
    "no noise, by audit": (bugs.noise_times(0), the_audit_stands),
    "clip not applied, by audit": (bugs.no_clip, the_audit_stands),
    "people clipped by the slate": (bugs.clipped_by_slate, a_person_moves_a_step_by_no_more_than_the_clip),
    "people clipped by the slate, by audit": (bugs.clipped_by_slate, the_audit_of_people_stands),
    "noise a quarter, by audit of people": (bugs.noise_times(1 / 4), the_audit_of_people_stands),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_seen(name, tmp_path, monkeypatch):
    plant, check = MUTANTS[name]
    check(tmp_path / "original")
    plant(monkeypatch)
    with pytest.raises(SEEN) as caught:
        check(tmp_path / "mutant")
    assert not isinstance(caught.value, UnsupportedModuleError) or "loss" in name, caught.value


def test_the_audit_is_not_satisfied_by_a_claim_that_is_too_small():
    """A ledger that forgot 49 of 50 charges."""
    private, forgetful = small.weak(steps=50), small.weak(steps=1)
    assert not small.audit(private, seed=2).refuted
    assert small.audit(private, seed=2, events=(forgetful.event,)).refuted


def test_a_large_epsilon_shows():
    verdict = small.audit(small.weak(noise_multiplier=2.5), seed=3)
    assert verdict.claim > 8
    assert verdict.bound > 2
    assert not verdict.refuted


@pytest.mark.slow
@pytest.mark.parametrize("unit", [{}, PEOPLE], ids=["slate", "user"])
def test_twenty_clean_audits_raise_no_alarm(unit):
    """Each at 99.9%, epsilon 1.99, 500 canaries; some bounds are above 0, or it would see nothing."""
    hooked = small.gradients()
    verdicts = [small.audit(small.weak(**unit), seed=100 + seed, hooked=hooked) for seed in range(20)]
    assert all(verdict.claim <= 2 for verdict in verdicts)
    assert not any(verdict.refuted for verdict in verdicts)
    assert not any(verdict.below_resolution for verdict in verdicts)
    assert sum(verdict.bound > 0 for verdict in verdicts) >= 5
