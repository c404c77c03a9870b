"""A plain (Elman) recurrent network over the events, oldest first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrank.encoders.behaviour import some_history


class RecurrentBehaviour(nn.Module):
    """h' = tanh(W x + U h) (Elman 1990); the last state, projected.

    A cell of Linears: nn.RNN hides its weights from per-unit gradients and fails under vmap.
    """

    def __init__(self, *, dim: int, event_width: int) -> None:
        super().__init__()
        self.input = nn.Linear(event_width, dim)
        self.recurrent = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, events: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """[batch, 1, dim]; see the package."""
        inputs = self.input(events)
        state = torch.zeros_like(inputs[:, 0])
        for step in range(inputs.shape[1]):
            keep = mask[:, step, None]
            state = keep * torch.tanh(inputs[:, step] + self.recurrent(state)) + (1.0 - keep) * state
        return self.out(state).unsqueeze(1) * some_history(mask)


def build(*, dim: int, event_width: int) -> nn.Module:
    """No settings of its own."""
    return RecurrentBehaviour(dim=dim, event_width=event_width)
