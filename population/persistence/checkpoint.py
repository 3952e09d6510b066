"""Checkpoints of networks: safetensors and JSON, committed by a manifest with checksums that is written last.

    networks/<id>/<interval>-<incarnation>[-<step>]/
      model.safetensors      weights after the interval's graft
      training.safetensors   optimizer, random states
      training.json          counters, hyperparameters, score
      best.safetensors       where this interval's weights, as evaluated before the graft, are the best so far
      metrics.parquet, grafts.parquet, filters.parquet, fusion.parquet   rows since the checkpoint before
      manifest.json          size and SHA-256 of each file

A checkpoint exists when its manifest does and matches. `<step>` names one made within an interval, by a stop.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from inarch.population.errors import CheckpointError, MissingError, StorageError
from inarch.population.persistence.claim import check_holds, holds
from inarch.population.persistence.history import TABLES, Rows, to_parquet
from inarch.population.persistence.storage import Storage

_NAME = re.compile(r"^(\d+)-(\d+)(?:-(\d+))?$")


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointId:
    """Which checkpoint of a network; the greatest is the newest."""

    incarnation: int
    interval: int
    """Intervals completed."""
    step: int = 0
    """Above 0: made within interval + 1, after so many steps of the schedule."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"{self.interval:06d}-{self.incarnation:03d}" + (f"-{self.step:09d}" if self.step else "")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that one network needs to go on, and the rows it has to hand in."""

    network_id: int
    id: CheckpointId
    model: Mapping[str, Tensor]
    """Weights after the graft, on the CPU."""
    tensors: Mapping[str, Tensor]
    """Optimizer and random states, on the CPU."""
    training: Mapping[str, Any]
    """JSON's types."""
    best: Mapping[str, Tensor] | None = None
    """Weights as evaluated, where they are the best so far."""
    rows: Rows = field(default_factory=dict)

    @property
    def evaluated_state(self) -> Mapping[str, Tensor]:
        """What is judged as the network: the mean of its weights, with the statistics that it had when it was last
        judged, where one is kept and has begun, else the weights."""
        has_mean = int(self.tensors.get("average_count", 0)) > 0
        return average_of(self.tensors) if has_mean else self.model


def average_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights among a checkpoint's tensors; empty where none are kept."""
    return {name.removeprefix("average."): value for name, value in tensors.items() if name.startswith("average.")}


class CheckpointStore:
    """The checkpoints of a run."""

    def __init__(self, storage: Storage, *, keep: int = 2, token: str | None = None) -> None:
        """The store of a run.

        Args:
            storage: The run's folder.
            keep: Newest checkpoints kept of each network.
            token: Of the claim on the folder, without which nothing is committed; None: the folder is not shared.
        """
        self._storage, self._keep, self._token = storage, keep, token

    def acquire_fence(self, network_id: int, incarnation: int) -> None:
        """Mark an incarnation as the one that may commit: earlier ones that wake up again are fenced off.

        Raises:
            RunExistsError: another start has claimed the folder.
        """
        check_holds(self._storage, self._token)
        self._storage.write(f"networks/{network_id}/incarnation-{incarnation:03d}", b"")

    def is_fenced(self, network_id: int, incarnation: int) -> bool:
        """Whether a later incarnation has claimed the network."""
        claims = [name for name in self._storage.names(f"networks/{network_id}") if name.startswith("incarnation-")]
        return any(int(name.rpartition("-")[2]) > incarnation for name in claims)

    def commit(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, hand in its rows, and drop those that are no longer kept.

        Returns:
            False where a later incarnation has claimed the network, or another start the folder: nothing was committed.

        Raises:
            StorageError: it could not be written; earlier checkpoints stand.
        """
        if not self._holds_folder():
            return False
        folder = f"networks/{checkpoint.network_id}/{checkpoint.id.name}"
        files = {
            "model.safetensors": _to_bytes(checkpoint.model),
            "training.safetensors": _to_bytes(checkpoint.tensors),
            "training.json": json.dumps(dict(checkpoint.training), sort_keys=True).encode(),
        }
        if checkpoint.best is not None:
            files["best.safetensors"] = _to_bytes(checkpoint.best)
        for table in TABLES:
            if checkpoint.rows.get(table):
                files[f"{table}.parquet"] = to_parquet(checkpoint.rows[table], table)
        for name, content in files.items():
            self._storage.write(f"{folder}/{name}", content)
        if not self._holds_folder():
            return False
        if self.is_fenced(checkpoint.network_id, checkpoint.id.incarnation):
            self._storage.delete(folder)
            return False
        manifest = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
        self._storage.write(f"{folder}/manifest.json", json.dumps(manifest, sort_keys=True).encode())
        with contextlib.suppress(StorageError):  # committed already; what fails here is made up for later
            self._flush_history(checkpoint.network_id, checkpoint.id, files)
            self._drop_old(checkpoint.network_id)
        return True

    def _holds_folder(self) -> bool:
        """Whether the folder is still this start's; what another start wrote is neither replaced nor deleted."""
        return self._token is None or holds(self._storage, self._token)

    def list(self, network_id: int) -> list[CheckpointId]:
        """Committed checkpoints of a network, oldest first."""
        found = []
        for name in self._storage.names(f"networks/{network_id}"):
            match = _NAME.match(name)
            if match and self._storage.exists(f"networks/{network_id}/{name}/manifest.json"):
                interval, incarnation, step = (int(part or 0) for part in match.groups())
                found.append(CheckpointId(interval=interval, incarnation=incarnation, step=step))
        return sorted(found)

    def networks(self) -> list[int]:
        """Ids of the networks that have a folder."""
        return sorted(int(name) for name in self._storage.names("networks") if name.isdigit())

    def newest(self, network_id: int, *, at_most_interval: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that is whole; one that is damaged is passed over, None where there is none.

        Args:
            network_id: Whose.
            at_most_interval: Pass over those with more completed intervals.

        Raises:
            StorageError: storage fails, which says nothing about what lies there.
        """
        for found in reversed(self.list(network_id)):
            if at_most_interval is None or found.interval <= at_most_interval:
                try:
                    return self.load(network_id, found)
                except CheckpointError:
                    continue
        return None

    def load(self, network_id: int, checkpoint: CheckpointId) -> Checkpoint:
        """One checkpoint, checked against its manifest.

        Raises:
            CheckpointError: a file is missing or altered.
            StorageError: storage fails.
        """
        files = self._files(network_id, checkpoint)
        best = files.get("best.safetensors")
        return Checkpoint(
            network_id=network_id,
            id=checkpoint,
            model=self._tensors(files["model.safetensors"], network_id),
            tensors=self._tensors(files["training.safetensors"], network_id),
            training=json.loads(files["training.json"]),
            best=None if best is None else self._tensors(best, network_id),
        )

    def best(self, network_id: int) -> tuple[dict[str, Tensor], float | None, int] | None:
        """Best weights by validation, their score and interval; the newest weights where nothing was held out."""
        for found in reversed(self.list(network_id)):
            try:
                loaded = self.load(network_id, found)
            except CheckpointError:
                continue
            if loaded.best is not None:
                return dict(loaded.best), loaded.training["best_score"], loaded.training["best_interval"]
        newest = self.newest(network_id)
        return (
            None if newest is None else (dict(newest.evaluated_state), newest.training.get("score"), newest.id.interval)
        )

    def flush_history(self) -> None:
        """Hand in rows of committed checkpoints whose writer died before it could."""
        for network_id in self.networks():
            for found in self.list(network_id):
                with contextlib.suppress(StorageError):
                    self._flush_history(network_id, found, self._files(network_id, found))

    def _flush_history(self, network_id: int, checkpoint: CheckpointId, files: Mapping[str, bytes]) -> None:
        for table in TABLES:
            content, name = files.get(f"{table}.parquet"), f"{table}/{network_id}-{checkpoint.name}.parquet"
            if content is not None and self._storage.size(name) != len(content):
                self._storage.write(name, content)

    def _drop_old(self, network_id: int) -> None:
        """Keep the newest of each of the last k intervals, the newest of all and the best; before any other goes, its
        rows are surely handed in."""
        committed = self.list(network_id)
        of_interval = {found.interval: found for found in committed}
        kept = {of_interval[interval] for interval in sorted(of_interval)[-self._keep :]} | {committed[-1]}
        with_best = [found for found in committed if self._has_best(network_id, found)]
        kept |= set(with_best[-1:])
        for found in committed:
            if found not in kept:
                with contextlib.suppress(CheckpointError):
                    self._flush_history(network_id, found, self._files(network_id, found))
                self._storage.delete(f"networks/{network_id}/{found.name}")

    def _has_best(self, network_id: int, checkpoint: CheckpointId) -> bool:
        return self._storage.exists(f"networks/{network_id}/{checkpoint.name}/best.safetensors")

    def _files(self, network_id: int, checkpoint: CheckpointId) -> dict[str, bytes]:
        folder = f"networks/{network_id}/{checkpoint.name}"
        try:
            manifest = json.loads(self._storage.read(f"{folder}/manifest.json"))
            files = {name: self._storage.read(f"{folder}/{name}") for name in manifest}
        except (MissingError, ValueError) as error:
            raise CheckpointError(f"checkpoint {folder} is incomplete: {error}") from error
        for name, content in files.items():
            if (
                len(content) != manifest[name]["bytes"]
                or hashlib.sha256(content).hexdigest() != manifest[name]["sha256"]
            ):
                raise CheckpointError(f"checkpoint {folder}: {name} is not what was written")
        return files

    def _tensors(self, content: bytes, network_id: int) -> dict[str, Tensor]:
        try:
            return safetensors.torch.load(content)
        except SafetensorError as error:
            raise CheckpointError(f"a checkpoint of network {network_id} cannot be read: {error}") from error


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file. The format knows no memory order: channels_last tensors are written row by row."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
