"""The order of a pass: every image once, shuffled within a window, from groups that are read once."""

from __future__ import annotations

import numpy as np
import pytest

from inarch.population.data.loader.order import shuffled_order, window_notes

GROUPS = np.repeat(np.arange(40), 25)


def order_of(groups: np.ndarray | None, *, window: int = 200, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return shuffled_order(groups, 1000, window=window, seed=seed, epoch=epoch)


@pytest.mark.parametrize("groups", [None, GROUPS, GROUPS[::-1].copy(), np.arange(1000) % 7])
def test_order_has_every_image_once_and_follows_the_seed(groups: np.ndarray | None) -> None:
    order = order_of(groups)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, order_of(groups))
    assert not np.array_equal(order, order_of(groups, epoch=1))
    assert not np.array_equal(order, order_of(groups, seed=2))


@pytest.mark.parametrize("window", [1, 60, 200, 999])
def test_images_in_memory_fit_in_window_and_a_group(window: int) -> None:
    order = order_of(GROUPS, window=window)
    held: set[int] = set()
    read: set[int] = set()
    most = 0
    for image in order.tolist():
        if image not in held:
            group = int(GROUPS[image])
            assert group not in read
            read.add(group)
            held.update(int(member) for member in np.flatnonzero(group == GROUPS))
        most = max(most, len(held))
        held.remove(image)
    assert most <= window + 25


def test_window_mixes_images_of_many_groups() -> None:
    order = order_of(GROUPS, window=500)
    groups_of_batches = [len(np.unique(GROUPS[order[start : start + 50]])) for start in range(0, 1000, 50)]
    assert np.median(groups_of_batches) >= 15 and min(groups_of_batches) >= 5
    assert [len(np.unique(GROUPS[order_of(GROUPS, window=1)][:25]))] == [1]


def test_files_ordered_by_class_give_a_warning() -> None:
    labels = np.repeat(np.arange(10), 100)
    (note,) = window_notes(labels, GROUPS, window=100)
    assert note.startswith("warning: the training files are ordered by class: 100 images that are shuffled together")
    assert "of 10 classes" in note and "data.shuffle_window" in note
    mixed = np.random.default_rng(0).permutation(labels)
    assert window_notes(mixed, GROUPS, window=100) == []
    assert window_notes(labels, GROUPS, window=1000) == [] == window_notes(labels, None, window=100)
    many_classes = np.random.default_rng(0).integers(0, 900, 1000)  # most classes have no image in a window
    assert window_notes(many_classes, GROUPS, window=100) == []
