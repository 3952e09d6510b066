"""Weights that networks begin with, in place of random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import named_tensors


def load_pretrained(model: nn.Module, architecture: str, weights: str) -> None:
    """Copy trained weights into a network; a last linear layer of another width keeps its own.

    Args:
        model: Of the architecture.
        architecture: Its name; torchvision:NAME where the weights are torchvision's.
        weights: A safetensors file, or torchvision's name of weights.

    Raises:
        ConfigError: no such weights, or they are not this network's; names an entry.
    """
    given, is_ours = _read(architecture, weights)
    own = named_tensors(model)
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    head = {f"{name}.{entry}" for name in last for entry in ("weight", "bias")} & own.keys()
    optional = head | {key for key in own if key.endswith("num_batches_tracked")}
    fitting = {key for key in own if key in given and given[key].shape == own[key].shape}
    wrong = sorted((own.keys() - fitting - optional) | (given.keys() - own.keys() if is_ours else set()))
    if wrong or not fitting:
        raise ConfigError(
            f"model.weights {weights!r} are not those of {architecture}: {(wrong or ['all'])[0]!r} differs"
        )
    whole = fitting if head <= fitting else fitting - head
    with torch.no_grad():
        for key in whole:
            own[key].copy_(given[key])


def _read(architecture: str, weights: str) -> tuple[Mapping[str, Tensor], bool]:
    """The entries, and whether there must be no others than the network's: torchvision's may have auxiliary heads."""
    if Path(weights).is_file():
        try:
            return safetensors.torch.load_file(weights), True
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(f"model.weights {weights!r} cannot be read as safetensors: {error}") from error
    if not architecture.startswith("torchvision:"):
        raise ConfigError(f"model.weights {weights!r} is no file")
    name = architecture.removeprefix("torchvision:")
    known = torchvision.models.get_model_weights(name)
    names = ["DEFAULT", *(one.name for one in known)]
    if weights not in names:
        raise ConfigError(f"model.weights {weights!r} is no file, and {architecture} has {', '.join(names)}")
    try:
        return torchvision.models.get_model(name, weights=known[weights], progress=False).state_dict(), False
    except OSError as error:
        raise ConfigError(f"model.weights {weights} of {architecture} could not be fetched: {error}") from error
