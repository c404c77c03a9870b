"""At stake: row i of a gradient is unit i's and nobody else's; otherwise clipping bounds nothing."""

import numpy as np
import pytest
import torch
from opacus.layers import DPGRU
from torch import nn

from mmrank.errors import UnsupportedModuleError
from mmrank.privacy._checks import check_model
from mmrank.privacy.per_unit import build_per_unit
from tests.privacy.models import (
    WIDTH,
    BehindTheBack,
    Folded,
    Mixing,
    Scorer,
    examples,
    flat,
    losses,
    one_by_one,
    per_unit,
    seeded,
)

KINDS = pytest.mark.parametrize("kind", ["opacus", "vmap"])


class Grouped(nn.Module):
    """Convolutions and a group norm over each unit's items as channels' positions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv1d(WIDTH, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Linear(6, 1)

    def forward(self, inputs):
        hidden = torch.tanh(self.norm(self.convolution(inputs["x"].transpose(1, 2))))
        return self.head(hidden.transpose(1, 2)).squeeze(-1)


class Recurrent(nn.Module):
    """Opacus' GRU, whose cells are hooked in place of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = DPGRU(WIDTH, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, inputs):
        return self.head(self.gru(inputs["x"])[0]).squeeze(-1)


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("opacus", Scorer),
        ("vmap", Scorer),
        ("opacus", Grouped),
        ("vmap", Grouped),
        ("opacus", Recurrent),
        ("vmap", Folded),
    ],
)
def test_gradients_equal_those_of_each_unit_alone(kind, build):
    gradients, units = per_unit(kind, seeded(build())), examples(6, seed=3)
    expected = one_by_one(seeded(build()), units)
    rows = gradients(units)
    got = np.concatenate([rows[name].flatten(1).numpy() for name in gradients.parameters], axis=1)
    np.testing.assert_allclose(got, np.stack(expected), atol=2e-6)
    assert all(parameter.grad is None for parameter in gradients.parameters.values())


@KINDS
def test_building_leaves_the_parameters_as_they_were(kind):
    model = seeded(Scorer())
    before = flat(model)
    np.testing.assert_array_equal(flat(per_unit(kind, model).model), before)


@KINDS
def test_no_units_give_gradients_without_rows(kind):
    rows = per_unit(kind)(examples(0))
    assert rows
    assert all(value.shape[0] == 0 for value in rows.values())


@KINDS
def test_frozen_parameters_have_no_gradient(kind):
    model = seeded(Scorer())
    model.embedding.weight.requires_grad_(False)
    assert "embedding.weight" not in per_unit(kind, model)(examples(2))


def test_a_pass_that_broke_leaves_nothing_for_the_next():
    gradients, units = per_unit("opacus"), examples(4, seed=5)
    expected = gradients(units)
    bad = {**units, "ids": units["ids"] + 1000}
    with pytest.raises(IndexError):
        gradients(bad)
    again = gradients(units)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_the_model_can_be_used_without_per_unit_gradients_in_between():
    gradients, units = per_unit("opacus"), examples(4, seed=5)
    expected = gradients(units)
    with torch.no_grad():
        gradients.model(examples(9))
    again = gradients(units)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


@pytest.mark.parametrize("model", [Mixing, BehindTheBack])
def test_a_model_whose_gradients_are_not_the_units_own_is_refused(model):
    with pytest.raises(UnsupportedModuleError, match="differs from the unit's alone"):
        per_unit("opacus", seeded(model()))


def test_vmap_keeps_units_apart_even_in_a_model_that_would_mix_them():
    gradients, units = per_unit("vmap", seeded(Mixing())), examples(4)
    got = np.concatenate([rows.flatten(1).numpy() for rows in gradients(units).values()], axis=1)
    np.testing.assert_allclose(got, np.stack(one_by_one(seeded(Mixing()), units)), atol=2e-6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.head(self.second(self.first(inputs["x"]))).squeeze(-1)


class ZeroDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.temperature = nn.Linear(WIDTH, 1), nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs):
        return self.head(inputs["x"]).squeeze(-1) * self.temperature


class WithLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(WIDTH, 1)

    def forward(self, inputs):
        return self.head(self.layer(inputs["x"])).squeeze(-1)


@KINDS
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Tied, "tied to first.weight; untie|tied to first.weight"),
        (ZeroDimensional, r"temperature has shape \(\)"),
        (lambda: WithLayer(nn.BatchNorm1d(5)), "batch norm"),
        (lambda: WithLayer(nn.BatchNorm1d(5, affine=False)), "batch norm"),
        (lambda: WithLayer(nn.InstanceNorm1d(5, track_running_stats=True)), "running statistics"),
        (lambda: WithLayer(nn.Dropout(0.1)), "drops out with p=0.1"),
        (lambda: WithLayer(nn.EmbeddingBag(3, WIDTH)), "EmbeddingBag"),
        (lambda: WithLayer(nn.GRU(WIDTH, WIDTH, batch_first=True)), "Opacus refuses"),
        (lambda: WithLayer(nn.Identity()).requires_grad_(False), "no trainable parameter"),
    ],
)
def test_a_layer_that_cannot_be_trusted_is_refused(kind, model, message):
    with pytest.raises(UnsupportedModuleError, match=message):
        build_per_unit(kind, model(), losses, example=examples(3), size=4)


@KINDS
def test_a_parameter_without_a_part_in_the_loss_is_refused(kind):
    model = WithLayer(nn.Identity())
    model.idle = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModuleError, match="idle.weight takes no part"):
        build_per_unit(kind, model, losses, example=examples(3), size=4)


class BareParameter(nn.Module):
    """The root owns a parameter and takes a dictionary: hooks can't see which input is the unit's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, inputs):
        return (inputs["x"] * self.weight).sum(-1)


def test_a_root_with_a_parameter_of_its_own_needs_vmap():
    with pytest.raises(UnsupportedModuleError, match="vmap"):
        build_per_unit("opacus", BareParameter(), losses, example=examples(3), size=4)
    assert build_per_unit("vmap", BareParameter(), losses, example=examples(3), size=4)(examples(2))


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, inputs):
        return self.head(input=inputs["x"]).squeeze(-1)


def test_an_input_by_keyword_is_refused():
    with pytest.raises(UnsupportedModuleError, match="by keyword"):
        build_per_unit("opacus", ByKeyword(), losses, example=examples(3), size=4)


@KINDS
def test_one_example_is_not_enough(kind):
    with pytest.raises(UnsupportedModuleError, match="at least 2"):
        build_per_unit(kind, Scorer(), losses, example=examples(1), size=4)


def test_inputs_of_unlike_lengths_are_refused():
    with pytest.raises(UnsupportedModuleError, match="first axis"):
        per_unit("opacus")({**examples(3), "ids": examples(2)["ids"]})


def test_a_good_model_passes_every_check():
    check_model(Scorer())
