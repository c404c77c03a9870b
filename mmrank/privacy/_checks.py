"""What a model, its inputs and its loss must be before any per-unit gradient is taken of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opacus.layers import DPGRU, DPLSTM, DPRNN
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from mmrank.errors import UnsupportedModuleError

RECURRENT = (DPRNN, DPGRU, DPLSTM)
"""Opacus' recurrent layers: their cells' linear layers are hooked in their place."""

Inputs = Mapping[str, Tensor]
Losses = Callable[[Tensor, Inputs], Tensor]
"""(scores, inputs) -> one loss a unit, float [units]."""


def check_model(model: nn.Module) -> None:
    """Raise UnsupportedModuleError, naming the layer, for what no per-unit gradient is right for."""
    model.train()
    trainable = _owned_parameters(model)
    if not trainable:
        raise UnsupportedModuleError("The model has no trainable parameter; unfreeze a part of it.")
    names: dict[int, str] = {}
    for name, parameter in trainable:
        if parameter.dim() == 0:
            raise UnsupportedModuleError(
                f"Parameter {name} has shape (), which clipping passes over; give it shape (1,)."
            )
        first = names.setdefault(id(parameter), name)
        if first != name:
            raise UnsupportedModuleError(
                f"Parameter {name} is tied to {first}: they would be clipped apart; untie them."
            )
    for name, module in model.named_modules():
        _check_layer(name or type(model).__name__, module)
    errors = ModuleValidator.validate(model, strict=False)
    if errors:
        raise UnsupportedModuleError(f"Opacus refuses the model: {errors[0]}; choose a DP-compatible layer.")


def _owned_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Each trainable parameter under the layer that uses it, as often as there are such layers."""
    return [
        (f"{path}.{name}" if path else name, parameter)
        for path, module in model.named_modules()
        if type(module) not in RECURRENT  # they rename what their cells' linear layers own
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]


def _check_layer(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise UnsupportedModuleError(f"{name} is a batch norm, which mixes units; use GroupNorm.")
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
        raise UnsupportedModuleError(f"{name} keeps running statistics of private data; set track_running_stats=False.")
    if isinstance(module, nn.EmbeddingBag) and module.weight.requires_grad:
        raise UnsupportedModuleError(f"{name} is an EmbeddingBag, which under-clips repeated ids; use Embedding.")
    if isinstance(module, nn.Embedding) and module.padding_idx is not None and module.weight.requires_grad:
        raise UnsupportedModuleError(
            f"{name} has padding_idx={module.padding_idx}, whose row the noise moves all the same; "
            "leave it out and mask what is padded."
        )
    dropout = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
    if isinstance(dropout, float) and dropout > 0:
        raise UnsupportedModuleError(f"{name} drops out with p={dropout} from the global generator; set it to 0.")


def checked_losses(losses: Tensor, units: int) -> Tensor:
    """`losses` if there is one for each unit; UnsupportedModuleError otherwise (a mean, or one for each candidate)."""
    if losses.shape != (units,):
        raise UnsupportedModuleError(
            f"Expected one loss a unit, shape ({units},), not {tuple(losses.shape)}; return the loss of each unit."
        )
    return losses


def units_of(inputs: Inputs) -> int:
    """The length of the first axis, the same for every tensor; UnsupportedModuleError otherwise."""
    lengths = {name: tensor.shape[0] if tensor.dim() else -1 for name, tensor in inputs.items()}
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        raise UnsupportedModuleError(f"Expected the unit as the first axis of every input, not {lengths}.")
    return next(iter(lengths.values()))
