"""Find the files of a table: shards in a folder, a pattern, or a folder that `datasets.save_to_disk` wrote."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import posixpath
from collections.abc import Sequence
from typing import Any

import pyarrow.fs as pafs

from inarch.population.data.reading.folders import PARTS, is_hidden, read_file
from inarch.population.data.reading.table_files import TableFile, table_kind
from inarch.population.errors import DataError

METADATA = ("metadata.csv", "metadata.parquet", "labels.csv")
"""Names of tables beside the images of a folder, as in image folders of the Hugging Face Hub."""


def shards(
    filesystem: pafs.FileSystem, path: str, files: Sequence[str], *, split: str
) -> tuple[list[TableFile], list[str]]:
    """Find the Parquet files of a part directly in a folder, or in its subfolder `data`.

    A file with the name of a part (train-00000-of-00002.parquet) belongs to that part. Without such names, all files
    belong to every part.

    Args:
        filesystem: File system of the folder.
        path: The folder.
        files: Paths of the files in the folder, relative to it.
        split: train, validation, test or query.

    Returns:
        The files, sorted by name, and the names of those that belong to other parts.
    """
    parquet_files = sorted(file for file in files if table_kind(file) == "parquet" and not is_hidden(file))
    in_top = [file for file in parquet_files if "/" not in file] or [
        file for file in parquet_files if file.startswith("data/")
    ]
    in_top = [file for file in in_top if file not in METADATA]
    parts = {file: _part_of(file) for file in in_top}
    chosen = [file for file in in_top if parts[file] == split] if any(parts.values()) else in_top
    tables = [TableFile(filesystem=filesystem, path=f"{path.rstrip('/')}/{file}", kind="parquet") for file in chosen]
    return tables, [file for file in in_top if file not in chosen]


def has_part(filesystem: pafs.FileSystem, path: str, *, split: str) -> bool:
    """Return whether a folder that `datasets.save_to_disk` wrote holds a part.

    Args:
        filesystem: File system of the folder.
        path: The folder.
        split: train, validation, test or query.
    """
    try:
        return bool(saved_dataset(filesystem, path, ["dataset_dict.json"], split=split))
    except DataError:
        return False


def _part_of(file: str) -> str | None:
    """Return the part in the name of a shard (train, validation, test or query), or None for other names."""
    stem = posixpath.basename(file).lower().removesuffix(".parquet").removesuffix(".pq")
    first = stem.split("-")[0].split("_")[0].split(".")[0]
    if first not in PARTS:
        return None
    if first.startswith("train"):
        return "train"
    if first == "query":
        return "query"
    return "test" if first.startswith(("test", "eval", "gallery")) else "validation"


def matching(filesystem: pafs.FileSystem, pattern: str) -> list[str]:
    """Return the sorted paths that match a pattern.

    Args:
        filesystem: File system to search.
        pattern: Path with at least one of the marks *, ? and [.
    """
    if isinstance(filesystem, pafs.LocalFileSystem):
        folder, _, last = pattern.rpartition("/")
        literal = f"{glob.escape(folder)}/{last}" if os.path.isdir(folder) else pattern
        return sorted(glob.glob(literal, recursive=True))
    base = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)].rpartition("/")[0]
    infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return sorted(info.path for info in infos if fnmatch.fnmatchcase(info.path, pattern))


def saved_dataset(filesystem: pafs.FileSystem, path: str, files: Sequence[str], *, split: str) -> list[TableFile]:
    """Find the Arrow files of a folder that `datasets.save_to_disk` wrote.

    Args:
        filesystem: File system of the folder.
        path: The folder.
        files: Paths of the files in the folder, relative to it.
        split: Part to find if the folder holds several parts: train, validation, test or query.

    Returns:
        The files in the order of their rows. Other folders give an empty list.

    Raises:
        DataError: The JSON files of the folder cannot be read, or the folder lacks the part.
    """
    if "dataset_dict.json" in files:
        parts = _json(read_file(filesystem, f"{path}/dataset_dict.json"), f"{path}/dataset_dict.json").get("splits", [])
        chosen = next((part for part in parts if _part_of(f"{part}.parquet") == split), None)
        if chosen is None:
            raise DataError(f"data.{split}: {path} holds the parts {', '.join(parts)}, none of them for {split}")
        return _saved(filesystem, f"{path}/{chosen}")
    return _saved(filesystem, path) if {"state.json", "dataset_info.json"} <= set(files) else []


def _saved(filesystem: pafs.FileSystem, path: str) -> list[TableFile]:
    """Return the Arrow files that the state.json of a folder lists."""
    state = _json(read_file(filesystem, f"{path}/state.json"), f"{path}/state.json")
    names = [entry.get("filename", "") for entry in state.get("_data_files", [])]
    if not names:
        raise DataError(f"{path}/state.json names no data files")
    return [TableFile(filesystem=filesystem, path=f"{path}/{name}", kind="arrow") for name in names]


def _json(content: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object, or raise DataError."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{name} must hold a JSON object")
    return value
