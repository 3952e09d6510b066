"""Loading of data sets: splits, augmentation, streams, and the errors for invalid data."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from inarch.population import DataConfig
from inarch.population.data import (
    EpochSpec,
    MemorySplits,
    StreamSplits,
    from_dataset,
    image_set,
    load_splits,
    memory_splits,
    read_arrow,
    write_arrow,
)
from inarch.population.data.augmentation import crop_flip, crop_flip_on_device, draw, normalize
from inarch.population.data.holdout import held_out
from inarch.population.data.reading.images import ImageSet
from inarch.population.data.reading.sources import open_images
from inarch.population.data.streaming_batches import DEVIATION, MEAN
from inarch.population.errors import ConfigError, DataError


def encoded(picture: Image.Image, kind: str) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind)
    return sink.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: list[str] | None = None) -> str:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image, "path": None} for image in images], type=kind)
    metadata = {"class_names": json.dumps(names)} if names else None
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    pq.write_table(pa.Table.from_arrays([rows, pa.array(labels)], schema=schema), path, row_group_size=4)
    return str(path)


@pytest.fixture
def pictures() -> tuple[list[bytes], list[int]]:
    random = np.random.default_rng(0)
    labels = [index % 3 for index in range(30)]
    return [png(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)) for _ in labels], labels


def test_load_splits_of_digits_is_complete_and_stratified() -> None:
    splits = load_splits(DataConfig(), seed=0)
    assert isinstance(splits, MemorySplits)
    assert splits.validation is not None and splits.test is not None
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    assert splits.image_shape == (1, 8, 8)
    share = np.bincount(splits.validation.labels) / np.bincount(splits.train.labels)
    assert np.allclose(share, 1 / 9, atol=0.02)
    assert load_splits(DataConfig(), seed=0).fingerprint == splits.fingerprint
    assert load_splits(DataConfig(), seed=1).fingerprint != splits.fingerprint


def test_load_splits_of_parquet_decodes_and_splits_images(tmp_path: Path, pictures) -> None:
    path = write_parquet(tmp_path / "some.parquet", *pictures, names=["a", "b", "c"])
    splits = load_splits(DataConfig(train=path, validation=0.2), seed=0)
    assert isinstance(splits, MemorySplits) and splits.validation is not None
    assert splits.image_shape == (3, 10, 12)
    assert splits.train.class_names == ("a", "b", "c")
    assert (len(splits.train), len(splits.validation), splits.test) == (24, 6, None)
    first = np.asarray(Image.open(io.BytesIO(pictures[0][0]))).transpose(2, 0, 1)
    all_images = np.concatenate([splits.train.images, splits.validation.images])
    assert any(np.array_equal(first, image) for image in all_images)


def test_load_splits_of_class_folders_reads_class_names(tmp_path: Path, pictures) -> None:
    for index, (image, label) in enumerate(zip(*pictures, strict=True)):
        folder = tmp_path / "train" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(image)
    splits = load_splits(DataConfig(train=str(tmp_path / "train")), seed=0)
    assert splits.num_classes == 3
    assert isinstance(splits, MemorySplits)
    assert splits.train.class_names == ("class0", "class1", "class2")


def test_load_splits_numbers_test_classes_by_training_names(tmp_path: Path, pictures) -> None:
    for part, classes in {"train": ("cat", "dog", "owl"), "test": ("cat", "owl"), "other": ("cat", "emu")}.items():
        for index, image in enumerate(pictures[0][:12]):
            folder = tmp_path / part / classes[index % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.png").write_bytes(image)
    train = str(tmp_path / "train")
    splits = load_splits(DataConfig(train=train, test=str(tmp_path / "test"), validation=0), seed=0)
    assert isinstance(splits, MemorySplits) and splits.test is not None
    assert splits.test.labels.tolist() == [0] * 6 + [2] * 6 and splits.test.class_names == ("cat", "dog", "owl")
    with pytest.raises(
        DataError, match=r"data.test .*other has images of classes that the training images lack: 'emu'"
    ):
        load_splits(DataConfig(train=train, test=str(tmp_path / "other"), validation=0), seed=0)
    named = write_parquet(tmp_path / "named.parquet", pictures[0], pictures[1], names=["owl", "cat", "dog"])
    splits = load_splits(DataConfig(train=train, test=named, validation=0), seed=0)
    assert isinstance(splits, MemorySplits) and splits.test is not None
    assert splits.test.labels.tolist() == [(2, 0, 1)[label] for label in pictures[1]]
    unnamed = write_parquet(tmp_path / "unnamed.parquet", *pictures)
    with pytest.raises(
        DataError, match=r"'0', '1', '2'; the training images have 'cat', 'dog', 'owl'; name .* data.class_names"
    ):
        load_splits(DataConfig(train=train, test=unnamed, validation=0), seed=0)
    config = DataConfig(train=train, test=unnamed, validation=0, class_names=("owl", "cat", "dog"))
    splits = load_splits(config, seed=0)
    assert isinstance(splits, MemorySplits) and splits.test is not None
    assert splits.test.labels.tolist() == [(2, 0, 1)[label] for label in pictures[1]]


def test_cifar_folder_with_wrong_checksums_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        content = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"name{i}" for i in range(10)]}))
    with pytest.raises(DataError, match="could not be fetched"):
        load_splits(DataConfig(train=str(tmp_path)), seed=0)


def test_image_set_accepts_common_array_layouts() -> None:
    labels = np.array([0, 1])
    assert image_set(np.zeros((2, 5, 6), np.uint8), labels).shape == (1, 5, 6)
    assert image_set(np.zeros((2, 5, 6, 3), np.uint8), labels).shape == (3, 5, 6)
    assert image_set(np.zeros((2, 3, 5, 6), np.uint8), labels).shape == (3, 5, 6)
    assert image_set(np.zeros((2, 3, 5, 6)), labels).images.dtype == np.float32


def test_arrow_round_trip_keeps_the_fingerprint(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for dtype in (np.uint8, np.float32):
        pixels = (random.random((7, 3, 4, 5)) * 200).astype(dtype)
        images = image_set(pixels, np.arange(7) % 2, class_names=["x", "y"])
        path = str(tmp_path / f"{np.dtype(dtype)}.arrow")
        write_arrow(images, pafs.LocalFileSystem(), path)
        restored = read_arrow(pafs.LocalFileSystem(), path)
        assert restored.fingerprint() == images.fingerprint()
        assert load_splits(DataConfig(train=path, validation=0.3), seed=0).num_classes == 2


def test_from_dataset_converts_a_torch_dataset_to_arrays() -> None:
    images = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8)
    converted = from_dataset(torch.utils.data.TensorDataset(images, torch.arange(12) % 3), name="mine")
    assert np.array_equal(converted.images, images.numpy())
    with pytest.raises(DataError, match=r"mine\[0\] must be \(image, label\)"):
        from_dataset([1, 2], name="mine")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), [0, -1], "item 1 has label -1; labels must be 0 or above"),
        (np.zeros((2, 4, 4), np.uint8), [0.5, 1.0], "item 0 has label 0.5, which is not a whole number"),
        (np.zeros((2, 4, 4), np.uint8), [0], "as many labels"),
        (np.zeros((2, 4), np.uint8), [0, 1], "must have shape"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros(0, int), "has no images"),
        (np.full((2, 4, 4), np.nan), [0, 1], "NaN or infinite"),
        (np.zeros((2, 4, 4), np.int32), [0, 1], "uint8 or floats"),
    ],
)
def test_image_set_refuses_invalid_arrays(images, labels, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_set(images, np.asarray(labels))


def test_load_splits_of_invalid_data_raises_a_specific_error(tmp_path: Path, pictures) -> None:
    images, labels = pictures
    cases = {
        "does not exist": str(tmp_path / "nowhere"),
        "must be a Parquet, Arrow or CSV file, or a folder": str(tmp_path / "text.txt"),
        "cannot be read as parquet": str(tmp_path / "broken.parquet"),
        "no column that is known to hold images; it has x; name the column in data.image_column": str(
            tmp_path / "columns.parquet"
        ),
        "row 2 has label 2, but only 2 classes have names": write_parquet(
            tmp_path / "range.parquet", images, labels, ["a", "b"]
        ),
        "all of class '1'": write_parquet(tmp_path / "one.parquet", images, [1] * 30),
        "row 0 is not an image that Pillow": write_parquet(tmp_path / "bytes.parquet", [b"no image"] * 30, labels),
        "images of 2 sizes": write_parquet(
            tmp_path / "sizes.parquet", [*images[:-1], png(np.zeros((5, 5, 3), np.uint8))], labels
        ),
        "subfolder of images for each class": str(tmp_path / "empty"),
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "columns.parquet")
    for message, path in cases.items():
        with pytest.raises(DataError, match=message):
            load_splits(DataConfig(train=path), seed=0)


def test_load_splits_refuses_mismatched_test_images(tmp_path: Path, pictures) -> None:
    train = write_parquet(tmp_path / "train.parquet", *pictures)
    small = write_parquet(tmp_path / "test.parquet", [png(np.zeros((4, 4, 3), np.uint8))] * 4, [0, 1, 2, 0])
    with pytest.raises(DataError, match="test images have shape"):
        load_splits(DataConfig(train=train, test=small), seed=0)
    extra_class = write_parquet(tmp_path / "high.parquet", pictures[0][:4], [0, 1, 2, 3])
    with pytest.raises(DataError, match=r"classes that the training images lack: '3'"):
        load_splits(DataConfig(train=train, test=extra_class), seed=0)


def test_image_size_resizes_images_of_different_sizes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [png(random.integers(0, 256, (8 + i, 20 - i, 3), dtype=np.uint8)) for i in range(8)]
    path = write_parquet(tmp_path / "sizes.parquet", images, [0, 1] * 4)
    splits = load_splits(DataConfig(train=path, image_size=6, validation=0), seed=0)
    assert splits.image_shape == (3, 6, 6)


def test_held_out_takes_the_same_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    held = held_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    with pytest.raises(DataError, match="leaves training or validation empty"):
        held_out(np.array([0, 1]), 0.1, seed=0)
    assert not held_out(labels, 0.0, seed=0).any()


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("mirror", [False, True])
def test_crop_flip_gives_equal_pixels_on_cpu_and_device(padding: int, mirror: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 9, 7), dtype=np.uint8)
    chosen = np.random.default_rng(1).permutation(40)[:16]
    draws = draw(16, padding=padding, mirror=mirror, seed=5, step=3)
    on_cpu = crop_flip(images, chosen, draws, padding=padding)
    rows = torch.from_numpy(np.stack([draws.top, draws.left, draws.mirrored]).astype(np.int64))
    on_device = crop_flip_on_device(torch.from_numpy(images[chosen]), rows, padding=padding)
    assert np.array_equal(on_cpu, on_device.numpy())
    for place, index in enumerate(chosen):
        padded = np.pad(images[index], ((0, 0), (padding, padding), (padding, padding)))
        top, left = draws.top[place], draws.left[place]
        window = padded[:, top : top + 9, left : left + 7]
        assert np.array_equal(on_cpu[place], window[:, :, ::-1] if draws.mirrored[place] else window)


def test_draw_with_equal_seed_and_step_is_deterministic() -> None:
    draws, repeated_draws = (draw(64, padding=4, mirror=True, seed=1, step=9) for _ in range(2))
    next_draws = draw(64, padding=4, mirror=True, seed=1, step=10)
    assert np.array_equal(draws.top, repeated_draws.top) and np.array_equal(draws.mirrored, repeated_draws.mirrored)
    assert not np.array_equal(draws.top, next_draws.top)
    assert set(draws.top) <= set(range(9))
    assert 10 < draws.mirrored.sum() < 54


def test_normalized_training_images_have_zero_mean_unit_std() -> None:
    splits = load_splits(DataConfig(validation=0), seed=0)
    batches = splits.batches("train", "cpu")
    assert batches is not None
    normalized = torch.cat([images for images, _ in batches.in_order(batch_size=100)])
    assert abs(float(normalized.mean())) < 1e-4
    assert float(normalized.std()) == pytest.approx(1.0, abs=1e-3)
    raw = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, deviation = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
    expected = (raw.double() - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(normalize(raw, mean, deviation).double(), expected, rtol=1e-5, atol=1e-5)


def test_epoch_covers_each_image_once_and_resumes_at_a_batch() -> None:
    images = image_set(
        np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 1, 4, 4), np.uint8), np.arange(10) % 2
    )
    splits = memory_splits(images, None, DataConfig(validation=0), seed=0)
    batches = splits.batches("train", "cpu")
    assert batches is not None

    def epoch(number: int, first: int = 0) -> list[torch.Tensor]:
        options = {"order_seed": 1, "augment_seed": 2, "padding": 0, "mirror": False}
        return [x for x, _ in batches.epoch(EpochSpec(batch_size=4, epoch=number, first=first, **options))]

    all_batches = epoch(0)
    assert [len(batch) for batch in all_batches] == [4, 4, 2]
    assert len(torch.cat(all_batches)[:, 0, 0, 0].unique()) == 10
    assert torch.equal(torch.cat(epoch(0, first=1)), torch.cat(all_batches[1:]))
    assert not torch.equal(torch.cat(epoch(1)), torch.cat(all_batches))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_epoch_with_equal_seeds_is_repeatable(tmp_path: Path, pictures, workers: int) -> None:
    path = write_parquet(tmp_path / "some.parquet", *pictures)
    config = DataConfig(train=path, test=path, stream="always", workers=workers, image_size=8, augmentation="imagenet")
    splits = load_splits(config, seed=0)
    assert isinstance(splits, StreamSplits)
    batches = splits.batches("train", "cpu")
    assert batches is not None and len(batches) == 27
    options = {"batch_size": 8, "order_seed": 1, "augment_seed": 2, "epoch": 0, "padding": 0, "mirror": True}
    epoch_batches, repeated_batches = (list(batches.epoch(EpochSpec(first=0, **options))) for _ in range(2))
    assert [len(labels) for _, labels in epoch_batches] == [8, 8, 8, 3]
    assert all(torch.equal(x[0], y[0]) for x, y in zip(epoch_batches, repeated_batches, strict=True))
    rest = list(batches.epoch(EpochSpec(first=2, **options)))
    assert torch.equal(rest[0][0], epoch_batches[2][0])
    uncropped_config = dataclasses.replace(config, augmentation="crop_flip")
    uncropped = load_splits(uncropped_config, seed=0).batches("train", "cpu")
    assert uncropped is not None and not torch.equal(
        epoch_batches[0][0], next(uncropped.epoch(EpochSpec(first=0, **options)))[0]
    )
    validation = splits.batches("validation", "cpu")
    assert validation is not None
    assert sum(len(labels) for _, labels in validation.in_order(batch_size=2)) == 3


def test_stream_augmentation_follows_the_epoch_options(tmp_path: Path, pictures) -> None:
    path = write_parquet(tmp_path / "some.parquet", *pictures)
    config = DataConfig(train=path, stream="always", workers=0, image_size=(8, 6), augmentation="none", validation=0)
    batches = load_splits(config, seed=0).batches("train", "cpu")
    assert batches is not None
    order = {"batch_size": 30, "order_seed": 1, "epoch": 0}

    def images(**options: Any) -> torch.Tensor:
        return torch.cat([images for images, _ in batches.epoch(EpochSpec(**order, **options))])

    plain = images(augment_seed=2)
    assert torch.equal(plain, images(augment_seed=3)), "without augmentation the seed changes nothing"
    mirrored = images(augment_seed=2, mirror=True)
    mirror_flags = [
        not torch.equal(plain_image, mirrored_image)
        for plain_image, mirrored_image in zip(plain, mirrored, strict=True)
    ]
    assert 0 < sum(mirror_flags) < len(mirror_flags)
    for plain_image, mirrored_image, is_mirrored in zip(plain, mirrored, mirror_flags, strict=True):
        assert torch.equal(plain_image.flip(2) if is_mirrored else plain_image, mirrored_image)
    black = (0.0 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    cropped = images(augment_seed=2, padding=4)
    edges = torch.cat([cropped[:, :, 0, :].flatten(2), cropped[:, :, -1, :].flatten(2)], dim=2)
    assert cropped.shape == plain.shape
    assert bool(torch.isclose(edges, black.view(1, 3, 1)).any()) and not torch.equal(cropped, plain)


def test_imagenet_augmentation_requires_a_stream(tmp_path: Path, pictures) -> None:
    path = write_parquet(tmp_path / "some.parquet", *pictures)
    with pytest.raises(DataError, match=r"data\.augmentation=imagenet: .*data\.stream=always"):
        load_splits(DataConfig(train=path, image_size=8, stream="never", augmentation="imagenet"), seed=0)
    assert isinstance(load_splits(DataConfig(train=path, image_size=8, augmentation="imagenet"), seed=0), StreamSplits)


def test_data_larger_than_the_memory_limit_is_streamed(tmp_path: Path, pictures) -> None:
    path = write_parquet(tmp_path / "some.parquet", *pictures)
    assert isinstance(load_splits(DataConfig(train=path, memory_gib=1e-9, image_size=8), seed=0), StreamSplits)
    assert isinstance(load_splits(DataConfig(train=path, image_size=8), seed=0), MemorySplits)


def test_limits_take_the_first_images_of_each_class_in_turn() -> None:
    whole = load_splits(DataConfig(validation=0), seed=0)
    few = load_splits(DataConfig(validation=0, train_limit=25, test_limit=10), seed=0)
    assert isinstance(few, MemorySplits) and isinstance(whole, MemorySplits) and few.test is not None
    assert sorted(np.bincount(few.train.labels).tolist()) == [2] * 5 + [3] * 5
    assert np.bincount(few.test.labels).tolist() == [1] * 10
    first = np.flatnonzero(whole.train.labels == 4)[:2]
    assert all((few.train.images == whole.train.images[index]).all((1, 2, 3)).any() for index in first)
    assert few.fingerprint != whole.fingerprint
    with pytest.raises(ConfigError, match=r"data\.train_limit must be at least 2"):
        DataConfig(train_limit=1)


@pytest.mark.parametrize("size", [None, 32])
def test_jpeg_photographs_are_read_and_resized(tmp_path: Path, size: int | None) -> None:
    """The images are JPEG tiles of 64x64 pixels, cut from photographs of a temple and a flower."""
    pieces, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        for top, left in itertools.product(range(0, 384, 64), range(0, 640, 64)):
            pieces.append(Image.fromarray(photograph[top : top + 64, left : left + 64]))
            labels.append(label)
    path = write_parquet(tmp_path / "photographs.parquet", [encoded(piece, "JPEG") for piece in pieces], labels)
    splits = load_splits(DataConfig(train=path, image_size=size, validation=0.2), seed=0)
    assert isinstance(splits, MemorySplits) and splits.validation is not None
    assert (len(splits.train), len(splits.validation), splits.num_classes) == (96, 24, 2)
    assert splits.image_shape == (3, size or 64, size or 64)
    flowers = splits.train.images[splits.train.labels == 1].astype(float).mean((0, 2, 3))
    whole = load_sample_images().images[1][:384].astype(float).mean((0, 1))
    # Close channel means show that the labels and the channel order are right. Pixel values lie in 0 to 255.
    assert np.allclose(flowers, whole, atol=12)
    gray = [encoded(piece.convert("L"), "JPEG") for piece in pieces]
    path = write_parquet(tmp_path / "gray.parquet", gray, labels)
    assert load_splits(DataConfig(train=path), seed=0).image_shape == (1, 64, 64)


def test_digits_are_those_of_scikit_learn() -> None:
    bunch: Any = load_digits()
    train, test = open_images("digits", split="train"), open_images("digits", split="test")
    assert isinstance(train, ImageSet) and isinstance(test, ImageSet)
    pixels = np.concatenate([train.images, test.images])[:, 0]
    labels = np.concatenate([train.labels, test.labels])
    expected = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    order, expected_order = (np.lexsort(images.reshape(len(images), -1).T) for images in (pixels, expected))
    assert (pixels[order] == expected[expected_order]).all()
    assert (labels[order] == bunch.target[expected_order]).all()
    assert len(test) == pytest.approx(len(labels) / 5, abs=5)
