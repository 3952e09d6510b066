"""State dicts: entries without aliases, checks, and copies into a module."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from inarch.population.errors import NotFiniteError, StructureError
from inarch.population.state.memory_order import FOREACH

BATCH_NORM_STATISTICS = ("running_mean", "running_var")
"""Ends of the keys of batch norm's running statistics."""

State = Mapping[str, Tensor]
"""A state dict: tensors by key."""


STRUCTURAL_BUFFERS = frozenset({"fusion_proxies", "fusion_chosen", "fusion_scores"})
"""Ends of the keys of structural buffers, which describe how a fused convolution is built at the moment."""


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state dict with one key per tensor. Tied tensors have their first key.

    Entries that are not tensors are left out.

    Args:
        module: The network.

    Returns:
        The module's own tensors, in the state dict's order. Writing into them changes the module.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for key, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        storage = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and storage in seen:
            continue
        seen.add(storage)
        tensors[key] = tensor
    return tensors


SPECTRAL_NORM = re.compile(r"(^|\.)parametrizations\.\w+\.\d+\._[uv]$")
"""Keys of the singular vectors that spectral norm estimates. Their signs are arbitrary, so that a mean of those of two
networks is of no use."""


def is_structural(key: str) -> bool:
    """Return whether an entry is a structural buffer, or a singular vector of spectral norm.

    Grafts do not change these, and averages do not hold them.

    Args:
        key: Key of the entry in a state dict.
    """
    return key.rpartition(".")[2] in STRUCTURAL_BUFFERS or SPECTRAL_NORM.search(key) is not None


def constant_buffers(module: nn.Module) -> frozenset[str]:
    """Return the keys of buffers that no exchange and no average changes.

    These are buffers with values that are not finite, such as masks, and the singular vectors that the old
    torch.nn.utils.spectral_norm estimates.

    Args:
        module: The network.
    """
    parameters = {name for name, _ in module.named_parameters()}
    return frozenset(
        name
        for name, tensor in named_tensors(module).items()
        if name not in parameters and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ) | {
        f"{stem}.{hook.name}_{vector}" if stem else f"{hook.name}_{vector}"
        for stem, owner in module.named_modules()
        for hook in weight_hooks(owner)
        if isinstance(hook, SpectralNorm)
        for vector in ("u", "v")
    }


def weight_hooks(module: nn.Module) -> list[SpectralNorm | WeightNorm]:
    """Return the hooks with which the old torch.nn.utils.spectral_norm and weight_norm compute a module's weights.

    Args:
        module: The module, without its submodules.
    """
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm | WeightNorm)]  # pyright: ignore[reportPrivateUsage] # torch has no public list of hooks


def check_finite(state: Mapping[str, Tensor], *, but: Collection[str] = ()) -> None:
    """Raise NotFiniteError if a float entry has a value that is NaN or infinite.

    Args:
        state: A state dict.
        but: Keys of entries to skip.

    Raises:
        NotFiniteError: The message names the first such entry.
    """
    checked = {
        name: tensor
        for name, tensor in state.items()
        if name not in but and tensor.is_floating_point() and tensor.numel()
    }
    if _are_finite_on_device(list(checked.values())):
        return
    for name, tensor in checked.items():
        low, high = torch.aminmax(tensor)  # propagates NaN, so the two cover every value
        if not (math.isfinite(float(low)) and math.isfinite(float(high))):
            raise NotFiniteError(f"{name} has a value that is NaN or infinite")


def _are_finite_on_device(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors on a GPU are finite, with one wait for all of them. False on the CPU: it is not known."""
    if not tensors or tensors[0].device.type == "cpu":
        return False
    norms = FOREACH._foreach_norm(list(tensors), math.inf)
    return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


def load_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict into a module's own tensors.

    Args:
        module: The network. It is changed.
        state: State dict of the same structure, as `named_tensors` returns it. It is only read.

    Raises:
        StructureError: An entry is missing, unknown, or has a different shape.
    """
    own = named_tensors(module)
    check_same_structure(own, state)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def check_same_structure(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Raise StructureError if two state dicts differ in a key or a shape.

    Args:
        own: State dict of the rootstock.
        other: State dict of the scion.

    Raises:
        StructureError: The message names the first entry that differs.
    """
    for key in [*own, *(key for key in other if key not in own)]:
        if key not in other or key not in own:
            owner, lacking = ("rootstock", "scion") if key in own else ("scion", "rootstock")
            raise StructureError(f"the {owner} has {key}, the {lacking} does not; grafting needs one architecture")
        if own[key].shape != other[key].shape:
            raise StructureError(
                f"the scion has {key} {tuple(other[key].shape)}, the rootstock {tuple(own[key].shape)}; "
                "grafting needs one architecture"
            )


def is_convolution(weight: Tensor) -> bool:
    """Return whether an entry has the shape of a convolution's weight, (out, in, kernel...), and is of a float type.

    Args:
        weight: An entry of a state dict.
    """
    return weight.dim() >= 3 and weight.is_floating_point()


def frozen_parameters(module: nn.Module) -> frozenset[str]:
    """Return the keys of the parameters that training does not change (requires_grad=False).

    Args:
        module: The network.
    """
    return frozenset(name for name, parameter in module.named_parameters() if not parameter.requires_grad)


def untrained_keys(module: nn.Module) -> frozenset[str]:
    """Return the keys of entries that training does not change.

    These are frozen parameters, and buffers other than batch norm's statistics. They may hold values that are not
    finite.

    Args:
        module: The network.
    """
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return frozenset(
        key for key in named_tensors(module) if key not in trained and not key.endswith(BATCH_NORM_STATISTICS)
    )
