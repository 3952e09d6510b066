"""Streams: pure functions of their description, row groups read once, workers that end, one decoding a node."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from inarch.population import DataConfig, RegularizationConfig
from inarch.population.data import Batches, EpochSpec, StreamSplits, load_splits, open_images, preprocess
from inarch.population.data.loader.order import shuffled_order
from inarch.population.data.loader.requests import RequestMaker
from inarch.population.data.reading.encoded_images import ContentReader, EncodedImages, ImageSource
from inarch.population.data.regularization import Regularization, Regularizer
from inarch.population.data.splits import MemorySplits
from inarch.population.data.streaming_batches import StreamBatches, stream_statistics
from inarch.population.errors import ConfigError
from tests.images import encoded, write_table

NUM_IMAGES = 40


def photograph(seed: int) -> Image.Image:
    """A smooth picture of some colors. The size depends on the seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((40 + seed % 7, 36 + seed % 5), Image.Resampling.BICUBIC)


CONTENTS = [encoded(photograph(seed), "JPEG") for seed in range(NUM_IMAGES)]
LABELS = [index % 4 for index in range(NUM_IMAGES)]


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write_table(tmp_path / "table" / "x.parquet", LABELS, images=CONTENTS)  # groups of 4


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for index, (content, label) in enumerate(zip(CONTENTS, LABELS, strict=True)):
        (tmp_path / "folder" / str(label)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / str(label) / f"{index}.jpg").write_bytes(content)
    return str(tmp_path / "folder")


def splits_of(train: str, **fields: Any) -> StreamSplits:
    options: dict[str, Any] = {"stream": "always", "image_size": 24, "validation": 0.0, "workers": 0}
    splits = load_splits(DataConfig(train=train, **options | fields), seed=0)
    assert isinstance(splits, StreamSplits)
    return splits


def batches_of(splits: StreamSplits, part: str = "train") -> StreamBatches:
    batches = splits.batches(part, "cpu")
    assert isinstance(batches, StreamBatches)
    return batches


def spec(epoch: int = 0, first: int = 0, **fields: Any) -> EpochSpec:
    options: dict[str, Any] = {"order_seed": 1, "augment_seed": 2, "batch_size": 6, "padding": 3, "mirror": True}
    return EpochSpec(epoch=epoch, first=first, **options | fields)


def images_of(batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([images for images, _ in batches])


def loader_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "pt_data" in child.name()]


def started(before: Sequence[psutil.Process], count: int) -> list[int]:
    """Return the ids of a number of new workers. A worker has its name only some time after its process began."""
    deadline = time.monotonic() + 60
    while len(found := [process.pid for process in loader_processes() if process not in before]) < count:
        assert time.monotonic() < deadline, f"{len(found)} workers started, not {count}"
        time.sleep(0.05)
    return found


def wait_until_gone(pids: Sequence[int]) -> None:
    """Wait until processes have ended. A process that nobody has waited for is a zombie."""
    for pid in pids:
        deadline = time.monotonic() + 60
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} is left behind"
            time.sleep(0.05)


@pytest.mark.parametrize("source", ["table", "folder"])
@pytest.mark.parametrize("augmentation", ["crop_flip", "imagenet"])
def test_batches_are_the_same_for_any_number_of_workers(source: str, augmentation: str, request) -> None:
    train = request.getfixturevalue(source)
    padding = 0 if augmentation == "imagenet" else 3
    expected: list[tuple[Tensor, Tensor]] = []
    for workers in (0, 1, 2):
        splits = splits_of(train, workers=workers, augmentation=augmentation, shuffle_window=10)
        batches = batches_of(pickle.loads(pickle.dumps(splits)))
        epochs = [batch for epoch in range(2) for batch in batches.epoch(spec(epoch, padding=padding))]
        assert len(epochs) == 14 and sorted(torch.cat([x for _, x in epochs[:7]]).tolist()) == sorted(LABELS)
        expected = expected or epochs
        for (images, labels), (expected_images, expected_labels) in zip(epochs, expected, strict=True):
            assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)
        assert not torch.equal(epochs[0][0], epochs[7][0])
        resumed = list(batches.epoch(spec(1, first=4, padding=padding)))
        assert torch.equal(images_of(iter(resumed)), images_of(iter(epochs[11:])))
        batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_passes_continue_with_the_same_batches(table: str, workers: int) -> None:
    batches = batches_of(splits_of(table, workers=workers))
    whole = [images for images, _ in batches.epoch(spec())]
    pieces = []
    for first in (0, 2, 4, 6):  # as a trainer whose intervals are shorter than an epoch
        for images, _ in batches.epoch(spec(first=first)):
            pieces.append(images)
            if len(pieces) == first + 2:
                break
    assert all(torch.equal(piece, images) for piece, images in zip(pieces, whole, strict=True))
    first, second = batches.epoch(spec()), batches.epoch(spec(1))
    for images in whole[:3]:  # two passes in turns, and a third between them
        assert torch.equal(next(first)[0], images)
        assert not torch.equal(next(second)[0], images)
        assert len(next(batches.in_order(batch_size=5))[1]) == 5
    batches.close()


class CountingSource:
    """Source that counts how often each image's cell is read."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.counts = np.zeros(NUM_IMAGES, dtype=np.int64)
        self.calls: list[list[int]] = []

    @property
    def reader(self) -> ContentReader:
        return self._source.reader

    def cells(self, indices: Sequence[int]) -> list[Any]:
        self.counts[list(indices)] += 1
        self.calls.append(list(indices))
        return self._source.cells(indices)

    def identity(self) -> bytes:
        return self._source.identity()


def counted(train: str, **fields: Any) -> tuple[StreamSplits, CountingSource]:
    splits = splits_of(train, **fields)
    source = CountingSource(splits.train.source)
    return dataclasses.replace(splits, train=dataclasses.replace(splits.train, source=source)), source


@pytest.mark.parametrize("workers", [0, 2])
def test_row_groups_are_read_once_a_pass(table: str, workers: int) -> None:
    splits, source = counted(table, workers=workers, shuffle_window=12)
    batches = batches_of(splits)
    list(batches.in_order(batch_size=7))
    assert (source.counts == 1).all()
    assert sorted(map(sorted, source.calls)) == [list(range(first, first + 4)) for first in range(0, NUM_IMAGES, 4)]
    batches.close()
    list(batches.epoch(spec()))
    batches.close()
    # Workers begin the next epoch ahead, which may read some of its groups.
    counts = source.counts - 1
    assert counts.min() == 1 and counts.max() <= (2 if workers else 1)


def test_cells_in_memory_fit_in_the_window() -> None:
    """4,000 images in groups of 50, of which the requests hold those that were read and not yet handed out."""
    num_images, window = 4000, 400

    class Numbers:
        num_read = 0
        reader: Any = None

        def cells(self, indices: Sequence[int]) -> list[Any]:
            self.num_read += len(indices)
            return list(indices)

        def identity(self) -> bytes:
            return b""

    source = Numbers()
    images = EncodedImages(
        name="numbers",
        labels=np.zeros(num_images, dtype=np.int64),
        class_names=("a",),
        source=source,
        groups=np.arange(num_images) // 50,
    )
    order = shuffled_order(images.groups, num_images, window=window, seed=0, epoch=0)
    num_taken = 0
    for request in RequestMaker(images, np.arange(num_images), None).requests(order, 20, None):
        assert list(request.cells) == request.numbers.tolist()
        num_taken += len(request.cells)
        assert source.num_read - num_taken <= window + 3 * 50
    assert source.num_read == num_taken == num_images


class FilledMeanwhile:
    """Cache into which another network puts two images after it was first asked."""

    def __init__(self, slots: tuple[int, ...]) -> None:
        self._slots, self._is_asked = slots, False

    def holds(self, slots: np.ndarray) -> np.ndarray:
        was_asked, self._is_asked = self._is_asked, True
        return np.isin(slots, self._slots) & was_asked


def test_images_cached_while_their_group_is_read_have_no_cells(table: str) -> None:
    splits, source = counted(table)
    cache: Any = FilledMeanwhile((0, 1))
    first, *others = RequestMaker(splits.train, np.arange(NUM_IMAGES), cache).requests(np.arange(NUM_IMAGES), 4, None)
    assert list(first.cells)[:2] == [None, None]
    assert None not in [*list(first.cells)[2:], *(cell for request in others for cell in request.cells)]
    assert source.counts.tolist() == [0, 0] + [1] * (NUM_IMAGES - 2)


def test_many_shards_stream_with_few_open_files(tmp_path: Path) -> None:
    for shard in range(30):
        write_table(tmp_path / f"train-{shard:05d}-of-00030.parquet", LABELS[:8], images=CONTENTS[:8])
    in_folder = splits_of(str(tmp_path), shuffle_window=60)
    assert len(in_folder.train) == 240 and in_folder.report.sizes["train"] == 240
    batches = batches_of(in_folder)
    before, most, num_images = len(os.listdir("/proc/self/fd")), 0, 0
    for _, labels in batches.epoch(spec()):
        most = max(most, len(os.listdir("/proc/self/fd")))
        num_images += len(labels)
    assert num_images == 240 and most <= before + 4
    pattern = splits_of(str(tmp_path / "train-0000[0-4]-*.parquet"))
    assert sum(len(labels) for _, labels in batches_of(pattern).epoch(spec())) == 40


def test_files_ordered_by_class_are_reported(tmp_path: Path) -> None:
    ordered = write_table(tmp_path / "x.parquet", sorted(LABELS * 5), images=CONTENTS * 5)
    (note,) = splits_of(ordered, shuffle_window=8).report.notes
    assert "ordered by class: 8 images" in note
    assert splits_of(ordered).report.notes == ()
    with pytest.raises(ConfigError, match=r"data\.shuffle_window must be at least 1"):
        DataConfig(shuffle_window=0)


def test_streamed_batches_are_regularized_as_those_in_memory(table: str) -> None:
    strengths = RegularizationConfig(mixup=1.0, cutmix=1.0, erasing=0.5)
    regularization = Regularization(config=strengths, num_classes=4, seed=2)
    batches, regularizer = batches_of(splits_of(table)), Regularizer(regularization, epoch=1, steps=7)
    mean, deviation = (torch.tensor(values) for values in stream_statistics(3))
    mixed = list(batches.epoch(spec(1, regularization=regularization)))
    for index, ((images, labels), (others, shares)) in enumerate(zip(batches.epoch(spec(1)), mixed, strict=True)):
        pixels = images * deviation[:, None, None] + mean[:, None, None]
        expected = regularizer.finish(pixels, labels, mean=mean, deviation=deviation, index=index)
        torch.testing.assert_close(others, expected[0], rtol=1e-3, atol=1e-4)
        assert torch.equal(shares, expected[1]) and shares.shape == (len(labels), 4)
    for batch, other in zip(mixed[3:], batches.epoch(spec(1, first=3, regularization=regularization)), strict=True):
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])


def test_workers_live_through_epochs_and_end_with_the_batches(table: str) -> None:
    before = loader_processes()
    batches = batches_of(splits_of(table, workers=2))
    next(batches.epoch(spec()))
    workers = started(before, 2)
    assert len(workers) == 2
    list(batches.epoch(spec(1)))
    assert [process.pid for process in loader_processes() if process not in before] == workers
    batches.close()
    wait_until_gone(workers)
    assert len(list(batches.in_order(batch_size=20))) == 2, "a closed loader starts again"
    workers = started(before, 2)
    assert len(workers) == 2
    del batches
    wait_until_gone(workers)


def test_killed_program_leaves_no_worker_behind(table: str, tmp_path: Path) -> None:
    """The program has no main guard. Workers must not import it."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys, psutil
from inarch.population import DataConfig, RegularizationConfig
from inarch.population.data import EpochSpec, load_splits
splits = load_splits(DataConfig(train={table!r}, stream="always", image_size=24, workers=2), seed=0)
batches = splits.batches("train", "cpu")
next(batches.epoch(EpochSpec(epoch=0, order_seed=1, augment_seed=2, batch_size=4)))
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
sys.stdin.read()
""")
    process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    children = [int(pid) for pid in process.stdout.readline().split()]
    assert len(children) >= 3  # two workers and the server that forked them
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    wait_until_gone(children)


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_images_equal_decoded_images(folder: str, tmp_path: Path, workers: int) -> None:
    fields: dict[str, Any] = {"workers": workers, "validation": 0.2, "image_size": 48}
    cached_fields = fields | {"cache": "on", "cache_folder": str(tmp_path / "cache")}
    for augmentation in ("crop_flip", "imagenet"):  # the pictures have fewer pixels than are stored for imagenet
        plain = splits_of(folder, augmentation=augmentation, **fields)
        cached = splits_of(folder, augmentation=augmentation, **cached_fields)
        for part in ("train", "validation"):
            expected, batches = batches_of(plain, part), batches_of(cached, part)
            for epoch in range(2):
                assert torch.equal(images_of(batches.epoch(spec(epoch))), images_of(expected.epoch(spec(epoch))))
                in_order = images_of(batches.in_order(batch_size=7))
                assert torch.equal(in_order, images_of(expected.in_order(batch_size=7)))
            expected.close()
            batches.close()
    assert list((tmp_path / "cache").iterdir()) == []


def test_networks_of_a_node_decode_each_image_once(table: str, folder: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"cache": "on", "cache_folder": str(tmp_path / "cache")}
    first, second = (batches_of(splits_of(folder, **fields)) for _ in range(2))
    expected = images_of(first.epoch(spec()))
    for path in Path(folder).rglob("*.jpg"):
        path.unlink()
    assert torch.equal(images_of(second.epoch(spec())), expected)
    splits, source = counted(table, **fields)
    networks = [batches_of(splits) for _ in range(3)]
    passes = [network.epoch(spec(order_seed=seed)) for seed, network in enumerate(networks)]
    assert sum(1 for _ in itertools.chain.from_iterable(zip(*passes, strict=True))) == 21  # batches in turns
    assert source.counts.min() == 1 and source.counts.max() <= 3, "groups may be read ahead by several"
    before = source.counts.sum()
    for seed, network in enumerate(networks):
        list(network.epoch(spec(1, order_seed=seed)))
    assert source.counts.sum() == before
    for batches in (first, second, *networks):
        batches.close()


@pytest.mark.parametrize("augmentation", ["none", "imagenet"])
def test_evaluation_agrees_with_the_preprocessing_of_predictions(folder: str, augmentation: str) -> None:
    """The tolerance is one step of 8 bits, divided by the deviation of the channel."""
    splits = splits_of(folder, augmentation=augmentation)
    images = images_of(batches_of(splits).in_order(batch_size=40))
    tolerance = 1.01 / 255 / torch.tensor(splits.report.deviation)
    for index in range(NUM_IMAGES):
        expected = preprocess(splits.train.read(index), splits.report, name="x")
        assert ((images[index] - expected).abs().amax((1, 2)) <= tolerance).all()


def test_streamed_and_decoded_sets_have_close_pixels(folder: str) -> None:
    decoded = load_splits(DataConfig(train=folder, image_size=24, validation=0.0), seed=0)
    assert isinstance(decoded, MemorySplits)
    splits = splits_of(folder)
    images = images_of(batches_of(splits).in_order(batch_size=40))
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (splits.report.mean, splits.report.deviation))
    restored = ((images * deviation + mean) * 255).round()
    assert (restored - torch.from_numpy(decoded.train.images).float()).abs().max() <= 1


def test_memory_and_stream_batches_are_batches(folder: str) -> None:
    for stream in ("never", "always"):
        batches = load_splits(DataConfig(train=folder, image_size=24, stream=stream), seed=0).batches("train", "cpu")
        assert batches is not None
        checked: Batches = batches
        checked.close()
    opened = open_images(folder, split="train")
    assert isinstance(opened, EncodedImages) and opened.groups is None
