"""One gradient for each privacy unit, or a refusal.

Two ways that give the same numbers: Opacus' hooks (fast where every layer's first axis is the unit), and
torch.func.vmap over units (safe where layers fold a unit's items into their batch, as picture towers do).
Clipping bounds a person's influence only if row i of every gradient depends on unit i alone, and holds all
that depends on it. So the model is tried on public example inputs first, and refused where that fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mmrank.errors import UnsupportedModuleError
from mmrank.privacy._checks import RECURRENT, Inputs, Losses, check_model, checked_losses, units_of
from mmrank.privacy._trial import compare, compare_bits, moved_parameters, one_at_a_time


class PerUnitGradients(Protocol):
    """Per-unit gradients of one model and one loss.

    model: owned by this object, which may have hooked it. parameters: the trainable ones, by name. size: of the
    batches in which they were tried, and must be taken.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    size: int

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """[units, *p.shape] for each parameter, not averaged, by name; one that took no part may be absent.

        `inputs` may hold no unit at all. Leaves `p.grad` at None.
        """
        ...


def padded(inputs: Inputs, size: int) -> Inputs:
    """`inputs` of at most `size` units with units of zeros after them: always `size` in all."""
    missing = size - units_of(inputs)
    if missing < 0:
        raise ValueError(f"Expected at most size={size} units, not {units_of(inputs)}.")
    if missing == 0:
        return inputs
    return {name: torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) for name, rows in inputs.items()}


def build_per_unit(
    kind: Literal["opacus", "vmap"], model: nn.Module, losses: Losses, *, example: Inputs, size: int, alone: int = 1
) -> PerUnitGradients:
    """Per-unit gradients of `model` for batches of `size`, tried on `example`: public inputs of 2 or more unlike units.

    alone: a batch of so many is one privacy unit's own, whose rounding tells of nobody else. Takes `model` over: it
    gets hooks and stays in training mode. Its parameters end as they were.
    Raises UnsupportedModuleError where the gradients can't be trusted, RoundingError where a smaller size might do.
    """
    check_model(model)
    with moved_parameters(model):
        wanted = one_at_a_time(model, losses, example)  # before there are hooks
        gradients: PerUnitGradients = (OpacusGradients if kind == "opacus" else VmapGradients)(model, losses)
        compare(wanted, gradients(example))
        if size > alone:
            compare_bits(gradients, example, size)
    gradients.size = size
    return gradients


class OpacusGradients:
    """Opacus' GradSampleModule hooks, in strict mode, with the loss summed over units.

    Before each hooked layer the first axis of its input must be as long as there are units: where
    candidates are folded into it, Opacus would clip each candidate and say nothing.
    """

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        self.model, self.losses, self.size = model, losses, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._units = 0
        try:
            self._hooked = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
        except NotImplementedError as error:
            raise UnsupportedModuleError(
                f"Opacus refuses the model ({error}); set privacy.grad_sample: vmap."
            ) from error
        self._hooked.disable_hooks()
        names = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self._layers = [module for module in self._hooked.iterate_submodules(model) if type(module) not in RECURRENT]
        for module in self._layers:
            module.register_forward_pre_hook(self._checker(names[module]), with_kwargs=True)

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """See PerUnitGradients."""
        self._units = units_of(inputs)
        if self._units == 0:  # an empty batch crashes some layers
            return {name: p.new_zeros(0, *p.shape) for name, p in self.parameters.items()}
        self._hooked.enable_hooks()
        try:
            with torch.enable_grad():
                losses = checked_losses(self.losses(self._hooked(inputs), inputs), self._units)
            with warnings.catch_warnings():
                # a first layer's input needs no gradient; its hook gets what it needs, the gradient of the output
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                losses.sum().backward()
            rows = {name: getattr(p, "grad_sample", None) for name, p in self.parameters.items()}
        finally:
            self._hooked.disable_hooks()
            self._forget()
        return {name: value for name, value in rows.items() if value is not None}

    def _forget(self) -> None:
        """Drop the plain sum, and what an unfinished pass may have left: it would be added to other units' rows."""
        for module in self._layers:
            for leftover in ("activations", "max_batch_len"):
                if hasattr(module, leftover):
                    delattr(module, leftover)
        for parameter in self.parameters.values():
            parameter.grad = None
            vars(parameter).update(grad_sample=None, _forward_counter=0)
            vars(parameter).pop("_current_grad_sample", None)

    def _checker(self, name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
        def check(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            if not self._hooked.hooks_enabled:
                return
            if kwargs or not args:
                raise UnsupportedModuleError(f"{name} takes inputs by keyword, which hooks don't see.")
            for value in args:
                shape = tuple(value.shape) if isinstance(value, Tensor) else ()
                if shape[:1] != (self._units,):
                    raise UnsupportedModuleError(
                        f"Expected the input of {name} to begin with the axis of {self._units} units, not {shape}; "
                        "keep items on an axis of their own, or set privacy.grad_sample: vmap."
                    )

        return check


class VmapGradients:
    """torch.func.vmap of one unit's gradient: each unit goes through the model in a batch of one."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        self.model, self.losses, self.size = model, losses, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._fixed: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self._fixed.update(model.named_buffers())
        self._gradient = vmap(grad(self._loss_of_one), in_dims=(None, 0))

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """See PerUnitGradients."""
        if units_of(inputs) == 0:  # vmap refuses an axis of length 0
            return {name: p.new_zeros(0, *p.shape) for name, p in self.parameters.items()}
        return self._gradient({name: p.detach() for name, p in self.parameters.items()}, dict(inputs))

    def _loss_of_one(self, parameters: dict[str, Tensor], unit: Inputs) -> Tensor:
        inputs = {name: tensor.unsqueeze(0) for name, tensor in unit.items()}
        scores = functional_call(self.model, {**self._fixed, **parameters}, (inputs,))
        return checked_losses(self.losses(scores, inputs), 1)[0]
