"""A gated recurrent unit over the events, oldest first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrank.encoders.behaviour import some_history


class GruBehaviour(nn.Module):
    """The GRU of Cho et al. 2014 in cuDNN's form (reset gate after the product); the last state, projected.

    A cell of Linears, as nn.GRU is opaque to per-unit gradients; the inputs' share of all steps is one product.
    """

    def __init__(self, *, dim: int, event_width: int) -> None:
        super().__init__()
        self.input = nn.Linear(event_width, 3 * dim)
        self.recurrent = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, events: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """[batch, 1, dim]; see the package."""
        inputs = self.input(events)
        state = torch.zeros_like(inputs[:, 0, : inputs.shape[-1] // 3])
        for step in range(inputs.shape[1]):
            reset_in, update_in, new_in = inputs[:, step].chunk(3, dim=-1)
            reset_h, update_h, new_h = self.recurrent(state).chunk(3, dim=-1)
            update = torch.sigmoid(update_in + update_h)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_h) * new_h)
            keep = mask[:, step, None]
            state = keep * ((1.0 - update) * new + update * state) + (1.0 - keep) * state
        return self.out(state).unsqueeze(1) * some_history(mask)


def build(*, dim: int, event_width: int) -> nn.Module:
    """No settings of its own."""
    return GruBehaviour(dim=dim, event_width=event_width)
