"""Measure streamed images per CPU second: inarch against Pillow and torchvision, and four networks with a cache."""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inarch.experiments.benchmarks.harness import Must, Row, ratio
from inarch.population.config import DataConfig
from inarch.population.data import Batches, EpochSpec, load_splits, open_images
from inarch.population.data.loader.crops import DecodingSpec
from inarch.population.data.loader.part_loader import LoaderSettings, PartLoader
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.streaming_batches import DEVIATION, MEAN

SIZE = 224
"""Pixels a side of the crops."""

CLASSES = 4
EPOCHS = 2
"""Epochs of each process. The cache is empty before the first."""

WAIT_SECONDS = 600.0
"""Longest wait for the slowest process."""

FASTER = Must(rule="at least", limit=2.5)


def streamed_rows(*, repeats: int, num_photographs: int, batch_size: int, networks: int = 4) -> tuple[Row, ...]:
    """Measure epochs of random resized crops, mirrored, in turns. Each process has one thread.

    Loader workers of inarch deliver 8 bits a value, which are normalized on the network's device. Those of the
    reference deliver normalized floats. A further row has the cost of inarch if the device is the CPU itself.

    CPU seconds are those of the measured process, so that other programs on the machine count little.

    Args:
        repeats: Measurements of each side. One more before them is not counted.
        num_photographs: JPEGs of an epoch, of ImageNet's mean size.
        batch_size: Batch size of all sides.
        networks: Processes that read the same images, with and without a shared cache.
    """
    with tempfile.TemporaryDirectory(prefix="inarch-bench-") as folder:
        files = write_photographs(Path(folder) / "images", num_photographs, seed=0)
        own, normalized, reference = [], [], []
        batches, part = _batches(folder, is_cached=False), _part(folder)
        for epoch in range(repeats + 1):
            own.append(_rate(_eight_bit_batches(part, len(files), batch_size=batch_size, epoch=epoch)))
            normalized.append(_rate(batches.epoch(_spec(epoch, batch_size=batch_size, seed=1))))
            reference.append(_rate(reference_batches(files, batch_size=batch_size, seed=epoch)))
        rates = _measure_networks(folder, networks, repeats=repeats, batch_size=batch_size)
    own, normalized, reference = own[1:], normalized[1:], reference[1:]
    first, later = (rates[True][:, epoch] for epoch in (0, 1))
    plain, cached = (EPOCHS / (1 / rates[is_cached]).sum(axis=1) for is_cached in (False, True))
    unit = "images/CPU s"
    return (
        Row(what="streamed JPEGs, inarch, 8 bits for a device", unit=unit, values=tuple(own)),
        Row(what="streamed JPEGs, Pillow and torchvision, floats", unit=unit, values=tuple(reference)),
        ratio("streamed JPEGs, inarch / Pillow and torchvision", own, reference, FASTER),
        Row(what="streamed JPEGs, inarch, floats on the CPU", unit=unit, values=tuple(normalized)),
        Row(what=f"{networks} networks without cache", unit=unit, values=tuple(plain.tolist())),
        Row(what=f"{networks} networks with cache, first epoch", unit=unit, values=tuple(first.tolist())),
        Row(what=f"{networks} networks with cache, next epoch", unit=unit, values=tuple(later.tolist())),
        ratio(f"{networks} networks, {EPOCHS} epochs, with / without cache", cached.tolist(), plain.tolist()),
    )


def write_photographs(folder: Path, number: int, *, seed: int) -> list[Path]:
    """Write synthetic photographs: noise of all scales, as JPEGs of ImageNet's mean size and some 50 kB.

    Args:
        folder: The folder. It gets a subfolder for each class.
        number: Number of the photographs.
        seed: Seed of their pixels.

    Returns:
        The files.
    """
    random = np.random.default_rng(seed)
    files = []
    for index in range(number):
        height, width = random.integers(380, 540), random.integers(450, 630)
        pixels = np.zeros((height, width, 3))
        for cells, strength in ((3, 60.0), (9, 40.0), (27, 25.0), (81, 12.0), (243, 7.0)):
            noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            scaled = Image.fromarray(noise).resize((int(width), int(height)), Image.Resampling.BICUBIC)
            pixels += (np.asarray(scaled) / 127.5 - 1) * strength
        path = folder / str(index % CLASSES) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(path, quality=90)
        files.append(path)
    return files


def reference_batches(files: Sequence[Path], *, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as inarch made them before, and as is usual: each image as a Pillow picture through torchvision.

    Args:
        files: The JPEGs.
        batch_size: Images in a batch.
        seed: Seed of the order and of the crops.

    Yields:
        Normalized images and labels.
    """
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )
    generator = torch.default_generator
    order = np.random.default_rng(seed).permutation(len(files))
    for start in range(0, len(files), batch_size):
        images = []
        for index in order[start : start + batch_size].tolist():
            picture = Image.open(io.BytesIO(files[index].read_bytes())).convert("RGB")
            before = generator.get_state()
            generator.manual_seed(seed * 1_000_003 + index)
            images.append(transform(picture))
            generator.set_state(before)
        yield torch.stack(images), torch.tensor(order[start : start + batch_size] % CLASSES)


def _batches(folder: str, *, is_cached: bool) -> Batches:
    config = DataConfig(
        train=f"{folder}/images",
        validation=0.0,
        image_size=SIZE,
        augmentation="imagenet",
        workers=0,
        cache="on" if is_cached else "off",
        cache_folder=f"{folder}/cache",
    )
    batches = load_splits(config, seed=0).batches("train", "cpu")
    assert batches is not None
    return batches


def _part(folder: str) -> PartLoader:
    images = open_images(f"{folder}/images", split="train")
    assert isinstance(images, EncodedImages)
    return PartLoader(
        images,
        np.arange(len(images)),
        decoding=DecodingSpec(image_size=SIZE, has_margin=True),
        settings=LoaderSettings(workers=0, window=len(images)),
        is_training=True,
        pin_memory=False,
    )


def _eight_bit_batches(
    part: PartLoader, num_images: int, *, batch_size: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as loader workers deliver them."""
    steps = -(-num_images // batch_size)
    for number in range(steps):
        yield part.training_batch(_spec(epoch, batch_size=batch_size, seed=1), number, steps)


def _spec(epoch: int, *, batch_size: int, seed: int) -> EpochSpec:
    return EpochSpec(epoch=epoch, order_seed=seed, augment_seed=seed, batch_size=batch_size, mirror=True)


def _rate(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Return the images per CPU second of one pass."""
    start, count = time.process_time(), 0
    for images, _ in batches:
        count += len(images)
    return count / (time.process_time() - start)


def _measure_networks(folder: str, networks: int, *, repeats: int, batch_size: int) -> dict[bool, np.ndarray]:
    """Return images per CPU second of all networks together, without and with cache, shape (repeats, epochs)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier = context.Barrier(networks)
    rates: dict[bool, list[Any]] = {False: [], True: []}
    with context.Pool(networks, initializer=_begin_network, initargs=(barrier,)) as pool:
        for _ in range(repeats + 1):
            for is_cached in (False, True):
                tasks = [(folder, network, is_cached, batch_size) for network in range(networks)]
                # The barrier gives each process one network.
                seconds = pool.starmap_async(_run_network, tasks, chunksize=1).get(timeout=WAIT_SECONDS)
                rates[is_cached].append(1 / np.mean(seconds, axis=0))
    return {is_cached: np.array(values[1:]) for is_cached, values in rates.items()}


_barrier: Barrier | None = None
"""Barrier of the networks, in a process of the pool."""


def _begin_network(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def _run_network(folder: str, network: int, is_cached: bool, batch_size: int) -> list[float]:
    """Return the CPU seconds for each image, epoch by epoch."""
    assert _barrier is not None
    batches = _batches(folder, is_cached=is_cached)
    _barrier.wait(WAIT_SECONDS)
    seconds = [1 / _rate(batches.epoch(_spec(epoch, batch_size=batch_size, seed=network))) for epoch in range(EPOCHS)]
    _barrier.wait(WAIT_SECONDS)
    batches.close()
    return seconds
