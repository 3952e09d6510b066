"""A network frozen: one flat buffer of bytes, the table of what lies where, its information and its origin.

One buffer and not one object a layer: 300 small objects cost the object store 45 times as much. A buffer that came
out of the store is read-only and shared by every reader on the node: it is copied from, never written to.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inarch.population.errors import StructureError

ALIGNMENT = 64
"""Bytes; each entry begins on a cache line."""

with warnings.catch_warnings():
    # torch warns once a process that a tensor over read-only memory could be written to. Snapshots are only read
    # (blend_ reads the scion, copies read the source), so the one warning is used up here.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(4), dtype=np.uint8))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies in the buffer."""

    name: str
    dtype: str
    """torch's name for it, as float32."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The table of a buffer: the same for all networks of one structure."""

    entries: tuple[Entry, ...]
    nbytes: int
    """Of the whole buffer."""
    fingerprint: str
    """Equal for equal names, types and shapes in equal order."""


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """Whose weights these are, and how far they were trained."""

    network_id: int
    incarnation: int
    interval: int
    """The version: intervals of the schedule completed."""
    step: int
    """Steps of the schedule completed."""
    trained_intervals: float
    """Intervals that these weights were trained for, a scion's in proportion to its part; a fresh newcomer has few."""
    trained_steps: float
    """The same in steps."""
    created_at: float
    """When it was frozen, seconds of the host's clock."""
    structure: str
    """Fingerprint of its layout."""
    score: float | None = None
    """Newest score on the validation images, as `Scores.score`; None where nothing is held out."""
    learning_rate: float = 0.0
    """Initial, of the network that trained them."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A network's frozen weights, with what its neighbors need to know of them."""

    origin: SnapshotInfo
    information: tuple[float, ...]
    """Of each graft unit, in order."""
    buffer: np.ndarray
    """Shape (bytes,), uint8."""
    layout: Layout

    def state(self) -> dict[str, Tensor]:
        """The tensors, as views of the buffer: never write to them."""
        return unflatten(self.buffer, self.layout)

    def is_finite(self, *, but: Collection[str] = ()) -> bool:
        """Whether no weight is NaN or infinite.

        Where all floats are float32 one look at the least and greatest value of each stretch of the buffer tells
        (whole numbers and padding read as floats are finite but for extreme ones); else, and where that look finds
        something, entry by entry.

        Args:
            but: Entries that need no look: their donor's information tells that they are finite.
        """
        looked_at = [entry for entry in self.layout.entries if entry.name not in but]
        floats = [entry for entry in looked_at if "float" in entry.dtype]
        if all(entry.dtype == "float32" for entry in floats):
            values = torch.from_numpy(self.buffer).view(torch.float32)
            ends = [torch.aminmax(values[start // 4 : stop // 4]) for start, stop in _stretches(looked_at)]
            if all(math.isfinite(float(low)) and math.isfinite(float(high)) for low, high in ends):
                return True
        state = self.state()
        return all(bool(torch.isfinite(state[entry.name]).all()) for entry in floats)


def _stretches(found: Sequence[Entry]) -> list[tuple[int, int]]:
    """First and last byte, padding included, of entries that lie side by side."""
    stretches: list[tuple[int, int]] = []
    for entry in found:
        stop = entry.offset + -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
        if stop == entry.offset:
            continue
        if stretches and stretches[-1][1] == entry.offset:
            stretches[-1] = (stretches[-1][0], stop)
        else:
            stretches.append((entry.offset, stop))
    return stretches


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict."""
    found, offset = [], 0
    digest = hashlib.sha256()
    for name, tensor in state.items():
        nbytes = tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(Entry(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=offset, nbytes=nbytes))
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}\n".encode())
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return Layout(entries=tuple(found), nbytes=offset, fingerprint=digest.hexdigest()[:16])


def unflatten(buffer: np.ndarray, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a buffer, as views of it.

    Raises:
        StructureError: the buffer is not of the layout's size.
    """
    if buffer.nbytes != layout.nbytes:
        raise StructureError(f"a snapshot of this network has {layout.nbytes} bytes, got one of {buffer.nbytes}")
    whole = torch.from_numpy(buffer)
    return {
        entry.name: whole[entry.offset : entry.offset + entry.nbytes]
        .view(getattr(torch, entry.dtype))
        .view(entry.shape)
        for entry in layout.entries
    }


class StagingBuffer:
    """Copies a network into one host buffer, which it owns and fills anew each time.

    On the CPU a network may live in the buffer itself (`alias_parameters`): then nothing is left to copy, and what was frozen
    holds until the network trains on. On a GPU the buffer is pinned and the copy runs on a stream of its own: the
    training stream waits for it on the device, the host only when it reads the buffer.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self._device = device
        is_cuda = device.type == "cuda"
        self._buffer = torch.zeros(layout.nbytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._views = {
            entry.name: self._buffer[entry.offset : entry.offset + entry.nbytes]
            .view(getattr(torch, entry.dtype))
            .view(entry.shape)
            for entry in layout.entries
        }
        self._stream = torch.cuda.Stream(device) if is_cuda else None
        self._copied = torch.cuda.Event() if is_cuda else None

    def alias_parameters(self, module: nn.Module) -> None:
        """On the CPU: let a module's contiguous float32 parameters and buffers be views of the buffer from now on. (Of
        one type alone: torch.save refuses a storage that is seen as several.)"""
        if self._stream is not None:
            return
        homes: dict[int, str] = {}
        for owner_name, owner in module.named_modules():
            stem = f"{owner_name}." if owner_name else ""
            for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                view = self._views.get(f"{stem}{name}")
                if view is None or not tensor.is_contiguous() or tensor.dtype != torch.float32:
                    continue
                if homes.setdefault(id(tensor), f"{stem}{name}") == f"{stem}{name}":
                    view.copy_(tensor.detach())
                    tensor.data = view

    def stage(self, state: Mapping[str, Tensor]) -> None:
        """Begin to copy `state` into the buffer; what an earlier freeze left there is gone."""
        if self._stream is None or self._copied is None:
            self._copy(state)
            return
        self._copied.synchronize()
        training = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            self._copy(state)
            self._copied.record(self._stream)
        training.wait_event(self._copied)

    def buffer(self) -> np.ndarray:
        """The copied bytes, shape (bytes,), uint8; valid until the next freeze."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._buffer.numpy()

    def _copy(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, view in self._views.items():
                if state[name].data_ptr() != view.data_ptr() or not view.numel():
                    view.copy_(state[name], non_blocking=True)
