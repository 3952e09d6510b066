"""Small images and data sets on disk for the tests."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 12


def picture(value: int, *, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> Image.Image:
    """Return an image of one color. `size` is (width, height)."""
    return Image.new(mode, size, (value,) * 3 if mode == "RGB" else value)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of a file that holds the image."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def write_classes(folder: Path, classes: Mapping[str, int] | Sequence[str], *, each: int = 3) -> str:
    """Write a subfolder of images for each class and return the path of the folder.

    `classes` gives the pixel value of each class by name. If it lists names only, the value is 20 times the index.
    """
    values = classes if isinstance(classes, Mapping) else {name: 20 * place for place, name in enumerate(classes)}
    for name, value in values.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(each):
            picture(value).save(folder / name / f"{index}.png")
    return str(folder)


def write_table(
    path: Path,
    labels: Any,
    *,
    images: Sequence[Any] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    features: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a Parquet file in the layout of the Hub's image data sets. `labels` may be any Arrow column."""
    column = labels if isinstance(labels, (pa.Array, pa.ChunkedArray)) else pa.array(labels)
    if images is None:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [{"bytes": encoded(picture(10 * (index % 20))), "path": None} for index in range(len(column))]
        cells = pa.array(rows, type=kind)
    else:
        cells = pa.array(images)
    schema_metadata = dict(metadata or {})
    if features is not None:
        schema_metadata["huggingface"] = json.dumps({"info": {"features": features}})
    table = pa.table({columns[0]: cells, columns[1]: column}).replace_schema_metadata(schema_metadata or None)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return str(path)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)
