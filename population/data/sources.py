"""Data sets by name or path: digits, CIFAR in torchvision's format, Hugging Face image Parquet, folders of classes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from population.config import ImageSize
from population.data.images import ImageSet, check_labels, image_set, read_arrow
from population.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})

CIFAR = ("cifar10", "cifar100")

PERSON = re.compile(r"(-1|\d+)_c(\d+)")
"""How names of Market-1501's and DukeMTMC-reID's files begin: identity (-1: junk) and camera."""


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Images not decoded yet: how many, their labels, and how to get one."""

    name: str
    """Where they come from."""
    labels: np.ndarray
    """Shape (images,), int64."""
    class_names: tuple[str, ...]
    """Names by label."""
    read: Callable[[int], Image.Image]
    """Decodes one image."""
    groups: np.ndarray
    """Shape (images,): the Parquet row group of each; images of one group are cheap to read together."""
    cameras: np.ndarray | None = None
    """Shape (images,), int64; None: not known."""

    def select(self, indices: np.ndarray) -> EncodedImages:
        """Some of the images."""
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            read=lambda index: self.read(int(indices[index])),
            groups=self.groups[indices],
            cameras=None if self.cameras is None else self.cameras[indices],
        )


def open_images(description: str, *, split: str) -> ImageSet | EncodedImages:
    """The images behind a name or a path, decoded where they come decoded.

    Args:
        description: digits, cifar10, cifar100, a Parquet or Arrow file, a folder in torchvision's CIFAR format, a
            folder with a subfolder for each class, or one of files named as Market-1501's.
        split: train, test or query; which part of a data set that has several.

    Raises:
        DataError: nothing readable lies there; the message names it and what was expected.
    """
    if description == "digits":
        return digits(split)
    if description in CIFAR:
        return cifar(description, Path("data"), split, download=True)
    filesystem, path = _locate(description)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise DataError(f"data.{split}: {description!r} does not exist, and is none of digits, {', '.join(CIFAR)}")
    if info.type == pafs.FileType.File:
        return _open_file(description, filesystem, path, split)
    folder = Path(path)
    for name, marker in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")):
        if folder.name == marker or (folder / marker).is_dir():
            return cifar(name, folder.parent if folder.name == marker else folder, split, download=False)
    return open_folder(folder)


def digits(split: str) -> ImageSet:
    """The 1,797 handwritten digits, 8x8 gray, that scikit-learn installs; a fixed fifth of each class is for test."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    pixels = np.rint(found.images * (255.0 / 16.0)).astype(np.uint8)
    is_test = np.zeros(len(pixels), dtype=bool)
    for label in range(10):
        places = np.flatnonzero(found.target == label)
        is_test[np.random.default_rng([label, 1797]).permutation(places)[: round(len(places) / 5)]] = True
    chosen = is_test if split == "test" else ~is_test
    return image_set(pixels[chosen], found.target[chosen], class_names=[str(n) for n in range(10)], name="digits")


def cifar(name: str, root: Path, split: str, *, download: bool) -> ImageSet:
    """CIFAR-10 or CIFAR-100 in torchvision's own format; its downloader fetches it where there is a network."""
    import torchvision

    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    try:
        found = kind(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"data.{split}: {name} was not found under {str(root)!r} and could not be fetched ({error}); "
            "name a folder that holds it, or a Parquet file"
        ) from error
    return image_set(found.data, np.asarray(found.targets), class_names=found.classes, name=name)


def open_parquet(filesystem: pafs.FileSystem, path: str, *, name: str) -> EncodedImages:
    """Parquet in the layout of Hugging Face's image data sets: image: struct<bytes, path>, label: integer."""
    try:
        source = pq.ParquetFile(path, filesystem=filesystem)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {error}") from error
    columns = set(source.schema_arrow.names)
    image_column = next((column for column in ("image", "img") if column in columns), None)
    label_column = next((column for column in ("label", "fine_label", "labels") if column in columns), None)
    if image_column is None or label_column is None:
        raise DataError(f"{name} must have columns image and label, it has {', '.join(sorted(columns))}")
    labels = source.read(columns=[label_column]).column(0).to_numpy().astype(np.int64)
    camera_column = next((column for column in ("camera", "camera_id") if column in columns), None)
    cameras = None
    if camera_column is not None:
        cameras = source.read(columns=[camera_column]).column(0).to_numpy().astype(np.int64)
    if len(labels) == 0:
        raise DataError(f"{name} has no images")
    names = _class_names(source.schema_arrow.metadata or {}, label_column)
    check_labels(labels, len(names) if names else None, name=name)
    sizes = [source.metadata.row_group(index).num_rows for index in range(source.metadata.num_row_groups)]
    rows = _RowGroups(filesystem, path, image_column, np.concatenate([[0], np.cumsum(sizes)]), name)
    return EncodedImages(
        name=name,
        labels=labels,
        class_names=tuple(names or (str(n) for n in range(int(labels.max()) + 1))),
        read=rows.image,
        groups=np.repeat(np.arange(len(sizes)), sizes),
        cameras=cameras,
    )


def open_folder(folder: Path) -> EncodedImages:
    """A folder with a subfolder for each class, or of files that are named as Market-1501's; classes are numbered by
    their sorted names."""
    persons = _persons(folder)
    found = persons or [
        (path, entry.name, None)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entry.is_dir()
        for path in sorted(Path(entry.path).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise DataError(
            f"{folder} must hold a subfolder of images for each class, or images named IDENTITY_cCAMERA...; it has none"
        )
    files = [path for path, _, _ in found]
    classes = sorted({name for _, name, _ in found})
    if not persons:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    numbers = {name: label for label, name in enumerate(classes)}

    def read(index: int) -> Image.Image:
        return _decode(files[index].read_bytes(), str(files[index]))

    return EncodedImages(
        name=str(folder),
        labels=np.asarray([numbers[name] for _, name, _ in found], dtype=np.int64),
        class_names=tuple(classes),
        read=read,
        groups=np.arange(len(files)),
        cameras=np.asarray([camera for _, _, camera in found], dtype=np.int64) if persons else None,
    )


def _persons(folder: Path) -> list[tuple[Path, str, int | None]]:
    """Files, identities and cameras of a folder in Market-1501's format, without its junk; empty for another."""
    found = []
    for path in sorted(folder.iterdir()):
        named = PERSON.match(path.name) if path.suffix.lower() in IMAGE_SUFFIXES else None
        if named is not None and named[1] != "-1":
            found.append((path, named[1], int(named[2])))
    return found


def decode_all(encoded: EncodedImages, *, image_size: ImageSize | None) -> ImageSet:
    """Decode every image; gray where all are gray, else RGB.

    Raises:
        DataError: an image cannot be read, or sizes differ and no image_size is given.
    """
    pictures = [resized(encoded.read(index), image_size) for index in range(len(encoded.labels))]
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise DataError(
            f"{encoded.name} has images of {len(sizes)} sizes, {_sizes(sizes)} among them; give data.image_size, "
            "or data.stream=always"
        )
    mode = "L" if all(picture.mode in ("L", "1") for picture in pictures) else "RGB"
    pixels = np.stack([np.asarray(picture.convert(mode)) for picture in pictures])
    found = image_set(pixels, encoded.labels, class_names=encoded.class_names, name=encoded.name)
    return dataclasses.replace(found, cameras=encoded.cameras)


def resized(picture: Image.Image, image_size: ImageSize | None) -> Image.Image:
    """The picture with its shorter side scaled to image_size and its center cut out, or scaled to (height, width) as a
    whole; as it is where None."""
    if image_size is None:
        return picture
    if not isinstance(image_size, int):
        height, width = image_size
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    if picture.size == (image_size, image_size):
        return picture
    width, height = picture.size
    scale = image_size / min(width, height)
    scaled = picture.convert("RGB").resize(
        (max(image_size, round(width * scale)), max(image_size, round(height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = (scaled.width - image_size) // 2, (scaled.height - image_size) // 2
    return scaled.crop((left, top, left + image_size, top + image_size))


def from_dataset(items: Any, *, class_names: Sequence[str] | None = None, name: str) -> ImageSet:
    """An ImageSet from a torch Dataset of (image, label); images are PIL pictures, arrays or tensors of one shape.

    Raises:
        DataError: shapes differ, or an item is no such pair.
    """
    pixels, labels = [], []
    count = len(items) if hasattr(items, "__len__") else None
    if count is None:
        raise DataError(f"{name} must be a map-style Dataset with a length, got {type(items).__name__}")
    for index in range(count):
        item = items[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{name}[{index}] must be (image, label), got {type(item).__name__}")
        pixels.append(np.asarray(item[0]))
        labels.append(int(item[1]))
    shapes = {picture.shape for picture in pixels}
    if len(shapes) != 1:
        raise DataError(f"{name} must have images of one shape, got {len(shapes)} shapes")
    names = class_names or getattr(items, "classes", None)
    return image_set(np.stack(pixels), np.asarray(labels), class_names=names, name=name)


class _RowGroups:
    """Reads images out of a Parquet file, keeping the newest row groups."""

    KEPT = 8

    def __init__(self, filesystem: pafs.FileSystem, path: str, column: str, starts: np.ndarray, name: str) -> None:
        self._filesystem, self._path, self._column = filesystem, path, column
        self._starts, self._name = starts, name
        self._kept: dict[int, pa.ChunkedArray] = {}
        self._source: tuple[int, pq.ParquetFile] | None = None

    def image(self, index: int) -> Image.Image:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._group(group)[index - int(self._starts[group])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(f"{self._name}: row {index} has no image bytes")
        return _decode(content, f"{self._name}, row {index}")

    def _group(self, group: int) -> pa.ChunkedArray:
        if group not in self._kept:
            while len(self._kept) >= self.KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[group] = self._file().read_row_group(group, columns=[self._column]).column(0)
        return self._kept[group]

    def _file(self) -> pq.ParquetFile:
        """Each process opens the file for itself."""
        if self._source is None or self._source[0] != os.getpid():
            self._source = (os.getpid(), pq.ParquetFile(self._path, filesystem=self._filesystem))
        return self._source[1]


def _locate(description: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in description:
        return pafs.LocalFileSystem(), str(Path(description).expanduser().absolute())
    try:
        return pafs.FileSystem.from_uri(description)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{description!r} cannot be opened: {error}") from error


def _open_file(description: str, filesystem: pafs.FileSystem, path: str, split: str) -> ImageSet | EncodedImages:
    if path.endswith(".arrow"):
        return read_arrow(filesystem, path)
    if path.endswith((".parquet", ".pq")):
        return open_parquet(filesystem, path, name=description)
    raise DataError(f"data.{split}: {description!r} must be a Parquet file or a folder")


def _class_names(metadata: dict[bytes, bytes], label_column: str) -> list[str] | None:
    """From plain metadata `class_names`, or from Hugging Face's own `huggingface` entry."""
    if b"class_names" in metadata:
        return [str(name) for name in json.loads(metadata[b"class_names"])]
    if b"huggingface" in metadata:
        features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
        names = features.get(label_column, {}).get("names")
        return [str(name) for name in names] if names else None
    return None


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{name} cannot be decoded as an image: {error}") from error
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return " and ".join(f"{width}x{height}" for width, height in sorted(sizes)[:2])
