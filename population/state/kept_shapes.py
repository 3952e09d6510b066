"""Check that a network keeps its structure while it trains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import named_tensors


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's parameters and buffers, by key of its state dict.

    Args:
        model: The network.
    """
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def check_shapes(model: nn.Module, before: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ConfigError if training has changed the shape of an entry, which snapshots and checkpoints cannot hold.

    Args:
        model: The network after some steps.
        before: Its shapes before them, as from `shapes_of`.
    """
    after = shapes_of(model)
    changed = next((name for name, shape in before.items() if after.get(name) != shape), None)
    if changed is not None:
        raise ConfigError(
            f"the network's buffer {changed} had shape {before[changed]} before training and has "
            f"{after.get(changed, 'none')} after it; register it with persistent=False, or keep its shape"
        )
