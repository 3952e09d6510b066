"""The errors that inarch raises, as one tree.

    InarchError
    ├── ConfigError          a field, a recipe or a name is wrong            (also a ValueError)
    ├── DataError            images or labels cannot be used
    │   └── UnreadableImageError  an image cannot be read
    ├── UserCodeError        a function, module or data set of the caller raised
    ├── UntrustedError       a run's folder names a cluster or code that the caller has not named
    ├── StructureError       two networks that must share a structure do not
    ├── NotFiniteError       a weight is NaN or infinite                     (also a ValueError)
    ├── StorageError         a folder or bucket cannot be read or written
    │   ├── MissingError     a file does not exist
    │   ├── DamagedError     a file is not what was written
    │   └── CheckpointError  a checkpoint is missing, incomplete or altered
    └── RunError             a run cannot be started, found or resumed
        ├── RunExistsError   the name or the folder of the run is already in use
        ├── RunNotFoundError there is no such run, or it has ended
        ├── ClusterError     the cluster cannot be reached
        └── ResourceError    the cluster can never place the requested networks

Some outcomes are normal in an asynchronous run: there is no scion yet, it is too stale, or its owner is gone. They are
values of `population.membership.outcome.ExchangeOutcome`, not errors.
"""

from __future__ import annotations


class InarchError(Exception):
    """Base class of all errors that inarch raises. The message says what to do."""


class ConfigError(InarchError, ValueError):
    """A field, a recipe or a name is wrong."""


class DataError(InarchError):
    """Images or labels cannot be used."""


class UnreadableImageError(DataError):
    """An image cannot be read. The message names its file or row."""


class UserCodeError(InarchError):
    """A function, module or data set of the caller raised. The message holds the last frames of the caller's code."""


class UntrustedError(InarchError):
    """A run's folder names a cluster or code that the caller has not named. Nothing was sent, and nothing was run."""


class StructureError(InarchError):
    """Two networks that must share a structure do not."""


class NotFiniteError(InarchError, ValueError):
    """A weight is NaN or infinite."""


class StorageError(InarchError):
    """A folder or bucket cannot be read or written."""


class MissingError(StorageError):
    """A file does not exist."""


class DamagedError(StorageError):
    """A file of a run's folder is cut or altered, or holds something else. The message names it."""


class CheckpointError(StorageError):
    """A checkpoint is missing, incomplete or altered."""


class RunError(InarchError):
    """A run cannot be started, found or resumed."""


class RunExistsError(RunError):
    """The name or the folder of the run is already in use, or another start has claimed the folder."""


class RunNotFoundError(RunError):
    """There is no such run, or it has ended."""


class ClusterError(RunError):
    """The cluster cannot be reached."""


class NoClusterError(ClusterError):
    """No process listens at the address of the cluster."""


class ResourceError(RunError):
    """The cluster can never place the requested networks."""
