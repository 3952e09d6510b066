"""Data sets of the caller by name: functions that return images and labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from inarch.population.extension.registry import Registry, load_extensions
from inarch.population.extension.user_code import user_code

DATASETS: Registry[Callable[[], Any]] = Registry("data set", "data.train")
"""Functions without arguments that return what `PopulationRun.start` takes as `data`, by name.

The names digits, cifar10 and cifar100 are read without it, as paths are.
"""

CIFAR = ("cifar10", "cifar100")
"""Data sets that torchvision can download."""

NAMES = ("digits", *CIFAR)
"""Data sets that are known by name. Each holds training and test images."""

_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_dataset(name: str) -> bool:
    """Return whether a value of data.train names a function, and not a file or folder.

    Args:
        name: Value of data.train.
    """
    load_extensions()
    return name in DATASETS.names() or _OBJECT.fullmatch(name) is not None


def load_dataset(name: str) -> Any:
    """Return the data of a caller's data set.

    Args:
        name: A name in DATASETS, or `module:function`.

    Raises:
        ConfigError: There is no such function.
        UserCodeError: The function raised.
    """
    function = DATASETS.resolve(name)
    with user_code(f"data.train {name}"):
        return function()
