"""Recipes: named configurations. Each is made by a function that returns a whole RunConfig."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from inarch.population.config import (
    DataConfig,
    ExchangeConfig,
    FusionConfig,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    TextConfig,
)
from inarch.population.errors import ConfigError
from inarch.population.fusion import PRESETS

DEFAULT = "digits"
TEXT = "text-transformer"


def digits() -> RunConfig:
    """Return the recipe for a first try: four small ResNets on the handwritten digits of scikit-learn."""
    return RunConfig(
        model=ModelConfig(architecture="resnet8"),
        data=DataConfig(train="digits", augmentation="crop", padding=1),
        population=PopulationConfig(size=4),
        schedule=ScheduleConfig(epochs=30, batch_size=64, lr_decay="cosine"),
        optimizer=OptimizerConfig(learning_rate=0.1),
    )


def text_transformer() -> RunConfig:
    """Return the recipe for text: four small transformers that learn the next character of Python's documentation."""
    return RunConfig(
        task="language",
        text=TextConfig(source="python"),
        population=PopulationConfig(size=4),
        schedule=ScheduleConfig(epochs=3, batch_size=64, interval_steps=48, lr_decay="cosine"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=4e-3, weight_decay=0.01),
    )


def paper(data: str, architecture: str) -> RunConfig:
    """Return the setting of the paper's main tables (slr): two networks, the same learning rate, step decay.

    Args:
        data: Data set, for example cifar10.
        architecture: Name of the architecture.

    Source: Meng et al. 2020 (arXiv:2001.05868), section 4.1.
    """
    return RunConfig(
        model=ModelConfig(architecture=architecture),
        data=DataConfig(train=data, augmentation="crop_flip", padding=4),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=200, batch_size=256, lr_decay="step", step_epochs=60, step_factor=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    )


def paper_diverse(data: str, architecture: str) -> RunConfig:
    """Return the diverse setting (dlr): two networks, spread learning rates, cosine decay.

    Args:
        data: Data set, for example cifar10.
        architecture: Name of the architecture.

    Source: readme of the authors' public code.
    """
    base = paper(data, architecture)
    return RunConfig(
        model=base.model,
        data=base.data,
        population=base.population,
        schedule=ScheduleConfig(epochs=200, batch_size=256, lr_decay="cosine"),
        optimizer=OptimizerConfig(learning_rate="spread(0.1)", momentum=0.9, weight_decay=5e-4),
    )


def imagenet(architecture: str) -> RunConfig:
    """Return the setting of the paper's ImageNet table: two networks on streamed folders of ImageNet's classes.

    Args:
        architecture: Name of a torchvision architecture.

    Source: Meng et al. 2020, section 4: batch 256, learning rate 0.1, divided by 10 every 30 of 90 epochs, weight
    decay 1e-4.
    """
    return RunConfig(
        model=ModelConfig(architecture=f"torchvision:{architecture}"),
        data=DataConfig(
            train="imagenet/train",
            test="imagenet/val",
            validation=0.01,
            augmentation="imagenet",
            image_size=224,
            stream="always",
            workers=8,
        ),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=90, batch_size=256, lr_decay="step", step_epochs=30, step_factor=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    )


def dcff(data: str, architecture: str, preset: str) -> RunConfig:
    """Return the setting of DCFF's CIFAR tables: one compact network.

    Args:
        data: Data set, for example cifar10.
        architecture: Name of the architecture.
        preset: Name of the published compression rates. It must belong to the architecture.

    Source: Lin et al. 2021 (arXiv:2107.06916): 300 epochs, batch 256, learning rate 0.1, divided by 10 after epochs 150
    and 225, weight decay 5e-4.
    """
    return RunConfig(
        model=ModelConfig(architecture=architecture),
        data=DataConfig(train=data, augmentation="crop_flip", padding=4),
        population=PopulationConfig(size=1),
        schedule=ScheduleConfig(epochs=300, batch_size=256, lr_decay="step", step_at=(150, 225), step_factor=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        exchange=ExchangeConfig(rule="none"),
        fusion=FusionConfig(mode="stable", preset=preset),
    )


def dcff_imagenet(architecture: str, preset: str) -> RunConfig:
    """Return the setting of DCFF's ImageNet table: one compact network on streamed folders of ImageNet's classes.

    Args:
        architecture: Name of the architecture.
        preset: Name of the published compression rates. It contains `step` or `cos`, which decides the schedule.

    Source: Lin et al. 2021: 90 epochs with step decay from 0.1, or 180 epochs with cosine decay from 0.01 and momentum
    0.99. Both warm up for 5 epochs.
    """
    base, falls_in_steps = imagenet(architecture), "-step-" in preset
    schedule = ScheduleConfig(
        epochs=90 if falls_in_steps else 180,
        batch_size=256,
        lr_decay="step" if falls_in_steps else "cosine",
        step_epochs=30,
        warmup_epochs=5,
    )
    rate, momentum = (0.1, 0.9) if falls_in_steps else (0.01, 0.99)
    return dataclasses.replace(
        base,
        model=ModelConfig(architecture=architecture),
        population=PopulationConfig(size=1),
        schedule=schedule,
        optimizer=OptimizerConfig(learning_rate=rate, momentum=momentum, weight_decay=1e-4),
        exchange=ExchangeConfig(rule="none"),
        fusion=FusionConfig(mode="stable", preset=preset),
    )


def persons(architecture: str) -> RunConfig:
    """Return the setting of the paper's person re-identification: two pretrained networks on Market-1501's folders.

    Args:
        architecture: Name of a torchvision architecture. Training starts from its ImageNet weights.

    Source: Meng et al. 2020: batch 32, learning rate 0.1, divided by 10 every 20 of 60 epochs. Images of 256x128 pixels
    and weight decay 5e-4 are OSNet's training setting (Zhou et al. 2019), which the paper uses.
    """
    return RunConfig(
        task="retrieval",
        model=ModelConfig(architecture=f"torchvision:{architecture}", weights="DEFAULT"),
        data=DataConfig(
            train="Market-1501-v15.09.15/bounding_box_train",
            test="Market-1501-v15.09.15/bounding_box_test",
            query="Market-1501-v15.09.15/query",
            image_size=(256, 128),
            augmentation="crop_flip",
            padding=10,
        ),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=60, batch_size=32, lr_decay="step", step_epochs=20, step_factor=0.1),
        optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    )


ARCHITECTURES = (
    *("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "mobilenetv2", "vgg16"),
    *("googlenet", "wrn28-10", "densenet100", "resnext29"),
)
IMAGENET_ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")


BARRIER = "-lockstep"
"""Suffix of recipes in lockstep mode. Networks wait for each other as in the papers, and staleness is always 0."""


def _all() -> dict[str, tuple[str, Callable[[], RunConfig]]]:
    entries: dict[str, tuple[str, Callable[[], RunConfig]]] = {
        DEFAULT: ("four small ResNets on 8x8 digits, under 90 s on 2 cores", digits),
        TEXT: ("four small transformers on Python's documentation, next character, under 3 minutes", text_transformer),
    }
    for data in ("cifar10", "cifar100"):
        for architecture in ARCHITECTURES:
            entries[f"{data}-{architecture}"] = (
                f"two {architecture} on {data}, the same learning rate, the paper's schedule",
                lambda data=data, architecture=architecture: paper(data, architecture),
            )
            entries[f"{data}-{architecture}-dlr"] = (
                f"two {architecture} on {data}, different learning rates with cosine decay",
                lambda data=data, architecture=architecture: paper_diverse(data, architecture),
            )
    for architecture in IMAGENET_ARCHITECTURES:
        entries[f"imagenet-{architecture}"] = (
            f"two {architecture} of torchvision on ImageNet's class folders, the paper's schedule",
            lambda architecture=architecture: imagenet(architecture),
        )
    for architecture in ("resnet50", "mobilenet_v2"):
        entries[f"market1501-{architecture}"] = (
            f"two pretrained {architecture} of torchvision for person re-identification, the paper's schedule",
            lambda architecture=architecture: persons(architecture),
        )
    for name, (description, make) in list(entries.items()):
        if name not in (DEFAULT, TEXT):
            entries[f"{name}{BARRIER}"] = (
                f"{description}, in lockstep mode as in the paper",
                lambda make=make: dataclasses.replace(make(), mode="lockstep"),
            )
    for preset, (architecture, _) in PRESETS.items():
        if architecture == "resnet50":
            entries[f"imagenet-dcff-{preset}"] = (
                f"a compact {architecture} on ImageNet, {preset.rpartition('-')[2]} % fewer multiply-adds",
                lambda architecture=architecture, preset=preset: dcff_imagenet(architecture, preset),
            )
        else:
            entries[f"cifar10-dcff-{preset}"] = (
                f"a compact {architecture} on cifar10, {preset.rpartition('-')[2]} % fewer multiply-adds",
                lambda architecture=architecture, preset=preset: dcff("cifar10", architecture, preset),
            )
    return entries


RECIPES = _all()
"""Recipes by name: a description, and the function that returns the configuration."""


def summary() -> str:
    """Return the names of all recipes in one line, as patterns."""
    compact, large = (
        ",".join(name.removeprefix(prefix) for name in RECIPES if name.startswith(prefix))
        for prefix in ("cifar10-dcff-", "imagenet-dcff-")
    )
    return (
        f"{DEFAULT}, {TEXT}, {{cifar10,cifar100}}-{{{','.join(ARCHITECTURES)}}}[-dlr][{BARRIER}], "
        f"imagenet-{{{','.join(IMAGENET_ARCHITECTURES)}}}[{BARRIER}], market1501-{{resnet50,mobilenet_v2}}[{BARRIER}], "
        f"cifar10-dcff-{{{compact}}}, imagenet-dcff-{{{large}}}"
    )


def recipe(name: str) -> RunConfig:
    """Return the configuration of a recipe.

    Args:
        name: Name of the recipe.

    Raises:
        ConfigError: There is no such recipe. The message lists all recipes.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; there are {summary()}")
    return RECIPES[name][1]()
