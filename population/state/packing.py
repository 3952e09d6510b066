"""Smaller snapshots for slow links: the weights of a published snapshot in half precision, or in 8 bits.

Only weight matrices and the weights of convolutions are packed. Norms, biases, statistics and whole numbers keep their
bits. The network that publishes keeps its own weights in float32, and a reader widens what it fetches to float32.

Rounding goes to the nearest value, and to the even one of two. A weight is moved by at most 2^-11 of itself in float16
(2^-25 below 6e-5), 2^-8 of itself in bfloat16, and 1/254 of its block's greatest magnitude in int8.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inarch.population.state.snapshot import ALIGNMENT, Entry, Layout

BLOCK_VALUES = 1024
"""int8: consecutive values of a tensor, in the order of memory, that share a scale."""

CHUNK_VALUES = 256 * BLOCK_VALUES
"""Values that are packed or widened at a time, so that intermediate results stay in cache."""

LARGEST_CODE = 127
"""int8: code of a block's greatest magnitude."""

NAN_CODE = -128
"""int8: code of NaN in a block that has values which are not finite. Infinity is the largest code there."""

LARGEST_SCALE = torch.finfo(torch.float32).max / 128
"""int8: with a scale up to this one, no code stands for an infinite value."""


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """Position of an entry's weights in a packed buffer."""

    entry: Entry
    codes: slice
    """Bytes of the rounded values."""
    scales: slice
    """int8: bytes of the scales, one for each block. Empty for other types."""


class SnapshotPacking:
    """Packs the buffers of one network's snapshots, and widens those of others.

    With precision float32 it returns every buffer as it is. Packing and widening may run in two threads at once.
    """

    def __init__(self, layout: Layout, precision: str, *, keys: Collection[str] = ()) -> None:
        """Plan the packed buffer. It is the same for all networks of one structure.

        Args:
            layout: Layout of the network's snapshots.
            precision: As `ExchangeConfig.precision`.
            keys: Keys of the network's parameters. Those of type float32 with two or more dimensions are packed.
        """
        self._layout = layout
        self._dtype: torch.dtype = getattr(torch, precision)
        self._entries: list[_Packed] = []
        self._copied: list[tuple[slice, slice]] = []
        self._buffer: np.ndarray | None = None  # kept, because fresh memory would be faulted in at every exchange
        self.nbytes = layout.nbytes
        """Bytes of a packed buffer."""
        if precision != "float32":
            self._plan(frozenset(keys))

    @property
    def is_exact(self) -> bool:
        """Whether a snapshot is published as it is."""
        return not self._entries

    def pack(self, buffer: np.ndarray) -> np.ndarray:
        """Return a snapshot's bytes as they are published.

        Args:
            buffer: Shape (bytes,), uint8, in the layout. It is only read.

        Returns:
            Shape (nbytes,), uint8. Valid until the next call, or `buffer` itself with precision float32.
        """
        if self.is_exact:
            return buffer
        if self._buffer is None:
            self._buffer = np.zeros(self.nbytes, dtype=np.uint8)
        for whole, packed in self._copied:
            self._buffer[packed] = buffer[whole]
        source, target = torch.from_numpy(buffer), torch.from_numpy(self._buffer)
        for item in self._entries:
            values, codes = _values(source, item.entry), target[item.codes].view(self._dtype)
            if self._dtype is torch.int8:
                _quantize(values, codes, target[item.scales].view(torch.float32))
            else:
                _round(values, codes)
        return self._buffer

    def widen(self, packed: np.ndarray) -> np.ndarray:
        """Return a fetched snapshot's bytes in the layout, with its weights in float32.

        Args:
            packed: Shape (nbytes,), uint8. It is only read.

        Returns:
            Shape (bytes,), uint8. New memory, or `packed` itself with precision float32.
        """
        if self.is_exact:
            return packed
        buffer = np.empty(self._layout.nbytes, dtype=np.uint8)
        for whole, kept in self._copied:
            buffer[whole] = packed[kept]
        source, target = torch.from_numpy(packed), torch.from_numpy(buffer)
        for item in self._entries:
            codes, values = source[item.codes].view(self._dtype), _values(target, item.entry)
            if self._dtype is torch.int8:
                _dequantize(codes, source[item.scales].view(torch.float32), values)
            else:
                values.copy_(codes)
            stop = item.entry.offset + item.entry.nbytes
            buffer[stop : _aligned(stop)] = 0  # padding is read as floats where a snapshot is checked
        return buffer

    def as_received(self, buffer: np.ndarray) -> np.ndarray:
        """Return a copy of a snapshot's bytes as another network reads them.

        Args:
            buffer: Shape (bytes,), uint8, in the layout. It is only read.
        """
        return buffer.copy() if self.is_exact else self.widen(self.pack(buffer))

    def _plan(self, keys: Collection[str]) -> None:
        """Place the packed entries, and gather the others into contiguous ranges."""
        place = 0
        for entry in self._layout.entries:
            if entry.name in keys and entry.dtype == "float32" and len(entry.shape) >= 2 and entry.nbytes:
                num_values = entry.nbytes // 4
                codes = slice(place, place + num_values * self._dtype.itemsize)
                num_scales = -(-num_values // BLOCK_VALUES) if self._dtype is torch.int8 else 0
                begin = _aligned(codes.stop)
                scales = slice(begin, begin + 4 * num_scales)
                self._entries.append(_Packed(entry=entry, codes=codes, scales=scales))
                place = _aligned(scales.stop)
            else:
                whole = slice(entry.offset, _aligned(entry.offset + entry.nbytes))
                packed = slice(place, place + whole.stop - whole.start)
                if self._copied and self._copied[-1][0].stop == whole.start:
                    before, target = self._copied.pop()
                    whole, packed = slice(before.start, whole.stop), slice(target.start, packed.stop)
                self._copied.append((whole, packed))
                place = packed.stop
        self.nbytes = place


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _values(buffer: Tensor, entry: Entry) -> Tensor:
    """Return an entry's float32 values in the order of memory, as a view of the buffer."""
    return buffer[entry.offset : entry.offset + entry.nbytes].view(torch.float32)


def _round(values: Tensor, codes: Tensor) -> None:
    """Round values to a half precision. A finite value beyond its range becomes the largest value of the range."""
    limit = torch.finfo(codes.dtype).max
    for start in range(0, len(values), CHUNK_VALUES):
        chunk = values[start : start + CHUNK_VALUES]
        low, high = torch.aminmax(chunk)
        if not (-limit <= float(low) and float(high) <= limit):
            chunk = torch.where(chunk.isfinite(), chunk.clamp(-limit, limit), chunk)
        codes[start : start + CHUNK_VALUES].copy_(chunk)


def _quantize(values: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Write each value as a whole multiple of its block's scale, which is the greatest magnitude divided by 127."""
    for start in range(0, len(values), CHUNK_VALUES):
        chunk, first = values[start : start + CHUNK_VALUES], start // BLOCK_VALUES
        target = codes[start : start + CHUNK_VALUES]
        num_whole = len(chunk) // BLOCK_VALUES
        whole = num_whole * BLOCK_VALUES
        parts = [(chunk[:whole].view(num_whole, -1), target[:whole].view(num_whole, -1), first)] if num_whole else []
        if whole < len(chunk):
            parts.append((chunk[whole:].view(1, -1), target[whole:].view(1, -1), first + num_whole))
        for blocks, block_codes, place in parts:
            _quantize_blocks(blocks, block_codes, scales[place : place + len(blocks)])


def _quantize_blocks(blocks: Tensor, codes: Tensor, scales: Tensor) -> None:
    magnitudes = torch.maximum(blocks.amax(1), -blocks.amin(1))  # propagates NaN; aminmax takes six times as long
    if not bool(magnitudes.isfinite().all()):
        for row in (~magnitudes.isfinite()).nonzero().flatten().tolist():
            _quantize_infinite(blocks[row], codes[row], scales[row])
        finite = magnitudes.isfinite().nonzero().flatten()
        if len(finite):
            rows, found = torch.empty_like(codes[finite]), torch.empty_like(scales[finite])
            _quantize_blocks(blocks[finite], rows, found)
            codes[finite], scales[finite] = rows, found
        return
    torch.div(magnitudes, LARGEST_CODE, out=scales)
    scales.clamp_(max=LARGEST_SCALE)
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    multiples = torch.div(blocks, divisors[:, None]).round_()
    codes.copy_(multiples.clamp_(-LARGEST_CODE, LARGEST_CODE))


def _quantize_infinite(block: Tensor, codes: Tensor, scale: Tensor) -> None:
    """Quantize a block that has values which are not finite. Its scale is marked by its sign, and is not zero."""
    finite = torch.where(block.isfinite(), block, torch.zeros_like(block))
    largest = (finite.abs().max() / (LARGEST_CODE - 1)).clamp(torch.finfo(torch.float32).tiny, LARGEST_SCALE)
    multiples = (finite / largest).round().clamp(1 - LARGEST_CODE, LARGEST_CODE - 1)
    multiples[block.isinf()] = LARGEST_CODE * block[block.isinf()].sign()
    multiples[block.isnan()] = NAN_CODE
    codes.copy_(multiples)
    scale.copy_(-largest)


def _dequantize(codes: Tensor, scales: Tensor, values: Tensor) -> None:
    """Write the values that the codes stand for."""
    for start in range(0, len(values), CHUNK_VALUES):
        stop = min(start + CHUNK_VALUES, len(values))
        whole = start + (stop - start) // BLOCK_VALUES * BLOCK_VALUES
        for begin, end in ((start, whole), (whole, stop)):
            if begin < end:
                rows = scales[begin // BLOCK_VALUES : -(-end // BLOCK_VALUES)]
                blocks = values[begin:end].view(len(rows), -1)
                blocks.copy_(codes[begin:end].view(len(rows), -1))
                blocks.mul_(rows[:, None])
    for row in (scales < 0).nonzero().flatten().tolist():
        chosen = slice(row * BLOCK_VALUES, (row + 1) * BLOCK_VALUES)
        block, code = values[chosen], codes[chosen].float()
        block.copy_(code * -scales[row])
        block[code.abs() == LARGEST_CODE] = torch.inf * code[code.abs() == LARGEST_CODE].sign()
        block[code == NAN_CODE] = torch.nan
