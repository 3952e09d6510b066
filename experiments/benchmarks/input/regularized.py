"""Measure images in memory per CPU second: mixed and erased, against the same batches left as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.transforms import v2

from inarch.experiments.benchmarks.harness import Must, Row, ratio
from inarch.population.config import RegularizationConfig
from inarch.population.data import EpochSpec, ImageSet, MemoryBatches
from inarch.population.data.regularization import Regularization

MIXED = RegularizationConfig(mixup=1.0, cutmix=1.0)
ERASED = RegularizationConfig(mixup=1.0, cutmix=1.0, erasing=0.25)

KEPT = Must(rule="at least", limit=0.8)

HEAP_VALUES = 7_000_000
"""Values of a tensor that is freed before the measurement. A process that trains frees such tensors in each step. Since
then, the C library keeps freed memory of that size, and does not fetch it page by page from the system each time."""


def regularized_rows(images: ImageSet, *, repeats: int, batch_size: int, padding: int) -> tuple[Row, ...]:
    """Measure epochs of cropped, mirrored and normalized batches on one thread, in turns.

    CPU seconds are those of the measured process, so that other programs on the machine count little.

    Args:
        images: The images.
        repeats: Measured epochs of each side. One more epoch before them is not counted.
        batch_size: Batch size of all sides.
        padding: Greatest shift of a crop, in pixels.
    """
    mean, deviation = images.statistics()
    batches = MemoryBatches(images, mean=mean, deviation=deviation)

    def epoch(number: int, config: RegularizationConfig | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        regularization = config and Regularization(config=config, num_classes=images.num_classes, seed=2)
        spec = EpochSpec(
            epoch=number,
            order_seed=1,
            augment_seed=2,
            batch_size=batch_size,
            padding=padding,
            mirror=True,
            regularization=regularization,
        )
        return batches.epoch(spec)

    choice = v2.RandomChoice([v2.MixUp(num_classes=images.num_classes), v2.CutMix(num_classes=images.num_classes)])
    sides: dict[str, Callable[[int], Iterator[tuple[Tensor, Tensor]]]] = {
        "plain": epoch,
        "mixup and CutMix": lambda number: epoch(number, MIXED),
        "mixup, CutMix and erasing": lambda number: epoch(number, ERASED),
        "mixup and CutMix of torchvision": lambda number: (choice(*batch) for batch in epoch(number)),
    }
    torch.empty(HEAP_VALUES).zero_()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            rates[name].append(_rate(sides[name](number)))
    values = {name: tuple(measured[1:]) for name, measured in rates.items()}
    plain = values.pop("plain")
    return (
        Row(what="in memory, plain", unit="images/CPU s", values=plain),
        *(Row(what=f"in memory, {name}", unit="images/CPU s", values=measured) for name, measured in values.items()),
        *(
            ratio(f"{name} / plain", measured, plain, KEPT if name == "mixup and CutMix" else None)
            for name, measured in values.items()
        ),
    )


def _rate(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Return the images per CPU second of one pass."""
    start, count = time.process_time(), 0
    for images, _ in batches:
        count += len(images)
    return count / (time.process_time() - start)
