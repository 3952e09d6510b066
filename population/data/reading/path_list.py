"""A list of paths in two arrays. The networks of a node share it, and it is pickled without a Python object a path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np


class PathList:
    """Paths, encoded one after the other."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Encode paths.

        Args:
            paths: The paths. Names that are not UTF-8 keep their bytes.
        """
        encoded = [os.fsencode(path) for path in paths]
        self._characters = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._characters[start : int(self._ends[index])].tobytes())

    def digest(self) -> bytes:
        """Return a hash of the paths."""
        return hashlib.sha256(self._characters.tobytes() + self._ends.tobytes()).digest()

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self._characters.nbytes + self._ends.nbytes
