"""At stake: a step of DP-SGD moves by clipped, noised sums and nothing else; its event is made of the same numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.dp_sgd import DpSgd, UnitOptimizer
from mmrank.privacy.mechanism import LocalProblem, build_mechanism
from mmrank.privacy.no_privacy import NoPrivacy
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.settings import FederationSettings, PrivacySettings, TrainingSettings
from tests.privacy.models import Scorer, examples, flat, losses, mechanism, one_by_one, per_unit, seeded, train
from tests.privacy.test_noise import scale_is_accepted

KINDS = pytest.mark.parametrize("kind", ["opacus", "vmap"])


def clipped_mean(units, clip: float, denominator: float) -> np.ndarray:
    """The step's gradient from the definition (Abadi et al. 2016, Algorithm 1), without noise."""
    rows = one_by_one(seeded(Scorer()), units)
    return sum((row * min(1.0, clip / np.linalg.norm(row)) for row in rows), np.zeros_like(rows[0])) / denominator


@KINDS
@pytest.mark.parametrize("clip", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 64])
def test_a_step_without_noise_is_the_clipped_mean(kind, clip, micro_batch_size):
    units = examples(7, seed=4)
    private = mechanism(grad_sample=kind, max_grad_norm=clip, micro_batch_size=micro_batch_size)
    np.testing.assert_allclose(train(private, units), -clipped_mean(units, clip, 8.0), atol=1e-6)


@given(
    rows=st.lists(st.lists(st.floats(-(2.0**66), 2.0**66, width=32), min_size=6, max_size=6), min_size=1, max_size=4),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_unit_moves_the_sum_by_more_than_the_clip(rows, clip):
    assert np.linalg.norm(clipped_sum(rows, clip) - clipped_sum(rows[1:], clip)) <= clip * (1 + 1e-5)


def clipped_sum(rows: list[list[float]], clip: float) -> np.ndarray:
    """What UnitOptimizer makes of these per-unit gradients of two parameters, [2, 2] and [2], without noise."""
    parameters = {"a": torch.nn.Parameter(torch.zeros(2, 2)), "b": torch.nn.Parameter(torch.zeros(2))}
    values = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 6)

    class Given:
        model = torch.nn.Module()

        def __init__(self) -> None:
            self.parameters = parameters

        def __call__(self, inputs):
            return {"a": values[:, :4].reshape(-1, 2, 2).clone(), "b": values[:, 4:].clone()}

    optimizer = UnitOptimizer(
        torch.optim.SGD(parameters.values(), lr=1.0),
        noise=SeededNoise(0),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=1.0,
    )
    optimizer.accumulate(Given(), {"rows": values}, size=len(values))
    optimizer.step()
    return -np.concatenate([p.detach().numpy().ravel() for p in parameters.values()]).astype(np.float64)


@pytest.mark.parametrize("source", [SecureNoise, lambda: SeededNoise(5, "step")], ids=["secure", "seeded"])
def test_the_noise_of_a_step_has_the_size_that_is_charged(source):
    private = mechanism(noise_multiplier=1.3, max_grad_norm=0.7, expected_batch_size=16.0, steps=60)
    moved = []
    for _ in range(60):
        moved.append(train(mechanism(**{**vars(private), "steps": 1}), examples(0), noise=source()) * 16.0)
    draws = np.concatenate(moved)
    assert scale_is_accepted(draws, 1.3 * 0.7)
    assert not scale_is_accepted(draws, 1.3 * 0.7 * 2 / 3)
    assert not scale_is_accepted(draws, 1.3 * 0.7 * 3 / 2)


def drawn_rows(private: DpSgd, size: int, noise) -> list[np.ndarray]:
    """The rows of each micro-batch that the mechanism asked for."""
    gradients, seen = per_unit("opacus"), []

    def inputs(rows):
        seen.append(rows)
        return examples(len(rows))

    problem = LocalProblem(
        model=gradients.model,
        size=size,
        inputs=inputs,
        losses=losses,
        optimizer=torch.optim.SGD(gradients.parameters.values(), lr=0.0),
        gradients=gradients,
    )
    private.train(problem, noise=noise, shuffle=np.random.default_rng(0))
    return seen


def test_units_enter_a_step_by_independent_coins_of_the_public_rate():
    private = mechanism(sampling_rate=0.1, steps=40, micro_batch_size=10_000)
    batches = drawn_rows(private, 500, SeededNoise(3, "coins"))
    sizes = [len(rows) for rows in batches]
    assert stats.binomtest(sum(sizes), 500 * 40, 0.1).pvalue > 1e-6
    # fixed-size batches would have no spread: the sizes are binomial
    spread = sum((size - 50) ** 2 for size in sizes) / (500 * 0.1 * 0.9)
    assert stats.chi2.ppf(1e-6, 40) < spread < stats.chi2.ppf(1 - 1e-6, 40)
    # and so is the number of steps that each unit enters
    entered = np.bincount(np.concatenate(batches), minlength=500)
    spread = ((entered - 4.0) ** 2).sum() / (40 * 0.1 * 0.9)
    assert abs(spread - 500) < 5 * np.sqrt(2 * 500)


def test_micro_batches_hold_no_more_than_they_may():
    batches = drawn_rows(mechanism(sampling_rate=1.0, micro_batch_size=64), 200, SeededNoise(0))
    assert [len(rows) for rows in batches] == [64, 64, 64, 8]
    assert np.array_equal(np.concatenate(batches), np.arange(200))


def test_the_event_is_made_of_the_fields_that_run():
    private = mechanism(sampling_rate=0.07, noise_multiplier=1.4, steps=9)
    assert private.event == Event(sampling_rate=0.07, noise_multiplier=1.4, steps=9)
    with pytest.raises(AttributeError):
        private.noise_multiplier = 0.1


def test_a_target_is_calibrated_over_the_whole_plan():
    training = TrainingSettings(local_steps=5)
    privacy = PrivacySettings(mechanism="dp_sgd", epsilon=2.0, sampling_rate=0.05)
    private = build_mechanism(privacy, training, FederationSettings(rounds=20))
    assert isinstance(private, DpSgd)
    assert private.steps == 5
    assert 1.98 <= epsilon([private.event] * 20, privacy.delta) <= 2.0
    assert epsilon([private.event] * 21, privacy.delta) > 2.0


def test_no_privacy_is_chosen_by_name_and_costs_everything():
    plain = build_mechanism(PrivacySettings(), TrainingSettings(local_steps=3, batch_size=7), FederationSettings())
    assert plain == NoPrivacy(steps=3, batch_size=7)
    assert epsilon([plain.event], 1e-6) == float("inf")


def test_what_adjusts_the_gradient_sees_it_noisy_and_scaled():
    gradients, seen = per_unit("opacus"), []
    problem = LocalProblem(
        model=gradients.model,
        size=0,
        inputs=lambda rows: examples(len(rows)),
        losses=losses,
        optimizer=torch.optim.SGD(gradients.parameters.values(), lr=1.0),
        adjust=lambda _: seen.append(torch.cat([p.grad.flatten() for p in gradients.parameters.values()])),
        gradients=gradients,
    )
    before = flat(gradients.model)
    mechanism(noise_multiplier=2.0).train(problem, noise=SeededNoise(1), shuffle=np.random.default_rng(0))
    np.testing.assert_allclose(flat(gradients.model) - before, -seen[0].numpy(), atol=1e-6)
    assert seen[0].abs().max() > 0.01


def test_training_without_per_unit_gradients_of_that_model_is_refused():
    gradients = per_unit("opacus")
    for wrong in (None, per_unit("opacus")):
        problem = LocalProblem(
            model=gradients.model,
            size=0,
            inputs=lambda rows: examples(len(rows)),
            losses=losses,
            optimizer=torch.optim.SGD(gradients.parameters.values(), lr=1.0),
            gradients=wrong,
        )
        with pytest.raises(PrivacyError, match="per-unit gradients"):
            mechanism().train(problem, noise=SeededNoise(0), shuffle=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_rate", 1.5),
        ("noise_multiplier", -1.0),
        ("max_grad_norm", 0.0),
        ("expected_batch_size", np.inf),
        ("steps", 0),
        ("micro_batch_size", 0),
    ],
)
def test_facts_out_of_bounds_are_refused(field, value):
    with pytest.raises(PrivacyError, match=field):
        mechanism(**{field: value})


@pytest.mark.cuda
@KINDS
def test_a_step_on_cuda_equals_the_cpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: parity with the CPU is not checked")
    from mmrank.privacy.per_unit import build_per_unit

    units, moved = examples(20, seed=2), {}
    for device in ("cpu", "cuda"):
        there = {name: tensor.to(device) for name, tensor in units.items()}
        gradients = build_per_unit(
            kind,
            seeded(Scorer()).to(device),
            losses,
            example={k: v.to(device) for k, v in examples(3).items()},
            size=8,
        )
        before = flat(seeded(Scorer()))
        problem = LocalProblem(
            model=gradients.model,
            size=20,
            inputs=lambda rows, there=there, device=device: {
                name: tensor[torch.from_numpy(rows).to(device)] for name, tensor in there.items()
            },
            losses=losses,
            optimizer=torch.optim.SGD(gradients.parameters.values(), lr=1.0),
            gradients=gradients,
        )
        mechanism(grad_sample=kind, steps=3, sampling_rate=0.7).train(
            problem, noise=SeededNoise(4, "cuda"), shuffle=np.random.default_rng(0)
        )
        moved[device] = flat(gradients.model.cpu()) - before
    np.testing.assert_allclose(moved["cuda"], moved["cpu"], atol=1e-4)


@pytest.mark.parametrize("clip", [1.0, 1e-3, 1e-6])
def test_a_gradient_too_long_for_float32_to_clip_counts_as_zero(clip):
    for size in np.geomspace(1e20, 3e38, 60):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = UnitOptimizer(
            torch.optim.SGD([parameter], lr=1.0),
            noise=SeededNoise(0),
            noise_multiplier=1.0,
            max_grad_norm=clip,
            expected_batch_size=1.0,
        )
        vars(parameter)["grad_sample"] = torch.full((1, 1), float(size))
        optimizer.clip_and_accumulate()
        assert float(parameter.summed_grad.abs().max()) <= clip
    with pytest.raises(PrivacyError, match="max_grad_norm"):
        mechanism(max_grad_norm=1e-7)
