"""Folders of images. Only class folders become classes, and splits match their classes by name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inarch.population import DataConfig
from inarch.population.data import MemorySplits, load_splits
from inarch.population.data.reading.images import ImageSet
from inarch.population.errors import DataError
from tests.images import encoded, picture, write_classes


def load(train: str | Path, **fields: Any) -> MemorySplits:
    fields = {"validation": 0.0} | fields
    config = DataConfig(train=str(train), **fields)
    splits = load_splits(config, seed=0)
    assert isinstance(splits, MemorySplits)
    return splits


def notes(splits: MemorySplits) -> str:
    return "\n".join(splits.report.notes)


def values(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("names", ["0123", ("cat", "dog", "emu", "owl"), ("0", "90", "180", "270"), "abcd"])
@pytest.mark.parametrize("lacking", [0, 1, 2, 3])
def test_class_labels_match_when_a_test_folder_lacks_a_class(tmp_path: Path, names, lacking: int) -> None:
    train = write_classes(tmp_path / "train", {name: 20 * place for place, name in enumerate(names)})
    test_classes = {name: 20 * place for place, name in enumerate(names) if place != lacking}
    splits = load(train, test=write_classes(tmp_path / "test", test_classes))
    assert splits.test is not None
    by_value = dict(zip(values(splits.train.images), splits.train.labels.tolist(), strict=True))
    assert splits.test.labels.tolist() == [by_value[value] for value in values(splits.test.images)]
    assert len(set(splits.test.labels.tolist())) == 3


def test_validation_folder_matches_classes_by_name(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", "012")
    splits = load(train, validation_set=write_classes(tmp_path / "val", {"0": 0, "2": 40}), validation=0.3)
    assert splits.validation is not None and len(splits.train) == 9
    assert splits.validation.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert splits.report.sizes == {"train": 9, "validation": 6}
    with pytest.raises(DataError, match=r"data.validation .*other has images of classes .* lack: '7'"):
        load(train, validation_set=write_classes(tmp_path / "other", "07"))


def test_hidden_folders_and_files_are_skipped_and_counted(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("cat", "dog")))
    write_classes(train, {".ipynb_checkpoints": 1, "__MACOSX": 2, ".cache": 3})
    write_classes(train / "cat", {".ipynb_checkpoints": 0})
    picture(9).save(train / "cat" / "._0.png", "PNG")
    (train / "dog" / ".DS_Store").write_bytes(b"x")
    splits = load(train)
    assert splits.train.class_names == ("cat", "dog") and splits.train.labels.tolist() == [0] * 3 + [1] * 3
    assert "left out 14 hidden files (.cache, .ipynb_checkpoints, __MACOSX, ...)" in notes(splits)


def test_class_folder_without_images_is_refused_or_counted(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("cat", "dog")))
    (train / "empty").mkdir()
    with pytest.raises(DataError, match="class folder 'empty' holds no files"):
        load(train)
    (train / "empty" / "photo.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"class folder 'empty' holds only files that are not read \(.heic 1\)"):
        load(train)
    (train / "empty" / "photo.heic").unlink()
    (train / "empty").rmdir()
    test = Path(write_classes(tmp_path / "test", ("cat",)))
    (test / "dog").mkdir()
    splits = load(train, test=str(test))
    assert splits.test is not None and splits.test.labels.tolist() == [0] * 3
    assert "left out 1 folder without images (dog)" in notes(splits)


def test_rare_image_formats_are_read_and_other_files_counted(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("cat", "dog")))
    (train / "owl").mkdir()
    for index, suffix in enumerate((".jfif", ".JPE", ".avif", ".pgm")):
        kind = {".avif": "AVIF", ".pgm": "PPM"}.get(suffix, "JPEG")
        image = picture(200, mode="L") if kind == "PPM" else picture(200)
        (train / "owl" / f"{index}{suffix}").write_bytes(encoded(image, kind))
    for name in ("a.heic", "b.heic", "notes.txt", "Thumbs.db"):
        (train / "owl" / name).write_bytes(b"x")
    splits = load(train)
    assert splits.train.class_names == ("cat", "dog", "owl") and splits.train.labels.tolist().count(2) == 4
    assert "left out 4 files of other kinds (.heic 2, .db 1, .txt 1)" in notes(splits)


@pytest.mark.parametrize("parts", [("train", "val"), ("Train", "Test"), ("training", "validation", "test")])
def test_folder_that_contains_split_folders_is_refused(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        write_classes(tmp_path / part, ("cat", "dog"))
    with pytest.raises(DataError, match=rf"holds the parts of a data set .* data.train={tmp_path}/{parts[0]}"):
        load(tmp_path)
    write_classes(tmp_path, {"extra": 1})
    with pytest.raises(DataError, match="holds the parts of a data set"):
        load(tmp_path)


def test_class_folder_named_like_a_split_is_accepted(tmp_path: Path) -> None:
    assert load(write_classes(tmp_path, ("bus", "car", "train"))).train.class_names == ("bus", "car", "train")


def test_symlinks_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("cat", "dog"), each=1))
    write_classes(tmp_path / "elsewhere", ("more",), each=4)
    os.symlink(tmp_path / "elsewhere" / "more", train / "cat" / "more")
    os.symlink(tmp_path / "elsewhere" / "more", train / "dog" / "more")
    os.symlink(train, train / "cat" / "loop")
    os.symlink(tmp_path / "elsewhere" / "more", train / "owl")
    assert load(train).train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 4


def test_stray_image_beside_class_folders_is_left_out(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("cat", "dog")))
    picture(5).save(train / "12_c3.png")
    splits = load(train)
    assert splits.train.class_names == ("cat", "dog") and splits.train.cameras is None
    assert "left out 1 image beside the class folders (12_c3.png)" in notes(splits)


def test_folder_with_a_metadata_table_takes_its_labels(tmp_path: Path) -> None:
    for index in range(4):
        picture(20 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,dog\n1.png,cat\n2.png,dog\n3,cat\n")
    splits = load(tmp_path)
    assert splits.train.class_names == ("cat", "dog") and splits.train.labels.tolist() == [1, 0, 1, 0]
    assert values(splits.train.images) == [0, 20, 40, 60]


def test_table_beside_one_folder_of_images_has_the_labels(tmp_path: Path) -> None:
    write_classes(tmp_path, {"images": 40}, each=2)
    (tmp_path / "metadata.csv").write_text("file_name,label\nimages/0.png,dog\nimages/1.png,cat\n")
    write_classes(tmp_path / "__MACOSX", {"images": 0}, each=1)
    assert load(tmp_path).train.class_names == ("cat", "dog")
    write_classes(tmp_path, {"masks": 60}, each=2)
    splits = load(tmp_path)
    assert splits.train.class_names == ("images", "masks")
    assert f"left out metadata.csv, because subfolders are classes; data.train={tmp_path}/metadata.csv" in notes(splits)


def test_class_names_with_accents_match_in_both_unicode_forms(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", ("Bar", unicodedata.normalize("NFD", "Caf\u00e9")))
    test = write_classes(tmp_path / "test", (unicodedata.normalize("NFC", "Caf\u00e9"),))
    splits = load(train, test=test)
    assert splits.test is not None and splits.test.labels.tolist() == [1, 1, 1]
    assert splits.train.num_classes == 2


def test_unusual_class_and_file_names_are_read_and_reported(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", ("猫", 'a "b"', "new\nline")))
    os.mkdir(os.fsencode(train) + b"/\xff")
    Image.new("RGB", (12, 12)).save(train / "猫" / "bild 0 ü#%.png")
    with open(os.fsencode(train) + b"/\xff/0.png", "wb") as sink:
        sink.write(encoded(picture(1)))
    splits = load(train)
    assert splits.num_classes == 4 and len(splits.train) == 11
    report = "\n".join(splits.report.lines())
    assert "猫" in report and "new\\nline" in report
    report.encode()


def test_report_lists_sizes_classes_pixels_and_augmentation(tmp_path: Path) -> None:
    train = Path(write_classes(tmp_path / "train", {"cat": 0, "dog": 255}, each=4))
    picture(128).save(train / "dog" / "more.png")
    splits = load(
        train, test=write_classes(tmp_path / "test", ("cat",)), validation=0.25, augmentation="crop", padding=2
    )
    assert splits.report.lines() == [
        "data: 7 train, 2 validation, 3 test; 12x12 pixels, RGB",
        "classes: 2 (cat, dog); 4 to 5 training images each",
        f"pixels: mean {', '.join([f'{splits.mean[0] / 255:.3f}'] * 3)} and deviation "
        f"{', '.join([f'{splits.deviation[0] / 255:.3f}'] * 3)} of white (255)",
        "augmentation: random crops of images padded by 2 pixels",
    ]
    train_only_lines = load(train).report.lines()
    assert "9 train (no validation and no test images)" in train_only_lines[0]
    assert train_only_lines[3] == ("augmentation: random crops of images padded by 4 pixels and random mirror images")


@pytest.mark.parametrize(
    "files",
    [
        ("bounding_box_train/0002_c1s1.jpg", "bounding_box_test/0003_c2s1.jpg", "query/0002_c3s1.jpg"),
        ("train/cats/1.png", "train/dogs/1.png", "test1/1.png"),
        ("train/cats/1.png", "train/dogs/1.png", "test/1.png", "sample/1.png"),
        ("seg_train/a/1.png", "seg_train/b/1.png", "seg_test/a/1.png"),
    ],
)
def test_known_data_set_layout_is_not_read_as_classes(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / file)
    with pytest.raises(DataError, match="holds the parts of a data set"):
        load(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(64, 3), (3, 64), (20, 1)])
def test_height_of_three_pixels_is_not_taken_for_channels(tmp_path: Path, width: int, height: int) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for index in range(2):
            pixels = np.full((height, width, 3), 40 * number + index, dtype=np.uint8)
            pixels[:, -1, 2] = 255
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    decoded = load_splits(DataConfig(train=str(tmp_path), validation=0.0), seed=0).train
    assert isinstance(decoded, ImageSet) and decoded.shape == (3, height, width)
    assert int(decoded.images[0, 2, 0, -1]) == 255 and int(decoded.images[-1, 0, 0, 0]) == 41
