"""Read folders of images, local or in a bucket: a subfolder for each class, or files named as in Market-1501."""

from __future__ import annotations

import collections
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.fs as pafs

from inarch.population.data.reading.decoding import IMAGE_SUFFIXES
from inarch.population.data.reading.encoded_images import ContentReader, EncodedImages
from inarch.population.data.reading.path_list import PathList
from inarch.population.errors import DataError, UnreadableImageError

PERSON = re.compile(r"(-1|\d+)_c(\d+)")
"""Start of the file names of Market-1501 and DukeMTMC-reID: identity (-1: junk) and camera."""

PARTS = frozenset(
    {
        *("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"),
        *("query", "gallery"),
    }
)
"""Words in the name of a folder or file that mark a part of a data set, not a class."""

PICTURE_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".nef", ".dng", ".arw", ".eps"})
"""Suffixes of pictures that this package does not read, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files below a folder."""

    files: tuple[str, ...]
    """Paths relative to the folder, with slashes, sorted."""
    folders: tuple[str, ...]
    """Names of the folders directly in the folder, sorted."""


def list_folder(filesystem: pafs.FileSystem, path: str) -> Listing:
    """List all files below a folder.

    Symbolic links of a local folder are followed. A link to a folder above the link is skipped.

    Args:
        filesystem: File system of the folder.
        path: The folder.

    Raises:
        OSError: A folder cannot be listed.
    """
    if not isinstance(filesystem, pafs.LocalFileSystem):
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
        start = len(path.rstrip("/")) + 1
        files = [info.path[start:] for info in infos if info.type == pafs.FileType.File]
        folders = {name.split("/")[0] for name in files if "/" in name}
        folders |= {info.path[start:] for info in infos if info.type == pafs.FileType.Directory}
        return Listing(
            files=tuple(sorted(name for name in files if name and not name.endswith("/"))),
            folders=tuple(sorted(name for name in folders if name and "/" not in name)),
        )
    files: list[str] = []
    above: dict[str, frozenset[str]] = {}  # real path of each folder and of all folders above it
    for folder, subfolders, names in os.walk(path, followlinks=True, onerror=_raise):
        real, outer = os.path.realpath(folder), above.get(os.path.dirname(folder), frozenset())
        if real in outer:  # a link to a folder above the link
            subfolders.clear()
            continue
        above[folder] = outer | {real}
        relative = os.path.relpath(folder, path)
        files += [name if relative == "." else f"{relative}/{name}" for name in names]
    top = [entry.name for entry in os.scandir(path) if entry.is_dir()]
    return Listing(files=tuple(sorted(files)), folders=tuple(sorted(top)))


def _raise(error: OSError) -> None:
    raise error


def is_hidden(path: str) -> bool:
    """Return whether a part of a path is hidden, or is a leftover of macOS archives or Synology drives.

    Args:
        path: Relative path with slashes.
    """
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in path.split("/"))


def is_image(path: str) -> bool:
    """Return whether a file is read as an image, by its suffix.

    Args:
        path: Path or name of the file.
    """
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def open_folder(filesystem: pafs.FileSystem, path: str, listing: Listing, *, name: str, split: str) -> EncodedImages:
    """Open a folder of images: a subfolder for each class, or files named as in Market-1501.

    Classes are numbered in the sorted order of their names. Hidden files, files of other kinds and images outside the
    class folders are left out. The notes of the result count them.

    Args:
        filesystem: File system of the folder.
        path: The folder.
        listing: Files and folders in it.
        name: The folder as the caller named it, for error messages.
        split: train, validation, test or query.

    Raises:
        DataError: The folder holds the parts of a data set instead of classes, a class folder has no readable image, or
            there are no images.
    """
    files = [file for file in listing.files if not is_hidden(file)]
    folders = [folder for folder in listing.folders if not is_hidden(folder)]
    hidden = [file for file in listing.files if is_hidden(file)]
    images = [file for file in files if is_image(file)]
    in_classes = [file for file in images if "/" in file]
    if not in_classes:
        return _open_persons(filesystem, path, images, name=name, split=split)
    _check_no_parts(in_classes, folders, name)
    by_class = collections.Counter(file.split("/")[0] for file in in_classes)
    others = [file for file in files if "/" in file and not is_image(file)]
    notes = _check_empty([folder for folder in folders if not by_class[folder]], others, name=name, split=split)
    others = [file for file in others if by_class[file.split("/")[0]]]
    beside = [file for file in images if "/" not in file]
    notes += [
        *([f"{_count(len(hidden), 'hidden file')} ({_few(_tops(hidden))})"] if hidden else []),
        *([f"{_count(len(others), 'file')} of other kinds ({_suffixes(others)})"] if others else []),
        *([f"{_count(len(beside), 'image')} beside the class folders ({_few(beside)})"] if beside else []),
    ]
    classes = sorted(by_class)
    numbers = {class_: number for number, class_ in enumerate(classes)}
    return EncodedImages(
        name=name,
        labels=np.asarray([numbers[file.split("/")[0]] for file in in_classes], dtype=np.int64),
        class_names=tuple(classes),
        source=FolderImages(filesystem, path, in_classes),
        is_thread_safe=True,
        notes=tuple(f"{name}: left out {note}" for note in notes),
    )


def _check_no_parts(images: Sequence[str], folders: Sequence[str], name: str) -> None:
    """Raise DataError if the folders are the parts of a data set, not classes.

    At least one folder must have the name of a part, and one of these must hold:
    - All folders have names of parts.
    - Two parts hold class folders, or one does and there is a training part.
    - All files are named as in Market-1501.
    """
    parts = [folder for folder in folders if _is_part(folder)]
    nested = [
        part
        for part in parts
        if len({file.split("/")[1] for file in images if file.startswith(f"{part}/") and file.count("/") > 1}) > 1
    ]
    has_train = any("train" in part.lower() for part in parts)
    are_persons = all(PERSON.match(file.rpartition("/")[2]) for file in images)
    if parts and (len(parts) == len(folders) or (nested and has_train) or len(nested) > 1 or are_persons):
        example = next((part for part in parts if "train" in part.lower()), parts[0])
        raise DataError(
            f"{name} holds the parts of a data set ({', '.join(parts)}), not classes; name each part: "
            f"data.train={name.rstrip('/')}/{example}, and data.validation_set or data.test for the others"
        )


def _is_part(folder: str) -> bool:
    """Return whether a folder has the name of a part: train, seg_test, test1, bounding_box_train, query."""
    words = [word for word in re.split(r"[\W_\d]+", folder.lower()) if word]
    return any(word in PARTS for word in words) and len(words) <= 3


def _check_empty(empty: Sequence[str], others: Sequence[str], *, name: str, split: str) -> list[str]:
    """Return notes on class folders without images.

    Args:
        empty: Folders of classes without images.
        others: Files that are not read.
        name: Name of the data set.
        split: Part of the data.

    Raises:
        DataError: Such a folder belongs to the training images, or holds pictures of a format that is not read.
    """
    for folder in empty:
        within = [file for file in others if file.startswith(f"{folder}/")]
        pictures = [file for file in within if os.path.splitext(file)[1].lower() in PICTURE_SUFFIXES]
        if pictures or split == "train":
            holds = f"only files that are not read ({_suffixes(within)})" if within else "no files"
            raise DataError(
                f"{name}: class folder {folder!r} holds {holds}; images are read from files ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}; convert the files, or remove the folder"
            )
    return [f"{_count(len(empty), 'folder')} without images ({_few(empty)})"] if empty else []


def _open_persons(
    filesystem: pafs.FileSystem, path: str, images: Sequence[str], *, name: str, split: str
) -> EncodedImages:
    """Open a folder in the format of Market-1501, without its junk images."""
    matches = {file: PERSON.match(file) for file in images}
    persons = [(file, match[1], int(match[2])) for file, match in matches.items() if match and match[1] != "-1"]
    if not persons:
        raise DataError(
            f"data.{split}: {name} must hold a subfolder of images for each class, images with a metadata.csv, Parquet "
            f"files, or images named IDENTITY_cCAMERA...; it has {len(images)} images, none of them with such a name"
        )
    others = [file for file, match in matches.items() if not match]
    classes = sorted({identity for _, identity, _ in persons})
    numbers = {class_: number for number, class_ in enumerate(classes)}
    notes = (f"{name}: left out {_count(len(others), 'image')} without an identity ({_few(others)})",) if others else ()
    return EncodedImages(
        name=name,
        labels=np.asarray([numbers[identity] for _, identity, _ in persons], dtype=np.int64),
        class_names=tuple(classes),
        source=FolderImages(filesystem, path, [file for file, _, _ in persons]),
        is_thread_safe=True,
        cameras=np.asarray([camera for _, _, camera in persons], dtype=np.int64),
        notes=notes,
    )


class FolderImages:
    """The images of a folder by number. It implements `ImageSource`, whose cells are paths."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, files: Sequence[str]) -> None:
        """Encode the paths of the images.

        Args:
            filesystem: File system of the folder.
            path: The folder.
            files: Paths of the images, relative to the folder.
        """
        self._files = PathList(files)
        self._reader = _FolderReader(filesystem, path.rstrip("/"))

    @property
    def reader(self) -> ContentReader:
        """Function that reads an image's file."""
        return self._reader

    def cells(self, indices: Sequence[int]) -> list[str]:
        """Return the paths of some images, relative to the folder."""
        return [self._files[index] for index in indices]

    def identity(self) -> bytes:
        """Return a hash of the paths."""
        return hashlib.sha256(self._reader.path.encode(errors="surrogateescape") + self._files.digest()).digest()


class _FolderReader:
    """Function that reads files of a folder."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._filesystem, self.path = filesystem, path

    def __call__(self, cell: str) -> tuple[bytes, str]:
        file = f"{self.path}/{cell}"
        return read_file(self._filesystem, file), file


def read_file(filesystem: pafs.FileSystem, path: str) -> bytes:
    """Return the content of a file.

    Args:
        filesystem: File system of the file.
        path: The file.

    Raises:
        UnreadableImageError: The file does not exist, is a folder, or may not be read.
        DataError: The storage failed.
    """
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            with open(path, "rb") as local:  # reads names that are not UTF-8 too
                return local.read()
        with filesystem.open_input_file(path) as source:
            return source.read()
    except FileNotFoundError:
        raise UnreadableImageError(f"{path} does not exist") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UnreadableImageError(f"{path} cannot be read: {error.strerror}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _tops(files: Sequence[str]) -> list[str]:
    """Return the hidden part of each path, without repeats."""
    return list(dict.fromkeys(next(part for part in file.split("/") if is_hidden(part)) for file in files))


def _few(names: Sequence[str]) -> str:
    shown = [name.encode(errors="backslashreplace").decode() for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _suffixes(files: Sequence[str]) -> str:
    counted = collections.Counter(os.path.splitext(file)[1].lower() or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count}" for suffix, count in counted.most_common(5))
