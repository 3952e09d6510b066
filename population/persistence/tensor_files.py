"""Write safetensors files piece by piece, without a second copy of the tensors in memory.

The functions of the library `safetensors` write to a local path or return the whole file as bytes. A checkpoint goes to
any file system, and its checksum is computed on the way. Files are read by the library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from inarch.population.errors import CheckpointError

if TYPE_CHECKING:  # the coordinator lists checkpoints without torch
    from torch import Tensor

PART_BYTES = 1 << 22
"""Most bytes of one piece."""

TYPES = {
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
    "complex64": "C64",
    "float32": "F32",
    "int32": "I32",
    "uint32": "U32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int16": "I16",
    "uint16": "U16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""Names of types in a safetensors file, by torch's names, the widest first."""


def parts_of(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Yield a safetensors file, piece by piece.

    The tensors of the widest types come first, so that each lies at a multiple of its type's size, as in files that the
    library writes. The format knows no memory order, so tensors in channels_last order are made contiguous.

    Args:
        tensors: Tensors on the CPU.

    Yields:
        The header with its length, and then the tensors in pieces of at most `PART_BYTES`.

    Raises:
        CheckpointError: A tensor's type has no name in the format.
    """
    import torch

    order = list(TYPES)
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    for name, dtype in types.items():
        if dtype not in TYPES:
            raise CheckpointError(f"{name} is of type {dtype}, which a checkpoint cannot hold")
    names = sorted(tensors, key=lambda name: (order.index(types[name]), name))
    header, offset = {}, 0
    for name in names:
        nbytes = tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": TYPES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        if tensors[name].numel():
            flat = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            for start in range(0, flat.nbytes, PART_BYTES):
                yield memoryview(flat[start : start + PART_BYTES])  # pyright: ignore[reportArgumentType] # an array is a buffer


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Args:
        content: All bytes of the file.

    Raises:
        CheckpointError: The bytes are no such file.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"a file of tensors cannot be read: {error}") from error
