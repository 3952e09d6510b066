"""Packages that only some features need. An extra of inarch installs each."""

from __future__ import annotations

import importlib.util

from inarch.population.errors import ConfigError


def check_installed(package: str, *, needed_by: str, extra: str) -> None:
    """Raise ConfigError if a package is not installed.

    Args:
        package: Name by which the package is imported.
        needed_by: What needs it, as the message begins.
        extra: Extra of inarch that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{needed_by} needs the package {package}: pip install 'inarch[{extra}]'")
