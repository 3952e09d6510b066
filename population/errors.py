"""The errors that inarch raises, as one tree.

    InarchError
    ├── ConfigError          a field, a recipe or a name is wrong            (also a ValueError)
    ├── DataError            images or labels cannot be used
    │   └── UnreadableImageError  one image cannot be read; names its file or row
    ├── UserCodeError        the caller's own function, module or data set raised
    ├── StructureError       two networks that must share a structure do not
    ├── NotFiniteError       a weight is NaN or infinite                     (also a ValueError)
    ├── StorageError         a folder or bucket cannot be read or written
    │   ├── MissingError     a file is not there
    │   └── CheckpointError  a checkpoint is missing, incomplete or altered
    └── RunError             a run cannot be started, found or carried on
        ├── RunExistsError   the name is taken
        ├── RunNotFoundError no run lies there
        ├── ClusterError     the cluster cannot be reached
        └── ResourceError    the cluster can never place what was asked

What asynchrony makes normal (no scion yet, too old, its owner gone) is a value, `population.board.ExchangeOutcome`.
"""

from __future__ import annotations


class InarchError(Exception):
    """Anything that inarch itself found wrong; its message says what to do."""


class ConfigError(InarchError, ValueError):
    """A field, a recipe or a name is wrong."""


class DataError(InarchError):
    """Images or labels cannot be used."""


class UnreadableImageError(DataError):
    """One image cannot be read; the message names its file or row."""


class UserCodeError(InarchError):
    """The caller's own function, module or data set raised; the message holds the last frames of that code."""


class StructureError(InarchError):
    """Two networks that must share a structure do not."""


class NotFiniteError(InarchError, ValueError):
    """A weight is NaN or infinite."""


class StorageError(InarchError):
    """A folder or bucket cannot be read or written."""


class MissingError(StorageError):
    """A file is not there."""


class CheckpointError(StorageError):
    """A checkpoint is missing, incomplete or altered."""


class RunError(InarchError):
    """A run cannot be started, found or carried on."""


class RunExistsError(RunError):
    """The name is taken."""


class RunNotFoundError(RunError):
    """No run lies there."""


class ClusterError(RunError):
    """The cluster cannot be reached."""


class ResourceError(RunError):
    """The cluster can never place what was asked."""
