"""Images in tables: shards, columns, paths, CSV, save_to_disk, object stores."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inarch.population import DataConfig
from inarch.population.data import MemorySplits, load_splits, open_images
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.table_files import TableReader
from inarch.population.data.reading.table_rows import OPEN_FILES
from inarch.population.errors import DataError, UnreadableImageError
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from tests.images import encoded, picture, write_classes, write_table


def load(train: str | Path, **fields: Any) -> MemorySplits:
    fields = {"validation": 0.0} | fields
    splits = load_splits(DataConfig(train=str(train), **fields), seed=0)
    assert isinstance(splits, MemorySplits)
    return splits


def test_shards_are_read_by_folder_and_by_pattern(tmp_path: Path) -> None:
    for index in range(3):
        write_table(tmp_path / f"part-{index:05d}.parquet", [index, 0, 1, 2])
    (tmp_path / "notes.txt").write_text("x")
    for train in (tmp_path, tmp_path / "part-*.parquet", tmp_path / "part-0000[0-2].parquet"):
        assert load(train).train.labels.tolist() == [0, 0, 1, 2, 1, 0, 1, 2, 2, 0, 1, 2]
    assert load(tmp_path / "part-0000[01].parquet").train.labels.tolist() == [0, 0, 1, 2, 1, 0, 1, 2]
    with pytest.raises(DataError, match="no file matches"):
        load(tmp_path / "none-*.parquet")
    write_table(tmp_path / "part-9.parquet", [0, 1], columns=("image", "other"))
    with pytest.raises(DataError, match=r"part-9.parquet has no column 'label', which .*part-00000.parquet has"):
        load(tmp_path)


@pytest.mark.parametrize("below", ["", "data"])
def test_shard_names_assign_shards_to_splits(tmp_path: Path, below: str) -> None:
    write_table(tmp_path / below / "train-00000-of-00001.parquet", [0, 1, 2])
    write_table(tmp_path / below / "test-00000-of-00001.parquet", [2, 2])
    write_table(tmp_path / below / "validation-00000-of-00001.parquet", [1])
    splits = load(tmp_path, validation_set=str(tmp_path))
    assert splits.validation is not None
    assert splits.train.labels.tolist() == [0, 1, 2] and splits.validation.labels.tolist() == [1]
    if not below:  # the training folder itself contains every split
        assert splits.test is not None and splits.test.labels.tolist() == [2, 2]
    splits = load(tmp_path, test=str(tmp_path))
    assert splits.test is not None and splits.test.labels.tolist() == [2, 2]


def test_image_and_label_columns_are_configurable(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", [0, 1, 0], columns=("pixel_values", "label_id"))
    with pytest.raises(DataError, match=r"it has pixel_values, label_id; name the column in data.image_column"):
        load(path)
    assert load(path, image_column="pixel_values", label_column="label_id").train.labels.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"has no column 'y' \(data.label_column\); it has"):
        load(path, image_column="pixel_values", label_column="y")
    both = pa.table({"img": [encoded(picture(0))] * 3, "fine_label": [0, 1, 2], "coarse_label": [1, 0, 1]})
    pq.write_table(both, tmp_path / "both.parquet")
    assert load(tmp_path / "both.parquet").train.labels.tolist() == [0, 1, 2]
    assert load(tmp_path / "both.parquet", label_column="coarse_label").train.labels.tolist() == [1, 0, 1]


def test_image_paths_in_table_rows_are_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        picture(30 * index).save(images / f"{index}.png")
    struct = pa.array([{"bytes": None, "path": f"images/{index}.png"} for index in range(3)])
    pq.write_table(pa.table({"image": struct, "label": [0, 1, 2]}), tmp_path / "a.parquet")
    plain = pa.table({"path": [f"{index}.png" for index in range(3)], "label": ["a", "b", "c"]})
    pq.write_table(plain, tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("".join(["id,class\n", *(f"{index},{'xyz'[index]}\n" for index in range(3))]))
    (tmp_path / "d.tsv").write_text(
        "".join(["file\ttarget\n", *(f"{images}/{index}.png\t{index}\n" for index in range(3))])
    )
    for splits in (
        load(tmp_path / "a.parquet"),
        load(tmp_path / "b.parquet", image_folder=str(images)),
        load(tmp_path / "c.csv", image_folder=str(images)),
        load(tmp_path / "d.tsv"),
    ):
        assert splits.train.images[:, 0, 0, 0].tolist() == [0, 30, 60] and splits.train.labels.tolist() == [0, 1, 2]
    os.remove(images / "1.png")
    with pytest.raises(UnreadableImageError, match=rf"a.parquet, row 1|{images}/1.png does not exist"):
        load(tmp_path / "a.parquet")
    assert len(load(tmp_path / "a.parquet", skip_unreadable=1).train) == 2
    empty = pa.array([{"bytes": None, "path": None}] * 2)
    pq.write_table(pa.table({"image": empty, "label": [0, 1]}), tmp_path / "e.parquet")
    with pytest.raises(UnreadableImageError, match=r"e.parquet, row 0 has no image"):
        load(tmp_path / "e.parquet")


def save_to_disk(folder: Path, labels: list[int], *, files: int = 2) -> None:
    """Write the files of `datasets.save_to_disk`: Arrow streams, state.json and dataset_info.json."""
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    names = [f"data-{index:05d}-of-{files:05d}.arrow" for index in range(files)]
    for name, part in zip(names, np.array_split(np.asarray(labels), files), strict=True):
        cells = pa.array([{"bytes": encoded(picture(20 * int(label))), "path": None} for label in part])
        table = pa.table({"image": cells, "label": part}).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_save_to_disk_folder_is_read(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", [0, 1, 1, 0, 1])
    for train in (tmp_path / "one",):
        splits = load(train)
        assert splits.train.class_names == ("cat", "dog") and splits.train.labels.tolist() == [0, 1, 1, 0, 1]
        assert splits.train.images[:, 0, 0, 0].tolist() == [0, 20, 20, 0, 20]
    single = load(tmp_path / "one" / "data-00000-of-00002.arrow").train
    assert single.labels.tolist() == [0, 1, 1] and single.class_names == ("cat", "dog")
    for part in ("train", "test"):
        save_to_disk(tmp_path / "dict" / part, [0, 1] if part == "train" else [1, 1], files=1)
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    splits = load(tmp_path / "dict")
    assert splits.test is not None and splits.test.labels.tolist() == [1, 1] and splits.train.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="holds the parts train, test, none of them for validation"):
        load(tmp_path / "dict", validation_set=str(tmp_path / "dict"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state.json cannot be read as JSON"):
        load(tmp_path / "one")


def test_unusual_tables_are_read_and_damaged_tables_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(picture(0)), encoded(picture(9))], "label": [0, 1]})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert load(tmp_path / "x.arrow").train.labels.tolist() == [0, 1]
    (tmp_path / "lfs.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"lfs.parquet cannot be read as parquet: it is a Git LFS pointer"):
        load(tmp_path / "lfs.parquet")
    plain = write_table(tmp_path / "with space.parquet", [0, 1])
    assert load(Path(plain).as_uri()).train.labels.tolist() == [0, 1]
    for uri in ("hf://datasets/none", "s3a://x/y", "https://example.org/x.parquet", "nothing://x"):
        with pytest.raises(DataError, match=r"cannot be (opened|looked up)"):
            load(uri)
    (tmp_path / "bad.arrow").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad.arrow cannot be read as arrow"):
        load(tmp_path / "bad.arrow")
    for metadata in ("x", "[]", json.dumps({"info": None}), json.dumps({"info": {"features": {"label": None}}})):
        path = write_table(tmp_path / "meta.parquet", [0, 1], metadata={"huggingface": metadata})
        assert load(path).train.class_names == ("0", "1")
    for metadata in ("x", "{}"):
        with pytest.raises(DataError, match="class_names"):
            load(write_table(tmp_path / "names.parquet", [0, 1], metadata={"class_names": metadata}))
    (tmp_path / "UPPER.PARQUET").write_bytes((tmp_path / "meta.parquet").read_bytes())
    assert load(tmp_path / "UPPER.PARQUET").train.labels.tolist() == [0, 1]


def test_pickled_table_reader_returns_the_same_pixels(tmp_path: Path) -> None:
    table = open_images(write_table(tmp_path / "x.parquet", list(range(10))), split="train")
    assert isinstance(table, EncodedImages)
    table.read(0)
    restored = pickle.loads(pickle.dumps(table.read))
    assert np.asarray(restored(9))[0, 0].tolist() == np.asarray(table.read(9))[0, 0].tolist()


def test_object_store_serves_folders_shards_and_storage(bucket: str, tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "dog"))
    (tmp_path / "train" / ".hidden").mkdir()
    picture(0).save(tmp_path / "train" / ".hidden" / "0.png")
    write_table(tmp_path / "shards" / "a.parquet", ["dog", "cat"])
    write_table(tmp_path / "shards" / "b.parquet", ["dog"])
    storage = Storage(f"s3://data{bucket}")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            storage.write(str(path.relative_to(tmp_path)), path.read_bytes())
    splits = load(f"s3://data/train{bucket}", test=f"s3://data/shards{bucket}")
    assert splits.train.class_names == ("cat", "dog") and splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.test is not None and splits.test.labels.tolist() == [1, 0, 1]
    assert "1 hidden file (.hidden)" in "".join(splits.report.notes)
    assert load(f"s3://data/shards/*.parquet{bucket}").train.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="does not exist"):
        load(f"s3://data/nowhere{bucket}")
    run = Storage(joined(f"s3://runs/deep{bucket}", "first"))
    run.write("config.json", b"{}")
    assert Storage(f"s3://runs/deep/first{bucket}").read("config.json") == b"{}"


def write_csv(folder: Path, rows: dict[str, tuple[str, int]], header: str = "file_name,label") -> Path:
    """Write a CSV of file names and labels, and an image of constant value for each row."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, value) in rows.items():
        picture(value, mode="L").save(folder / (name if "." in name else f"{name}.png"))
    lines = [header, *(f"{name},{label}" for name, (label, _) in rows.items())]
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def test_csv_pattern_finds_images_beside_each_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "s1", {"1.png": ("a", 10), "2.png": ("b", 20)})
    write_csv(tmp_path / "s2", {"1.png": ("c", 200), "2.png": ("d", 220)})
    train = load(tmp_path / "s*" / "labels.csv").train
    assert train.images[:, 0, 0, 0].tolist() == [10, 20, 200, 220] and train.class_names == ("a", "b", "c", "d")


def test_csv_file_names_and_labels_keep_their_text(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a", {"001": ("x", 1), "002": ("y", 2)}, header="image_id,label")
    for name, value in (("1.png", 101), ("2.png", 102)):
        picture(value, mode="L").save(tmp_path / "a" / name)
    assert load(path).train.images[:, 0, 0, 0].tolist() == [1, 2]
    labels = write_csv(tmp_path / "b", {"1.png": ("007", 1), "2.png": ("010", 2), "3.png": ("7", 3)})
    assert load(labels).train.class_names == ("007", "7", "010")
    flags = write_csv(tmp_path / "c", {"1.png": ("True", 1), "2.png": (" False", 2)})
    assert load(flags).train.class_names == ("False", "True")
    whole = write_csv(tmp_path / "d", {"1.png": ("3", 1), "2.png": ("1", 2)})
    assert load(whole).train.labels.tolist() == [3, 1]
    with pytest.raises(DataError, match=r"row 0 has label 0.5"):
        load(write_csv(tmp_path / "e", {"1.png": ("0.5", 1), "2.png": ("1", 2)}))
    with pytest.raises(DataError, match=r"row 1 has no label; .*NA, .* count as missing, so rename a class of such a"):
        load(write_csv(tmp_path / "f", {"1.png": ("a", 1), "2.png": ("NA", 2)}))
    (tmp_path / "g.csv").write_bytes("file_name,label\n1.png,h\u00e4\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"g.csv is not UTF-8"):
        load(tmp_path / "g.csv")
    (tmp_path / "a" / "labels.csv").write_text("image_id,label\n001,x\n,y\n002,z\n")
    assert len(load(path, skip_unreadable=1).train) == 2
    (tmp_path / "a" / "labels.csv").write_text("image,label\nhttp://example.com/a.png,x\n001,y\n")
    with pytest.raises(DataError, match="download images that are on the web"):
        load(path)


def test_shards_with_different_class_orders_are_refused(tmp_path: Path) -> None:
    for name, names in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        write_table(tmp_path / f"{name}.parquet", [0, 1], features={"label": {"names": names, "_type": "ClassLabel"}})
    with pytest.raises(DataError, match=r"b.parquet names other classes than .*a.parquet"):
        load(tmp_path)
    doubled = write_table(tmp_path / "c" / "x.parquet", [0, 1, 2], metadata={"class_names": '["crane","dog","crane"]'})
    with pytest.raises(DataError, match="two classes are called 'crane'"):
        load(doubled)


def test_mixed_column_types_are_read_and_duplicates_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pa.array([0, 1], pa.int32()))
    write_table(tmp_path / "b.parquet", pa.array([1, 0], pa.int64()))
    assert load(tmp_path).train.labels.tolist() == [0, 1, 1, 0]
    large = write_table(tmp_path / "t" / "large.parquet", pa.array(["a", "b"], pa.large_string()))
    assert load(large, class_names=("x", "y")).train.class_names == ("a", "b")
    cells = [encoded(picture(0))] * 2
    pq.write_table(
        pa.table({"image": cells, "label": [0, 1], "camera": ["Canon", "Nikon"]}), tmp_path / "t" / "c.parquet"
    )
    splits = load(tmp_path / "t" / "c.parquet")
    assert splits.train.cameras is None and "column 'camera' does not hold whole numbers" in splits.report.notes[0]
    duplicate_column = pa.Table.from_arrays(
        [pa.array(cells), pa.array([0, 1]), pa.array([0, 1])], ["image", "label", "label"]
    )
    pq.write_table(duplicate_column, tmp_path / "t" / "d.parquet")
    with pytest.raises(DataError, match="two columns called 'label'"):
        load(tmp_path / "t" / "d.parquet")
    bracket = tmp_path / "y[1]"
    write_table(bracket / "t-0.parquet", [0, 1])
    assert load(bracket / "t-*.parquet").train.labels.tolist() == [0, 1]


def test_shards_of_other_splits_are_reported_by_name(tmp_path: Path) -> None:
    for name in ("train-0", "extra", "validation-0"):
        write_table(tmp_path / f"{name}.parquet", [0, 1])
    notes = load(tmp_path).report.notes
    assert "left out 2 Parquet files of other parts (extra.parquet, validation-0.parquet)" in notes[0]
    with pytest.raises(DataError, match=r"data.test: the Parquet files in .* have the names of other parts: extra"):
        load(tmp_path, test=str(tmp_path))
    write_table(tmp_path / "hub" / "data" / "train-0.parquet", [0, 1])
    write_table(tmp_path / "hub" / "data" / "test-0.parquet", [1, 1])
    test = load(tmp_path / "hub").test
    assert test is not None and test.labels.tolist() == [1, 1]


def test_class_folders_take_precedence_over_a_table(tmp_path: Path) -> None:
    train = write_classes(tmp_path, ("cat", "dog"))
    pq.write_table(pa.table({"image_id": ["1"], "label": ["x"]}), tmp_path / "features.parquet")
    assert load(train).train.class_names == ("cat", "dog")


def test_pickled_stream_splits_keep_their_labels(tmp_path: Path) -> None:
    train = write_classes(tmp_path, ("cat", "dog"))
    splits = load_splits(DataConfig(train=train, stream="always", train_limit=2, validation=0.0), seed=0)
    assert len(pickle.loads(pickle.dumps(splits)).labels("train")) == 2


def test_built_in_data_without_validation_split_is_refused(tmp_path: Path) -> None:
    for name in ("digits", "cifar10"):
        with pytest.raises(DataError, match=f"{name} has no validation images of its own"):
            open_images(name, split="validation")
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        with pytest.raises(DataError, match="has no validation images of its own"):
            open_images(str(path), split="validation")


def test_few_test_rows_may_have_high_labels(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.parquet", list(range(1500)))
    test = write_table(tmp_path / "test.parquet", [1490, 1499])
    splits = load(train, test=test)
    assert splits.test is not None and splits.test.labels.tolist() == [1490, 1499]
    with pytest.raises(DataError, match="row 1 has label 1499, which needs 1500 outputs for 2 classes"):
        load(test)


@pytest.mark.parametrize("stream", ["auto", "always"])
def test_columns_that_hold_no_images_are_refused_at_once(tmp_path: Path, stream: Any) -> None:
    for index, column in enumerate(([[1, 2], [3, 4]], [0.5, 1.5], [True, False])):
        path = tmp_path / f"{index}.parquet"
        pq.write_table(pa.table({"image": column, "label": [0, 1]}), path)
        with pytest.raises(DataError, match=r"column 'image' holds .*, not encoded images or paths"):
            load_splits(DataConfig(train=str(path), stream=stream, validation=0.0), seed=0)


@pytest.mark.parametrize("other", ["12345678901234567890", "--0", "-0", "007", "999999999999999999"])
def test_csv_columns_of_any_numbers_are_read(tmp_path: Path, other: str) -> None:
    path = write_csv(tmp_path / "a", {"1.png": ("x", 1), "2.png": ("y", 2)})
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{first},code", *(f"{row},{other}" for row in rows)]))
    train = load(path).train
    assert train.class_names == ("x", "y") and train.images[:, 0, 0, 0].tolist() == [1, 2]


def test_query_and_gallery_shards_are_parts_of_their_own(tmp_path: Path) -> None:
    for name, labels in (("train", [0, 1, 2]), ("query", [1]), ("gallery", [2, 2])):
        write_table(tmp_path / f"{name}-00000-of-00001.parquet", labels)
    assert load(tmp_path).train.labels.tolist() == [0, 1, 2]
    for split, labels in (("query", [1]), ("test", [2, 2])):
        assert open_images(str(tmp_path), split=split).labels.tolist() == labels
    with pytest.raises(DataError, match="have the names of other parts"):
        open_images(str(tmp_path), split="validation")


def test_class_folders_beside_shards_have_no_test_images(tmp_path: Path) -> None:
    train = write_classes(tmp_path, ("cat", "dog"))
    for name in ("train", "test"):
        write_table(tmp_path / f"{name}.parquet", [0, 1])
    splits = load(train)
    assert splits.test is None and len(splits.train) == 6


def test_parquet_files_in_subfolders_only_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "plain_text" / "train-00000-of-00001.parquet", [0, 1])
    with pytest.raises(DataError, match=r"holds Parquet files in subfolders only; name one of them: .*/plain_text"):
        load(tmp_path)
    assert load(tmp_path / "plain_text").train.labels.tolist() == [0, 1]


def test_csv_cells_may_hold_line_breaks(tmp_path: Path) -> None:
    """Arrow reads a file in blocks of 1 MiB, which may end within such a cell."""
    caption = "first line\nsecond line " + "x" * 80
    rows = [f'{index % 4}.png,"{caption}",{"cat" if index % 2 else "dog"}' for index in range(12_000)]
    for index in range(4):
        picture(20 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,caption,label", *rows]))
    images = open_images(str(tmp_path / "labels.csv"), split="train")
    assert images.labels.tolist() == [1, 0] * 6_000


def test_image_folder_may_be_a_uri(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture(40).save(tmp_path / "images" / "0.png")
    picture(60).save(tmp_path / "images" / "1.png")
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\n0.png,a\n1.png,b\n")
    for folder in (str(tmp_path / "images"), (tmp_path / "images").as_uri()):
        assert load(table, image_folder=folder).train.images[:, 0, 0, 0].tolist() == [40, 60]
    with pytest.raises(DataError, match=r"data\.image_folder 'nowhere://x' cannot be opened"):
        load(table, image_folder="nowhere://x")


def test_identity_of_a_table_follows_folder_and_content(tmp_path: Path) -> None:
    """Caches of decoded images are found by it."""
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\n0.png,a\n1.png,b\n")

    def identity(folder: str | None) -> bytes:
        images = open_images(str(table), split="train", config=DataConfig(image_folder=folder))
        assert isinstance(images, EncodedImages)
        return images.source.identity()

    first = identity("clean")
    assert identity("clean") == first
    assert len({first, identity("noisy"), identity(None)}) == 3
    table.write_text("file_name,label\n0.png,a\n11.png,b\n")
    assert identity("clean") != first


def test_many_categories_in_shards_are_joined(tmp_path: Path) -> None:
    """Indices of 8 bits hold those of each shard, but not those of all."""
    for shard in range(2):
        names = [f"{shard}-{index:03d}" for index in range(100)]
        column = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), pa.array(names))
        write_table(tmp_path / f"part-{shard}.parquet", column)
    splits = load(tmp_path)
    assert splits.train.num_classes == 200 and splits.train.labels.tolist() == list(range(200))


def test_binary_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pa.array([b"\xff\xfe", b"cat"]))
    with pytest.raises(DataError, match="column 'label': labels must be all numbers or all names of classes"):
        load(tmp_path / "a.parquet")


def test_threads_read_groups_of_many_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread reads ahead for training while another evaluates. More files than stay open are read by both."""
    for shard in range(2 * OPEN_FILES):
        rows = {"image": [f"{10 * shard + row}".encode() for row in range(10)], "label": list(range(10))}
        pq.write_table(pa.table(rows), tmp_path / f"part-{shard:02d}.parquet", row_group_size=5)
    images = open_images(str(tmp_path), split="train", config=DataConfig(train=str(tmp_path)))
    assert isinstance(images, EncodedImages)
    read = TableReader.group

    def slow(reader: TableReader, index: int, column: str) -> pa.ChunkedArray:
        time.sleep(0.002)  # as from a disk that is not here
        return read(reader, index, column)

    monkeypatch.setattr(TableReader, "group", slow)
    source = pickle.loads(pickle.dumps(images.source))

    def wrong(seed: int) -> int:
        random, found = np.random.default_rng(seed), 0
        for _ in range(60):
            numbers = random.integers(0, 20 * OPEN_FILES, 3)
            found += sum(int(value) != number for number, _, value in source.cells(numbers.tolist()))
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            assert list(threads.map(wrong, range(4))) == [0] * 4
    finally:
        sys.setswitchinterval(interval)
