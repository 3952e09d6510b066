"""Which entries of a state dict form one graft unit: a convolution and what follows it.

As in the reference, the batch norm, the projection shortcut and the head that follow a convolution share its alpha.
Unlike the reference, convolutions are found from the modules (or the shapes) and not from the word 'conv' in a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import is_convolution, named_tensors

Units = Literal["auto", "convolutions", "matrices"]

MATRICES_A_CONVOLUTION = 3
"""A network with more other weight matrices than this for each convolution is grafted by all its matrices."""

SHORTCUT_NAMES = frozenset({"shortcut", "downsample"})
"""Names of submodules that hold a projection shortcut, in this package, torchvision and the reference."""


@dataclass(frozen=True, kw_only=True)
class GraftUnit:
    """Entries of a state dict that share one alpha."""

    name: str
    """Key of the weight whose information decides."""
    keys: tuple[str, ...]
    """All entries, in the state dict's order."""


def graft_units(module: nn.Module, units: Units = "auto") -> tuple[GraftUnit, ...]:
    """The graft units of a network, found from its modules.

    Args:
        module: The network.
        units: convolutions: each convolution (projection shortcuts aside) opens a unit, parametrized ones too;
            matrices: each parameter of two dimensions and more does, so that a transformer can be grafted; auto:
            convolutions, unless the network has more than three times as many other matrices, as transformers have.

    Raises:
        ConfigError: no entry opens a unit.
    """
    parameters = dict(module.named_parameters())
    weights = _convolution_weights(module)
    if units == "auto":
        units = chosen_units(module)
    if units == "convolutions":
        own = named_tensors(module)
        weights = {stem: name for stem, name in weights.items() if name in own}  # the second of two tied ones has none
        stems = {stem: name for stem, name in weights.items() if not _is_shortcut(name)}
        return group_entries(
            named_tensors(module), lambda key: next((n for s, n in stems.items() if _is_of(key, s)), None), units
        )
    return group_entries(
        named_tensors(module), lambda key: key if key in parameters and parameters[key].dim() >= 2 else None, units
    )


def chosen_units(module: nn.Module) -> Literal["convolutions", "matrices"]:
    """What auto stands for in a network."""
    weights = set(_convolution_weights(module).values())
    matrices = [name for name, parameter in module.named_parameters() if parameter.dim() >= 2 and name not in weights]
    return "convolutions" if weights and len(matrices) <= MATRICES_A_CONVOLUTION * len(weights) else "matrices"


def _convolution_weights(module: nn.Module) -> dict[str, str]:
    """The convolutions of a network: a module's name, and the key of its weight; of a parametrized weight the largest
    part (weight norm's direction, spectral norm's original)."""
    found = {}
    for stem, owner in module.named_modules():
        if isinstance(owner, _ConvNd):
            parts = [
                (key, parameter)
                for key, parameter in owner.named_parameters()
                if key == "weight" or key.startswith(("weight_", "parametrizations.weight."))
            ]
            if parts:
                key = max(parts, key=lambda part: part[1].numel())[0]
                found[stem] = f"{stem}.{key}" if stem else key
    return found


def _is_of(key: str, stem: str) -> bool:
    """Whether an entry belongs to a module."""
    return key.startswith(f"{stem}.") if stem else True


def convolution_units(module: nn.Module) -> tuple[GraftUnit, ...]:
    """The units of `graft_units(module)`; none where the network has no convolution."""
    try:
        return graft_units(module, "convolutions")
    except ConfigError:
        return ()


def graft_units_of_state(state: Mapping[str, Tensor], units: Units = "auto") -> tuple[GraftUnit, ...]:
    """The graft units of a bare state dict, found from its shapes: where there is no module to ask.

    Raises:
        ConfigError: no entry opens a unit.
    """

    def opens(key: str) -> str | None:
        if units == "matrices":
            return key if state[key].is_floating_point() and state[key].dim() >= 2 else None
        return key if is_convolution(state[key]) and not _is_shortcut(key) else None

    return group_entries(state, opens, units)


def _is_shortcut(key: str) -> bool:
    return not SHORTCUT_NAMES.isdisjoint(key.split("."))


def group_entries(keys: Iterable[str], opener: Callable[[str], str | None], units: Units) -> tuple[GraftUnit, ...]:
    """Group entries into units.

    Args:
        keys: Keys of a state dict, in order.
        opener: Returns the name of the unit that a key belongs to, or None for a key that joins the unit before it.
        units: Kind of units, for the error.

    Raises:
        ConfigError: No key opens a unit.
    """
    groups: list[tuple[str, list[str]]] = []
    early: list[str] = []
    names: set[str] = set()
    for key in keys:
        name = opener(key)
        if name is not None and name not in names:
            names.add(name)
            groups.append((name, [*early, key]))
            early = []
        elif groups:
            groups[-1][1].append(key)
        else:
            early.append(key)
    if not groups:
        kind = "weight matrix" if units == "matrices" else "convolution"
        advice = "; graft.units=matrices takes every weight matrix" if units != "matrices" else ""
        raise ConfigError(f"the network has no {kind} to graft by{advice}")
    return tuple(GraftUnit(name=name, keys=tuple(members)) for name, members in groups)
