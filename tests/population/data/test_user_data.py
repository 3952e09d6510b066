"""Data passed as Python objects: arrays, tensors, Datasets, DataLoaders and paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from inarch.population import DataConfig, RunConfig
from inarch.population.data import (
    MemorySplits,
    from_dataset,
    image_set,
    load_splits,
    memory_splits,
    parts_of,
    to_images,
)
from inarch.population.data.reading.images import ImageSet
from inarch.population.errors import ConfigError, DataError, UserCodeError
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.image_task import with_data
from tests.images import encoded, picture, write_classes, write_table

X = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 12, 12, 3), np.uint8)
Y = np.arange(40) % 4


class Pictures(Dataset):
    """A Dataset that returns the given items."""

    classes = ("ant", "bee", "cat", "dog")

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Named(Pictures):
    """A Dataset with its own class names."""

    def __init__(self, items: list[Any], classes: Any) -> None:
        super().__init__(items)
        self.classes = classes


ITEMS = [(Image.fromarray(image), int(label)) for image, label in zip(X, Y, strict=True)]


def splits(tmp_path: Path, data: Any, **fields: Any) -> MemorySplits:
    """Return the splits that a run trains on. The data are written into the run's folder and loaded from there."""
    fields = {"validation": 0.0} | fields
    config = RunConfig(name="x", data=DataConfig(**fields))
    config = with_data(config, data, Storage(str(tmp_path / "run")))
    loaded = load_splits(config.data, seed=0)
    assert isinstance(loaded, MemorySplits)
    return loaded


HUGGING_FACE = datasets.Dataset.from_dict(
    {"image": [item[0] for item in ITEMS], "label": Y.tolist()},
    features=datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat", "dog"])}
    ),
)

ONE_PART = {
    "arrays": (X, Y),
    "array and list, as torchvision's CIFAR": (X, Y.tolist()),
    "array and label column": (X, Y[:, None]),
    "array and one-hot": (X, np.eye(4)[Y]),
    "array and names": (X, [("ant", "bee", "cat", "dog")[label] for label in Y]),
    "list of arrays": [X, Y],
    "lists": (list(X), Y.tolist()),
    "pictures and list": ([item[0] for item in ITEMS], Y.tolist()),
    "tensors": (torch.from_numpy(X), torch.from_numpy(Y)),
    "bfloat16": (torch.from_numpy(X).to(torch.bfloat16), torch.from_numpy(Y)),
    "tensors with gradient": (torch.from_numpy(X).float().requires_grad_(), torch.from_numpy(Y)),
    "list of pairs": ITEMS,
    "list of arrays and one-hot": [(image, np.eye(4)[label]) for image, label in zip(X, Y, strict=True)],
    "list of pictures and one-hot": [(image, np.eye(4)[label]) for image, label in ITEMS],
    "categories": (X, pd.Series(Y).astype("category")),
    "ConcatDataset of Subsets": ConcatDataset(
        [Subset(Pictures(ITEMS), range(10)), Subset(Pictures(ITEMS), range(10, 40))]
    ),
    "Dataset": Pictures(ITEMS),
    "Dataset of mappings": Pictures([{"image": image, "label": label} for image, label in ITEMS]),
    "list of mappings": [{"img": image, "target": label} for image, label in ITEMS],
    "Dataset of names": Pictures([(image, Pictures.classes[label]) for image, label in ITEMS]),
    "Dataset of one-hot": Pictures([(image, np.eye(4)[label]) for image, label in ITEMS]),
    "Dataset of tensors": Pictures(
        [(torch.from_numpy(np.array(image)), torch.tensor(label)) for image, label in ITEMS]
    ),
    "TensorDataset": TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "ConcatDataset": ConcatDataset([Pictures(ITEMS[:10]), Pictures(ITEMS[10:])]),
    "Subset": Subset(Pictures(ITEMS), range(40)),
    "DataLoader": DataLoader(Pictures(ITEMS), batch_size=7, shuffle=True),
    "columns of a Hugging Face Dataset": (HUGGING_FACE["image"], HUGGING_FACE["label"]),
    "Hugging Face Dataset": HUGGING_FACE,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ONE_PART)
def test_training_data_in_each_form_gives_the_same_images(tmp_path: Path, form: str) -> None:
    loaded = splits(tmp_path, ONE_PART[form])
    assert loaded.test is None and loaded.image_shape == (3, 12, 12)
    assert loaded.train.images[:, 0, 0, 0].tolist() == list(range(40))
    assert loaded.train.labels.tolist() == Y.tolist()
    has_names = form.startswith(("Dataset", "Concat", "Subset", "Hugging", "DataLoader")) or form == "array and names"
    assert loaded.train.class_names == (Pictures.classes if has_names else ("0", "1", "2", "3"))
    assert bool(loaded.report.notes) == (form == "DataLoader")


def values(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


def test_data_splits_in_each_form_are_recognized(tmp_path: Path) -> None:
    train, test, validation = (X[:20], Y[:20]), (X[20:30], Y[20:30].tolist()), Pictures(ITEMS[30:])
    folder, in_folder = write_classes(tmp_path / "folder", "0123"), [20 * (index // 3) for index in range(12)]
    whole = list(range(40))
    contents = {7: (whole, whole), 8: (whole[:20], in_folder), 9: (whole, whole), 12: (in_folder, in_folder)}
    for number, data in enumerate(
        (
            (train, test),
            [train, test],
            {"train": train, "test": test},
            (train, validation, test),
            [train, validation, test],
            {"train": train, "validation": validation, "test": test},
            {"training": train, "val": validation, "testing": test},
            datasets.DatasetDict({"train": ONE_PART["Hugging Face Dataset"], "test": ONE_PART["Hugging Face Dataset"]}),
            (train, folder),
            (ONE_PART["Hugging Face Dataset"], ONE_PART["Hugging Face Dataset"]),
            ((X[:20, :, :, 0], Y[:20]), (X[20:30, :, :, 0], Y[20:30])),
            (image_set(X[:20], Y[:20]), image_set(X[20:30], Y[20:30])),
            (Path(folder), None, Path(folder)),
        )
    ):
        fields: dict[str, Any] = {}
        if number in (3, 4, 5, 6):
            fields["class_names"] = ("ant", "bee", "cat", "dog")
        loaded = splits(tmp_path / str(number), data, **fields)
        assert loaded.test is not None
        expected = contents.get(number, (list(range(20)), list(range(20, 30))))
        assert (values(loaded.train), values(loaded.test)) == expected
        assert (loaded.validation is not None) == (number in (3, 4, 5, 6))
        if loaded.validation is not None:
            assert loaded.validation.labels.tolist() == Y[30:].tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"training set": (X, Y)}, "got a mapping with the keys training set"),
        ({"test": (X, Y)}, "data must have a part train"),
        ((None, (X, Y)), "data must have a part train"),
        ((None, None, (X, Y)), "data must have a part train"),
        (Pictures([("a.png", 0), ("b.png", 1)]), "is a path, not a decoded image"),
        ((X, Y, X, Y), "got a tuple of 4"),
        ((X.reshape(40, -1), Y), r"images must have shape .*, got \(40, 432\)"),
        ((X, Y[:-1]), "40 images need as many labels, got 39"),
        ((X, np.ones((40, 4))), "multi-label"),
        ((np.zeros((8, 4, 9, 9), np.uint8), [0, 1] * 4), r"with 1 or 3 channels, got \(8, 4, 9, 9\)"),
        ((np.zeros((8, 9, 9, 13), np.uint8), [0, 1] * 4), r"with 1 or 3 channels, got \(8, 9, 9, 13\)"),
        (Pictures([(ITEMS[0][0], 0), (ITEMS[0][0], 1.7)]), "item 1 has label 1.7, which is not a whole number"),
        ((X[:6], ["a", float("nan"), "b"] * 2), "item 1 has no label"),
        ((X[:6], ["a", 1] * 3), "labels must be all numbers or all names"),
        ((X[:6], [[1], [1, 2], [1], [0], [0], [0]]), "multi-label"),
        (([item[0] for item in ITEMS], None), "labels must be a list or an array"),
        (
            ConcatDataset([Named(ITEMS[:4], ["c", "d", "e", "f"]), Named(ITEMS[4:8], ["d", "c", "e", "f"])]),
            "joined Datasets name different classes",
        ),
        (Named(ITEMS[:4], ["a", "b", "a", "b"]), "two classes are called 'a'"),
        ([(Image.fromarray(np.full((9, 9), 200, np.int32)), 0)] * 4, "32-bit integers"),
        ((X, None), r"labels must have shape \(images,\)"),
        (Pictures([(ITEMS[0][0], None)]), r"data train: item 0 has no label"),
        (Pictures([(ITEMS[0][0], [1, 1, 0])]), r"data train\[0\] has several labels"),
        (
            Pictures([(ITEMS[0][0], 1, 2)]),
            r"data train\[0\] must be \(image, label\) or a mapping.*, got tuple of 3",
        ),
        (Pictures([{"a": 1, "label": 1}]), r"data train\[0\] has no image under the keys .*; it has a, label"),
        (Pictures([(ITEMS[0][0], 0), (picture(1, size=(5, 6)), 1)]), "images of 2 sizes.*give data.image_size"),
        (Pictures([(None, 0)]), r"data train\[0\] has no image"),
        (5, "must be a map-style Dataset with a length, got int"),
    ],
)
def test_to_images_of_invalid_data_raises_a_specific_error(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_images(parts_of(data)["train"], DataConfig(), name="data train")


def test_from_dataset_ignores_an_invalid_classes_attribute() -> None:
    for classes in (4, {"a", "b"}, None, [], {0: "cat"}):
        assert from_dataset(Named(ITEMS, classes), name="x").class_names == ("0", "1", "2", "3")


def test_memory_splits_with_two_pixel_scales_are_refused() -> None:
    bytes_, floats = image_set(X, Y), image_set((X / 255.0).astype(np.float32), Y)
    for train, test in ((bytes_, floats), (floats, bytes_)):
        with pytest.raises(DataError, match="give all parts in one scale"):
            memory_splits(train, test, DataConfig(validation=0.0), seed=0)
    memory_splits(floats, floats, DataConfig(validation=0.0), seed=0)


def test_iterable_dataset_is_refused_with_its_class_name() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            yield ITEMS[0]

    with pytest.raises(DataError, match="must be a map-style Dataset with a length, got Stream"):
        from_dataset(Stream(), name="data")


def test_from_dataset_resizes_images_and_sets_channels() -> None:
    items = [(picture(9, size=(20, 12)), 0), (picture(9, size=(12, 30), mode="L"), 1)]
    assert from_dataset(items, DataConfig(image_size=10), name="x").shape == (3, 10, 10)
    assert from_dataset(items, DataConfig(image_size=10, channels="gray"), name="x").shape == (1, 10, 10)


def test_subset_without_a_class_keeps_the_class_names(tmp_path: Path) -> None:
    few = Subset(Pictures(ITEMS), [index for index in range(40) if Y[index] < 3])
    loaded = splits(tmp_path, (few, Pictures(ITEMS)))
    assert loaded.num_classes == 4 and loaded.test is not None and loaded.test.labels.tolist() == Y.tolist()
    first, second = random_split(Pictures(ITEMS), [30, 10])
    assert splits(tmp_path / "b", (first, second)).train.class_names == Pictures.classes
    with pytest.raises(DataError, match=r"data.test .*lack: '3'; the training images have '0', '1', '2'"):
        splits(tmp_path / "c", ((X[Y < 3], Y[Y < 3]), (X, Y)))


class Noisy(Pictures):
    def __init__(self, items: list[Any], *, probability: float) -> None:
        super().__init__(items)
        self.probability = probability
        self.reads = 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        image, label = self.items[index]
        if torch.rand(()) < self.probability:
            image = image.rotate(90).point(lambda value: 255 - value)
        return image, label


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_dataset_with_random_transforms_is_refused(probability: float, seed: int) -> None:
    torch.manual_seed(seed)
    noisy = Noisy(ITEMS, probability=probability)
    if probability == 1.0:  # the transform always applies, so every read gives the same image
        assert len(from_dataset(noisy, name="data")) == 40
        return
    with pytest.raises(DataError, match=r"is a different image each time it is read.*data.augmentation"):
        from_dataset(noisy, name="data train")


def test_dataset_error_shows_only_the_users_frames() -> None:
    class Broken(Pictures):
        def __getitem__(self, index: int) -> Any:
            if index == 3:
                raise KeyError("no such file in my index")
            return super().__getitem__(index)

    with pytest.raises(UserCodeError) as raised:
        from_dataset(Broken(ITEMS), name="data train")
    message = str(raised.value)
    assert message.startswith("data train[3]: the Dataset raised KeyError: 'no such file in my index'")
    assert "test_user_data.py" in message and "reading/dataset_items.py" not in message and message.count("\n") <= 8


def test_unreadable_items_are_skipped_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(encoded(picture(1))[:50])

    class Files(Pictures):
        def __getitem__(self, index: int) -> Any:
            image, label = self.items[index]
            return (Image.open(path).convert("RGB"), label) if index == 2 else (image, label)

    loaded = splits(tmp_path, Files(ITEMS), skip_unreadable=1)
    assert len(loaded.train) == 39
    assert len(loaded.report.unreadable) == 1 and loaded.report.unreadable[0].startswith("data train[2] cannot be read")
    assert "left out images that cannot be read: 1" in loaded.report.lines()
    with pytest.raises(UserCodeError, match=r"data train\[2\]: the Dataset raised"):
        splits(tmp_path / "other", Files(ITEMS))


def test_parts_of_two_pairs_each_are_parts() -> None:
    parts = parts_of((ITEMS[:2], ITEMS[2:4]))
    assert list(parts) == ["train", "test"]
    assert to_images(parts["test"], DataConfig(), name="data test").labels.tolist() == Y[2:4].tolist()


def labelled() -> tuple[np.ndarray, np.ndarray]:
    return X, Y


def labelled_parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {"train": (X, Y), "test": (X[:8], Y[:8])}


def test_paths_beside_a_function_are_used(tmp_path: Path) -> None:
    test = write_table(tmp_path / "t.parquet", [3, 2, 1])
    own = DataConfig(train=f"{__name__}:labelled", test=test, validation_set=test)
    data = with_data(RunConfig(name="x", data=own), None, Storage(str(tmp_path / "run"))).data
    assert data.train.endswith("data/train.arrow") and (data.test, data.validation_set) == (test, test)
    passed = with_data(RunConfig(name="x", data=own), (X, Y), Storage(str(tmp_path / "other"))).data
    assert passed.test is None and passed.validation_set is None
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"train": f"{__name__}:labelled_parts", "test": test}, r"data\.test is set, and .* returns such images too"),
        ({"test": f"{__name__}:labelled"}, r"data\.test 'tests\..*:labelled' names a function; only data\.train may"),
    )
    for fields, message in refused:
        config = RunConfig(name="x", data=DataConfig(**fields))
        with pytest.raises(ConfigError, match=message):
            with_data(config, None, Storage(str(tmp_path / "refused")))
    assert not (tmp_path / "refused").exists()


def test_with_data_makes_relative_paths_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(name="x", data=DataConfig(train="here/train", test="here/test", validation_set="v", query=None))
    data = with_data(config, None, Storage("runs")).data
    assert data.train == f"{tmp_path}/here/train" and data.test == f"{tmp_path}/here/test"
    assert data.validation_set == f"{tmp_path}/v"
    for name in ("digits", "cifar10", "s3://bucket/x?region=r"):
        assert with_data(RunConfig(data=DataConfig(train=name)), None, Storage("runs")).data.train == name
    table = write_table(tmp_path / "t.parquet", [0, 1])
    assert with_data(config, "t.parquet", Storage("runs")).data.train == table


@pytest.mark.parametrize("value", [0.05, 0.1, 0.4, 0.8, 1e-9])
def test_constant_channel_of_floats_has_deviation_one(value: float) -> None:
    images = np.random.default_rng(0).random((500, 3, 8, 8), dtype=np.float32)
    images[:, 2] = value
    mean, deviation = image_set(images, np.arange(500) % 2).statistics()
    assert deviation[2] == 1.0 and mean[2] == pytest.approx(value) and deviation[0] == pytest.approx(12**-0.5, rel=0.02)


def test_class_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 has a name with surrogates, from which an ImageFolder takes its classes."""
    names = ["caf\udce9", "bar"]
    loaded = splits(tmp_path, Named([(image, label % 2) for image, label in ITEMS], names))
    assert loaded.train.class_names == tuple(names)
