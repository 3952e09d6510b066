"""Sets of decoded images in memory, which the networks of a node share without copying."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import xxhash

from inarch.population.data.reading.labels import encode_label_array
from inarch.population.errors import DataError

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of images of one size, with their labels."""

    images: Array
    """Pixels, uint8 or float32, shape (images, channels, height, width). May be read-only."""
    labels: Array
    """Label of each image, int64 in [0, num_classes), shape (images,)."""
    class_names: tuple[str, ...]
    """Names of the classes, by label."""
    cameras: Array | None = None
    """Camera of each image, for retrieval across cameras, int64, shape (images,). None: not known."""
    notes: tuple[str, ...] = ()
    """Notes on files and images that were left out. They are printed before training."""
    unreadable: tuple[str, ...] = ()
    """A message for each unreadable image that was left out."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, with those that have no images."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def select(self, indices: Array) -> ImageSet:
        """Return a copy of some of the images.

        Args:
            indices: Numbers of the images, in the order of the copy.
        """
        return dataclasses.replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            cameras=None if self.cameras is None else self.cameras[indices],
        )

    def statistics(self) -> tuple[Array, Array]:
        """Return the mean and standard deviation of each channel, in the scale of the pixels.

        Returns:
            Two arrays of float32, shape (channels,). A constant channel has deviation 1.
        """
        sums, squares = np.zeros(self.images.shape[1]), np.zeros(self.images.shape[1])
        rows = min(1024, max(1, BLOCK_BYTES // (8 * self.images[0].size)))
        for start in range(0, len(self), rows):
            block = self.images[start : start + rows].astype(np.float64)
            sums += block.sum(axis=(0, 2, 3))
            squares += np.square(block, out=block).sum(axis=(0, 2, 3))
        count = self.images[:, 0].size
        mean = sums / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        is_constant = deviation <= ROUNDING * np.abs(mean)
        return mean.astype(np.float32), np.where(is_constant, 1.0, deviation).astype(np.float32)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the shapes, class names, labels, cameras (if known) and pixels."""
        digest = hashlib.sha256(repr((self.images.shape, str(self.images.dtype), self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        if self.cameras is not None:
            digest.update(np.ascontiguousarray(self.cameras).data)
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


BLOCK_BYTES = 2**26
"""Most memory for the images that `ImageSet.statistics` converts at a time."""

ROUNDING = 1e-6
"""Share of a channel's mean below which its deviation is only the rounding of its sums."""


def image_set(
    images: object,
    labels: object,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "data",
    is_training: bool = True,
) -> ImageSet:
    """Check arrays and return them as an ImageSet.

    Args:
        images: Pixels, shape (images, height, width), (images, height, width, channels) or (images, channels, height,
            width), with 1 or 3 channels. uint8, or floats, which become float32.
        labels: Whole numbers from 0, names of classes, or one-hot rows, as for `encode_label_array`, shape (images,).
        class_names: Names by label. None: the labels' own names or numbers.
        name: Name of the data, for error messages.
        is_training: Whether these are training images, as in `encode_labels`.

    Raises:
        DataError: The shapes, types or labels cannot be used, or there are no images.
    """
    pixels = np.asarray(images)
    input_shape = pixels.shape
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[-1] in (1, 3) and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise DataError(
            f"{name}: images must have shape (images, height, width), (..., channels) or (images, channels, ...) "
            f"with 1 or 3 channels, got {input_shape}"
        )
    if len(pixels) == 0:
        raise DataError(f"{name} has no images")
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.floating):
            raise DataError(f"{name}: images must be uint8 or floats, got {pixels.dtype}")
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise DataError(f"{name}: a pixel is NaN or infinite")
    targets, names = encode_label_array(labels, name=name, class_names=class_names, is_training=is_training)
    if len(targets) != len(pixels):
        raise DataError(f"{name}: {len(pixels)} images need as many labels, got {len(targets)}")
    return ImageSet(images=np.ascontiguousarray(pixels), labels=targets, class_names=names)


def with_set_channels(images: ImageSet, channels: int) -> ImageSet:
    """Convert decoded images to 1 or 3 channels.

    Gray is repeated in each channel. Color becomes gray with Pillow's weights.

    Args:
        images: The images. Not changed.
        channels: 1 or 3.
    """
    pixels = images.images
    if pixels.shape[1] == channels:
        return images
    if channels == 3:
        changed = np.repeat(pixels, 3, axis=1)
    else:
        weighted = np.tensordot(pixels, np.asarray([0.299, 0.587, 0.114]), axes=(1, 0))[:, None]
        changed = (np.rint(weighted) if pixels.dtype == np.uint8 else weighted).astype(pixels.dtype)
    return dataclasses.replace(images, images=np.ascontiguousarray(changed))


def write_arrow(images: ImageSet, filesystem: pafs.FileSystem, path: str) -> None:
    """Write an ImageSet as a single Arrow file. A run's folder keeps arrays from Python in this form.

    Args:
        images: The images.
        filesystem: File system of the file.
        path: The file. It is overwritten if it exists.
    """
    row = images.images[0].nbytes
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(row), len(images), [None, pa.py_buffer(np.ascontiguousarray(images.images))]
    )
    columns = {"image": pixels, "label": pa.array(images.labels)}
    if images.cameras is not None:
        columns["camera"] = pa.array(images.cameras)
    schema = pa.schema(
        [(name, column.type) for name, column in columns.items()],
        metadata={
            "shape": ",".join(map(str, images.shape)),
            "dtype": str(images.images.dtype),
            **{
                name: "\x1f".join(texts).encode(errors="surrogateescape")  # names of folders need not be UTF-8
                for name, texts in (
                    ("class_names", images.class_names),
                    ("notes", images.notes),
                    ("unreadable", images.unreadable),
                )
            },
            "checksum": _checksum(images),
        },
    )
    with filesystem.open_output_stream(path) as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema))


def is_own_arrow(filesystem: pafs.FileSystem, path: str) -> bool:
    """Return whether `write_arrow` wrote an Arrow file.

    Args:
        filesystem: File system of the file.
        path: The file. If it cannot be read, the answer is False.
    """
    try:
        with filesystem.open_input_file(path) as source:
            return b"dtype" in (pa.ipc.open_file(source).schema.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def read_arrow(filesystem: pafs.FileSystem, path: str) -> ImageSet:
    """Return the ImageSet that `write_arrow` wrote.

    Args:
        filesystem: File system of the file.
        path: The file.

    Returns:
        Images that share the memory of the Arrow table.

    Raises:
        DataError: The file is cut or altered.
        OSError: The file cannot be read.
    """
    with filesystem.open_input_file(path) as source:
        content = source.read_buffer()
    try:
        images, checksum = _from_arrow(content)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if checksum is not None and checksum != _checksum(images):
        raise DataError(f"{path} is not what was written; restore it from a copy")
    return images


def _from_arrow(content: pa.Buffer) -> tuple[ImageSet, str | None]:
    """Return the images in the bytes of an Arrow file, and their checksum. Earlier versions wrote none."""
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all().combine_chunks()
    table.validate(full=True)
    stored = table.schema.metadata or {}
    metadata = {key.decode(): value.decode(errors="surrogateescape") for key, value in stored.items()}
    shape = tuple(int(size) for size in metadata["shape"].split(","))
    values = table.column("image").chunk(0).buffers()[1]
    images = np.frombuffer(values, dtype=metadata["dtype"])[: len(table) * int(np.prod(shape))].reshape(-1, *shape)
    labels = table.column("label").to_numpy()
    if len(images) != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"it holds {len(images)} images, and {len(labels)} labels of type {labels.dtype}")
    class_names = tuple(metadata["class_names"].split("\x1f"))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(f"it has {len(class_names)} classes, and labels from {labels.min()} to {labels.max()}")
    notes, unreadable = (tuple(filter(None, metadata.get(key, "").split("\x1f"))) for key in ("notes", "unreadable"))
    made = ImageSet(
        images=images,
        labels=labels,
        class_names=class_names,
        cameras=table.column("camera").to_numpy() if "camera" in table.column_names else None,
        notes=notes,
        unreadable=unreadable,
    )
    return made, metadata.get("checksum")


def _checksum(images: ImageSet) -> str:
    """Return a checksum of everything that an Arrow file holds, in hexadecimal digits."""
    digest = xxhash.xxh3_128()
    cameras = () if images.cameras is None else (images.cameras,)
    for array in (images.images, images.labels, *cameras):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]
    digest.update(repr((images.class_names, images.notes, images.unreadable)).encode())
    return digest.hexdigest()
