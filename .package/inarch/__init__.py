"""Train populations of neural networks that graft each other's filters, asynchronously, on Ray.

The three packages are the folders `population`, `actors` and `experiments` of the repository. Names below are imported
when they are first used, so that `import inarch` takes no time and needs neither torch nor Ray.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inarch.actors import PopulationRun, RunResult
    from inarch.population import RunConfig, Simulator, Task, graft

_PUBLIC = {
    "PopulationRun": "inarch.actors",
    "RunConfig": "inarch.population",
    "RunResult": "inarch.actors",
    "Simulator": "inarch.population",
    "Task": "inarch.population",
    "graft": "inarch.population",
}
"""Where each public name is defined."""

__all__ = ["PopulationRun", "RunConfig", "RunResult", "Simulator", "Task", "__version__", "graft"]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("inarch")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'inarch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
