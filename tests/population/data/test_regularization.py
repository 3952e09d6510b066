"""Mixup, CutMix and random erasing: values of torchvision, choices that are a pure function of seed and step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from inarch.population.config import RegularizationConfig
from inarch.population.data import EpochSpec, MemoryBatches, image_set
from inarch.population.data.augmentation import normalize
from inarch.population.data.regularization import (
    Mixture,
    MixtureDraws,
    Regularization,
    Regularizer,
    draw_rectangles,
    erase,
    erase_on_device,
    mixed_labels,
    normalized_mixup,
    paste_previous,
)

CLASSES = 4
MEAN, DEVIATION = torch.tensor([100.0, 120.0, 90.0]), torch.tensor([50.0, 60.0, 40.0])


def pixels_of(number: int, *, seed: int = 0, height: int = 12, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)


def regularization_of(seed: int = 7, **strengths: Any) -> Regularization:
    return Regularization(config=RegularizationConfig(**strengths), num_classes=CLASSES, seed=seed)


def draws_of(epoch: int = 0, *, steps: int = 50, seed: int = 7, **strengths: Any) -> list[Mixture | None]:
    draws = MixtureDraws(RegularizationConfig(**strengths), epoch=epoch, steps=steps, seed=seed)
    return [draws.mixture(index, height=12, width=8) for index in range(steps)]


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "share"), [(torch.uint8, 0.7), (torch.float32, 0.5), (torch.uint8, 1.0)])
def test_mixup_gives_the_values_of_torchvision(number: int, dtype: torch.dtype, share: float) -> None:
    pixels, labels = pixels_of(number).to(dtype), torch.arange(number) % CLASSES
    before = pixels.clone()
    transform = v2.MixUp(num_classes=CLASSES)
    params = {"lam": share, "labels": labels, "batch_size": number}
    expected = transform.transform(normalize(pixels, MEAN, DEVIATION), params)
    torch.testing.assert_close(normalized_mixup(pixels, MEAN, DEVIATION, share=share), expected, rtol=1e-5, atol=1e-5)
    shares = mixed_labels(torch.eye(CLASSES)[labels], share=share)
    torch.testing.assert_close(shares, transform.transform(labels, params))
    assert torch.equal(pixels, before)


def test_cutmix_gives_the_values_of_torchvision() -> None:
    labels = torch.arange(5) % CLASSES
    transform = v2.CutMix(num_classes=CLASSES)
    for mixture in draws_of(cutmix=1.0):
        assert mixture is not None and mixture.box is not None
        top, left, bottom, right = mixture.box
        pixels = pixels_of(5)
        box = (left, top, right, bottom)
        params = {"box": box, "lam_adjusted": mixture.share, "labels": labels, "batch_size": 5}
        expected = transform.transform(pixels, params)
        paste_previous(pixels, mixture.box)
        assert torch.equal(pixels, expected)
        assert mixture.share == pytest.approx(1 - (right - left) * (bottom - top) / 96)
        shares = mixed_labels(torch.eye(CLASSES)[labels], share=mixture.share)
        torch.testing.assert_close(shares, transform.transform(labels, params))


def test_erased_rectangles_are_those_of_torchvision() -> None:
    rectangles = draw_rectangles((40, 12, 8), chance=0.5, seed=3, step=9)
    images = normalize(pixels_of(40), MEAN, DEVIATION)
    expected, on_device = images.clone(), images.clone()
    for image, (top, left, bottom, right) in zip(expected, rectangles.T.tolist(), strict=True):
        if bottom > top:
            v2.functional.erase(image, top, left, bottom - top, right - left, torch.zeros(1, 1, 1), inplace=True)
    erase(images, rectangles)
    erase_on_device(on_device, torch.from_numpy(rectangles))
    assert torch.equal(images, expected) and torch.equal(on_device, expected)
    assert 10 < np.count_nonzero(rectangles[2]) < 30


def test_rectangles_have_the_sizes_of_torchvision() -> None:
    torch.manual_seed(0)
    transform = v2.RandomErasing(p=1.0)
    params = [transform.make_params([torch.empty(3, 32, 24)]) for _ in range(1500)]
    expected = np.array([(p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]) for p in params if p["v"] is not None])
    rectangles = draw_rectangles((3000, 32, 24), chance=1.0, seed=0, step=0)
    assert (rectangles >= 0).all() and (rectangles[2] <= 32).all() and (rectangles[3] <= 24).all()
    assert (rectangles[2:] > rectangles[:2]).all()
    np.testing.assert_allclose(rectangles.mean(axis=1), expected.mean(axis=0), atol=0.6)
    np.testing.assert_allclose(rectangles.std(axis=1), expected.std(axis=0), atol=0.5)


def test_images_that_no_rectangle_fits_stay_whole() -> None:
    images = torch.ones(6, 1, 1, 1)
    erase(images, draw_rectangles((6, 1, 1), chance=1.0, seed=0, step=0))
    assert images.all()


def test_mixtures_follow_their_strengths_and_chances() -> None:
    draws = draws_of(steps=4000, mixup=0.5, cutmix=1.0, cutmix_share=0.25, mix_probability=0.8)
    mixed = [mixture for mixture in draws if mixture is not None]
    shares = np.array([mixture.share for mixture in mixed if mixture.box is None])
    assert len(mixed) / 4000 == pytest.approx(0.8, abs=0.03)
    assert len(shares) / len(mixed) == pytest.approx(0.75, abs=0.03)
    assert shares.min() >= 0.5  # the image itself has the larger share
    assert (shares - 0.5).mean() == pytest.approx(1 / np.pi, abs=0.01)  # of the arcsine law, which beta(0.5, 0.5) is
    assert np.square(shares - 0.5).mean() == pytest.approx(1 / 8, abs=0.01)
    assert all(mixture is not None and mixture.box is None for mixture in draws_of(mixup=1.0))
    assert all(mixture is not None and mixture.box is not None for mixture in draws_of(cutmix=1.0))
    assert draws_of(erasing=0.5) == [None] * 50


def test_choices_are_a_function_of_seed_and_step() -> None:
    strengths: dict[str, Any] = {"mixup": 1.0, "cutmix": 1.0}
    assert draws_of(**strengths) == draws_of(**strengths)
    assert draws_of(**strengths) != draws_of(1, **strengths) != draws_of(seed=8, **strengths)
    first, again, later, other = (
        draw_rectangles((20, 12, 8), chance=0.5, seed=seed, step=step)
        for seed, step in ((1, 2), (1, 2), (1, 3), (2, 2))
    )
    assert np.array_equal(first, again) and not np.array_equal(first, later) and not np.array_equal(first, other)


def test_many_classes_need_no_matrix_of_all_pairs() -> None:
    regularization = Regularization(config=RegularizationConfig(erasing=0.5, mixup=1.0), num_classes=10**6, seed=1)
    regularizer = Regularizer(regularization, epoch=0, steps=2)  # such a matrix would have 4 TB
    zero, one = torch.zeros(3), torch.ones(3)
    _, labels = regularizer.finish(
        torch.rand(2, 3, 4, 4), torch.tensor([5, 999_999]), mean=zero, deviation=one, index=0
    )
    assert labels.shape == (2, 10**6) and labels.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert set(labels.nonzero()[:, 1].tolist()) <= {5, 999_999}


@pytest.mark.parametrize("strengths", [{"mixup": 1.0}, {"cutmix": 1.0, "erasing": 0.5}, {"erasing": 1.0}])
def test_pass_continues_with_the_same_batches(strengths: dict[str, Any]) -> None:
    images = image_set(pixels_of(50).permute(0, 2, 3, 1).numpy(), np.arange(50) % CLASSES)
    mean, deviation = images.statistics()
    batches = MemoryBatches(images, mean=mean, deviation=deviation)
    plain = EpochSpec(epoch=2, order_seed=1, augment_seed=7, batch_size=16, padding=2, mirror=True)
    spec = dataclasses.replace(plain, regularization=regularization_of(**strengths))
    whole, rest = list(batches.epoch(spec)), list(batches.epoch(dataclasses.replace(spec, first=2)))
    for (images_of_whole, labels), (images_of_rest, other) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images_of_whole, images_of_rest) and torch.equal(labels, other)
    regularizer = Regularizer(regularization_of(**strengths), epoch=2, steps=4)
    mean, deviation = torch.from_numpy(mean), torch.from_numpy(deviation)
    for index, (before, after) in enumerate(zip(batches.epoch(plain), whole, strict=True)):
        pixels = before[0] * deviation[:, None, None] + mean[:, None, None]
        expected = regularizer.finish(pixels, before[1], mean=mean, deviation=deviation, index=index)
        assert not torch.equal(before[0], after[0])
        torch.testing.assert_close(after[0], expected[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(after[1], expected[1])
        assert after[1].ndim == (1 if set(strengths) == {"erasing"} else 2)
