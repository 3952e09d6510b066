"""What a comparison would cost, told before it starts."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.population.config import DataConfig, height_and_width
from inarch.population.data import ImageSet, open_images
from inarch.population.models.complexity import ModelComplexity, complexity_of

KNOWN = {
    "digits": (1438, (1, 8, 8), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "imagenet/train": (1_281_167, (3, 224, 224), 1000),
    "Market-1501-v15.09.15/bounding_box_train": (12_936, (3, 256, 128), 751),
}
"""Training images, their shape and classes, of data sets that need not be there for it: as the recipes name them."""

REACHED = 10e12
"""Operations a second of the device by which hours are told."""


def costs(comparison: Comparison) -> tuple[Table, str]:
    """A row for each arm, and what all of it takes over all seeds."""
    table = Table(title=f"{comparison.name}: what one seed costs", title_justify="left")
    for name in ("arm", "networks", "epochs", "parameters", "multiply-adds an image", "images", "operations"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    sizes: dict[str, tuple[int, ModelComplexity]] = {}
    total = 0.0
    for arm in comparison.arms:
        images, cost = _size(arm, sizes)
        trained = images * arm.work
        operations = trained * cost.training_flops
        total += operations
        table.add_row(
            arm.name,
            str(arm.config.population.size),
            str(arm.config.schedule.epochs),
            f"{cost.parameters:,}",
            f"{cost.multiply_adds:,}",
            f"{trained:,}",
            f"{operations:.2e}",
        )
    total *= len(comparison.seeds)
    told = (
        f"{len(comparison.arms)} arms x {len(comparison.seeds)} seeds: {total:.2e} floating-point operations, "
        f"{total / REACHED / 3600:,.1f} hours of a device that sustains {REACHED / 1e12:g} TFLOP/s. Multiply-adds are "
        "torch.utils.flop_counter's, of compact networks up to 1.6 % below the published ones; teachers' forward "
        "passes are not counted."
    )
    return table, told


def _size(arm: Arm, known: dict[str, tuple[int, ModelComplexity]]) -> tuple[int, ModelComplexity]:
    """Training images, and the cost of the network that is trained; the same network is counted once."""
    config = arm.config
    key = repr((config.model, config.fusion, config.data))
    if key not in known:
        images, shape, classes = _images(config.data)
        cost = complexity_of(config.model, config.fusion, num_classes=classes, image_shape=shape)
        known[key] = round(images * (1 - config.data.validation)), cost
    return known[key]


def _images(data: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    is_there = "/" in data.train and Path(data.train).exists()
    count, shape, classes = _read(data) if is_there or data.train not in KNOWN else KNOWN[data.train]
    if data.image_size is not None:
        shape = (shape[0], *height_and_width(data.image_size))
    return min(count, data.train_limit or count), shape, classes


def _read(data: DataConfig) -> tuple[int, tuple[int, int, int], int]:
    found = open_images(data.train, split="train")
    if isinstance(found, ImageSet):
        shape = found.shape
    elif data.image_size is None:
        picture = found.read(0)
        shape = (1 if picture.mode == "L" else 3, picture.height, picture.width)
    else:
        shape = (3, *height_and_width(data.image_size))
    return len(found.labels), shape, len(found.class_names)
