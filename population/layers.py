"""Which entries of a state dict form one graft unit: a convolution and what follows it.

As in the reference, the batch norm, the projection shortcut and the head that follow a convolution share its alpha.
Unlike the reference, convolutions are found from the modules (or the shapes) and not from the word 'conv' in a key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from population.errors import ConfigError, NotFiniteError, StructureError
from population.information import is_convolution

Units = Literal["convolutions", "matrices"]

SHORTCUT_NAMES = frozenset({"shortcut", "downsample"})
"""Names of submodules that hold a projection shortcut, in this package, torchvision and the reference."""


PRIVATE = frozenset({"fusion_proxies", "fusion_chosen", "fusion_scores"})
"""Last words of the keys of a fused convolution's own buffers."""


@dataclass(frozen=True, kw_only=True)
class GraftUnit:
    """Entries of a state dict that share one alpha."""

    name: str
    """Key of the weight whose information decides."""
    keys: tuple[str, ...]
    """All entries, in the state dict's order."""


def entries(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict without the second names of tied tensors; the tensors are the module's own.

    Keys keep the state dict's order. Writing into a tensor writes into the module.
    """
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for key, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[key] = tensor
    return found


def is_private(key: str) -> bool:
    """Whether an entry tells how a network is built at the moment, and is no weight: no graft changes it, no average
    holds it."""
    return key.rpartition(".")[2] in PRIVATE


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


def load_entries(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a module's own tensors.

    Raises:
        StructureError: an entry is missing, is one too many, or has another shape.
    """
    own = entries(module)
    check_same_structure(own, state)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def graft_units(module: nn.Module, units: Units = "convolutions") -> tuple[GraftUnit, ...]:
    """The graft units of a network, found from its modules.

    Args:
        module: The network.
        units: convolutions: each convolution (projection shortcuts aside) opens a unit; matrices: each parameter of
            two dimensions and more does, so that a transformer can be grafted.

    Raises:
        ConfigError: no entry opens a unit.
    """
    parameters = dict(module.named_parameters())
    modules = dict(module.named_modules())

    def opens(key: str) -> bool:
        parent, _, entry = key.rpartition(".")
        if units == "matrices":
            return key in parameters and parameters[key].dim() >= 2
        return entry == "weight" and isinstance(modules.get(parent), _ConvNd) and not _is_shortcut(key)

    return _group(entries(module), opens, units)


def convolution_units(module: nn.Module) -> tuple[GraftUnit, ...]:
    """The units of `graft_units(module)`; none where the network has no convolution."""
    try:
        return graft_units(module)
    except ConfigError:
        return ()


def graft_units_of_state(state: Mapping[str, Tensor], units: Units = "convolutions") -> tuple[GraftUnit, ...]:
    """The graft units of a bare state dict, found from its shapes: where there is no module to ask.

    Raises:
        ConfigError: no entry opens a unit.
    """

    def opens(key: str) -> bool:
        if units == "matrices":
            return state[key].is_floating_point() and state[key].dim() >= 2
        return is_convolution(state[key]) and not _is_shortcut(key)

    return _group(state, opens, units)


def reference_units(state: Mapping[str, Tensor]) -> tuple[GraftUnit, ...]:
    """The units of the public code: a key with the word 'conv' and 'weight' or 'bias' opens one, all others follow.

    Raises:
        ConfigError: no key has the word.
    """
    return _group(state, lambda key: "conv" in key, "convolutions")


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


def _is_shortcut(key: str) -> bool:
    return not SHORTCUT_NAMES.isdisjoint(key.split("."))


def _group(keys: Iterable[str], opens, units: Units) -> tuple[GraftUnit, ...]:
    groups: list[tuple[str, list[str]]] = []
    early: list[str] = []
    for key in keys:
        if opens(key):
            groups.append((key, [*early, key]))
            early = []
        elif groups:
            groups[-1][1].append(key)
        else:
            early.append(key)
    if not groups:
        advice = "; graft.units=matrices takes every weight matrix" if units == "convolutions" else ""
        raise ConfigError(f"the network has no {units.rstrip('s')} to graft by{advice}")
    return tuple(GraftUnit(name=name, keys=tuple(members)) for name, members in groups)
