"""A model's per-unit gradients are tried before they are trusted: all units at once against one at a time.

That catches what a list of layers can't: units that mix anywhere, an axis folded or swapped, a weight used
behind its layer's back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmrank.errors import RoundingError, UnsupportedModuleError
from mmrank.privacy._checks import Inputs, Losses, checked_losses, units_of

TOLERANCE = 1e-3
"""Largest difference, relative to the parameter's largest gradient: rounding (TF32 included) is below, a folded
axis far above."""
FLOOR = 1e-2
"""A parameter's largest gradient counts as at least this share of the model's: a listwise loss does not change
with a last bias, whose gradient is rounding alone."""


@contextmanager
def moved_parameters(model: nn.Module) -> Iterator[None]:
    """For the while, parameters a little off: heads that begin at zero would hide the layers below them."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trainable]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(trainable, kept, strict=True):
                parameter.copy_(values)


def one_at_a_time(model: nn.Module, losses: Losses, example: Inputs) -> dict[str, Tensor]:
    """Gradients [units, *p.shape] by plain autograd on batches of one, for each trainable parameter by name.

    Raises UnsupportedModuleError for fewer than 2 units, and for a parameter without any part in the loss.
    """
    units = units_of(example)
    if units < 2:
        raise UnsupportedModuleError(f"Expected at least 2 example units, not {units}: one can't show that units mix.")
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients: dict[str, list[Tensor]] = {name: [] for name in parameters}
    taken: set[str] = set()
    for row in range(units):
        unit = {name: tensor[row : row + 1] for name, tensor in example.items()}
        with torch.enable_grad():
            loss = checked_losses(losses(model(unit), unit), 1)[0]
            values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (name, parameter), value in zip(parameters.items(), values, strict=True):
            gradients[name].append(torch.zeros_like(parameter) if value is None else value)
            taken |= set() if value is None else {name}
    for name in parameters:
        if name not in taken:
            raise UnsupportedModuleError(f"Parameter {name} takes no part in the loss; remove it or freeze it.")
    return {name: torch.stack(values) for name, values in gradients.items()}


def compare(alone: Mapping[str, Tensor], together: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedModuleError where a unit's gradient is not what that unit alone gives."""
    floor = max(FLOOR * float(wanted.abs().max()) for wanted in alone.values())
    for name, wanted in alone.items():
        got = together.get(name)
        if got is None:
            raise UnsupportedModuleError(f"Parameter {name} has no per-unit gradient; use it in its layer's forward.")
        if got.shape != wanted.shape:
            raise UnsupportedModuleError(
                f"Parameter {name} has gradients {tuple(got.shape)}, not one for each of {len(wanted)} units; "
                "keep the unit on the first axis of every layer's input, or set privacy.grad_sample: vmap."
            )
        difference = float((got - wanted).abs().max()) / max(float(wanted.abs().max()), floor, 1e-30)
        if not difference <= TOLERANCE:
            raise UnsupportedModuleError(
                f"The per-unit gradient of {name} differs from the unit's alone by {difference:.2g} of its size; "
                "units mix, or a layer folds its items into their axis. Try privacy.grad_sample: vmap."
            )


def compare_bits(gradients: Callable[[Inputs], Mapping[str, Tensor]], example: Inputs, size: int) -> None:
    """Raise RoundingError where a unit's gradient, in a batch of `size`, changes in any bit by company or place.

    Each unit fills a whole batch, and its gradient must be the same at every place: one unit more or less moves all
    that come after it by a place. Then the first stands at one place, beside the others, beside none, and beside
    copies of the last. A model that came in may hold numbers that make such a bit as large as the clip.
    """
    units = units_of(example)
    for row in range(units):
        everywhere = {name: rows[row : row + 1].repeat(size, *[1] * (rows.dim() - 1)) for name, rows in example.items()}
        for name, rows in gradients(everywhere).items():
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise RoundingError(
                    f"The gradient of {name} is rounded in another way at another place, in batches of {size} on this "
                    "machine: a unit that comes or goes moves others'; set privacy.micro_batch_size: 1."
                )
    place = min(units, size) - 1

    def with_company(company: list[int | None]) -> Mapping[str, Tensor]:
        order = [*company[:place], 0, *company[place:]]
        batch = {
            name: torch.stack([rows.new_zeros(rows.shape[1:]) if row is None else rows[row] for row in order])
            for name, rows in example.items()
        }
        return {name: rows[place] for name, rows in gradients(batch).items()}

    others: list[int | None] = [1 + row % (units - 1) for row in range(size - 1)]
    first = with_company(others)
    nobody: list[int | None] = [None] * (size - 1)
    copies: list[int | None] = [units - 1] * (size - 1)
    for company in (nobody, copies):
        for name, wanted in with_company(company).items():
            if not torch.equal(wanted, first[name]):
                raise RoundingError(
                    f"The gradient of {name} is rounded in another way beside other units, in batches of {size} on "
                    "this machine: it would tell of them; set privacy.micro_batch_size: 1."
                )
