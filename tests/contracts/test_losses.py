"""At stake: a loss that mixes slates would let clipping pass one person's influence for another's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank import components
from mmrank.errors import ConfigError

NAMES = components.available("mmrank.losses")


def slates(batch=4, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, length, generator=generator, dtype=torch.float64)
    relevance = torch.randint(0, 3, (batch, length), generator=generator).double()
    relevance[:, 0] = 1.0
    mask = torch.ones(batch, length, dtype=torch.bool)
    return scores, relevance, mask


@pytest.fixture(params=NAMES)
def loss(request):
    return components.build("mmrank.losses", {"name": request.param})


def test_every_loss_of_the_issue_is_there():
    assert {"softmax", "lambdaloss", "approxndcg", "bce", "mse"} <= set(NAMES)


def test_one_loss_a_slate_that_depends_on_that_slate_alone(loss):
    scores, relevance, mask = slates()
    scores.requires_grad_()
    values = loss(scores, relevance, mask)
    assert values.shape == (4,)
    gradient = torch.autograd.grad(values[2], scores)[0]
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


def test_padding_changes_neither_loss_nor_gradient(loss):
    scores, relevance, mask = slates()
    padded = torch.cat([scores, torch.full((4, 3), 50.0, dtype=torch.float64)], dim=1).requires_grad_()
    wide_relevance = torch.cat([relevance, torch.full((4, 3), 2.0, dtype=torch.float64)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    values = loss(padded, wide_relevance, wide_mask)
    torch.testing.assert_close(values, loss(scores, relevance, mask))
    assert torch.autograd.grad(values.sum(), padded)[0][:, 7:].abs().sum() == 0


def test_a_slate_without_relevant_items_teaches_nothing(loss):
    scores, relevance, mask = slates()
    scores.requires_grad_()
    values = loss(scores, torch.zeros_like(relevance), mask)
    assert values.abs().max() == 0
    assert torch.autograd.grad(values.sum(), scores)[0].abs().max() == 0


def test_a_wholly_padded_slate_is_finite(loss):
    scores, relevance, mask = slates()
    scores.requires_grad_()
    values = loss(scores, relevance, torch.zeros_like(mask))
    assert values.abs().max() == 0
    assert torch.isfinite(torch.autograd.grad(values.sum(), scores)[0]).all()


def test_vmap_over_slates_gives_the_same_gradients(loss):
    scores, relevance, mask = slates()

    def one(score, grade, there):
        return loss(score[None], grade[None], there[None])[0]

    mapped = torch.func.vmap(torch.func.grad(one))(scores, relevance, mask)
    leaf = scores.clone().requires_grad_()
    torch.testing.assert_close(mapped, torch.autograd.grad(loss(leaf, relevance, mask).sum(), leaf)[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(7)))
def test_order_of_the_items_does_not_matter(seed, order):
    scores, relevance, mask = slates(seed=seed)
    for name in NAMES:
        value = components.build("mmrank.losses", {"name": name})
        torch.testing.assert_close(
            value(scores[:, order], relevance[:, order], mask), value(scores, relevance, mask), msg=name
        )


def test_a_better_order_costs_less(loss):
    relevance = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    good, bad = torch.tensor([[2.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    assert loss(good, relevance, mask) < loss(bad, relevance, mask)


# Each formula again, by loops over plain floats.


def reference_softmax(s, y):
    g = [2**v - 1 for v in y]
    z = math.log(sum(math.exp(v) for v in s))
    return -sum(a / sum(g) * (b - z) for a, b in zip(g, s, strict=True))


def reference_lambdaloss(s, y, sigma=1.0):
    rank = {i: r + 1 for r, i in enumerate(sorted(range(len(s)), key=lambda i: -s[i]))}
    ideal = sum((2**v - 1) / math.log2(2 + r) for r, v in enumerate(sorted(y, reverse=True)))
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            if y[i] > y[j]:
                apart = abs(rank[i] - rank[j])
                delta = abs(1 / math.log2(1 + apart) - 1 / math.log2(2 + apart))
                gain = abs(2 ** y[i] - 2 ** y[j]) / ideal
                total += delta * gain * math.log2(1 + math.exp(-sigma * (s[i] - s[j])))
    return total


def reference_approxndcg(s, y, t=0.1):
    ideal = sum((2**v - 1) / math.log2(2 + r) for r, v in enumerate(sorted(y, reverse=True)))
    dcg = 0.0
    for i in range(len(s)):
        rank = 1 + sum(1 / (1 + math.exp(-(s[j] - s[i]) / t)) for j in range(len(s)) if j != i)
        dcg += (2 ** y[i] - 1) / math.log2(1 + rank)
    return 1 - dcg / ideal


def reference_bce(s, y):
    p = [1 / (1 + math.exp(-v)) for v in s]
    return -sum(math.log(q if v > 0 else 1 - q) for q, v in zip(p, y, strict=True)) / len(s)


def reference_mse(s, y):
    return sum((a - b) ** 2 for a, b in zip(s, y, strict=True)) / len(s)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("softmax", reference_softmax),
        ("lambdaloss", reference_lambdaloss),
        ("approxndcg", reference_approxndcg),
        ("bce", reference_bce),
        ("mse", reference_mse),
    ],
)
def test_the_formula_is_the_papers(name, reference):
    scores, relevance, mask = slates(batch=6, seed=3)
    expected = [reference(s.tolist(), y.tolist()) for s, y in zip(scores, relevance, strict=True)]
    actual = components.build("mmrank.losses", {"name": name})(scores, relevance, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(ConfigError, match="temperature=0"):
        components.build("mmrank.losses", {"name": "approxndcg", "temperature": 0.0})
    with pytest.raises(ConfigError, match="Did you mean 'sigma'"):
        components.build("mmrank.losses", {"name": "lambdaloss", "sigm": 1.0})
