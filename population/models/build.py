"""Build a model from the name of an architecture or from a model factory, with weights that a seed determines."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from inarch.population.config import FusionConfig, ModelConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.registry import Registry, import_object
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
"""Returns a new model that maps images to logits. It gets num_classes and in_channels if its signature names them."""

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)

MODELS: Registry[ModelFactory] = Registry("model", "model.architecture", others="torchvision:NAME or module:function")
"""Model factories by name."""

for _depth in RESNET_DEPTHS:
    MODELS.register(f"resnet{_depth}")(functools.partial(CifarResNet, _depth))
MODELS.register("mobilenetv2")(CifarMobileNetV2)
MODELS.register("vgg16")(CifarVgg16)
MODELS.register("googlenet")(CifarGoogLeNet)
MODELS.register("resnet50")(ResNet50)
MODELS.register("wrn28-10")(functools.partial(WideResNet, 28, 10))
MODELS.register("wrn16-4")(functools.partial(WideResNet, 16, 4))
MODELS.register("densenet100")(functools.partial(CifarDenseNet, 100, 12))
MODELS.register("densenet40")(functools.partial(CifarDenseNet, 40, 12))
MODELS.register("resnext29")(functools.partial(CifarResNeXt, 29, 8, 64))
MODELS.register("resnext11")(functools.partial(CifarResNeXt, 11, 4, 16))

MODELS.close_built_in()


def architectures() -> tuple[str, ...]:
    """Return the names of the built-in architectures, sorted."""
    return tuple(sorted(MODELS.built_in()))


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


def check_factory(factory: Any) -> None:
    """Raise ConfigError if the caller's model factory is a model itself, or cannot be called.

    Callers use this check before any other work.

    Args:
        factory: Model factory that the caller passed in.
    """
    if isinstance(factory, nn.Module):
        raise ConfigError(_instance_message(factory))
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


def _instance_message(model: nn.Module) -> str:
    kind = type(model).__name__
    return (
        f"network must be a function that makes a new network for each member, got an instance of {kind}; give "
        f"the class, or a function: lambda num_classes: {kind}(...)"
    )


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
    if config.leaky and name not in {f"resnet{depth}" for depth in RESNET_DEPTHS}:
        raise ConfigError(f"model.leaky is for the CIFAR ResNets, got model.architecture {name!r}")
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
