"""Train populations of neural networks that graft each other's filters, asynchronously, on Ray.

The packages `inarch.population`, `inarch.actors` and `inarch.experiments` are the folders of the same names in the
repository. Names below are imported when they are first used: `import inarch` needs neither torch nor Ray.
"""

import importlib.metadata
from typing import Any

import lazy_loader

_imported_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    return importlib.metadata.version("inarch") if name == "__version__" else _imported_name(name)
