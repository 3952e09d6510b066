"""Snapshots: the published weights of a network in one flat buffer of bytes, with layout, information and origin.

A snapshot is one buffer and not one object per layer, because 300 small objects cost the object store 45 times as
much. A buffer from the object store is read-only and shared by every reader on the node. Readers copy from it and
never write to it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from inarch.population.errors import StructureError
from inarch.population.state.memory_order import copy_all, has_same_order, is_channels_last
from inarch.population.state.snapshot_info import SnapshotInfo

ALIGNMENT = 64
"""Bytes. Each entry begins on a cache line."""

HASH_BYTES = 4
"""Bytes of a tensor's hash in the history. Of two different tensors, one pair in four billion has equal hashes."""

with warnings.catch_warnings():
    # torch warns once per process that a tensor over read-only memory could be written to. Snapshots are only read:
    # blend_ reads the scion, and copies read their source. The warning is therefore triggered here and suppressed.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(4), dtype=np.uint8))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Position of one tensor in the buffer."""

    name: str
    """Key of the state dict."""
    dtype: str
    """torch's name of the type, such as float32."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    offset: int
    """First byte."""
    nbytes: int
    """Bytes of the tensor, without padding."""

    def strides(self, *, channels_last: bool) -> tuple[int, ...]:
        """Return the strides of the tensor in the buffer, in values.

        Args:
            channels_last: Whether the layout's tensors of four dimensions are in channels_last order.
        """
        if channels_last and len(self.shape) == 4:
            _, channels, height, width = self.shape
            return (channels * height * width, 1, width * channels, channels)
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The positions of all tensors in a buffer.

    All networks of one structure have the same layout, but for the order of the values within a tensor of four
    dimensions, which is that of the network's memory. Nothing is then copied or reordered to publish a network.
    """

    entries: tuple[Entry, ...]
    """Entries in the order of their offsets."""
    nbytes: int
    """Bytes of the whole buffer."""
    fingerprint: str
    """Hash of names, types and shapes in their order. It says nothing about `channels_last`."""
    channels_last: bool = False
    """Whether tensors of four dimensions lie in the buffer in channels_last order."""

    @functools.cached_property
    def places(self) -> tuple[tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...], int], ...]:
        """Name, type, shape, strides and first value of each tensor, as `torch.as_strided` takes them."""
        return tuple(
            (
                entry.name,
                (dtype := getattr(torch, entry.dtype)),
                entry.shape,
                entry.strides(channels_last=self.channels_last),
                entry.offset // dtype.itemsize,
            )
            for entry in self.entries
        )

    def in_order(self, *, channels_last: bool) -> Layout:
        """Return this layout with another order of values.

        Args:
            channels_last: As the attribute.
        """
        return self if channels_last == self.channels_last else dataclasses.replace(self, channels_last=channels_last)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The published weights of a network, with the data that its neighbors need to graft them."""

    origin: SnapshotInfo
    """Identity and training progress."""
    information: tuple[float, ...]
    """Information of each graft unit, in order. Empty if the exchange rule measures none."""
    buffer: np.ndarray
    """Shape (bytes,), uint8. It is only read."""
    layout: Layout
    """Positions of the tensors in the buffer."""
    uploaded: Tensor | None = None
    """The buffer's bytes on a GPU, if they were copied there. Shape (bytes,), uint8."""
    finite: bool | None = None
    """Whether the weights were found to be finite. None: they were not checked."""
    scales: tuple[float, ...] | None = None
    """Root mean square of the trained weights of each unit, estimated. None: it was not measured."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors as views of the uploaded bytes if there are any, or else of the buffer.

        The caller must not write to them.
        """
        return unflatten(self.buffer, self.layout) if self.uploaded is None else views(self.uploaded, self.layout)

    def hashes(self) -> bytes:
        """Return a hash of each tensor's bytes, 4 bytes each, in the layout's order."""
        whole = memoryview(self.buffer)  # pyright: ignore[reportArgumentType]
        return b"".join(
            xxhash.xxh3_64_digest(whole[entry.offset : entry.offset + entry.nbytes])[-HASH_BYTES:]
            for entry in self.layout.entries
        )

    def is_finite(self, *, but: Collection[str] = ()) -> bool:
        """Return whether all weights are finite.

        If all floats are float32, the least and the greatest value of each contiguous range of the buffer usually
        decide. Integers and padding in a range are read as floats too. Only extreme integers appear as NaN or infinite.
        With other float types, or if a range is not finite, each float entry is checked separately.

        Args:
            but: Keys of entries to skip, because the donor's information proves that they are finite.
        """
        checked = [entry for entry in self.layout.entries if entry.name not in but]
        floats = [entry for entry in checked if "float" in entry.dtype]
        if all(entry.dtype == "float32" for entry in floats):
            values = torch.from_numpy(self.buffer).view(torch.float32)
            extremes = [torch.aminmax(values[start // 4 : stop // 4]) for start, stop in _stretches(checked)]
            if all(math.isfinite(float(low)) and math.isfinite(float(high)) for low, high in extremes):
                return True
        state = unflatten(self.buffer, self.layout)
        return all(bool(torch.isfinite(state[entry.name]).all()) for entry in floats)


def _stretches(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return start and end byte, padding included, of each contiguous range of entries."""
    stretches: list[tuple[int, int]] = []
    for entry in entries:
        stop = entry.offset + -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
        if stop == entry.offset:
            continue
        if stretches and stretches[-1][1] == entry.offset:
            stretches[-1] = (stretches[-1][0], stop)
        else:
            stretches.append((entry.offset, stop))
    return stretches


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of a state dict.

    Args:
        state: A state dict. The layout has its entries in its order.
    """
    entries, offset = [], 0
    digest = hashlib.sha256()
    for name, tensor in state.items():
        nbytes = tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append(Entry(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=offset, nbytes=nbytes))
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}\n".encode())
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return Layout(
        entries=tuple(entries),
        nbytes=offset,
        fingerprint=digest.hexdigest()[:16],
        channels_last=any(is_channels_last(tensor) for tensor in state.values()),
    )


def unflatten(buffer: np.ndarray, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors of a buffer as views of it.

    Args:
        buffer: Bytes of a snapshot, shape (bytes,), uint8.
        layout: Layout of the snapshot.

    Raises:
        StructureError: The buffer does not have the layout's size.
    """
    if buffer.nbytes != layout.nbytes:
        raise StructureError(f"a snapshot of this network must have {layout.nbytes} bytes, got {buffer.nbytes}")
    return views(torch.from_numpy(buffer), layout)


def views(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors of a buffer as views of it.

    Args:
        flat: Bytes of a snapshot on any device, shape (bytes,), uint8.
        layout: Layout of the snapshot.
    """
    values = {dtype: flat.view(dtype) for dtype in {place[1] for place in layout.places}}
    return {
        name: values[dtype].as_strided(shape, strides, start) for name, dtype, shape, strides, start in layout.places
    }


class StagingBuffer:
    """A host buffer into which a network's weights are copied before they are published. Each copy replaces the last.

    The weights are first gathered in a flat buffer on the network's device. The network's tensors may be views of that
    buffer (`alias_parameters`), so that nothing is gathered. On the CPU it is the host buffer itself. The staged
    weights then stay valid only until the network trains on.

    On a GPU the host buffer is pinned, and one copy fills it on a stream of its own. The training stream waits for the
    copy on the device. The host waits only when it reads the buffer.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        """Allocate the buffer.

        Args:
            layout: Layout of the network's snapshots.
            device: Device of the network.
        """
        self.layout = layout
        self._device = device
        is_cuda = device.type == "cuda"
        self._host = torch.zeros(layout.nbytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._flat = (
            self._host if device.type == "cpu" else torch.zeros(layout.nbytes, dtype=torch.uint8, device=device)
        )
        self._views = views(self._flat, layout)
        self._stream = torch.cuda.Stream(device) if is_cuda else None
        self._copied = torch.cuda.Event() if is_cuda else None

    def alias_parameters(self, module: nn.Module) -> None:
        """Turn a module's float32 parameters and buffers into views of the flat buffer on its device.

        Other types keep their own memory, because torch.save refuses a storage with views of several types. So do
        tensors whose values lie in another order than the layout's.

        Args:
            module: The network. Its tensors keep their values and move into the buffer.
        """
        homes: dict[int, str] = {}
        for owner_name, owner in module.named_modules():
            stem = f"{owner_name}." if owner_name else ""
            for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                view = self._views.get(f"{stem}{name}")
                if view is None or tensor.dtype != torch.float32 or not has_same_order(tensor, view):
                    continue
                if homes.setdefault(id(tensor), f"{stem}{name}") == f"{stem}{name}":
                    view.copy_(tensor.detach())
                    tensor.data = view

    def stage(self, state: Mapping[str, Tensor]) -> None:
        """Begin to copy weights into the buffer. The weights staged before are overwritten.

        Args:
            state: Tensors with the keys and shapes of the layout. They are only read.
        """
        apart = [name for name, view in self._views.items() if state[name].data_ptr() != view.data_ptr()]
        with torch.no_grad():
            copy_all([self._views[name] for name in apart], [state[name] for name in apart])
        if self._stream is None or self._copied is None:
            return
        training = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            self._host.copy_(self._flat, non_blocking=True)
            self._copied.record(self._stream)
        training.wait_event(self._copied)

    def buffer(self) -> np.ndarray:
        """Return the staged bytes, shape (bytes,), uint8, once the copy is complete.

        The array is a view that stays valid until the next `stage`. With aliased parameters it stays valid only until
        the network trains on.
        """
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()


class Uploader:
    """Copies snapshots to a GPU, in the thread that fetches them and on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        """Create it. Memory is allocated with the first snapshot.

        Args:
            device: A GPU.
        """
        self._device, self._stream = device, torch.cuda.Stream(device)

    def upload(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot whose bytes also lie on the device. The calling thread waits for the copy.

        The copy goes through pinned memory, because a GPU copies only from there without taking part of the CPU.

        Args:
            snapshot: A snapshot from the object store.
        """
        pinned = torch.empty(snapshot.buffer.nbytes, dtype=torch.uint8, pin_memory=True)
        pinned.copy_(torch.from_numpy(snapshot.buffer))
        copied = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            uploaded = torch.empty(snapshot.buffer.nbytes, dtype=torch.uint8, device=self._device)
            uploaded.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        uploaded.record_stream(torch.cuda.default_stream(self._device))  # which trains, and reads it
        copied.synchronize()
        return dataclasses.replace(snapshot, uploaded=uploaded)
