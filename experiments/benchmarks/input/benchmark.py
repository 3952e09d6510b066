"""Measure training images per second, in memory and streamed, and mixed and erased.

In memory, inarch transforms whole batches, and torchvision one PIL image at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from inarch.experiments.benchmarks.harness import Measurement, Must, Row, one_thread, ratio
from inarch.experiments.benchmarks.input.regularized import regularized_rows
from inarch.experiments.benchmarks.input.streamed import streamed_rows
from inarch.population.data import Batches, EpochSpec, ImageSet, MemoryBatches

SHAPE = (3, 32, 32)
"""Shape of CIFAR's images: channels, height, width."""

CLASSES = 10
PADDING = 4
MUST = Must(rule="at least", limit=10.0)


def read_input(
    *,
    repeats: int = 5,
    num_images: int = 20_000,
    batch_size: int = 128,
    workers: int = 2,
    num_photographs: int = 256,
    networks: int = 4,
) -> Measurement:
    """Measure whole epochs of shuffled, cropped, mirrored and normalized batches, in turns.

    inarch reads in the training process itself, on one thread. The rows of `streamed_rows` and `regularized_rows`
    come first.

    Args:
        repeats: Measured epochs of each side. One more epoch before them is not counted.
        num_images: Images of each epoch, with random pixels.
        batch_size: Batch size of both sides.
        workers: Worker processes of the DataLoader. They live through all epochs, and are warm when measured.
        num_photographs: Streamed JPEGs of each epoch.
        networks: Processes that read the same JPEGs, with and without a shared cache.
    """
    with one_thread():
        streamed = streamed_rows(
            repeats=repeats, num_photographs=num_photographs, batch_size=min(64, batch_size), networks=networks
        )
    images = synthetic_images(num_images, seed=0)
    with one_thread():
        regularized = regularized_rows(images, repeats=repeats, batch_size=batch_size, padding=PADDING)
    mean, deviation = images.statistics()
    batches = MemoryBatches(images, mean=mean, deviation=deviation)
    loader = _loader(images, mean, deviation, batch_size=batch_size, workers=workers)
    own_rates, reference_rates = [], []
    with one_thread():
        for epoch in range(repeats + 1):
            own_rates.append(_rate(_epoch(batches, batch_size=batch_size, epoch=epoch)))
            reference_rates.append(_rate(iter(loader)))
    own_rates, reference_rates = own_rates[1:], reference_rates[1:]
    rows = (
        *streamed,
        *regularized,
        Row(what="inarch, 1 thread", unit="images/s", values=tuple(own_rates)),
        Row(what=f"torchvision on PIL, DataLoader, {workers} workers", unit="images/s", values=tuple(reference_rates)),
        ratio("inarch / torchvision", own_rates, reference_rates, MUST),
    )
    setting = {"images": num_images, "shape": list(SHAPE), "batch_size": batch_size, "workers": workers}
    setting["photographs"] = num_photographs
    return Measurement(name="input", repeats=repeats, rows=rows, setting=setting)


def synthetic_images(num_images: int, *, seed: int) -> ImageSet:
    """Return images with random pixels, of CIFAR's shape and type. Their classes take turns.

    Args:
        num_images: Number of images.
        seed: Seed of the pixels.
    """
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (num_images, *SHAPE), dtype=np.uint8)
    names = tuple(str(label) for label in range(CLASSES))
    return ImageSet(images=pixels, labels=np.arange(num_images) % CLASSES, class_names=names)


class PerImage(Dataset[tuple[Any, int]]):
    """A Dataset like torchvision's CIFAR10: each image is converted from an array to PIL and transformed alone."""

    def __init__(self, images: ImageSet, transform: transforms.Compose) -> None:
        """Create the Dataset.

        Args:
            images: The images.
            transform: Transform that is applied to each PIL image.
        """
        self._pixels = np.ascontiguousarray(images.images.transpose(0, 2, 3, 1))
        self._labels = images.labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(Image.fromarray(self._pixels[index])), self._labels[index]


def _loader(
    images: ImageSet, mean: np.ndarray, deviation: np.ndarray, *, batch_size: int, workers: int
) -> DataLoader[tuple[Any, int]]:
    steps = [
        transforms.RandomCrop(SHAPE[1], padding=PADDING),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((mean / 255).tolist(), (deviation / 255).tolist()),
    ]
    return DataLoader(
        PerImage(images, transforms.Compose(steps)),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # Workers are spawned, because this process may be connected to Ray, whose threads do not survive a fork.
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator().manual_seed(0),
    )


def _epoch(batches: Batches, *, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    spec = EpochSpec(epoch=epoch, order_seed=1, augment_seed=2, batch_size=batch_size, padding=PADDING, mirror=True)
    return batches.epoch(spec)


def _rate(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Return the images per second of one pass."""
    start, count = time.perf_counter(), 0
    for images, _ in batches:
        count += len(images)
    return count / (time.perf_counter() - start)
