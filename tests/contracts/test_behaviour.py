"""At stake: an empty history must give exactly the unpersonalised score, and padding must be inert."""

import pytest
import torch

from mmrank import components
from mmrank.errors import ConfigError

FAMILY = "mmrank.encoders.behaviour"
DIM, WIDTH = 8, 13


@pytest.fixture(params=components.available(FAMILY))
def encoder(request):
    torch.manual_seed(0)
    return components.build(FAMILY, {"name": request.param}, dim=DIM, event_width=WIDTH)


def inputs(batch=3, history=5, slate=4):
    generator = torch.Generator().manual_seed(1)
    events = torch.randn(batch, history, WIDTH, generator=generator)
    mask = torch.tensor([[1.0] * 5, [1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5])[:batch]
    return events, mask, torch.randn(batch, slate, DIM, generator=generator)


def test_every_encoder_of_the_design_is_there():
    assert {"gru", "rnn", "attention", "mean"} <= set(components.available(FAMILY))


def test_shape_and_an_empty_history_is_exactly_zero(encoder):
    events, mask, candidates = inputs()
    user = encoder(events, mask, candidates)
    assert user.shape in {(3, 1, DIM), (3, 4, DIM)}
    assert user[2].abs().max() == 0
    assert user[:2].abs().min(dim=-1).values.max() > 0


def test_padded_events_change_nothing(encoder):
    events, mask, candidates = inputs()
    changed = events + (1.0 - mask).unsqueeze(-1) * 100.0
    assert torch.equal(encoder(changed, mask, candidates), encoder(events, mask, candidates))
    wider = torch.cat([events, torch.full((3, 2, WIDTH), 9.0)], dim=1)
    wide_mask = torch.cat([mask, torch.zeros(3, 2)], dim=1)
    torch.testing.assert_close(encoder(wider, wide_mask, candidates), encoder(events, mask, candidates))


def test_people_do_not_mix(encoder):
    events, mask, candidates = inputs()
    events.requires_grad_()
    gradient = torch.autograd.grad(encoder(events, mask, candidates)[0].sum(), events)[0]
    assert gradient[1:].abs().max() == 0


def test_vmap_over_people_gives_the_same(encoder):
    events, mask, candidates = inputs()

    def one(event, there, candidate):
        return encoder(event[None], there[None], candidate[None])[0]

    torch.testing.assert_close(torch.func.vmap(one)(events, mask, candidates), encoder(events, mask, candidates))


def test_no_people_at_all(encoder):
    events, mask, candidates = inputs()
    assert encoder(events[:0], mask[:0], candidates[:0]).shape[0] == 0


@pytest.mark.parametrize("name", ["gru", "rnn"])
def test_the_order_of_events_matters_to_a_recurrent_encoder(name):
    torch.manual_seed(0)
    encoder = components.build(FAMILY, {"name": name}, dim=DIM, event_width=WIDTH)
    events, mask, candidates = inputs(batch=1)
    assert not torch.allclose(encoder(events.flip(1), mask, candidates), encoder(events, mask, candidates))


def test_gru_is_torchs_gru():
    torch.manual_seed(0)
    ours = components.build(FAMILY, {"name": "gru"}, dim=DIM, event_width=WIDTH)
    theirs = torch.nn.GRU(WIDTH, DIM, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input.weight)
        theirs.bias_ih_l0.copy_(ours.input.bias)
        theirs.weight_hh_l0.copy_(ours.recurrent.weight)
        theirs.bias_hh_l0.copy_(ours.recurrent.bias)
    events, _, candidates = inputs()
    expected = ours.out(theirs(events)[1][0]).unsqueeze(1)
    torch.testing.assert_close(ours(events, torch.ones(3, 5), candidates), expected)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="heads=3 to divide model.dim=8"):
        components.build(FAMILY, {"name": "attention", "heads": 3}, dim=DIM, event_width=WIDTH)
