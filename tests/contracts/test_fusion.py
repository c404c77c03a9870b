"""At stake: an item's vector depends on that item's own sides alone, whichever of them are there."""

import pytest
import torch

from mmrank import components
from mmrank.errors import ConfigError

FAMILY = "mmrank.fusion"
DIM, META = 8, 4


@pytest.fixture(params=components.available(FAMILY))
def fusion(request):
    torch.manual_seed(0)
    return components.build(FAMILY, {"name": request.param}, dim=DIM, meta_width=META)


def sides(batch=2, items=5):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, items, DIM, generator=generator),
        torch.randn(batch, items, DIM, generator=generator),
        torch.randn(batch, items, META, generator=generator),
    )


def test_every_fusion_of_the_design_is_there():
    assert {"attention", "concatenation"} <= set(components.available(FAMILY))


def test_one_vector_an_item_and_items_do_not_mix(fusion):
    text, image, meta = sides()
    text.requires_grad_()
    fused = fusion(text, image, meta)
    assert fused.shape == (2, 5, DIM)
    gradient = torch.autograd.grad(fused[0, 3].sum(), text)[0]
    assert gradient[0, 3].abs().sum() > 0
    gradient[0, 3] = 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("absent", [(0,), (1,), (0, 1)])
def test_sides_that_are_switched_off(fusion, absent):
    given = [None if index in absent else side for index, side in enumerate(sides())]
    assert torch.isfinite(fusion(*given)).all()


def test_vmap_gives_the_same(fusion):
    text, image, meta = sides()
    mapped = torch.func.vmap(lambda a, b, c: fusion(a[None], b[None], c[None])[0])(text, image, meta)
    torch.testing.assert_close(mapped, fusion(text, image, meta))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="heads=3 to divide model.dim=8"):
        components.build(FAMILY, {"name": "attention", "heads": 3}, dim=DIM, meta_width=META)
