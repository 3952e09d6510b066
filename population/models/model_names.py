"""The architectures by name, and model factories of the caller."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inarch.population.config import ModelConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.registry import Registry, import_object

if TYPE_CHECKING:
    from torch import nn

ModelFactory = Callable[..., "nn.Module"]
"""Returns a new model that maps images to logits. It gets num_classes and in_channels if its signature names them."""

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
"""Depths of the CIFAR ResNets."""

MODELS: Registry[ModelFactory] = Registry("model", "model.architecture", others="torchvision:NAME or module:function")
"""Model factories by name."""

PATHS = {
    **{f"resnet{depth}": f"cifar_resnet:resnet{depth}" for depth in RESNET_DEPTHS},
    "mobilenetv2": "mobilenetv2:CifarMobileNetV2",
    "mobilenetv2-0.5": "mobilenetv2:mobilenetv2_half",
    "mobilenetv2-0.25": "mobilenetv2:mobilenetv2_quarter",
    "vgg16": "vgg:CifarVgg16",
    "googlenet": "googlenet:CifarGoogLeNet",
    "resnet50": "resnet50:ResNet50",
    "wrn28-10": "wide_resnet:wrn28_10",
    "wrn16-4": "wide_resnet:wrn16_4",
    "densenet100": "densenet:densenet100",
    "densenet40": "densenet:densenet40",
    "resnext29": "resnext:resnext29",
    "resnext11": "resnext:resnext11",
}
"""The library's own architectures: module and factory by name."""

MODELS.add_paths({name: f"inarch.population.models.{path}" for name, path in PATHS.items()})


def architectures() -> tuple[str, ...]:
    """Return the names of the built-in architectures, sorted."""
    return tuple(sorted(MODELS.built_in()))


def check_architecture(config: ModelConfig) -> None:
    """Raise ConfigError if an architecture is unknown or has no leaky form. The library's own are not imported.

    Args:
        config: Names a built-in architecture, torchvision:NAME or module:function.
    """
    name = config.architecture
    if config.leaky and name not in {f"resnet{depth}" for depth in RESNET_DEPTHS}:
        raise ConfigError(f"model.leaky is for the CIFAR ResNets, got model.architecture {name!r}")
    if not name.startswith("torchvision:"):
        MODELS.check(name)


def resolve(config: ModelConfig) -> ModelFactory:
    """Return the model factory of an architecture.

    Args:
        config: Names a built-in architecture, torchvision:NAME or module:function.

    Raises:
        ConfigError: The name is unknown or cannot be imported, or the architecture has no leaky form. The message of an
            unknown name lists the known names.
        UserCodeError: Importing the module raised an error.
    """
    name = config.architecture
    check_architecture(config)
    if name.startswith("torchvision:"):
        return _torchvision(name.removeprefix("torchvision:"))
    factory = MODELS.resolve(name)
    check_factory(factory)
    return factory


def _torchvision(name: str) -> ModelFactory:
    import torchvision  # its import takes as long as that of torch, and most runs do not need it

    classifiers = set(torchvision.models.list_models(module=torchvision.models))
    if name not in classifiers:
        raise ConfigError(f"torchvision has no classifier {name!r}; it has {', '.join(sorted(classifiers))}")

    def factory(*, num_classes: int) -> nn.Module:
        options = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)

    return factory


def check_factory(factory: Any) -> None:
    """Raise ConfigError if the caller's model factory is a model itself, or cannot be called.

    Callers use this check before any other work.

    Args:
        factory: Model factory that the caller passed in.
    """
    if is_model(factory):
        raise ConfigError(instance_message(factory))
    if not callable(factory):
        raise ConfigError(f"network must be module:function or a callable, got {type(factory).__name__}")


def import_factory(path: str, field: str) -> ModelFactory:
    """Import a model factory of the caller.

    Args:
        path: `module:function`.
        field: Flag that holds the path, for errors.

    Raises:
        ConfigError: The factory cannot be imported, or is no factory.
        UserCodeError: The module raised another error while it was imported.
    """
    factory = import_object(path, field)
    check_factory(factory)
    return factory


def is_model(value: object) -> bool:
    """Return whether a value is a model of torch. A process that has not imported torch has none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def instance_message(model: object) -> str:
    """Return the message for a caller who passed a model in place of a model factory."""
    kind = type(model).__name__
    return (
        f"network must be a function that makes a new network for each member, got an instance of {kind}; give "
        f"the class, or a function: lambda num_classes: {kind}(...)"
    )
