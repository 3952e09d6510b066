"""Compare what a replay makes with what the run recorded, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inarch.population.persistence.checkpoint import Checkpoint
from inarch.population.state.snapshot import HASH_BYTES, Snapshot
from inarch.population.training.replay.record import Life

COUNTED = (
    "interval",
    "step",
    "trained_intervals",
    "trained_steps",
    "grafts",
    "hyperparameters",
    "score",
    "best_score",
)
"""Values of training.json that a replay repeats. Others are seconds, or have to do with the interval in progress."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference between a run and its replay."""

    life: Life
    """Process of the network."""
    interval: int
    """Interval in which it was found."""
    place: str
    """Tensor or value that differs."""
    detail: str
    """How it differs."""

    def __str__(self) -> str:
        network_id, incarnation = self.life
        return (
            f"network {network_id} (incarnation {incarnation}), interval {self.interval}, {self.place}: {self.detail}"
        )


def compare_published(life: Life, snapshot: Snapshot, recorded: bytes) -> Difference | None:
    """Compare a snapshot with the recorded hashes of its tensors.

    Args:
        life: Process that publishes it.
        snapshot: The snapshot of the replay.
        recorded: Hashes of the run, as `Snapshot.hashes`.
    """
    hashes = snapshot.hashes()
    if hashes == recorded:
        return None
    interval, entries = snapshot.origin.interval, snapshot.layout.entries
    if len(hashes) != len(recorded):
        detail = f"the run published {len(recorded) // HASH_BYTES} tensors, the replay {len(entries)}"
        return Difference(life=life, interval=interval, place="published weights", detail=detail)
    names = [
        entry.name
        for place, entry in enumerate(entries)
        if hashes[HASH_BYTES * place :][:HASH_BYTES] != recorded[HASH_BYTES * place :][:HASH_BYTES]
    ]
    others = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return Difference(life=life, interval=interval, place=names[0], detail=f"other bits than the run published{others}")


def compare_checkpoints(life: Life, replayed: Checkpoint, recorded: Checkpoint) -> Difference | None:
    """Compare a checkpoint of the replay with that of the run: weights, optimizer, random states and counters.

    Args:
        life: Process that wrote it.
        replayed: Checkpoint of the replay.
        recorded: Checkpoint of the run's folder.
    """
    interval = replayed.id.interval
    for part, ours, theirs in (
        ("model", replayed.model, recorded.model),
        ("training", replayed.tensors, recorded.tensors),
        ("best", replayed.best or {}, recorded.best or {}),
    ):
        if part == "best" and recorded.best is None:  # the replay makes fewer checkpoints, and may hold it longer
            continue
        difference = _compare_tensors(ours, theirs)
        if difference is not None:
            name, detail = difference
            place = name if part == "model" else f"{name} of {part}.safetensors"
            return Difference(life=life, interval=interval, place=place, detail=detail)
    for name in COUNTED:
        ours, theirs = replayed.training.get(name), recorded.training.get(name)
        if name in recorded.training and not _is_equal(ours, theirs):
            place, detail = f"{name} of training.json", f"{theirs} in the run, {ours} in the replay"
            return Difference(life=life, interval=interval, place=place, detail=detail)
    return None


def _is_equal(ours: Any, theirs: Any) -> bool:
    return ours == theirs or (ours != ours and theirs != theirs)  # NaN


def _compare_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the name of the first tensor that differs, and how it does. None: all have the same bits."""
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if name not in ours or name not in theirs:
            return name, "only in the run" if name in theirs else "only in the replay"
        a, b = ours[name].detach().cpu(), theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return name, f"{b.dtype} {tuple(b.shape)} in the run, {a.dtype} {tuple(a.shape)} in the replay"
        differs = _bits(a) != _bits(b)
        if bool(differs.any()):
            largest = (a.double() - b.double()).abs().nan_to_num().max()
            return name, f"{int(differs.sum())} of {a.numel()} values differ, by up to {float(largest):.3g}"
    return None


def _bits(tensor: Tensor) -> Tensor:
    """Return the values as whole numbers with the same bits, so that NaN equals itself and 0 differs from -0."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])
