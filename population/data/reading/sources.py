"""Open data sets by name or path: digits, CIFAR in torchvision's format, folders of images, tables."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
from PIL import Image

from inarch.population.config import DataConfig, ImageSize
from inarch.population.data.datasets import CIFAR, NAMES
from inarch.population.data.reading.decoding import resized, stacked, with_channels
from inarch.population.data.reading.encoded_images import EncodedImages, UnreadableImages
from inarch.population.data.reading.folders import Listing, is_hidden, is_image, list_folder, open_folder
from inarch.population.data.reading.images import ImageSet, image_set, is_own_arrow, read_arrow
from inarch.population.data.reading.table_files import TableFile, table_kind
from inarch.population.data.reading.table_layouts import METADATA, has_part, matching, saved_dataset, shards
from inarch.population.data.reading.tables import open_table
from inarch.population.errors import DataError, UnreadableImageError

CIFAR_FOLDERS = (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python"))
"""Data sets in torchvision's format, each with the name of the folder that identifies it."""


def open_images(description: str, *, split: str, config: DataConfig | None = None) -> ImageSet | EncodedImages:
    """Open the images that a name or a path stands for.

    Args:
        description: Name, path, URI or pattern, as in data.train.
        split: Part to open if the data set has several parts: train, validation, test or query.
        config: Names of columns and classes. None: the defaults.

    Returns:
        An ImageSet if the source holds decoded images, else encoded images.

    Raises:
        DataError: The source does not exist or cannot be read. The message names it and the forms that are expected.
    """
    config = config or DataConfig()
    if split == "validation" and description in NAMES:
        raise _no_validation(description)
    if description == "digits":
        return digits(split)
    if description in CIFAR:
        return cifar(description, Path("data"), split, download=True)
    filesystem, path = locate(description)
    info = _info(filesystem, path, description)
    if info.type == pafs.FileType.NotFound:
        return _open_pattern(filesystem, path, config, name=description, split=split)
    if info.type == pafs.FileType.File:
        return _open_files(filesystem, [path], config, name=description, split=split)
    for name, marker in CIFAR_FOLDERS if isinstance(filesystem, pafs.LocalFileSystem) else ():
        folder = Path(path)
        if folder.name == marker or os.path.isdir(folder / marker):
            if split == "validation":
                raise _no_validation(description)
            return cifar(name, folder.parent if folder.name == marker else folder, split, download=False)
    return _open_folder(filesystem, path.rstrip("/"), config, name=description, split=split)


def _no_validation(description: str) -> DataError:
    return DataError(f"data.validation_set: {description} has no validation images of its own; use data.validation")


def holds_parts(description: str) -> bool:
    """Return whether a name or folder stands for both training and test images.

    Args:
        description: Name, path or URI, as in data.train.

    Raises:
        DataError: The source cannot be looked up.
    """
    if description in NAMES:
        return True
    filesystem, path = locate(description)
    if _info(filesystem, path, description).type != pafs.FileType.Directory:
        return False
    folder = Path(path)
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    if is_local and any(folder.name == marker or os.path.isdir(folder / marker) for _, marker in CIFAR_FOLDERS):
        return True
    names = _names_in(filesystem, path, is_local=is_local)
    if "dataset_dict.json" in names:
        return has_part(filesystem, path, split="test")
    if "data" in names:
        names += [f"data/{name}" for name in _names_in(filesystem, f"{path}/data", is_local=is_local)]
    train, _ = shards(filesystem, path, names, split="train")
    test, _ = shards(filesystem, path, names, split="test")
    if not (train and test) or {table.path for table in train} == {table.path for table in test}:
        return False
    try:
        return not _has_class_folders(list_folder(filesystem, path.rstrip("/")))
    except OSError as error:
        raise DataError(f"{description!r} cannot be listed: {error}") from error


def _has_class_folders(listing: Listing) -> bool:
    """Return whether subfolders hold images. They then count as classes, whatever tables are beside them."""
    return any(is_image(file) and "/" in file and not is_hidden(file) for file in listing.files)


def _names_in(filesystem: pafs.FileSystem, path: str, *, is_local: bool) -> list[str]:
    """Return the names in a folder. A folder that cannot be listed gives none. Reading it raises an error later."""
    try:
        if is_local:
            return sorted(os.listdir(path))  # includes names that are not UTF-8
        return [info.base_name for info in filesystem.get_file_info(pafs.FileSelector(path))]
    except OSError:
        return []


def locate(description: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it.

    Args:
        description: Path or URI. A local path may start with ~.

    Raises:
        DataError: The file system cannot be opened.
    """
    if "://" not in description:
        return pafs.LocalFileSystem(), str(Path(description).expanduser().absolute())
    try:
        return pafs.FileSystem.from_uri(description)
    except Exception as error:  # each file system and its network library raise their own types
        raise DataError(f"{description!r} cannot be opened: {error}") from error


def digits(split: str) -> ImageSet:
    """Return the 1,797 handwritten digits of scikit-learn, 8x8 pixels, gray.

    A fixed fifth of each class is reserved for test.

    Args:
        split: test, or any other part for the training images.
    """
    table = _digits_table()
    labels = table[:, -1].astype(np.int64)
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    is_test = np.zeros(len(pixels), dtype=bool)
    for label in range(10):
        indices = np.flatnonzero(labels == label)
        is_test[np.random.default_rng([label, 1797]).permutation(indices)[: round(len(indices) / 5)]] = True
    chosen = is_test if split == "test" else ~is_test
    return image_set(pixels[chosen], labels[chosen], class_names=[str(n) for n in range(10)], name="digits")


def _digits_table() -> np.ndarray:
    """Return the digits as rows of 64 pixels from 0 to 16 and the label.

    The file is read without importing scikit-learn, which takes two seconds of CPU time. If a release of scikit-learn
    keeps the file elsewhere, its own function is called.
    """
    spec = importlib.util.find_spec("sklearn")
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path(folders[0] if folders else "") / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def cifar(name: str, root: Path, split: str, *, download: bool) -> ImageSet:
    """Return CIFAR-10 or CIFAR-100, read from torchvision's own format.

    Args:
        name: cifar10 or cifar100.
        root: Folder above the folder of the data set.
        split: train, or any other part for the test images.
        download: Whether torchvision downloads the data set if it is missing.

    Raises:
        DataError: The data set is not in the folder and cannot be downloaded.
    """
    import torchvision

    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    try:
        dataset = kind(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data.{split}: {name} was not found under {str(root)!r} and could not be fetched ({error}); "
            "name a folder that holds it, or a Parquet file"
        ) from error
    return image_set(dataset.data, np.asarray(dataset.targets), class_names=dataset.classes, name=name)


def decode_all(
    encoded: EncodedImages,
    *,
    image_size: ImageSize | None,
    channels: str = "auto",
    unreadable: UnreadableImages | None = None,
) -> ImageSet:
    """Decode every image.

    Args:
        encoded: The images.
        image_size: Size of the decoded images, as in data.image_size.
        channels: gray, rgb, or auto: gray if all images are gray, else RGB.
        unreadable: Counter of the unreadable images that are left out. None: the first such image is an error.

    Raises:
        UnreadableImageError: An image cannot be read, and none may be left out.
        DataError: Too many images cannot be read, or sizes differ and `image_size` is None.
    """
    unreadable = unreadable or UnreadableImages(0)
    pictures: list[Image.Image] = []
    readable: list[int] = []
    left_out: list[str] = []
    for index in range(len(encoded)):
        try:
            pictures.append(resized(with_channels(encoded.read(index), channels), image_size))
            readable.append(index)
        except UnreadableImageError as error:
            left_out.append(unreadable.add(error))
    if not pictures:
        raise DataError(f"{encoded.name} has no image that can be read")
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise DataError(
            f"{encoded.name} has images of {len(sizes)} sizes, {_sizes(sizes)} among them; give data.image_size, "
            "or data.stream=always"
        )
    if len(readable) < len(encoded):
        encoded = encoded.select(np.asarray(readable))
    decoded = image_set(stacked(pictures), encoded.labels, class_names=encoded.class_names, name=encoded.name)
    return dataclasses.replace(decoded, cameras=encoded.cameras, notes=encoded.notes, unreadable=tuple(left_out))


def only_readable(encoded: EncodedImages, unreadable: UnreadableImages) -> EncodedImages:
    """Return the images that can be read. Each image is decoded once to check it, on all cores if threads may read.

    Args:
        encoded: The images.
        unreadable: Counter of the unreadable images that are left out.

    Raises:
        UnreadableImageError: An image cannot be read, and none may be left out.
        DataError: Too many images cannot be read, or all of them.
    """

    def error_of(index: int) -> UnreadableImageError | None:
        """Return the error of reading an image, or None."""
        try:
            encoded.read(index)
        except UnreadableImageError as error:
            return error
        return None

    workers = os.cpu_count() or 1 if encoded.is_thread_safe else 1
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        errors = list(pool.map(error_of, range(len(encoded))))
    left_out = tuple(unreadable.add(error) for error in errors if error is not None)
    readable = np.asarray([index for index, error in enumerate(errors) if error is None], dtype=np.int64)
    if not len(readable):
        raise DataError(f"{encoded.name} has no image that can be read")
    return dataclasses.replace(encoded.select(readable), unreadable=left_out) if left_out else encoded


def _info(filesystem: pafs.FileSystem, path: str, description: str) -> pafs.FileInfo:
    """Return what a file system knows of a path, or raise DataError."""
    try:
        return filesystem.get_file_info(path)
    except Exception as error:  # as in locate
        raise DataError(f"{description!r} cannot be looked up: {error}") from error


def _open_pattern(
    filesystem: pafs.FileSystem, path: str, config: DataConfig, *, name: str, split: str
) -> ImageSet | EncodedImages:
    """Open the tables that a pattern matches. The path itself does not exist."""
    if not any(mark in path for mark in "*?["):
        raise DataError(
            f"data.{split}: {name!r} does not exist (looked for {path}), and is not one of {', '.join(NAMES)}"
        )
    paths = matching(filesystem, path)
    if not paths:
        raise DataError(f"data.{split}: no file matches {name!r}")
    return _open_files(filesystem, paths, config, name=name, split=split)


def _open_files(
    filesystem: pafs.FileSystem, paths: Sequence[str], config: DataConfig, *, name: str, split: str
) -> ImageSet | EncodedImages:
    """Open the files of a table, or the file that `write_arrow` wrote."""
    if len(paths) == 1 and table_kind(paths[0]) == "arrow" and is_own_arrow(filesystem, paths[0]):
        return read_arrow(filesystem, paths[0])
    tables = []
    for path in paths:
        kind = table_kind(path)
        if kind is None:
            raise DataError(f"data.{split}: {name!r} must be a Parquet, Arrow or CSV file, or a folder")
        tables.append(TableFile(filesystem=filesystem, path=path, kind=kind))
    return open_table(tables, config, name=name, is_training=split == "train")


def _open_folder(
    filesystem: pafs.FileSystem, path: str, config: DataConfig, *, name: str, split: str
) -> ImageSet | EncodedImages:
    """Open a folder of images or of tables."""
    try:
        listing = list_folder(filesystem, path)
    except OSError as error:
        raise DataError(f"data.{split}: {name!r} cannot be listed: {error}") from error
    tables = saved_dataset(filesystem, path, listing.files, split=split)
    if tables:
        return open_table(tables, config, name=name, is_training=split == "train")
    metadata = next((file for file in METADATA if file in listing.files), None)
    if _has_class_folders(listing):
        if metadata is None:
            return open_folder(filesystem, path, listing, name=name, split=split)
        shown = [file for file in listing.files if is_image(file) and not is_hidden(file)]
        holders = {file.split("/")[0] for file in shown if "/" in file}
        if len(holders) == 1:  # one folder is no choice of classes, so the table has the labels
            return _open_files(filesystem, [f"{path}/{metadata}"], config, name=f"{name}/{metadata}", split=split)
        images = open_folder(filesystem, path, listing, name=name, split=split)
        note = f"{name}: left out {metadata}, because subfolders are classes; data.{split}={name}/{metadata} reads it"
        return dataclasses.replace(images, notes=(*images.notes, note))
    tables, others = shards(filesystem, path, listing.files, split=split)
    if tables:
        images = open_table(tables, config, name=name, is_training=split == "train")
        left_out = f"{name}: left out {len(others)} Parquet files of other parts ({', '.join(others[:3])})"
        return dataclasses.replace(images, notes=(*images.notes, *([left_out] if others else [])))
    if others:
        raise DataError(
            f"data.{split}: the Parquet files in {name} have the names of other parts: {', '.join(others[:3])}"
        )
    if metadata is not None:
        return _open_files(filesystem, [f"{path}/{metadata}"], config, name=f"{name}/{metadata}", split=split)
    nested = sorted({file.rpartition("/")[0] for file in listing.files if table_kind(file) == "parquet"})
    if nested and not any(is_image(file) for file in listing.files):
        shown = ", ".join(f"{name.rstrip('/')}/{folder}" for folder in nested[:3])
        raise DataError(f"data.{split}: {name} holds Parquet files in subfolders only; name one of them: {shown}")
    return open_folder(filesystem, path, listing, name=name, split=split)


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
