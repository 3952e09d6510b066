"""Labels keep their meaning in every carrier: lists, arrays, tables and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inarch.population import DataConfig
from inarch.population.data import MemorySplits, load_splits
from inarch.population.data.holdout import held_out, holdout_notes
from inarch.population.data.reading.labels import encode_label_array, encode_labels, numbered_as
from inarch.population.errors import DataError
from tests.images import write_classes, write_table


def load(train: str, **fields: Any) -> MemorySplits:
    fields = {"validation": 0.0} | fields
    splits = load_splits(DataConfig(train=train, **fields), seed=0)
    assert isinstance(splits, MemorySplits)
    return splits


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["10", "2", "1"], [2, 1, 0], ("1", "2", "10")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), [0, 1, 0], ("b", "a")),
        (
            pa.DictionaryArray.from_arrays(pa.array([0, 2], pa.int8()), ["low", "mid", "high"]),
            [0, 2],
            ("low", "mid", "high"),
        ),
        ([0, 2, 1], [0, 2, 1], ("0", "1", "2")),
        ([0.0, 2.0, 1.0], [0, 2, 1], ("0", "1", "2")),
        ([False, True], [0, 1], ("0", "1")),
        (pa.array([1, 0], pa.uint8()), [1, 0], ("0", "1")),
        (pa.array(["a", "b"], pa.large_string()), [0, 1], ("a", "b")),
        (pa.array(["b", "a"]).cast(pa.string_view()), [1, 0], ("a", "b")),
        (pa.chunked_array([["b"], ["a"]]), [1, 0], ("a", "b")),
    ],
)
def test_encode_labels_maps_each_kind_of_value_to_integers(
    values: Any, labels: list[int], names: tuple[str, ...]
) -> None:
    encoded, encoded_names = encode_labels(values, name="x")
    assert encoded.tolist() == labels and encoded_names == names and encoded.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.5, 1], "x: row 1 has label 0.5, which is not a whole number"),
        ([0, 1, None], "x: row 2 has no label"),
        ([0.0, float("nan")], "x: row 1 has no label"),
        (["a", None], "x: row 1 has no label"),
        (["a", ""], "x: row 1 has no label"),
        (pa.array(["a", None]).dictionary_encode(), "x: row 1 has no label"),
        ([1, -1], "x: row 1 has label -1; labels must be 0 or above"),
        ([[0], [1, 2]], r"x: the labels are lists .*multi-label"),
        ([0, 20_000_000], "x: row 1 has label 20000000, which needs 20000001 outputs for 2 classes"),
        ([3_000_000_000, 1], "x: row 0 has label 3000000000"),
        ([0, 2**70], "x: labels must be all numbers or all names"),
        ([0, "a"], "x: labels must be all numbers or all names"),
        (pa.array([1, 2], pa.date32()), "x: labels must be whole numbers or names of classes, got date32"),
    ],
)
def test_encode_labels_error_names_the_row_of_an_invalid_label(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_labels(values, name="x")


def test_encode_labels_with_class_names_uses_their_order() -> None:
    assert encode_labels(["b", "a"], name="x", class_names=["b", "a"])[0].tolist() == [0, 1]
    assert encode_labels([1, 0], name="x", class_names=["b", "a"])[1] == ("b", "a")
    with pytest.raises(DataError, match="row 1 has label 'c', which is not one of the 2 named classes"):
        encode_labels(["b", "c"], name="x", class_names=["b", "a"])
    with pytest.raises(DataError, match="row 0 has label 2, but only 2 classes have names"):
        encode_labels([2, 0], name="x", class_names=["b", "a"])


def test_encode_label_array_accepts_common_shapes() -> None:
    for values in ([0, 1, 2], np.array([[0], [1], [2]]), np.eye(3), np.eye(3, dtype=int), ["0", "1", "2"]):
        assert encode_label_array(values, name="x")[0].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="multi-label"):
        encode_label_array(np.array([[1, 1, 0], [0, 0, 1]]), name="x")


@given(st.permutations("abcdef"), st.lists(st.sampled_from("abcdef"), min_size=1))
def test_numbered_as_another_class_order_keeps_each_class(order: list[str], images: list[str]) -> None:
    own, names = encode_labels(images, name="x")
    labels, known = numbered_as(own, names, tuple(order))
    assert [known[label] for label in labels] == images and known == tuple(order)


@pytest.mark.parametrize("carrier", ["strings", "categories", "ClassLabel", "digits as strings"])
def test_table_labels_with_names_match_folders_and_tables(tmp_path: Path, carrier: str) -> None:
    names = ["3", "7"] if carrier == "digits as strings" else ["cat", "dog"]
    features = None
    labels: Any = [names[1], names[0]] * 4
    if carrier == "categories":
        labels = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 4), names[::-1])
    if carrier == "ClassLabel":
        labels, features = [0, 1] * 4, {"label": {"names": names[::-1], "_type": "ClassLabel"}}
    table = write_table(tmp_path / "x.parquet", labels, features=features)
    folder = write_classes(tmp_path / "train", names)
    splits = load(folder, test=table)
    assert splits.test is not None and splits.test.labels.tolist() == [1, 0] * 4
    own_order = [0, 1] if carrier in ("categories", "ClassLabel") else [1, 0]
    assert load(table, test=folder).train.labels.tolist() == own_order * 4
    single_class_table = write_table(tmp_path / "only.parquet", [names[1]] * 3)
    test_split = load(table, test=single_class_table).test
    assert test_split is not None and {test_split.class_names[label] for label in test_split.labels} == {names[1]}


def test_unnamed_numeric_labels_match_only_numbered_folders(tmp_path: Path) -> None:
    numbers = write_table(tmp_path / "x.parquet", [0, 2, 2, 0])
    splits = load(write_classes(tmp_path / "digits", "0123"), test=numbers)
    assert splits.test is not None and splits.test.labels.tolist() == [0, 2, 2, 0]
    with pytest.raises(
        DataError, match=r"'0', '2'; the training images have 'cat', 'dog', 'owl'; name .*data.class_names"
    ):
        load(write_classes(tmp_path / "names", ("cat", "dog", "owl")), test=numbers)
    named = load(str(tmp_path / "names"), test=numbers, class_names=("owl", "dog", "cat")).test
    assert named is not None and named.labels.tolist() == [2, 0, 0, 2]


def test_report_names_classes_without_training_images(tmp_path: Path) -> None:
    lines = load(write_table(tmp_path / "x.parquet", [1, 2, 3, 1])).report.lines()
    assert "classes: 4, 1 of them without training images (0) (0, 1, 2, 3); 1 to 2 training images each" in lines


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.floats(0.01, 0.5), st.integers(0, 5))
def test_held_out_takes_the_requested_number_of_images(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    requested = round(fraction * len(labels))
    if requested == 0:
        with pytest.raises(DataError, match="leaves training or validation empty"):
            held_out(labels, fraction, seed=seed)
        return
    spare = sum(count > 1 for count in counts)
    capacity = sum(count - 1 for count in counts)
    if not spare:
        return
    held = held_out(labels, fraction, seed=seed)
    assert held.sum() == min(requested, capacity)
    given_by = np.bincount(labels[held], minlength=len(counts))
    assert (given_by < np.asarray(counts)).all()
    if requested >= spare:
        assert (given_by[np.asarray(counts) > 1] > 0).all()
    note = holdout_notes(labels, held, [f"class {n}" for n in range(len(counts))])
    assert bool(note) == bool((given_by == 0).any())


def test_holdout_notes_report_classes_missing_from_validation() -> None:
    labels = np.asarray([0] * 10 + [1] * 10 + [2])
    held = held_out(labels, 0.2, seed=0)
    assert holdout_notes(labels, held, ["a", "b", "c"]) == [
        "warning: the 4 validation images lack 1 of 3 classes ('c'), 1 of which have a single image"
    ]
    many = np.repeat(np.arange(100), 5)
    assert len(np.unique(many[held_out(many, 0.1, seed=0)])) == 50
    assert len({tuple(np.unique(many[held_out(many, 0.1, seed=seed)])) for seed in range(3)}) == 3, (
        "drawn from the seed"
    )
    assert "lack 50 of 100 classes" in holdout_notes(many, held_out(many, 0.1, seed=0), [str(n) for n in range(100)])[0]


def test_held_out_takes_images_from_small_classes() -> None:
    labels = np.asarray([0] * 96 + [1] * 2 + [2] * 2)
    held = held_out(labels, 0.1, seed=0)
    assert held.sum() == 10 and np.bincount(labels[held]).tolist() == [8, 1, 1]
