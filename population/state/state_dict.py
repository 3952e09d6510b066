"""State dicts: names without aliases, checks, and copies into a module."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from inarch.population.errors import NotFiniteError, StructureError

BATCH_NORM_STATISTICS = ("running_mean", "running_var")
"""Last words of the keys of batch norm's running statistics."""

State = Mapping[str, Tensor]


STRUCTURAL_BUFFERS = frozenset({"fusion_proxies", "fusion_chosen", "fusion_scores"})
"""Last words of the keys of a fused convolution's own buffers."""


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict without the second names of tied tensors and without what is no tensor.

    The tensors are the module's own: writing into one writes into the module. Keys keep the state dict's order.
    """
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for key, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        place = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[key] = tensor
    return found


def is_structural(key: str) -> bool:
    """Whether an entry tells how a network is built at the moment, and is no weight: no graft changes it, no average
    holds it."""
    return key.rpartition(".")[2] in STRUCTURAL_BUFFERS


def constant_buffers(module: nn.Module) -> frozenset[str]:
    """Names of buffers that hold values which are not finite, as masks do. They stay as they are: no exchange and no
    average touches them."""
    parameters = {name for name, _ in module.named_parameters()}
    return frozenset(
        name
        for name, tensor in named_tensors(module).items()
        if name not in parameters and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    )


def check_finite(state: Mapping[str, Tensor], *, but: Collection[str] = ()) -> None:
    """Raises NotFiniteError at the first entry with NaN or infinity; the least and greatest value tell of all.

    Args:
        state: A state dict.
        but: Entries that are not looked at.
    """
    for name, tensor in state.items():
        if name not in but and tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not (math.isfinite(float(low)) and math.isfinite(float(high))):
                raise NotFiniteError(f"{name} has a value that is NaN or infinite")


def load_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a module's own tensors.

    Raises:
        StructureError: an entry is missing, is one too many, or has another shape.
    """
    own = named_tensors(module)
    check_same_structure(own, state)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def check_same_structure(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Raises StructureError at the first entry in which two state dicts differ."""
    for key in [*own, *(key for key in other if key not in own)]:
        if key not in other or key not in own:
            owner, lacking = ("rootstock", "scion") if key in own else ("scion", "rootstock")
            raise StructureError(f"the {owner} has {key}, the {lacking} has not; grafting needs one architecture")
        if own[key].shape != other[key].shape:
            raise StructureError(
                f"the scion has {key} {tuple(other[key].shape)}, the rootstock {tuple(own[key].shape)}; "
                "grafting needs one architecture"
            )


def is_convolution(weight: Tensor) -> bool:
    """Whether a state dict's entry has the shape of a convolution's weight: (out, in, kernel...), floats."""
    return weight.dim() >= 3 and weight.is_floating_point()


def untrained_keys(module: nn.Module) -> frozenset[str]:
    """Entries that training does not change: frozen parameters, and buffers other than batch norm's statistics. They
    may hold values that are not finite."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return frozenset(
        key for key in named_tensors(module) if key not in trained and not key.endswith(BATCH_NORM_STATISTICS)
    )
