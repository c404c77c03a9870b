"""At stake: what leaves a client is the update it meant to send, whatever it holds and however often it trains."""

import numpy as np
import pytest
import torch

from client.training import _inputs, example_batch, fit, local_update, prepare
from mmrank import components
from mmrank.errors import PrivacyError, UnsupportedModuleError
from mmrank.privacy.no_privacy import NoPrivacy, minibatches
from mmrank.privacy.noise import SeededNoise
from mmrank.ranker import build_ranker, gather, parameters_of
from mmrank.settings import TrainingSettings
from mmrank.slates import collate
from tests.privacy.models import mechanism
from tests.toys import toy_model, toy_slates

KINDS = pytest.mark.parametrize("kind", ["opacus", "vmap"])
TRAINING = TrainingSettings(local_steps=2, batch_size=4, slate_length=8, optimizer="sgd", learning_rate=0.1)
PLAIN = NoPrivacy(steps=2, batch_size=4)


@pytest.fixture(scope="module")
def ranker():
    return build_ranker(toy_model(), seed=0)


def batch_of(count: int):
    return collate(toy_slates(count), history_length=6, slate_length=8)


def update(ranker, features, batch, privacy=PLAIN, *, training=TRAINING, seed=0, mu=0.0, start=None):
    return local_update(
        ranker,
        start or parameters_of(build_ranker(toy_model(), seed=0)),
        batch,
        features,
        training=training,
        privacy=privacy,
        noise=SeededNoise(seed, "test"),
        shuffle=np.random.default_rng(seed),
        steps=privacy.steps,
        proximal_mu=mu,
    )


def flat(values) -> np.ndarray:
    return np.concatenate([values[name].ravel() for name in sorted(values)])


@pytest.mark.parametrize("passes", [0.1, 5.0])
def test_what_a_slate_is_to_a_private_step_does_not_depend_on_its_company(features, passes):
    """Alone, in a micro-batch that is not full, in one that is, and behind one: the same bits."""
    many = batch_of(70)
    wanted = None
    for held, rows in ((1, [0]), (2, [0, 1]), (70, [0]), (70, [0, 69]), (70, range(70)), (70, [*range(1, 66), 0])):
        batch = many.select(np.arange(held))
        inputs = _inputs(batch, features, toy_model(), "cpu", passes=passes, size=64)(np.array(list(rows)))
        place = list(rows).index(0)
        found = {name: tensor[place] for name, tensor in inputs.items()}
        wanted = wanted or found
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), (held, rows)
        assert all(len(tensor) == len(list(rows)) for tensor in inputs.values())


@pytest.mark.parametrize("privacy", [PLAIN, mechanism(steps=2), mechanism(steps=2, grad_sample="vmap")])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_every_client_sends_the_same_names_and_shapes(ranker, features, privacy, count):
    got, like = update(ranker, features, batch_of(count), privacy), parameters_of(ranker)
    assert {name: (array.shape, array.dtype) for name, array in got.items()} == {
        name: (array.shape, array.dtype) for name, array in like.items()
    }
    assert all(np.isfinite(array).all() for array in got.values())


def test_a_client_without_slates_sends_zeros_without_a_mechanism_and_noise_with_one(ranker, features):
    assert np.abs(flat(update(ranker, features, batch_of(0)))).max() == 0
    noisy = flat(update(ranker, features, batch_of(0), mechanism(steps=2, noise_multiplier=1.0)))
    assert (noisy != 0).mean() > 0.9  # on the grid of released sums a few are 0


def test_a_plain_step_is_the_mean_gradient_of_its_minibatch(ranker, features):
    batch, start = batch_of(6), parameters_of(ranker)
    one_step = NoPrivacy(steps=1, batch_size=4)
    got = update(ranker, features, batch, one_step, start=start)
    rows = np.random.default_rng(0).permutation(6)[:4]
    reference = build_ranker(toy_model(), seed=0)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(torch.from_numpy(start[name]))
    chosen = batch.select(rows)
    loss = components.build("mmrank.losses", {"name": "softmax"})
    scores = reference(gather(chosen, features, reference.model))
    loss(scores, chosen.relevance, chosen.candidate_mask).mean().backward()
    for name, parameter in reference.named_parameters():
        np.testing.assert_allclose(got[name], -0.1 * parameter.grad.numpy(), atol=1e-6)


@KINDS
def test_both_ways_to_unit_gradients_train_alike(ranker, features, kind):
    start = {name: value + np.float32(0.05) for name, value in parameters_of(ranker).items()}
    private = mechanism(steps=3, sampling_rate=0.6, noise_multiplier=0.5, grad_sample=kind)
    training = TrainingSettings(local_steps=3, slate_length=8)
    other = mechanism(steps=3, sampling_rate=0.6, noise_multiplier=0.5, grad_sample="opacus", micro_batch_size=64)
    a = update(ranker, features, batch_of(9), private, training=training, start=start)
    b = update(ranker, features, batch_of(9), other, training=training, start=start)
    np.testing.assert_allclose(flat(a), flat(b), atol=1e-4)


@pytest.mark.parametrize("privacy", [PLAIN, mechanism(steps=2, noise_multiplier=1.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_round_leaves_nothing_for_the_next(ranker, features, privacy, optimizer):
    """Neither momentum, nor gradients, nor the last client's parameters."""
    training = TrainingSettings(local_steps=2, batch_size=4, slate_length=8, optimizer=optimizer, momentum=0.9)
    first = update(ranker, features, batch_of(9), privacy, training=training)
    update(ranker, features, batch_of(3), privacy, training=training, seed=5)
    again = update(ranker, features, batch_of(9), privacy, training=training)
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("privacy", [PLAIN, mechanism(steps=2, noise_multiplier=1.0)])
def test_a_proximal_term_pulls_towards_the_servers_model(ranker, features, privacy):
    free, held = (update(ranker, features, batch_of(9), privacy, mu=mu) for mu in (0.0, 5.0))
    assert np.linalg.norm(flat(held)) < np.linalg.norm(flat(free))


def test_the_proximal_gradient_is_mu_times_the_way_gone(ranker, features):
    one = update(ranker, features, batch_of(0), mechanism(steps=1, noise_multiplier=1.0), mu=2.0)
    private = mechanism(steps=2, noise_multiplier=1.0)
    free, held = (update(ranker, features, batch_of(0), private, mu=mu) for mu in (0.0, 2.0))
    # noise alone moves the parameters by u1 + u2; the second step is pulled back by 0.1 * 2 * u1
    np.testing.assert_allclose(flat(free) - flat(held), 0.1 * 2.0 * flat(one), atol=1e-6)


def test_steps_that_are_not_charged_are_refused(ranker, features):
    with pytest.raises(PrivacyError, match="set training.local_steps"):
        local_update(
            ranker,
            parameters_of(ranker),
            batch_of(2),
            features,
            training=TRAINING,
            privacy=mechanism(steps=2),
            noise=SeededNoise(0),
            shuffle=np.random.default_rng(0),
            steps=3,
        )


def test_the_hooked_copy_is_made_once_and_the_ranker_stays_bare(ranker, features):
    first = prepare(ranker, features, training=TRAINING, privacy=mechanism())
    assert prepare(ranker, features, training=TRAINING, privacy=mechanism(steps=7)) is first
    assert first.model is not ranker
    assert not any(module._forward_hooks for module in ranker.modules())
    assert prepare(ranker, features, training=TRAINING, privacy=PLAIN) is None


def test_a_ranker_whose_units_mix_is_refused_before_it_sees_a_slate(features):
    class Mixed(type(build_ranker(toy_model(), seed=0))):
        def forward(self, inputs):
            return super().forward(inputs) * (1 + super().forward(inputs).mean())

    with pytest.raises(UnsupportedModuleError, match="units mix"):
        prepare(Mixed(toy_model()), features, training=TRAINING, privacy=mechanism())


def test_examples_hold_public_items_alone_and_padding(features):
    example = example_batch(features, toy_model(), 8)
    assert example.candidates.max() < len(features.category)
    assert (~example.candidate_mask).any()
    assert (~example.history_mask).any()
    assert example.relevance.sum(1).min() > 0


def test_gathering_each_step_gives_what_gathering_once_does(ranker, features, monkeypatch):
    once = update(ranker, features, batch_of(9), mechanism(steps=2, sampling_rate=0.5))
    monkeypatch.setattr("client.training.GATHER_LIMIT_BYTES", 0)
    each = update(ranker, features, batch_of(9), mechanism(steps=2, sampling_rate=0.5))
    np.testing.assert_allclose(flat(once), flat(each), atol=1e-6)


def test_fitting_lowers_the_loss_in_place(features):
    ranker, batch = build_ranker(toy_model(), seed=0), batch_of(12)
    loss = components.build("mmrank.losses", {"name": "softmax"})

    def value() -> float:
        with torch.no_grad():
            scores = ranker(gather(batch, features, ranker.model))
        return float(loss(scores, batch.relevance, batch.candidate_mask).mean())

    before = value()
    fit(ranker, batch, features, training=TrainingSettings(), steps=40, shuffle=np.random.default_rng(0))
    assert value() < 0.8 * before


def test_minibatches_cover_an_epoch_without_repeats():
    batches = minibatches(10, 4, np.random.default_rng(0))
    epoch = np.concatenate([next(batches), next(batches)])
    assert len(np.unique(epoch)) == 8
    assert len(next(batches)) == 4
    assert sorted(next(minibatches(3, 4, np.random.default_rng(0)))) == [0, 1, 2]


@pytest.mark.cuda
@KINDS
def test_an_update_on_cuda_equals_the_cpu(ranker, features, kind):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: parity of a client's update with the CPU is not checked")
    private, moved = mechanism(steps=3, sampling_rate=0.7, grad_sample=kind), []
    for device in ("cpu", "cuda"):
        moved.append(
            local_update(
                build_ranker(toy_model(), seed=0),
                parameters_of(ranker),
                batch_of(12),
                features,
                training=TRAINING,
                privacy=private,
                noise=SeededNoise(0, "cuda"),
                shuffle=np.random.default_rng(0),
                steps=3,
                device=device,
            )
        )
    np.testing.assert_allclose(flat(moved[1]), flat(moved[0]), atol=1e-4)
