"""Load pretrained weights into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import named_tensors


def load_pretrained(model: nn.Module, architecture: str, weights: str) -> None:
    """Copy pretrained weights into a model.

    The last linear layer keeps its initial weights if the pretrained layer has another width.

    Args:
        model: A model of the architecture. Its weights are changed in place.
        architecture: Name of the architecture. It is torchvision:NAME if `weights` is a name of torchvision's.
        weights: Path of a safetensors file, or a name of torchvision's weights, such as DEFAULT.

    Raises:
        ConfigError: The weights do not exist, cannot be read or fetched, or belong to another architecture. The message
            names an entry that differs.
    """
    pretrained, is_exact = _read(architecture, weights)
    own = named_tensors(model)
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    head = {f"{name}.{entry}" for name in last for entry in ("weight", "bias")} & own.keys()
    optional = head | {key for key in own if key.endswith("num_batches_tracked")}
    fitting = {key for key in own if key in pretrained and pretrained[key].shape == own[key].shape}
    mismatched = sorted((own.keys() - fitting - optional) | (pretrained.keys() - own.keys() if is_exact else set()))
    if mismatched or not fitting:
        difference = f"{mismatched[0]!r} differs" if mismatched else "no entry fits"
        raise ConfigError(f"model.weights {weights!r} are not those of {architecture}: {difference}")
    copied = fitting if head <= fitting else fitting - head
    with torch.no_grad():
        for key in copied:
            own[key].copy_(pretrained[key])


def _read(architecture: str, weights: str) -> tuple[Mapping[str, Tensor], bool]:
    """Return the entries, and whether the model must have all of them. Torchvision's may include auxiliary heads."""
    if Path(weights).is_file():
        try:
            return safetensors.torch.load_file(weights), True
        except (safetensors.SafetensorError, OSError) as error:
            raise ConfigError(f"model.weights {weights!r} cannot be read as safetensors: {error}") from error
    if not architecture.startswith("torchvision:"):
        raise ConfigError(f"model.weights={weights!r}: the file does not exist; give the path of a safetensors file")
    import torchvision  # its import takes as long as that of torch, and most runs do not need it

    name = architecture.removeprefix("torchvision:")
    available = torchvision.models.get_model_weights(name)
    names = ["DEFAULT", *(entry.name for entry in available)]
    if weights not in names:
        raise ConfigError(
            f"model.weights={weights!r}: the file does not exist; weights of {architecture} are {', '.join(names)}"
        )
    try:
        pretrained = torchvision.models.get_model(name, weights=available[weights], progress=False)
    except OSError as error:
        raise ConfigError(f"model.weights {weights} of {architecture} could not be fetched: {error}") from error
    state = pretrained.state_dict()
    return (without_input_transform(state) if getattr(pretrained, "transform_input", False) else state), False


SCALE, SHIFT = (0.458, 0.448, 0.45), (-0.03, -0.088, -0.188)
"""What `transform_input` of torchvision multiplies each channel by, and then adds."""


def without_input_transform(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a GoogLeNet or Inception v3 so that its input needs no transform.

    Their pretrained weights expect images in another normalization. The transform to it moves into the first
    convolution and into the mean of its batch norm. At the padding of GoogLeNet's first convolution, this differs by
    the constant of the transform.

    Args:
        state: State dict of torchvision's model with `transform_input`. Not changed.
    """
    key = next(key for key in state if key.endswith(".conv.weight"))
    weight, mean_key = state[key], key.replace(".conv.weight", ".bn.running_mean")
    scale, shift = (weight.new_tensor(values).view(1, -1, 1, 1) for values in (SCALE, SHIFT))
    mean = state[mean_key] - (weight * shift).sum((1, 2, 3))
    return {**state, key: weight * scale, mean_key: mean}
