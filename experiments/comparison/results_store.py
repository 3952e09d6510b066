"""Results of a comparison, small enough to commit to git: scores, curves, alphas and similarities of each run."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inarch.experiments.comparison.arms import Comparison
from inarch.population.config import RunConfig, to_dict
from inarch.population.config.serialization import renewed
from inarch.population.errors import RunError
from inarch.population.persistence.storage import Storage

TABLES = ("scores", "curves", "filters", "layers", "alphas", "similarity", "fusion")
"""Files of a comparison's results, keyed by arm and seed."""

Rows = dict[str, list[dict[str, Any]]]
"""Rows of each table, by its name."""

DENSITY_COLUMNS = ("valid_filters", "invalid_filters", "valid_l1", "invalid_l1")
"""Beginnings of the columns of filter density: filters that are valid in the baseline's network, and those that are
not, and their mean l1 norms."""


IMAGE_FIELDS = ("train", "validation_set", "test", "query")
"""Fields of the section `data` that name images."""

HASHED_BYTES = 2**20
"""Bytes of a file of images that are hashed at its beginning, and at its end."""

LOCK_SECONDS = 60.0
"""Seconds for which a process waits until another one has written its results into the same folder."""

RUN_FIELDS: dict[str, Any] = {"name": None, "storage": "runs", "address": None, "seed": 0, "detach": False}
"""Fields of a configuration that do not change a result, and the seed, with the values that stand for all of them."""


def comparable_config(config: RunConfig | Mapping[str, Any]) -> str:
    """Return a configuration as JSON, for comparing runs.

    The JSON leaves out fields that do not change a result (name, folder, address, detach), and the seed. In place of
    the paths of images it has what `data_identity` returns.

    Args:
        config: The configuration, or its recorded form.
    """
    plain = {**(to_dict(config) if isinstance(config, RunConfig) else config), **RUN_FIELDS}
    return json.dumps(plain | {"data": dict(plain["data"]) | data_identity(plain["data"])}, sort_keys=True)


def data_identity(data: Mapping[str, Any]) -> dict[str, str]:
    """Return what identifies the images of a configuration, wherever they lie.

    A file is identified by its name, its size, and a hash of its beginning and end. A folder is identified by its name
    and a hash of its files' names and sizes, a pattern by its absolute path, and images in a bucket by their URI.

    Args:
        data: The section `data` of a configuration, as JSON types.

    Returns:
        The identity by field, for each field that names images.
    """
    return {field: _identity(data[field]) for field in IMAGE_FIELDS if data.get(field)}


def _identity(images: str) -> str:
    if "://" in images:
        return images
    path = Path(images).expanduser()
    if path.is_file():
        state = path.stat()
        return f"{path.name}, {state.st_size} bytes, {_ends_hash(path, state.st_size, state.st_mtime_ns)}"
    if path.is_dir():
        return f"{path.absolute().name}, {_listing_hash(path.absolute(), path.stat().st_mtime_ns)}"
    if any(char in images for char in "*?["):
        return str(path.absolute())
    return path.name


@functools.lru_cache(maxsize=64)
def _ends_hash(path: Path, size: int, changed: int) -> str:
    """Return a hash of the first and the last `HASHED_BYTES` of a file. `changed` is when it was changed."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        digest.update(file.read(HASHED_BYTES))
        file.seek(max(HASHED_BYTES, size - HASHED_BYTES))
        digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _listing_hash(folder: Path, changed: int) -> str:
    """Return the number of files in a folder, and a hash of their names and sizes. `changed` is when it was changed."""
    paths = (os.path.join(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    files = sorted((os.path.relpath(path, folder), os.path.getsize(path)) for path in paths if os.path.isfile(path))
    digest = hashlib.blake2b(repr(files).encode(errors="surrogateescape"), digest_size=8)
    return f"{len(files)} files, {digest.hexdigest()}"


def is_same_config(recorded: str | None, current: str) -> bool:
    """Return whether a recorded configuration equals the current one.

    Fields that are newer than the recorded configuration have their defaults in it. Before there was
    `checkpoint.weights`, the best weights by validation were used.

    Args:
        recorded: JSON that is recorded with a row. None if it is not known, which equals no configuration.
        current: `comparable_config` of an arm.
    """
    if recorded is None or recorded == current:
        return recorded == current
    return not differing_fields(recorded, current)


def differing_fields(recorded: str, current: str) -> list[str]:
    """Return the dotted names of the fields in which a recorded configuration differs from the current one.

    Args:
        recorded: As in `is_same_config`.
        current: `comparable_config` of an arm.
    """
    defaults = json.loads(json.dumps(to_dict(RunConfig())))
    defaults["checkpoint"]["weights"] = "best"
    before, now = _with_defaults(dict(renewed(json.loads(recorded))), defaults), json.loads(current)
    for field in IMAGE_FIELDS:  # without a hash of the content, as it was recorded before 2026-12
        known = before["data"].get(field) or ""
        if known.endswith(" bytes") and str(now["data"].get(field)).startswith(f"{known}, "):
            before["data"][field] = now["data"][field]
    return _differing(before, now)


def _differing(one: dict[str, Any], other: dict[str, Any], *, prefix: str = "") -> list[str]:
    fields: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            fields += _differing(mine, theirs, prefix=f"{prefix}{key}.")
        elif key not in one or key not in other or mine != theirs:
            fields.append(f"{prefix}{key}")
    return fields


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    filled = {key: value for key, value in defaults.items() if key not in values}
    for key, value in values.items():
        is_nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        filled[key] = _with_defaults(value, defaults[key]) if is_nested else value
    return filled


def code_version() -> str:
    """Return the version of inarch, followed by the git commit if inarch is installed from a checkout."""
    version, file = importlib.metadata.version("inarch"), Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an environment within another project is no checkout
        return f"{version}+{git('describe', '--always', '--dirty', '--exclude', '*')}"
    except (OSError, subprocess.SubprocessError):
        return version


class ResultsStore:
    """The Parquet files of one comparison in a folder.

    The files may also hold runs with other configurations. The store does not return them. A run that is added replaces
    the one of the same arm and seed, whatever its configuration. Several processes may add runs to one folder.
    """

    def __init__(self, folder: Path, comparison: Comparison) -> None:
        """Open the store. Nothing is written yet.

        Args:
            folder: Folder of the files. It need not exist.
            comparison: Comparison whose arms define the current configurations.
        """
        self.folder = folder
        self._configs = {arm.name: comparable_config(arm.config) for arm in comparison.arms}
        self._known: tuple[Any, set[tuple[str, int]]] = (None, set())

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of runs whose configuration is the current one of their arm.

        Args:
            table: One of TABLES.
        """
        runs = self._runs()
        return [row for row in read_rows(self.folder, table) if (row["arm"], row["seed"]) in runs]

    def has(self, arm: str, seed: int) -> bool:
        """Return whether the store holds a run of an arm with its current configuration.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
        """
        return (arm, seed) in self._runs()

    def has_other(self, arm: str, seed: int) -> bool:
        """Return whether the store holds a run of an arm with another configuration, which `add` would replace.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
        """
        recorded = {(row["arm"], row["seed"]) for row in _scores(self.folder)}
        return (arm, seed) in recorded - self._runs()

    def _runs(self) -> set[tuple[str, int]]:
        """Return the runs of current configurations. They are compared again only if the file has changed."""
        rows = _scores(self.folder)
        if self._known[0] is not rows:
            same = {
                (row["arm"], row["seed"])
                for row in rows
                if row["arm"] in self._configs and is_same_config(row["config"], self._configs[row["arm"]])
            }
            self._known = (rows, same)
        return self._known[1]

    def reuse(self, arm: str, seed: int) -> bool:
        """Copy a run of equal configuration, data and seed from a folder beside this one, if there is such a run.

        In the copied scores `taken_from` names the comparison that made the run, and `code` the version of inarch. The
        densities of filters are not copied, because they depend on the baseline of the other comparison.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.

        Returns:
            Whether a run was copied.
        """
        config = self._configs[arm]
        other_folders = sorted({path.parent for path in self.folder.parent.glob("*/scores.parquet")} - {self.folder})
        for folder in other_folders:
            rows = [row for row in _scores(folder) if row["seed"] == seed]
            equal = [row for row in rows if is_same_config(row["config"], config)]
            if equal:
                run = {table: _rows_of(folder, table, equal[0]["arm"], seed) for table in TABLES}
                run["scores"][0]["taken_from"] = equal[0]["taken_from"] or folder.name
                run["scores"][0] |= {name: None for name in run["scores"][0] if name.startswith(DENSITY_COLUMNS)}
                self.add(arm, seed, run)
                return True
        return False

    def add(self, arm: str, seed: int, run: Rows) -> None:
        """Add a run. It replaces an earlier run of the same arm and seed.

        A process that is killed meanwhile leaves each table as it was or as it is to be. The scores are written last.

        Args:
            arm: Name of the arm.
            seed: Seed of the run.
            run: Rows by table, without the columns `arm` and `seed`.

        Raises:
            RunError: Another process holds the folder for longer than `LOCK_SECONDS`.
            StorageError: A table cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = Storage(str(self.folder))
        with _sole_writer(self.folder):
            for table in reversed(TABLES):
                earlier = read_rows(self.folder, table)
                others = [row for row in earlier if (row["arm"], row["seed"]) != (arm, seed)]
                rows = others + [{"arm": arm, "seed": seed, **row} for row in run.get(table, ())]
                if rows:
                    names = dict.fromkeys(name for row in rows for name in row)  # older rows may have fewer columns
                    columns = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
                    content = io.BytesIO()
                    pq.write_table(columns, content, compression="zstd")
                    storage.replace(f"{table}.parquet", content.getvalue())
                elif earlier:
                    (self.folder / f"{table}.parquet").unlink()


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that write into it. The lock ends with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"out: another process has held {folder} for {LOCK_SECONDS:.0f} s; end it, and give the same "
                        "command with --reuse"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table, whatever their configuration. Empty if there is no file.

    Args:
        folder: Folder of the files.
        table: One of TABLES.
    """
    path = folder / f"{table}.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def _scores(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the scores, which are read again only if the file has changed. Do not change them."""
    path = folder / "scores.parquet"
    return _read_scores(folder, path.stat().st_mtime_ns) if path.exists() else []


@functools.lru_cache(maxsize=64)
def _read_scores(folder: Path, changed: int) -> list[dict[str, Any]]:
    return read_rows(folder, "scores")


def _rows_of(folder: Path, table: str, arm: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one run, without the columns `arm` and `seed`."""
    rows = [row for row in read_rows(folder, table) if (row["arm"], row["seed"]) == (arm, seed)]
    return [{key: value for key, value in row.items() if key not in ("arm", "seed")} for row in rows]
