"""At stake: every known way in which a federation under Opacus loses its guarantee and still prints an epsilon."""

import ast
import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from opacus.accountants import create_accountant
from torch import nn

from mmrank.errors import UnsupportedModuleError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.dp_sgd import UnitOptimizer, zero_non_finite
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.privacy.per_unit import build_per_unit
from tests.privacy.models import (
    WIDTH,
    Folded,
    Scorer,
    examples,
    losses,
    mechanism,
    one_by_one,
    per_unit,
    seeded,
    train,
)
from tests.privacy.test_dp_sgd import drawn_rows

KINDS = pytest.mark.parametrize("kind", ["opacus", "vmap"])


def test_candidates_folded_into_the_batch_axis_are_refused_by_hooks():
    with pytest.raises(UnsupportedModuleError, match="grad_sample: vmap"):
        per_unit("opacus", seeded(Folded()))


def test_candidates_folded_into_the_batch_axis_are_clipped_as_one_unit_under_vmap():
    private, units = mechanism(grad_sample="vmap", max_grad_norm=0.01, expected_batch_size=1.0), examples(1)
    assert np.linalg.norm(train(private, units, model=seeded(Folded()))) <= 0.01 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("opacus", lambda scores, inputs: losses(scores, inputs).mean()),
        ("opacus", lambda scores, inputs: losses(scores, inputs).mean().reshape(1)),
        ("opacus", lambda scores, inputs: (scores**2).flatten()),
        ("vmap", lambda scores, inputs: losses(scores, inputs).mean()),
        ("vmap", lambda scores, inputs: scores**2),
        ("vmap", lambda scores, inputs: (scores**2).flatten()),
    ],
)
def test_a_loss_that_is_reduced_or_not_a_units_own_is_refused(kind, wrong):
    with pytest.raises(UnsupportedModuleError, match="one loss a unit"):
        build_per_unit(kind, seeded(Scorer()), wrong, example=examples(3), size=4)


@KINDS
def test_the_loss_is_summed_not_averaged_before_clipping(kind):
    """An average over the batch, or a reduction that is ignored, would scale a unit's gradient with the batch."""
    one, many = (
        per_unit(kind)(examples(1, seed=1)),
        per_unit(kind)(
            {name: tensor.expand(8, *tensor.shape[1:]).contiguous() for name, tensor in examples(1, seed=1).items()}
        ),
    )
    for name, rows in many.items():
        for row in rows:
            torch.testing.assert_close(row, one[name][0], atol=2e-6, rtol=1e-5)


@KINDS
def test_an_empty_poisson_batch_is_a_zero_sum_with_noise(kind):
    never_drawn = {"sampling_rate": 1e-12, "noise_multiplier": 1.0, "steps": 3, "grad_sample": kind}
    with_units = train(mechanism(**never_drawn), examples(5), noise=SeededNoise(2))
    without = train(mechanism(**never_drawn), examples(0), noise=SeededNoise(2))
    np.testing.assert_array_equal(with_units, without)
    assert (without != 0).mean() > 0.9  # on the grid of released sums a few are 0
    assert mechanism(**never_drawn).event.steps == 3


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_unit_with_features_that_are_not_finite_leaves_no_trace(kind, bad):
    units = examples(6, seed=8)
    poisoned = {name: tensor.clone() for name, tensor in units.items()}
    poisoned["x"][2, 1, 0] = bad
    others = {name: tensor[[0, 1, 3, 4, 5]] for name, tensor in units.items()}
    private = mechanism(grad_sample=kind, micro_batch_size=64)
    moved = train(private, poisoned)
    assert np.isfinite(moved).all()
    if not np.isfinite(bad):
        np.testing.assert_allclose(moved, train(private, others), atol=1e-7)


def test_a_unit_not_finite_in_one_parameter_is_dropped_from_all():
    rows = [torch.ones(3, 2), torch.ones(3, 4, 2)]
    rows[1][1, 2, 0] = float("nan")
    zero_non_finite(rows)
    assert torch.equal(rows[0], torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert rows[1].sum() == 16


def test_huge_but_finite_gradients_are_kept_apart_from_infinite_ones():
    rows = [torch.full((2, 3), 3e38)]
    zero_non_finite(rows)
    assert (rows[0] == 3e38).all()


def test_two_clients_never_meet_the_same_noise():
    moved = [train(mechanism(noise_multiplier=1.0), examples(0), noise=SeededNoise(0, "data", name)) for name in "ab"]
    assert not np.array_equal(*moved)
    secure = [train(mechanism(noise_multiplier=1.0), examples(0), noise=SecureNoise()) for _ in range(2)]
    assert abs(np.corrcoef(*secure)[0, 1]) < 0.5


def test_two_rounds_and_two_inputs_never_meet_the_same_noise():
    streams = [SeededNoise(0, "data", "client", number, digest) for number in (1, 2) for digest in ("a", "b")]
    draws = np.stack([stream.normal((500,), 1.0).numpy() for stream in streams])
    off_diagonal = np.corrcoef(draws)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.3


def test_two_steps_of_a_round_never_meet_the_same_noise():
    noise = SeededNoise(0, "steps")
    first, second = noise.normal((500,), 1.0), noise.normal((500,), 1.0)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3


def test_noise_does_not_come_from_a_torch_generator():
    """A fresh torch generator always holds one seed, and seeds wrap at 2^32."""
    moved = []
    for _ in range(2):
        torch.manual_seed(0)
        moved.append(train(mechanism(noise_multiplier=1.0), examples(2), noise=SecureNoise()))
    assert not np.array_equal(*moved)
    assert "generator" not in inspect.signature(UnitOptimizer.__init__).parameters


def test_seeds_that_torch_takes_for_equal_are_different():
    assert not torch.equal(SeededNoise(7).normal((4,), 1.0), SeededNoise(7 + 2**32).normal((4,), 1.0))


def test_secure_noise_is_another_in_each_process():
    # in float64: of 64 pairs of float32 draws, two are equal once in a million times
    draw = "SecureNoise().normal((8,), 1.0, dtype=torch.float64).tolist()"
    program = f"import torch; from mmrank.privacy.noise import SecureNoise; print({draw})"
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    ours = SecureNoise().normal((8,), 1.0, dtype=torch.float64).tolist()
    assert len(ast.literal_eval(theirs)) == 8
    assert not set(ast.literal_eval(theirs)) & set(ours)


def test_epsilon_of_many_rounds_is_not_that_of_the_last():
    """A PrivacyEngine made anew each round reports one round's epsilon."""
    one = Event(sampling_rate=0.05, noise_multiplier=1.0, steps=20)
    fresh = create_accountant("rdp")
    fresh.history = [(1.0, 0.05, 20)]
    assert epsilon([one] * 50, 1e-5) > 3 * epsilon([one], 1e-5)
    assert epsilon([one] * 50, 1e-5) > 2 * fresh.get_epsilon(1e-5)


@pytest.mark.parametrize("size", [0, 1, 8, 64, 65])
def test_the_number_of_units_changes_neither_denominator_nor_noise(size):
    """n = 64 and n = 65 would show in the noise, were q and the denominator made from n."""
    quiet = mechanism(sampling_rate=1e-12, noise_multiplier=1.0, expected_batch_size=8.0)
    np.testing.assert_array_equal(
        train(quiet, examples(size), noise=SeededNoise(3)), train(quiet, examples(0), noise=SeededNoise(3))
    )
    units = {name: tensor.expand(size, *tensor.shape[1:]).contiguous() for name, tensor in examples(1).items()}
    if size:
        (row,) = one_by_one(seeded(Scorer()), examples(1))
        expected = -size * row * min(1.0, 1.0 / np.linalg.norm(row)) / 8.0
        np.testing.assert_allclose(train(mechanism(), units), expected, rtol=1e-3, atol=1e-5)


def test_a_parameter_without_a_dimension_is_refused():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.scale = nn.Linear(WIDTH, 1), nn.Parameter(torch.tensor(2.0))

        def forward(self, inputs):
            return self.head(inputs["x"]).squeeze(-1) * self.scale

    with pytest.raises(UnsupportedModuleError, match="clipping passes over"):
        build_per_unit("vmap", Scaled(), losses, example=examples(3), size=4)


@KINDS
def test_an_embedding_with_a_padding_index_is_refused(kind):
    """Noise moves the row that is thought to stay zero, and Opacus gives it a gradient that autograd does not."""
    with pytest.raises(UnsupportedModuleError, match="padding_idx=0"):
        per_unit(kind, seeded(Scorer(padding_idx=0)))


def test_batches_are_poisson_and_not_shuffled_ones_of_a_fixed_size():
    batches = drawn_rows(mechanism(sampling_rate=0.2, steps=12, micro_batch_size=1000), 100, SeededNoise(8))
    sizes = {len(rows) for rows in batches}
    assert len(sizes) > 3
    # an epoch of shuffled batches would hold every unit once
    counts = np.bincount(np.concatenate(batches[:5]), minlength=100)
    assert counts.min() == 0
    assert counts.max() > 1


def test_tied_parameters_are_refused():
    model = Scorer()
    model.again.weight = nn.Parameter(torch.zeros(6, 6))
    model.extra = nn.Linear(6, 6)
    model.extra.weight = model.again.weight
    with pytest.raises(UnsupportedModuleError, match="tied"):
        build_per_unit("opacus", model, losses, example=examples(3), size=4)


def test_repeated_ids_count_in_the_norm_as_often_as_they_stand():
    """EmbeddingBag counts a repeated token once and clips too little: it is refused, and Embedding is right."""
    units = examples(1)
    units["ids"][:] = 3
    rows = per_unit("opacus")(units)
    got = np.concatenate([value[0].numpy().ravel() for value in rows.values()])
    np.testing.assert_allclose(got, one_by_one(seeded(Scorer()), units)[0], atol=2e-6)


@KINDS
def test_neighbouring_data_under_one_noise_differ_by_no_more_than_a_clipped_unit(kind):
    # little noise, so that the grid to which sums are rounded is far finer than a unit
    private = mechanism(grad_sample=kind, noise_multiplier=1e-4, max_grad_norm=0.5, expected_batch_size=4.0)
    units = examples(7, seed=6)
    fewer = {name: tensor[:-1] for name, tensor in units.items()}
    difference = train(private, units, noise=SeededNoise(9)) - train(private, fewer, noise=SeededNoise(9))
    assert 0 < np.linalg.norm(difference) <= 0.5 / 4.0 * (1 + 1e-4)


class Looks(torch.nn.Module):
    """As wide as the ranker's map from words to looks: few rows go through another matrix product than many."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(128, 64, bias=False)

    def forward(self, inputs):
        return (self.map(inputs["words"]) * inputs["style"]).sum(-1)


@KINDS
def test_no_unit_shows_in_the_rounding_of_another_whatever_the_server_sent(kind):
    """A model of 1e12 makes a rounding error as large as the clip: in a batch that shrank by a unit, all would move."""
    draw = torch.Generator().manual_seed(0)
    units = {
        "words": torch.randn(5, 1, 128, generator=draw),
        "style": torch.randn(5, 6, 64, generator=draw),
        "relevance": torch.tensor([[1.0, 0, 0, 0, 0, 0]] * 5),
    }
    gradients = build_per_unit(kind, Looks(), losses, example=units, size=8)
    with torch.no_grad():
        gradients.parameters["map.weight"].copy_(1e12 * torch.randn(64, 128, generator=draw))
    optimizer = UnitOptimizer(
        torch.optim.SGD(gradients.parameters.values(), lr=1.0),
        noise=SeededNoise(0),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=1.0,
    )
    sums = []
    for count in range(6):
        optimizer.accumulate(gradients, {name: rows[:count] for name, rows in units.items()}, size=8)
        sums.append(gradients.parameters["map.weight"].summed_grad.double().clone())
        gradients.parameters["map.weight"].summed_grad = None
    moved = [float((more - fewer).norm()) for fewer, more in itertools.pairwise(sums)]
    assert sum(moved) > 1  # a unit whose best item is the right one has no gradient: not every unit moves the sum
    assert max(moved) <= 1 + 1e-5


def test_a_layer_that_rounds_by_company_is_refused():
    class Mixing(Looks):
        def forward(self, inputs):
            return super().forward(inputs) * (1 + 1e-6 * inputs["words"].mean())

    units = {
        "words": torch.randn(4, 1, 128, generator=torch.Generator().manual_seed(1)),
        "style": torch.randn(4, 6, 64, generator=torch.Generator().manual_seed(2)),
        "relevance": torch.tensor([[1.0, 0, 0, 0, 0, 0]] * 4),
    }
    with pytest.raises(UnsupportedModuleError, match="micro_batch_size: 1"):
        build_per_unit("opacus", Mixing(), losses, example=units, size=8)
    assert build_per_unit("opacus", Mixing(), losses, example=units, size=1)
