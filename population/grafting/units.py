"""Group the entries of a state dict into graft units: a convolution with the entries that follow it.

As in the reference, the batch norm, the projection shortcut and the head that follow a convolution share its alpha.
Unlike the reference, the code identifies convolutions by module type or shape, not by the word 'conv' in a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage] # bases of all convolutions

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import is_convolution, named_tensors

Units = Literal["auto", "convolutions", "matrices"]

MATRICES_A_CONVOLUTION = 3
"""Limit of other weight matrices per convolution. Above it, `auto` selects all weight matrices."""

SHORTCUT_NAMES = frozenset({"shortcut", "downsample"})
"""Names of submodules that hold a projection shortcut, in this package, torchvision and the reference."""


@dataclass(frozen=True, kw_only=True)
class GraftUnit:
    """Entries of a state dict that share one alpha."""

    name: str
    """Key of the weight whose information determines alpha."""
    keys: tuple[str, ...]
    """All entries, in the state dict's order."""
    transposed_groups: int = 0
    """Groups of the transposed convolution that opens the unit, whose filters lie along its second dimension. 0 for any
    other weight, whose filters lie along the first."""

    def filters(self, weight: Tensor) -> Tensor:
        """Return the filters of the weight that names the unit, for which a transposed convolution is copied.

        Args:
            weight: The weight.

        Returns:
            Shape (filters, ...). It is the weight itself, unless `transposed_groups` is positive.
        """
        return self._by_group(weight).clone().flatten(0, 1) if self.transposed_groups else weight

    def set_filters_(self, weight: Tensor, filters: Tensor) -> None:
        """Write filters into the weight that names the unit.

        Args:
            weight: The weight. It is changed.
            filters: Shape (filters, ...), as `filters` returns them. The weight itself has its values already.
        """
        if self.transposed_groups:
            places = self._by_group(weight)
            places.copy_(filters.unflatten(0, places.shape[:2]))
        elif filters is not weight:
            weight.copy_(filters)

    def _by_group(self, weight: Tensor) -> Tensor:
        """Return a view of a transposed convolution, shape (groups, outputs of a group, inputs of a group, ...)."""
        return weight.unflatten(0, (self.transposed_groups, -1)).transpose(1, 2)


def graft_units(module: nn.Module, units: Units = "auto") -> tuple[GraftUnit, ...]:
    """Return the graft units of a network, derived from its modules.

    Args:
        module: The network.
        units: Which weights open a unit. convolutions: each convolution except projection shortcuts, parametrized
            weights included. matrices: each parameter of two or more dimensions, so that transformers can be grafted.
            auto: convolutions, unless the network has more than three times as many other matrices, as transformers
            do.

    Returns:
        The units in the state dict's order. Together they hold every entry once.

    Raises:
        ConfigError: No entry opens a unit.
    """
    parameters = dict(module.named_parameters())
    weights = _convolution_weights(module)
    if units == "auto":
        units = chosen_units(module)
    if units == "convolutions":
        own = named_tensors(module)
        weights = {stem: name for stem, name in weights.items() if name in own}  # a tied weight has only its first name
        stems = {stem: name for stem, name in weights.items() if not _is_shortcut(name)}
        return group_entries(
            named_tensors(module),
            lambda key: next((name for stem, name in stems.items() if _is_of(key, stem)), None),
            units,
            _transposed_groups(module, weights),
        )
    return group_entries(
        named_tensors(module),
        lambda key: key if key in parameters and _is_matrix(parameters[key]) else None,
        units,
        _transposed_groups(module, weights),
    )


def chosen_units(module: nn.Module) -> Literal["convolutions", "matrices"]:
    """Return the kind of units that `auto` selects for a network.

    Args:
        module: The network.
    """
    weights = set(_convolution_weights(module).values())
    matrices = [name for name, parameter in module.named_parameters() if _is_matrix(parameter) and name not in weights]
    return "convolutions" if weights and len(matrices) <= MATRICES_A_CONVOLUTION * len(weights) else "matrices"


def _convolution_weights(module: nn.Module) -> dict[str, str]:
    """Return the key of each convolution's weight by the name of its module.

    Of a parametrized weight it is the largest part: weight norm's direction, spectral norm's original.
    """
    weights = {}
    for stem, owner in module.named_modules():
        if isinstance(owner, _ConvNd):
            parts = [
                (key, parameter)
                for key, parameter in owner.named_parameters()
                if key == "weight" or key.startswith(("weight_", "parametrizations.weight."))
            ]
            if parts:
                key = max(parts, key=lambda part: part[1].numel())[0]
                weights[stem] = f"{stem}.{key}" if stem else key
    return weights


def _transposed_groups(module: nn.Module, weights: Mapping[str, str]) -> dict[str, int]:
    """Return the number of groups of each transposed convolution, by the key of its weight."""
    owners = dict(module.named_modules())
    return {name: owner.groups for stem, name in weights.items() if isinstance(owner := owners[stem], _ConvTransposeNd)}


def _is_of(key: str, stem: str) -> bool:
    """Whether an entry belongs to a module."""
    return key.startswith(f"{stem}.") if stem else True


def convolution_units(module: nn.Module) -> tuple[GraftUnit, ...]:
    """Return the units of kind convolutions. Empty if the network has no convolution.

    Args:
        module: The network.
    """
    try:
        return graft_units(module, "convolutions")
    except ConfigError:
        return ()


def graft_units_of_state(state: Mapping[str, Tensor], units: Units = "auto") -> tuple[GraftUnit, ...]:
    """Return the graft units of a state dict without a module, derived from its shapes.

    Args:
        state: A state dict.
        units: Which entries open a unit. matrices: each of two or more dimensions. convolutions or auto: each of three
            or more dimensions, except projection shortcuts.

    Returns:
        The units in the state dict's order. Together they hold every entry once.

    Raises:
        ConfigError: No entry opens a unit.
    """

    def opens(key: str) -> str | None:
        if units == "matrices":
            return key if state[key].is_floating_point() and _is_matrix(state[key]) else None
        return key if is_convolution(state[key]) and not _is_shortcut(key) else None

    return group_entries(state, opens, units)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix or has more dimensions, and any values."""
    return tensor.dim() >= 2 and tensor.numel() > 0


def _is_shortcut(key: str) -> bool:
    return not SHORTCUT_NAMES.isdisjoint(key.split("."))


def group_entries(
    keys: Iterable[str],
    opener: Callable[[str], str | None],
    units: Units,
    transposed_groups: Mapping[str, int] | None = None,
) -> tuple[GraftUnit, ...]:
    """Group entries into units. Entries before the first unit join it.

    Args:
        keys: Keys of a state dict, in order.
        opener: Returns the name of the unit that a key opens. None, or a name that is already open, lets the key join
            the unit before it.
        units: Kind of units, for the error.
        transposed_groups: Number of groups of each transposed convolution, by the key of its weight. None: there are
            none.

    Returns:
        The units in the order of their first keys. Together they hold every key once.

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
        raise ConfigError(f"the network has no {kind} to graft{advice}")
    transposed = transposed_groups or {}
    return tuple(
        GraftUnit(name=name, keys=tuple(members), transposed_groups=transposed.get(name, 0)) for name, members in groups
    )
