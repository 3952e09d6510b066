"""Architectures by name: `build` makes a network from a configuration, with weights that a seed decides."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

from inarch.population.config import FusionConfig, ModelConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.registry import import_object
from inarch.population.extension.user_code import user_code
from inarch.population.fusion.presets import preset_rates
from inarch.population.models.cifar_resnet import CifarResNet
from inarch.population.models.conv_factory import ConvFactory, Form
from inarch.population.models.densenet import CifarDenseNet
from inarch.population.models.googlenet import CifarGoogLeNet
from inarch.population.models.mobilenetv2 import CifarMobileNetV2
from inarch.population.models.pretrained import load_pretrained
from inarch.population.models.resnet50 import ResNet50
from inarch.population.models.resnext import CifarResNeXt
from inarch.population.models.usable import make_usable
from inarch.population.models.vgg import CifarVgg16
from inarch.population.models.wide_resnet import WideResNet

ModelFactory = Callable[..., nn.Module]
"""Takes num_classes (and in_channels, if it names it) and gives a network that maps images to logits."""

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)

_BUILT_IN: dict[str, ModelFactory] = {
    **{f"resnet{depth}": functools.partial(CifarResNet, depth) for depth in RESNET_DEPTHS},
    "mobilenetv2": CifarMobileNetV2,
    "vgg16": CifarVgg16,
    "googlenet": CifarGoogLeNet,
    "resnet50": ResNet50,
    "wrn28-10": functools.partial(WideResNet, 28, 10),
    "wrn16-4": functools.partial(WideResNet, 16, 4),
    "densenet100": functools.partial(CifarDenseNet, 100, 12),
    "densenet40": functools.partial(CifarDenseNet, 40, 12),
    "resnext29": functools.partial(CifarResNeXt, 29, 8, 64),
    "resnext11": functools.partial(CifarResNeXt, 11, 4, 16),
}


def architectures() -> tuple[str, ...]:
    """The built-in names, sorted."""
    return tuple(sorted(_BUILT_IN))


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
    """A network on the CPU, initialized from the seed without touching the caller's random state.

    Args:
        config: An architecture by name, or a callable of the user's own.
        num_classes: Width of the head.
        in_channels: Of the images.
        image_shape: (channels, height, width) of the images, for lazy layers; None: not known.
        seed: Decides the weights; None: torch's present random state does.
        fusion: Makes it a compact network, where its mode is not off.
        form: Of a compact network: fused, as it is trained, or compact, as it is used.

    Raises:
        ConfigError: no such architecture, the user's function takes other arguments or does not give a network, the
            network cannot be trained or saved, or fusion does not fit.
        UserCodeError: the user's function raised.
    """
    if isinstance(config, nn.Module):
        raise ConfigError(_instance_message(config))
    factory, name = (resolve(config), config.architecture) if isinstance(config, ModelConfig) else (config, "network")
    options: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    if isinstance(config, ModelConfig) and config.leaky:
        options["leaky"] = True
    if fusion is not None and fusion.mode != "off":
        options["plan"] = _conv_factory(fusion, name, form)
    accepted = _accepted(factory, options)
    if "plan" in options and "plan" not in accepted:
        raise ConfigError(f"fusion is defined for vgg16, googlenet, resnet50 and the CIFAR ResNets, got {name!r}")
    is_ours = isinstance(config, ModelConfig) and (name in _BUILT_IN or name.startswith("torchvision:"))
    subject = name if isinstance(config, ModelConfig) else f"the network function {_name_of(factory)}"
    if not is_ours:
        _check_arguments(factory, accepted, subject)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with contextlib.nullcontext() if is_ours else user_code(subject):
            model = factory(**accepted)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{subject} must give a torch.nn.Module, got {type(model).__name__}")
        make_usable(model, image_shape)
    if isinstance(config, ModelConfig) and config.weights is not None:
        load_pretrained(model, name, config.weights)
    return model


def check_factory(factory: Any) -> None:
    """Raises ConfigError where a caller's network is no function that gives one, before anything else is done."""
    if isinstance(factory, nn.Module):
        raise ConfigError(_instance_message(factory))
    if not callable(factory):
        raise ConfigError(f"network must be module:function or a callable, got {type(factory).__name__}")


def _instance_message(model: nn.Module) -> str:
    kind = type(model).__name__
    return (
        f"network must be a function that makes a new network for each member, got an instance of {kind}; give "
        f"the class, or a function: lambda num_classes: {kind}(...)"
    )


def _name_of(factory: Any) -> str:
    return getattr(factory, "__qualname__", None) or type(factory).__name__


def _check_arguments(factory: ModelFactory, accepted: dict[str, Any], subject: str) -> None:
    """Raises ConfigError where a function needs arguments that it is not given."""
    try:
        inspect.signature(factory).bind(**accepted)
    except TypeError as error:
        raise ConfigError(
            f"{subject} cannot be called with {', '.join(accepted) or 'no arguments'}: {error}; it gets num_classes "
            "and in_channels where it names them: wrap it, as in lambda num_classes: make(classes=num_classes)"
        ) from None
    except ValueError:  # no signature is known
        return


def resolve(config: ModelConfig) -> ModelFactory:
    """The callable behind an architecture's name.

    Raises:
        ConfigError: no such name; the message lists what there is.
    """
    name = config.architecture
    if config.leaky and name not in {f"resnet{depth}" for depth in RESNET_DEPTHS}:
        raise ConfigError(f"model.leaky is for the CIFAR ResNets, got model.architecture {name!r}")
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name.startswith("torchvision:"):
        return _torchvision(name.removeprefix("torchvision:"))
    if ":" in name:
        factory = import_object(name, "model.architecture")
        check_factory(factory)
        return factory
    raise ConfigError(
        f"model.architecture {name!r} is unknown; built in are {', '.join(architectures())}, "
        "else torchvision:NAME or module:function"
    )


def _torchvision(name: str) -> ModelFactory:
    classifiers = set(torchvision.models.list_models(module=torchvision.models))
    if name not in classifiers:
        raise ConfigError(f"torchvision has no classifier {name!r}; it has {', '.join(sorted(classifiers))}")

    def factory(*, num_classes: int) -> nn.Module:
        options = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)

    return factory


def _conv_factory(fusion: FusionConfig, architecture: str, form: Form) -> ConvFactory:
    rates = fusion.rates if fusion.preset is None else preset_rates(fusion.preset, architecture)
    return ConvFactory(rates, form=form)


def _accepted(factory: ModelFactory, options: dict) -> dict:
    """The options that a factory names; one that takes none of them is called without."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return options
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in options.items() if name in names}
