"""The mean of the events, projected."""

from __future__ import annotations

from torch import Tensor, nn


class MeanBehaviour(nn.Module):
    """A projection of each event, averaged over the history."""

    def __init__(self, *, dim: int, event_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(event_width, dim)

    def forward(self, events: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """[batch, 1, dim]; see the package."""
        weight = mask / mask.sum(1, keepdim=True).clamp(min=1.0)
        return (self.project(events) * weight.unsqueeze(-1)).sum(1, keepdim=True)


def build(*, dim: int, event_width: int) -> nn.Module:
    """No settings of its own."""
    return MeanBehaviour(dim=dim, event_width=event_width)
