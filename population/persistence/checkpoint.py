"""Checkpoints of networks in safetensors and JSON files. A manifest with checksums is written last and commits them.

    networks/<id>/<interval>-<incarnation>[-<step>]/
      model.safetensors      weights after the interval's graft
      training.safetensors   optimizer, random states
      training.json          counters, hyperparameters, score
      best.safetensors       weights as evaluated before the graft, only if they are the best so far
      TABLE.parquet          rows of a table since the previous checkpoint
      manifest.json          size and checksum of each file

A checkpoint is valid if its manifest exists and matches the files. `<step>` is present if a stop made the checkpoint
within an interval.

Longer than 300 lines: committing, finding, reading and deleting share one layout of files.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xxhash

from inarch.population.errors import CheckpointError, DamagedError, MissingError, StorageError
from inarch.population.persistence.claim import check_holds, holds
from inarch.population.persistence.history import early_name, replaced_files, to_parquet
from inarch.population.persistence.history_schemas import TABLES, Rows
from inarch.population.persistence.json_files import from_json, read_json, to_json
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.persistence.tensor_files import parts_of, read_tensors

if TYPE_CHECKING:  # the coordinator lists checkpoints without torch
    from torch import Tensor

logger = logging.getLogger("inarch")

_NAME = re.compile(r"^(\d+)-(\d+)(?:-(\d+))?$")
_MARKER = re.compile(r"^incarnation-(\d+)$")


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointId:
    """Id of a checkpoint of one network. The greatest id is the newest checkpoint."""

    incarnation: int
    """Incarnation of the network that made it."""
    interval: int
    """Intervals completed."""
    step: int = 0
    """0: made at the end of an interval. Above 0: made within interval + 1, after this many steps of the schedule."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.interval:06d}-{self.incarnation:03d}" + (f"-{self.step:09d}" if self.step else "")


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a network needs to resume, and the history rows since its previous checkpoint."""

    network_id: int
    id: CheckpointId
    model: Mapping[str, Tensor]
    """Weights after the graft, on the CPU."""
    tensors: Mapping[str, Tensor]
    """Optimizer and random states, on the CPU."""
    training: Mapping[str, Any]
    """Counters, hyperparameters and scores, as JSON types."""
    best: Mapping[str, Tensor] | None = None
    """Weights as evaluated, if they are the best so far. None otherwise."""
    rows: Rows = field(default_factory=dict)
    """History rows since the previous checkpoint. Empty in a checkpoint that was loaded."""
    wait: Callable[[], None] = _nothing
    """Waits until the tensors have arrived from a GPU. It must be called before they are read."""
    release: Callable[[], None] = _nothing
    """Gives back tensors that the network only lent. They may change as soon as this was called."""

    @property
    def evaluated_state(self) -> Mapping[str, Tensor]:
        """Weights that are evaluated as the network.

        They are the running mean of the weights, once weight averaging has started. Batch norm's statistics are then
        those of the last evaluation. Without weight averaging, they are the weights themselves.
        """
        has_mean = int(self.tensors.get("average_count", 0)) > 0
        return average_of(self.tensors) if has_mean else self.model


def average_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint. The dict is empty if the run does not average weights.

    Args:
        tensors: Tensors of the checkpoint, as in `Checkpoint.tensors`.
    """
    return {name.removeprefix("average."): value for name, value in tensors.items() if name.startswith("average.")}


class CheckpointStore:
    """The checkpoints of all networks of a run."""

    def __init__(self, storage: Storage, *, keep: int = 2, token: str | None = None) -> None:
        """Open the store of a run.

        Args:
            storage: The run's folder.
            keep: Number of newest checkpoints kept for each network.
            token: Token of this start's claim on the folder. Nothing is committed unless the claim is the newest.
                None: claims are not checked.
        """
        self._storage, self._keep, self._token = storage, keep, token
        self._early: dict[tuple[int, int, int], list[str]] = {}
        self.passed_over: dict[str, str] = {}
        """Folders of checkpoints that this store has passed over because they are damaged, with the reason."""

    def acquire_fence(self, network_id: int, incarnation: int) -> None:
        """Give an incarnation the right to commit. Earlier incarnations that still run can no longer commit.

        Args:
            network_id: Id of the network.
            incarnation: Number of the incarnation.

        Raises:
            RunExistsError: Another start has claimed the folder.
            StorageError: The storage fails.
        """
        check_holds(self._storage, self._token)
        self._storage.write(f"networks/{network_id}/incarnation-{incarnation:03d}", b"")

    def is_fenced(self, network_id: int, incarnation: int) -> bool:
        """Return whether a later incarnation has acquired the right to commit.

        Args:
            network_id: Id of the network.
            incarnation: Number of the incarnation.
        """
        markers = [_MARKER.match(name) for name in self._storage.names(f"networks/{network_id}")]
        return any(int(match[1]) > incarnation for match in markers if match)

    def commit(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, add its rows to the history, and delete checkpoints that are no longer kept.

        Args:
            checkpoint: The checkpoint, with all tensors on the CPU.

        Returns:
            Whether the checkpoint was committed. False if a later incarnation has acquired the right to commit, or if
            another start has claimed the folder.

        Raises:
            StorageError: The checkpoint could not be written. Earlier checkpoints remain valid.
        """
        if not self._holds_folder():
            return False
        folder = f"networks/{checkpoint.network_id}/{checkpoint.id.name}"
        checkpoint.wait()
        rows = {
            f"{table}.parquet": to_parquet(checkpoint.rows[table], table)
            for table in TABLES
            if checkpoint.rows.get(table)
        }
        files: dict[str, Iterable[bytes | memoryview]] = {
            "model.safetensors": parts_of(checkpoint.model),
            "training.safetensors": parts_of(checkpoint.tensors),
            "training.json": (to_json(checkpoint.training),),
        }
        if checkpoint.best is not None:
            files["best.safetensors"] = parts_of(checkpoint.best)
        files |= {name: (content,) for name, content in rows.items()}
        manifest = {}
        for name, parts in files.items():
            checksum = _Checksum()
            self._storage.write_parts(f"{folder}/{name}", checksum.of_each(parts))
            manifest[name] = checksum.entry()
        if not self._holds_folder():
            return False
        if self.is_fenced(checkpoint.network_id, checkpoint.id.incarnation):
            self._storage.delete(folder)
            return False
        self._storage.write(f"{folder}/manifest.json", to_json(manifest))
        with contextlib.suppress(StorageError):  # The checkpoint is committed. A later call repeats what fails here.
            self._flush_history(checkpoint.network_id, checkpoint.id, rows)
            self._drop_early(checkpoint.network_id, checkpoint.id)
            self._drop_old(checkpoint.network_id)
        return True

    def write_early(self, network_id: int, incarnation: int, interval: int, rows: Rows) -> None:
        """Write rows before the checkpoint that will hold them. The commit of that checkpoint deletes their files.

        Another thread may commit meanwhile.

        Args:
            network_id: Id of the network.
            incarnation: Number of its incarnation.
            interval: Intervals completed.
            rows: Rows of the tables in `EARLY_TABLES`.

        Raises:
            StorageError: The rows could not be written.
        """
        if self._holds_folder():
            name = early_name(network_id, incarnation, interval)
            paths = {f"{table}/{name}": to_parquet(content, table) for table, content in rows.items() if content}
            self._early[network_id, incarnation, interval] = list(paths)
            for path, content in paths.items():
                self._storage.replace(path, content)  # a process that is killed leaves no damaged file

    def _drop_early(self, network_id: int, checkpoint: CheckpointId) -> None:
        """Delete the files of early rows that a checkpoint holds, after they have been added to the history."""
        for key in list(self._early):
            if key[:2] == (network_id, checkpoint.incarnation) and key[2] <= checkpoint.interval:
                for path in self._early[key]:
                    self._storage.delete(path)
                del self._early[key]

    def _holds_folder(self) -> bool:
        """Whether this start still owns the folder. Files of another start must not be replaced or deleted."""
        return self._token is None or holds(self._storage, self._token)

    def list(self, network_id: int) -> list[CheckpointId]:
        """Return the ids of a network's committed checkpoints, oldest first.

        Args:
            network_id: Id of the network.
        """
        folders = self._folders(network_id)
        return [
            identity
            for name, identity in folders.items()
            if self._storage.exists(f"networks/{network_id}/{name}/manifest.json")
        ]

    def _folders(self, network_id: int) -> dict[str, CheckpointId]:
        """Return the folders of a network's checkpoints by name, oldest first, also of those not written whole."""
        folders: dict[str, CheckpointId] = {}
        for name in self._storage.names(f"networks/{network_id}"):
            match = _NAME.match(name)
            if match:
                interval, incarnation, step = (int(part or 0) for part in match.groups())
                folders[name] = CheckpointId(interval=interval, incarnation=incarnation, step=step)
        return dict(sorted(folders.items(), key=lambda item: item[1]))

    def has_started(self, network_id: int) -> bool:
        """Return whether a process of a network has ever acquired the right to commit, or has committed.

        Args:
            network_id: Id of the network.

        Raises:
            StorageError: The folder cannot be listed.
        """
        return any(_MARKER.match(name) or _NAME.match(name) for name in self._storage.names(f"networks/{network_id}"))

    def networks(self) -> list[int]:
        """Return the sorted ids of the networks that have a folder."""
        return sorted(int(name) for name in self._storage.names("networks") if name.isdecimal())

    def newest(self, network_id: int, *, at_most_interval: int | None = None) -> Checkpoint | None:
        """Return the newest intact checkpoint of a network, or None if there is none.

        Damaged checkpoints are passed over, which is logged and recorded in `passed_over`.

        Args:
            network_id: Id of the network.
            at_most_interval: Skip checkpoints with more completed intervals. None: consider all.

        Raises:
            StorageError: The storage fails, so that it is unknown whether a checkpoint is intact.
        """
        for checkpoint_id in reversed(self.list(network_id)):
            if at_most_interval is None or checkpoint_id.interval <= at_most_interval:
                try:
                    return self.load(network_id, checkpoint_id)
                except CheckpointError as error:
                    self._note_damage(network_id, checkpoint_id, error)
        return None

    def _note_damage(self, network_id: int, checkpoint: CheckpointId, error: CheckpointError) -> None:
        """Record that a damaged checkpoint was passed over, and log that once."""
        folder = f"networks/{network_id}/{checkpoint.name}"
        if folder not in self.passed_over:
            self.passed_over[folder] = str(error)
            logger.warning("%s; an older checkpoint is used if there is one", error)

    def load(self, network_id: int, checkpoint: CheckpointId) -> Checkpoint:
        """Read a checkpoint and check it against its manifest.

        Args:
            network_id: Id of the network.
            checkpoint: Id of the checkpoint.

        Returns:
            The checkpoint, without history rows.

        Raises:
            CheckpointError: A file is missing or altered.
            StorageError: The storage fails.
        """
        files = self._files(network_id, checkpoint)
        best = files.get("best.safetensors")
        return Checkpoint(
            network_id=network_id,
            id=checkpoint,
            model=read_tensors(files["model.safetensors"]),
            tensors=read_tensors(files["training.safetensors"]),
            training=_training(files["training.json"]),
            best=None if best is None else read_tensors(best),
        )

    def best(self, network_id: int) -> tuple[dict[str, Tensor], float | None, int] | None:
        """Return the best weights of a network by validation score.

        Without validation images, the weights are those of the newest checkpoint. Damaged checkpoints are skipped.

        Args:
            network_id: Id of the network.

        Returns:
            The weights, their validation score (None if there is none) and their interval. None if the network has no
            intact checkpoint.

        Raises:
            StorageError: The storage fails.
        """
        for checkpoint_id in reversed(self.list(network_id)):
            if not self._has_best(network_id, checkpoint_id):
                continue
            try:
                files = self._files(network_id, checkpoint_id, names=("best.safetensors", "training.json"))
                if "best.safetensors" not in files:
                    raise CheckpointError(f"checkpoint {checkpoint_id.name}: its manifest lacks best.safetensors")
                training = _training(files["training.json"])
                return read_tensors(files["best.safetensors"]), training["best_score"], training["best_interval"]
            except CheckpointError as error:
                self._note_damage(network_id, checkpoint_id, error)
        newest = self.newest(network_id)
        return (
            None if newest is None else (dict(newest.evaluated_state), newest.training.get("score"), newest.id.interval)
        )

    def flush_history(self) -> None:
        """Add the rows of committed checkpoints to the history, if their writer died before it could.

        Files of the history that are not those of their checkpoint are written again. Rows that are damaged in the
        checkpoint are skipped, and a warning names them.

        Raises:
            StorageError: The checkpoints cannot be listed.
        """
        folded = {table: replaced_files(self._storage, table) for table in TABLES}
        for network_id in self.networks():
            for checkpoint_id in self.list(network_id):
                with contextlib.suppress(StorageError):
                    files = self._row_files(network_id, checkpoint_id)
                    self._flush_history(network_id, checkpoint_id, files, folded=folded)

    def _flush_history(
        self,
        network_id: int,
        checkpoint: CheckpointId,
        files: Mapping[str, bytes],
        *,
        folded: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Write the rows of a checkpoint into the tables, but those that are in a folded file."""
        for table in TABLES:
            content, name = files.get(f"{table}.parquet"), f"{network_id}-{checkpoint.name}.parquet"
            is_folded = folded is not None and name in folded[table]
            if content is None or is_folded:
                continue
            is_there = self._storage.size(f"{table}/{name}") == len(content)
            if is_there and folded is not None:  # not after each commit, which has just written the file
                is_there = self._storage.read(f"{table}/{name}") == content
            if not is_there:
                self._storage.write(f"{table}/{name}", content)

    def _drop_old(self, network_id: int) -> None:
        """Delete old checkpoints, after their rows have been added to the history.

        The newest checkpoint of each of the last `keep` intervals, the newest of all and the best remain. Until the
        last incarnation has written `keep` of them, those of the incarnations before it remain as well. It may have
        resumed from an earlier one than the newest, which then is the only one that all networks have in common.
        Folders of older checkpoints that were not written whole are deleted too. A checkpoint that is still being
        written by an earlier process could not be committed any more.
        """
        folders = self._folders(network_id)
        committed = self.list(network_id)
        for name, identity in folders.items():
            if identity < committed[-1] and identity not in committed:
                self._storage.delete(f"networks/{network_id}/{name}")
        last = max(checkpoint_id.incarnation for checkpoint_id in committed)
        own = [checkpoint_id for checkpoint_id in committed if checkpoint_id.incarnation == last]
        retained = {*self._last_kept(committed), committed[-1]}
        if len({checkpoint_id.interval for checkpoint_id in own}) < self._keep:
            retained |= {*self._last_kept([item for item in committed if item.incarnation < last])}
        with_best = [checkpoint_id for checkpoint_id in committed if self._has_best(network_id, checkpoint_id)]
        retained |= set(with_best[-1:])
        for checkpoint_id in committed:
            if checkpoint_id not in retained:
                self._flush_history(network_id, checkpoint_id, self._row_files(network_id, checkpoint_id))
                self._storage.delete(f"networks/{network_id}/{checkpoint_id.name}")

    def _last_kept(self, committed: Sequence[CheckpointId]) -> list[CheckpointId]:
        """Return the newest checkpoint of each of the last `keep` intervals."""
        by_interval = {checkpoint_id.interval: checkpoint_id for checkpoint_id in committed}
        return [by_interval[interval] for interval in sorted(by_interval)[-self._keep :]]

    def _has_best(self, network_id: int, checkpoint: CheckpointId) -> bool:
        return self._storage.exists(f"networks/{network_id}/{checkpoint.name}/best.safetensors")

    def _row_files(self, network_id: int, checkpoint: CheckpointId) -> dict[str, bytes]:
        """Read the history rows of a checkpoint, and none of its weights. Damaged files are left out and named."""
        names = tuple(f"{table}.parquet" for table in TABLES)
        try:
            return self._files(network_id, checkpoint, names=names)
        except CheckpointError:
            return {key: content for name in names for key, content in self._rows_of(network_id, checkpoint, name)}

    def _rows_of(self, network_id: int, checkpoint: CheckpointId, name: str) -> Iterable[tuple[str, bytes]]:
        """Read one file of rows, if it is intact."""
        try:
            return self._files(network_id, checkpoint, names=(name,)).items()
        except CheckpointError as error:
            logger.warning("%s; its rows are lost, unless the tables of the run have them already", error)
            return ()

    def _files(
        self, network_id: int, checkpoint: CheckpointId, *, names: Collection[str] | None = None
    ) -> dict[str, bytes]:
        """Read files of a checkpoint, and check them against its manifest. None: all of them."""
        folder = f"networks/{network_id}/{checkpoint.name}"
        place = joined(self._storage.uri, folder)
        try:
            manifest = read_json(self._storage, f"{folder}/manifest.json", fields=dict.fromkeys(NEEDED, dict))
            chosen = [name for name in manifest if names is None or name in names]
            if strange := [name for name in chosen if name not in KNOWN]:
                raise CheckpointError(f"checkpoint {place} is damaged: its manifest names {strange[0]!r}")
            files = {name: self._storage.read(f"{folder}/{name}") for name in chosen}
        except (MissingError, DamagedError) as error:
            raise CheckpointError(f"checkpoint {place} is incomplete: {error}") from error
        for name, content in files.items():
            if not _is_intact(content, manifest[name]):
                raise CheckpointError(f"checkpoint {place}: {name} is not what was written")
        return files


NEEDED = ("model.safetensors", "training.safetensors", "training.json")
"""Files that each checkpoint has."""

KNOWN = frozenset({*NEEDED, "best.safetensors", *(f"{table}.parquet" for table in TABLES)})
"""Files that a checkpoint may have."""

COUNTS = ("interval", "step", "grafts")
"""Numbers in training.json that readers of a run's folder use."""


def _training(content: bytes) -> dict[str, Any]:
    """Return the content of training.json, which the manifest has found intact.

    Args:
        content: All bytes of the file.

    Raises:
        CheckpointError: It is no such file.
    """
    try:
        training: dict[str, Any] = from_json(content, "training.json")
    except DamagedError as error:
        raise CheckpointError(str(error)) from None
    return {"best_score": None, "best_interval": None, **dict.fromkeys(COUNTS, 0), **training}


class _Checksum:
    """Size and checksum of a file, computed while it is written.

    XXH3 finds what storage may damage, at a seventh of the cost of SHA-256. It does not protect against an attacker,
    who could replace the manifest too.
    """

    def __init__(self) -> None:
        self._digest, self._bytes = xxhash.xxh3_128(), 0

    def of_each(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for part in parts:
            self._digest.update(part)
            self._bytes += len(part)
            yield part

    def entry(self) -> dict[str, Any]:
        """Return the file's entry in the manifest."""
        return {"bytes": self._bytes, "xxh3_128": self._digest.hexdigest()}


def _is_intact(content: bytes, entry: Any) -> bool:
    """Compare a file with its entry in the manifest. Earlier versions wrote SHA-256."""
    if not isinstance(entry, dict):
        return False
    if "sha256" in entry:
        checksum, expected = hashlib.sha256(content).hexdigest(), entry["sha256"]
    else:
        checksum, expected = xxhash.xxh3_128(content).hexdigest(), entry.get("xxh3_128")
    return len(content) == entry.get("bytes") and checksum == expected
