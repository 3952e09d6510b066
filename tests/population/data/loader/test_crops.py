"""Resizing agrees with Pillow, and random crops are functions of seed, epoch and image number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from inarch.population.config import ImageSize
from inarch.population.data.loader.crops import (
    Augmentation,
    DecodingSpec,
    evaluation_picture,
    random_resized_crop,
    random_shift,
    stored_area,
    stored_picture,
)
from inarch.population.data.reading.decoding import center, margin, resized

PHOTOGRAPHS = [np.array(photograph) for photograph in load_sample_images().images]
AUGMENTATION = Augmentation(seed=3, epoch=1, padding=4, mirror=True)
CROPPED = DecodingSpec(image_size=32, has_margin=True)


def by_pillow(picture: np.ndarray, spec: DecodingSpec) -> np.ndarray:
    image = Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0])
    if spec.has_margin and isinstance(spec.image_size, int):
        image = center(resized(image, margin(spec.image_size)), spec.image_size)
    else:
        image = resized(image, spec.image_size)
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [32, 224, 500, (60, 90)])
@pytest.mark.parametrize("has_margin", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_differs_from_pillow_by_1_at_most(size: ImageSize, has_margin: bool, channels: int) -> None:
    """The tolerance is 1 of 255 for any value, and 0.02 of 255 in the mean."""
    spec = DecodingSpec(image_size=size, has_margin=has_margin, channels=channels)
    for photograph in PHOTOGRAPHS:
        for picture in (photograph, photograph.transpose(1, 0, 2), photograph[:97, :130]):
            picture = np.ascontiguousarray(picture[..., :channels])
            ours, expected = evaluation_picture(picture, spec), by_pillow(picture, spec)
            assert ours.shape == expected.shape and ours.dtype == np.uint8
            difference = np.abs(ours.astype(int) - expected.astype(int))
            assert difference.max() <= 1 and difference.mean() <= 0.02


def test_random_crop_depends_on_seed_epoch_and_number() -> None:
    picture = PHOTOGRAPHS[0]
    crop = random_resized_crop(picture, CROPPED, AUGMENTATION, number=7)
    assert crop.shape == (3, 32, 32) and crop.flags["C_CONTIGUOUS"]
    assert np.array_equal(crop, random_resized_crop(picture, CROPPED, AUGMENTATION, number=7))
    for changes, number in (({}, 8), ({"seed": 4}, 7), ({"epoch": 2}, 7)):
        changed = dataclasses.replace(AUGMENTATION, **changes)
        assert not np.array_equal(crop, random_resized_crop(picture, CROPPED, changed, number=number))


def test_random_crops_have_the_areas_and_shapes_of_imagenet() -> None:
    """The red channel holds the row, the green one the column. The corners of a crop then show its place."""
    height, width = 200, 240
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(height)[:, None], np.arange(width)
    plain = dataclasses.replace(AUGMENTATION, mirror=False)
    areas, aspects = [], []
    for number in range(400):
        crop = random_resized_crop(picture, CROPPED, plain, number=number).astype(float)
        # The centers of the first and last of 32 cells are 31/32 of the crop apart. Antialiasing shifts the edges.
        rows, columns = np.ptp(crop[0, :, 16]) * 32 / 31, np.ptp(crop[1, 16]) * 32 / 31
        areas.append(rows * columns / (height * width))
        aspects.append(columns / rows)
    assert 0.06 < min(areas) < 0.15 and 0.85 < max(areas) <= 1.05
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.45


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 3), (1, 1)])
def test_random_crop_of_extreme_shapes_has_the_size(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 9, np.uint8)
    for number in range(20):
        assert (random_resized_crop(picture, CROPPED, AUGMENTATION, number=number) == 9).all()


def test_random_shift_takes_a_window_of_the_padded_image() -> None:
    picture = np.random.default_rng(0).integers(1, 256, (3, 9, 7), dtype=np.uint8)
    padded = np.pad(picture, ((0, 0), (4, 4), (4, 4)))
    windows = [padded[:, top : top + 9, left : left + 7] for top in range(9) for left in range(9)]
    num_mirrored = 0
    for number in range(60):
        shifted = random_shift(picture, AUGMENTATION, number=number)
        is_window = any(np.array_equal(shifted, window) for window in windows)
        is_mirrored = any(np.array_equal(shifted, window[:, :, ::-1]) for window in windows)
        assert is_window != is_mirrored
        num_mirrored += is_mirrored
    assert 15 < num_mirrored < 45
    unchanged = dataclasses.replace(AUGMENTATION, padding=0, mirror=False)
    assert np.array_equal(random_shift(picture, unchanged, number=0), picture)


def test_stored_picture_keeps_shape_and_bounded_area() -> None:
    spec = DecodingSpec(image_size=224, has_margin=True)
    assert stored_area(spec) == 256 * 256 * 4 // 3
    stored = stored_picture(PHOTOGRAPHS[0], spec)  # 427x640
    assert stored.shape[0] * stored.shape[1] <= stored_area(spec)
    assert stored.shape[1] / stored.shape[0] == pytest.approx(640 / 427, rel=0.01) and stored.shape[0] > 230
    small = PHOTOGRAPHS[0][:200, :300]
    assert stored_picture(small, spec) is small
