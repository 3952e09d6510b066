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
    """Return a hash of a configuration, without what changes no number: names, places and limits of time.

    Args:
        values: The configuration by field, as from `to_dict` or read from JSON.
    """
    counted = {name: value for name, value in values.items() if name not in WITHOUT_NUMBERS}
    counted["data"] = {name: value for name, value in values.get("data", {}).items() if name not in PATHS}
    return xxhash.xxh3_64_hexdigest(json.dumps(counted, sort_keys=True).encode())
