"""JSON files of a run's folder. Each holds a checksum of the rest of its content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import xxhash

from inarch.population.errors import DamagedError
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage

CHECKSUM = "checksum"
"""Key of the checksum."""

_LAST_DIGITS = re.compile(rb'"[^"]{32}"\s*}\s*$')
"""A text of a checksum's length at the end, where `to_json` puts it. Under another key, the key was damaged."""


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file with a checksum of its content.

    Args:
        content: Values of JSON types by name. Tuples become lists.
    """
    plain: dict[str, Any] = json.loads(json.dumps(dict(content)))
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=2).encode()


def strict(value: Any) -> Any:
    """Return a value of JSON types in which null stands for numbers that are NaN or infinite.

    JSON has no such numbers. Python reads and writes them, other programs refuse them.

    Args:
        value: A value of JSON types.
    """
    if isinstance(value, Mapping):
        return {name: strict(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [strict(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(storage: Storage, relative: str, *, fields: Mapping[str, type | tuple[type, ...]] | None = None) -> Any:
    """Return the content of a JSON file, without its checksum.

    Args:
        storage: The run's folder.
        relative: Path of the file.
        fields: Names that the file must have, each with the types of its value.

    Raises:
        MissingError: The file does not exist.
        DamagedError: The file is cut or altered, or holds something else. The message names it.
        StorageError: The storage fails.
    """
    return from_json(storage.read(relative), joined(storage.uri, relative), fields=fields)


def from_json(content: bytes, place: str, *, fields: Mapping[str, type | tuple[type, ...]] | None = None) -> Any:
    """Return the content of a JSON file, without its checksum.

    Args:
        content: All bytes of the file. Files of earlier versions have no checksum, which is then not checked.
        place: Path of the file, for the message.
        fields: Names that the file must have, each with the types of its value.

    Raises:
        DamagedError: The file is cut or altered, or holds something else.
    """
    try:
        values: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{place} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{place} is damaged: it holds no JSON object")
    plain: dict[str, Any] = {str(name): value for name, value in values.items() if name != CHECKSUM}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] # JSON's keys and values
    is_renamed = CHECKSUM not in values and _LAST_DIGITS.search(content) is not None
    if is_renamed or (CHECKSUM in values and values[CHECKSUM] != _checksum(plain)):
        raise DamagedError(
            f"{place} is not what was written; restore it from a copy, or delete its field {CHECKSUM!r} to use it so"
        )
    check_fields(plain, fields or {}, place)
    return plain


def check_fields(values: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], place: str) -> None:
    """Raise DamagedError if a field is missing or of another type.

    Args:
        values: Content of a file.
        fields: Names that it must have, each with the types of its value.
        place: Path of the file, for the message.

    Raises:
        DamagedError: A field is missing or of another type. The message names the file and the field.
    """
    for name, kinds in fields.items():
        if name not in values or not isinstance(values[name], kinds):
            raise DamagedError(f"{place} is damaged: its field {name!r} is missing or of another type")


def _checksum(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
