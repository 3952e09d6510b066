"""Parquet files of a run's folder. Each holds a checksum of all its bytes.

The checksum lies in the file's own metadata, so that no second file is needed and other readers of Parquet can read it.
It is computed with zeros in its place. Pages have checksums of their own, which other readers can check.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from inarch.population.errors import DamagedError

CHECKSUM = b"inarch.checksum"
"""Key of the checksum in the metadata."""

_EMPTY = b"0" * 32


def to_parquet_file(table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """Return the bytes of a Parquet file.

    Args:
        table: The rows.
        metadata: Further metadata of the file.
    """
    sink = io.BytesIO()
    marked = table.replace_schema_metadata({**(metadata or {}), CHECKSUM: _EMPTY})
    pq.write_table(marked, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue()
    place = _place(content)
    assert place is not None
    checksum = xxhash.xxh3_128(content).hexdigest().encode()
    return content[:place] + checksum + content[place + len(checksum) :]


def from_parquet_file(content: bytes, place: str) -> pa.Table:
    """Return the rows of a Parquet file.

    Args:
        content: All bytes of the file. Files of earlier versions have no checksum, which is then not checked.
        place: Path of the file, for the message.

    Raises:
        DamagedError: The file is cut or altered, or is no Parquet file.
    """
    start = _place(content)
    if start is not None:
        stop = start + len(_EMPTY)
        checksum = xxhash.xxh3_128(content[:start] + _EMPTY + content[stop:]).hexdigest().encode()
        if checksum != content[start:stop]:
            raise DamagedError(f"{place} is not what was written")
    try:
        return pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{place} is damaged: {error}") from None


def _place(content: bytes) -> int | None:
    """Return where the checksum begins. None if the file has none.

    The key is stored as text once. In the schema that Arrow stores beside it, it is encoded.
    """
    key = content.rfind(CHECKSUM)
    if key < 0:
        return None
    start = key + len(CHECKSUM) + 2  # the type of the next field and the length of the value are a byte each
    return start if start + len(_EMPTY) <= len(content) else None
