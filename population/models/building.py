"""Build a model from the name of an architecture or from a model factory, with weights that a seed determines."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn

from inarch.population.config import FusionConfig, ModelConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.user_code import user_code
from inarch.population.fusion.presets import preset_rates
from inarch.population.models.conv_factory import ConvFactory, Form
from inarch.population.models.model_names import (
    MODELS,
    ModelFactory,
    instance_message,
    resolve,
)
from inarch.population.models.pretrained import load_pretrained
from inarch.population.models.usable import make_usable


def build(
    config: ModelConfig | ModelFactory,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_shape: tuple[int, int, int] | None = None,
    seed: int | None = None,
    fusion: FusionConfig | None = None,
    form: Form = "fused",
) -> nn.Module:
    """Build a model on the CPU.

    With a seed, the caller's random state does not change.

    Args:
        config: Configuration that names an architecture, or a model factory.
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_shape: (channels, height, width) of the images, which lazy layers need. None: not known.
        seed: Determines the initial weights. None: torch's current random state determines them.
        fusion: Fusion of the model's filters. None, or mode off: no fusion.
        form: Form of a model with fusion. It is trained in the form fused and deployed in the form compact.

    Raises:
        ConfigError: The architecture is unknown. Or the factory needs other arguments, or returns no model. Or the
            model cannot be trained or saved. Or fusion or pretrained weights do not fit.
        UserCodeError: The factory raised an error.
    """
    if isinstance(config, nn.Module):
        raise ConfigError(instance_message(config))
    factory, name = (resolve(config), config.architecture) if isinstance(config, ModelConfig) else (config, "network")
    options: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    if isinstance(config, ModelConfig) and config.leaky:
        options["leaky"] = True
    if fusion is not None and fusion.mode != "off":
        options["plan"] = _conv_factory(fusion, name, form)
    accepted = _accepted(factory, options)
    if "plan" in options and "plan" not in accepted:
        raise ConfigError(f"fusion is defined for vgg16, googlenet, resnet50 and the CIFAR ResNets, got {name!r}")
    is_ours = isinstance(config, ModelConfig) and (name in MODELS.built_in() or name.startswith("torchvision:"))
    subject = name if isinstance(config, ModelConfig) else f"the network function {_name_of(factory)}"
    if not is_ours:
        _check_arguments(factory, accepted, subject)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with contextlib.nullcontext() if is_ours else user_code(subject):
            model = factory(**accepted)
        if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] # the user's own
            raise ConfigError(f"{subject} must give a torch.nn.Module, got {type(model).__name__}")
        make_usable(model, image_shape)
    if isinstance(config, ModelConfig) and config.weights is not None:
        load_pretrained(model, name, config.weights)
    return model


def _name_of(factory: Any) -> str:
    return getattr(factory, "__qualname__", None) or type(factory).__name__


def _check_arguments(factory: ModelFactory, accepted: dict[str, Any], subject: str) -> None:
    """Raise ConfigError if a factory needs arguments that it does not receive."""
    try:
        inspect.signature(factory).bind(**accepted)
    except TypeError as error:
        raise ConfigError(
            f"{subject} cannot be called with {', '.join(accepted) or 'no arguments'}: {error}; it receives "
            "num_classes and in_channels if it names them; wrap it, as in lambda num_classes: make(classes=num_classes)"
        ) from None
    except ValueError:  # the signature is not known
        return


def _conv_factory(fusion: FusionConfig, architecture: str, form: Form) -> ConvFactory:
    rates = fusion.rates if fusion.preset is None else preset_rates(fusion.preset, architecture)
    return ConvFactory(rates, form=form)


def _accepted(factory: ModelFactory, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a factory's signature names, or all if it takes any or has no known signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return options
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in options.items() if name in names}
