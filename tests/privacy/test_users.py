"""At stake: a person with many slates is clipped once, as a whole; nobody's second slate is a second unit."""

import numpy as np
import pytest
import torch

from mmrank.errors import PrivacyError
from mmrank.privacy.dp_sgd import _means, _weighted_sum, slates_by_owner
from mmrank.privacy.mechanism import LocalProblem
from mmrank.privacy.noise import SecureNoise, SeededNoise
from tests.privacy.models import Scorer, examples, losses, mechanism, one_by_one, per_unit, seeded, train

OWNERS = np.array([4, 1, 4, 1, 1, 9, 4])
KINDS = pytest.mark.parametrize("kind", ["opacus", "vmap"])


def users(**changes):
    return mechanism(**{"unit": "user", "slates_per_unit": 3, "micro_batch_size": 6, **changes})


def clipped_mean(units, owners, clip, denominator=8.0):
    """The step from the definition: each person's mean gradient, clipped, added up."""
    rows = one_by_one(seeded(Scorer()), units)
    people = [np.mean([rows[i] for i in np.flatnonzero(owners == person)], axis=0) for person in np.unique(owners)]
    return sum(person * min(1.0, clip / np.linalg.norm(person)) for person in people) / denominator


@KINDS
@pytest.mark.parametrize("clip", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("micro_batch_size", [3, 6, 63])
def test_a_step_without_noise_is_the_mean_of_clipped_people(kind, clip, micro_batch_size):
    units = examples(7, seed=4)
    private = users(grad_sample=kind, max_grad_norm=clip, micro_batch_size=micro_batch_size)
    moved = train(private, units, owners=OWNERS)
    np.testing.assert_allclose(moved, -clipped_mean(units, OWNERS, clip), atol=1e-6)


def test_a_person_moves_the_sum_by_at_most_the_clip_however_many_slates_they_have():
    units = examples(40, seed=1)
    owners = np.r_[np.zeros(30, int), np.arange(1, 11)]
    private = users(max_grad_norm=0.01, slates_per_unit=8, micro_batch_size=16)
    without = {name: tensor[30:] for name, tensor in units.items()}
    apart = train(private, units, owners=owners) - train(private, without, owners=owners[30:])
    assert 0.005 < np.linalg.norm(apart) * 8 <= 0.01 * (1 + 1e-5)


def test_a_person_whose_slates_add_up_to_more_than_a_float_moves_the_sum_by_no_more_than_the_clip():
    """Each gradient is finite, and so is their mean; their float32 sum is not."""
    rows = torch.full((2, 3), 3e38)
    for person in (rows, rows * torch.tensor([[1.0], [-1.0]])):
        assert torch.isfinite(_means(person, np.array([0, 0]))).all()
    torch.testing.assert_close(_means(rows, np.array([0, 0])), rows[:1])


def test_a_persons_mean_is_of_their_own_slates_in_their_own_order():
    rows = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(3))
    unit_of = np.array([0, 0, 0, 1, 2, 2, 3])
    for unit, mean in enumerate(_means(rows, unit_of)):
        own = rows[torch.from_numpy(unit_of == unit)].double()
        assert torch.equal(mean, (sum(own[1:], own[0]) / len(own)).float())
    assert _means(rows[:0], unit_of[:0]).shape == (0, 3, 2)


def test_sums_of_clipped_units_are_those_of_float64():
    draw = np.random.default_rng(2)
    factors, rows = draw.uniform(size=64), (draw.normal(size=(64, 40, 900)) * 10.0 ** draw.integers(-4, 4, (64, 1, 1)))
    rows = rows.astype(np.float32)
    found = _weighted_sum(torch.from_numpy(factors), torch.from_numpy(rows)).numpy()
    exact = np.tensordot(factors, rows.astype(np.float64), 1)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(rows).max())


def test_a_person_with_more_than_k_slates_brings_k_of_them_any_alike():
    rows = np.arange(5)
    private = users(slates_per_unit=2, micro_batch_size=2)
    noise = SeededNoise(0, "bundles")
    taken = [private._bundles([rows], noise)[0] for _ in range(2000)]
    assert all(len(set(bundle)) == 2 for bundle in taken)
    share = np.bincount(np.concatenate(taken), minlength=5) / 2000
    np.testing.assert_allclose(share, 0.4, atol=4 * np.sqrt(0.24 / 2000))


def test_people_enter_a_step_whole_with_the_rate_that_is_charged():
    """Inclusion is drawn a person: a person's slates come together or not at all."""
    units = examples(12, seed=3)
    owners = np.repeat(np.arange(4), 3)
    seen = []

    def inputs(rows):
        seen.append(rows)
        return {name: tensor[torch.from_numpy(rows)] for name, tensor in units.items()}

    gradients = per_unit("opacus")
    problem = LocalProblem(
        model=gradients.model,
        size=12,
        inputs=inputs,
        losses=losses,
        optimizer=torch.optim.SGD(gradients.parameters.values(), lr=1e-6),
        gradients=gradients,
        owners=owners,
    )
    users(sampling_rate=0.3, steps=800, micro_batch_size=12).train(
        problem, noise=SecureNoise(), shuffle=np.random.default_rng(0)
    )
    assert all(len(rows) % 3 == 0 and (np.bincount(owners[rows])[np.unique(owners[rows])] == 3).all() for rows in seen)
    people = sum(len(rows) // 3 for rows in seen)
    assert abs(people / (800 * 4) - 0.3) < 6 * np.sqrt(0.21 / 3200)  # 2e-9


def test_one_bad_slate_of_a_person_counts_as_zero_and_spoils_nobody():
    units = examples(7, seed=4)
    units["x"][2] = float("nan")
    moved = train(users(max_grad_norm=100.0), units, owners=OWNERS)
    rows = one_by_one(seeded(Scorer()), units)
    rows[2] = np.zeros_like(rows[0])
    people = [np.mean([rows[i] for i in np.flatnonzero(person == OWNERS)], axis=0) for person in (1, 4, 9)]
    np.testing.assert_allclose(moved, -sum(people) / 8, atol=1e-6)


def test_people_are_found_by_their_numbers():
    assert [rows.tolist() for rows in slates_by_owner(OWNERS)] == [[1, 3, 4], [0, 2, 6], [5]]
    assert slates_by_owner(np.zeros(0, int)) == []


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch_size": 7}, {"slates_per_unit": 0}, {"unit": "slate"}],
    ids=str,
)
def test_bundles_that_a_batch_would_tear_are_refused(changes):
    with pytest.raises(PrivacyError, match="slates_per"):
        users(**changes)


def test_people_who_are_not_known_can_not_be_promised_anything():
    with pytest.raises(PrivacyError, match="owners"):
        train(users(), examples(4))


def test_nobody_at_all_is_noise():
    empty = {name: tensor[:0] for name, tensor in examples(2).items()}
    moved = train(users(noise_multiplier=1.0), empty, owners=np.zeros(0, int), noise=SecureNoise())
    assert np.count_nonzero(moved) > 0.9 * moved.size
