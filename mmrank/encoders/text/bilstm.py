"""A bidirectional LSTM over token ids, trained with the ranker (Graves and Schmidhuber 2005).

The cell is written from Linear layers: nn.LSTM does not run under torch.func.vmap, and Opacus rejects it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmrank.encoders.text._token_rows import TokenEmbedding, TokenRows, check_positive, masked_mean


class Direction(nn.Module):
    """One LSTM pass over [batch, item, length, width] -> states [batch, item, length, hidden].

    i, f, o = sigmoid(W x + U h), g = tanh(...); c' = f c + i g; h' = o tanh(c'). A padded step changes nothing.
    """

    def __init__(self, width: int, hidden: int, *, backwards: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.backwards = backwards
        self.from_input = nn.Linear(width, 4 * hidden)
        self.from_state = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        gates_of_input = self.from_input(embedded)  # all steps at once
        state = torch.zeros_like(embedded[..., 0, :1]).expand(*embedded.shape[:-2], self.hidden)
        cell = state
        steps = range(embedded.shape[-2])
        states = []
        for step in reversed(steps) if self.backwards else steps:
            gates = gates_of_input[..., step, :] + self.from_state(state)
            entry, forget, out, new = gates.chunk(4, dim=-1)
            # one is added to the forget gate: without it the first steps forget everything (Jozefowicz et al. 2015)
            next_cell = torch.sigmoid(forget + 1.0) * cell + torch.sigmoid(entry) * torch.tanh(new)
            next_state = torch.sigmoid(out) * torch.tanh(next_cell)
            here = mask[..., step].unsqueeze(-1)
            cell = here * next_cell + (1.0 - here) * cell
            state = here * next_state + (1.0 - here) * state
            states.append(state)
        return torch.stack(states[::-1] if self.backwards else states, dim=-2)


class BiLstm(nn.Module):
    """[batch, item, length] token ids -> [batch, item, dim]: mean of both directions' states over the words."""

    def __init__(self, *, buckets: int, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(buckets, width)
        self.forwards = Direction(width, hidden, backwards=False)
        self.backwards = Direction(width, hidden, backwards=True)
        self.head = nn.Linear(2 * hidden, dim)

    def forward(self, rows: Tensor) -> Tensor:
        embedded, mask = self.embedding(rows)
        states = torch.cat([self.forwards(embedded, mask), self.backwards(embedded, mask)], dim=-1)
        return self.head(masked_mean(states, mask))


def build(*, buckets: int = 2048, length: int = 16, width: int = 32, hidden: int = 32) -> TokenRows:
    """buckets: rows of the embedding table, into which words are hashed. length: words of a text that are read.

    width, hidden: of the embeddings and of each direction's state. Raises ConfigError where one is out of bounds.
    """
    check_positive(length=length, width=width, hidden=hidden, buckets=buckets - 1)

    tower = partial(BiLstm, buckets=buckets, width=width, hidden=hidden)
    return TokenRows(buckets=buckets, length=length, tower=tower)
