"""A hash of what a configuration says about the numbers of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

WITHOUT_NUMBERS = frozenset(
    {"name", "storage", "address", "detach", "callbacks", "track", "timeouts", "checkpoint", "metrics", "debug"}
)
"""Fields that change no number of a run."""

PATHS = frozenset({"train", "validation_set", "test", "query", "image_folder"})
"""Fields of `DataConfig` that say where the data are. What they are is checked by their own fingerprint."""


def config_fingerprint(values: Mapping[str, Any]) -> str:
    """Return a hash of the fields that change the numbers of a run. Names, places and limits of time do not count.

    Args:
        values: The configuration by field, as from `to_dict` or read from JSON.
    """
    counted = {name: value for name, value in values.items() if name not in WITHOUT_NUMBERS}
    counted["data"] = {name: value for name, value in values.get("data", {}).items() if name not in PATHS}
    return xxhash.xxh3_64_hexdigest(json.dumps(_plain(counted), sort_keys=True).encode())


def _plain(value: Any) -> Any:
    """Return a value with all numbers as floats: a caller may give 1 for 1.0, and a file read back gives 1.0."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
