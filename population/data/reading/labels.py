"""Encode labels (numbers, names or categories) as numbers from 0 and names of classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from inarch.population.errors import DataError

LEAST_LIMIT = 1_000
"""Numeric labels below this are accepted, however few classes have images."""

OUTPUTS_A_CLASS = 100
"""Most outputs for each class that has training images. A label that needs more is taken for a mistake."""

MOST_OTHER = 1_000_000
"""Numeric labels below this are accepted in other images, which may be few. Their classes are compared with those of
the training images later."""


def encode_labels(
    values: Any,
    *,
    name: str,
    class_names: Sequence[str] | None = None,
    unit: str = "row",
    is_training: bool = True,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels as numbers, with the names of the classes.

    Args:
        values: Labels as an Arrow column, a NumPy array or a list, shape (images,). Whole numbers from 0 (also as
            floats), booleans, strings, or categories.
        name: Source of the labels, for error messages.
        class_names: Names by number. Labels that are strings must be among them. None: not known.
        unit: Word for an entry in error messages: row, item or file.
        is_training: Whether these are training images. The numbers of others may exceed their classes by far.

    Returns:
        Numbers, int64, shape (images,), and the names by number. Without `class_names`, each number up to the greatest
        is its own name. Strings are numbered in sorted order, or by value if all are whole numbers. Categories keep
        their own order.

    Raises:
        DataError: A label is missing, negative, not a whole number, of an unknown class, or far greater than the number
            of classes. The message names the entry.
    """
    if class_names is not None and len(set(class_names)) < len(class_names):
        repeated = next(class_ for class_ in class_names if list(class_names).count(class_) > 1)
        raise DataError(f"{name}: two classes are called {repeated!r}; each class needs a name of its own")
    column = _column(values, name)
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        raise _multi_label(name)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    texts = column.to_pylist() if is_text else []
    if is_text:
        missing = missing | np.asarray([not text for text in texts], dtype=bool)
    if missing.any():
        raise DataError(f"{name}: {unit} {np.flatnonzero(missing)[0]} has no label")
    if pa.types.is_dictionary(kind):
        return _categories(column, name, class_names, unit)
    if is_text:
        return _names(texts, name, class_names, unit)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif not pa.types.is_floating(kind) and not pa.types.is_integer(kind):
        raise DataError(f"{name}: labels must be whole numbers or names of classes, got {kind}")
    values = column.to_numpy(zero_copy_only=False)
    whole = _whole(values, name, unit) if values.dtype.kind == "f" else values
    return _numbers(whole, name, class_names, unit, is_training=is_training)


def encode_label_array(
    values: Any, *, name: str, class_names: Sequence[str] | None = None, is_training: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels that were passed from Python, as `encode_labels` does.

    Args:
        values: Labels in the forms of `encode_labels`, or a tensor. A column of shape (images, 1) counts as (images,).
            A one-hot row (a single 1 among zeros) counts as the index of its 1.
        name: Source of the labels, for error messages.
        class_names: Names by number. None: not known.
        is_training: As in `encode_labels`.

    Returns:
        Numbers, int64, shape (images,), and the names by number.

    Raises:
        DataError: An image has several labels, or a label cannot be used.
    """
    if isinstance(values, (pa.Array, pa.ChunkedArray)) or hasattr(getattr(values, "dtype", None), "categories"):
        return encode_labels(values, name=name, class_names=class_names, unit="item", is_training=is_training)
    if isinstance(values, (list, tuple)) and any(isinstance(value, (str, bytes)) for value in values):
        return encode_labels(list(values), name=name, class_names=class_names, unit="item", is_training=is_training)
    tensor: Any = values
    try:
        array = np.asarray(tensor.detach().cpu() if hasattr(values, "detach") else values)
    except ValueError:  # rows differ in length
        raise _multi_label(name) from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and array.dtype != object:
        is_one_hot = np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()
        if not is_one_hot:
            raise _multi_label(name)
        array = array.argmax(1)
    if array.ndim != 1:
        raise DataError(f"{name}: labels must have shape (images,), got {array.shape}")
    return encode_labels(array, name=name, class_names=class_names, unit="item", is_training=is_training)


def numbered_as(
    labels: np.ndarray, class_names: tuple[str, ...], known: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Renumber labels by the classes of other images, matched by name.

    Names match if they look alike: macOS stores an accent as a character of its own, other systems do not.

    Args:
        labels: Label of each image, shape (images,).
        class_names: Names by label.
        known: Names of the other images' classes, by label.

    Returns:
        Labels, int64, shape (images,), and names by label: `known`, then the classes that it lacks.
    """
    if class_names == known:
        return labels, known
    alike = {unicodedata.normalize("NFC", name): number for number, name in enumerate(known)}
    numbers, names = {name: number for number, name in enumerate(known)}, list(known)
    for name in class_names:
        number = numbers.setdefault(name, alike.get(unicodedata.normalize("NFC", name), len(names)))
        if number == len(names):
            names.append(name)
    return np.asarray([numbers[name] for name in class_names], dtype=np.int64)[labels], tuple(names)


def check_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raise DataError if all images are of one class.

    Args:
        labels: Label of each image, shape (images,), at least one image.
        class_names: Names by label.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(f"the training images are all of class {class_names[present[0]]!r}; two classes are needed")


def _column(values: Any, name: str) -> pa.Array:
    """Return labels as a single Arrow array."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # of an extension type, or without chunks
        values = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    try:
        return _as_text(values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: labels must be all numbers or all names of classes: {error}") from error


def _as_text(column: pa.Array) -> pa.Array:
    """Convert labels of bytes and of Arrow's views to strings."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_string_view)
    return column.cast(pa.string()) if any(is_kind(column.type) for is_kind in kinds) else column


def _multi_label(name: str) -> DataError:
    """Return the error for images with several labels."""
    return DataError(
        f"{name}: the labels are lists or rows of several classes (multi-label); each image must have one class"
    )


def _whole(values: np.ndarray, name: str, unit: str) -> np.ndarray:
    """Convert floats to whole numbers, or raise DataError."""
    exact = values.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(exact) & (exact == np.floor(exact)) & (np.abs(exact) < 2**53)))
    if len(wrong):
        raise DataError(f"{name}: {unit} {wrong[0]} has label {exact[wrong[0]]:g}, which is not a whole number")
    return exact.astype(np.int64)


def _numbers(
    values: np.ndarray, name: str, class_names: Sequence[str] | None, unit: str, *, is_training: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels that are whole numbers."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64), tuple(class_names or ())
    lowest, highest = int(values.argmin()), int(values.argmax())
    low, high, num_present = int(values[lowest]), int(values[highest]), len(np.unique(values))
    if low < 0:
        raise DataError(
            f"{name}: {unit} {np.flatnonzero(values < 0)[0]} has label {values[np.flatnonzero(values < 0)[0]]}; labels "
            "must be 0 or above (images without labels cannot be used)"
        )
    if class_names is not None and high >= len(class_names):
        raise DataError(f"{name}: {unit} {highest} has label {high}, but only {len(class_names)} classes have names")
    limit = max(LEAST_LIMIT, OUTPUTS_A_CLASS * num_present) if is_training else MOST_OTHER
    if class_names is None and high >= limit:
        raise DataError(
            f"{name}: {unit} {highest} has label {high}, which needs {high + 1} outputs for {num_present} "
            "classes; number the classes from 0, or give their names as strings"
        )
    names = tuple(class_names) if class_names is not None else tuple(str(number) for number in range(high + 1))
    return values.astype(np.int64), names


def _names(
    values: Sequence[str], name: str, class_names: Sequence[str] | None, unit: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels that are names of classes."""
    names = tuple(class_names) if class_names is not None else _sorted(set(values))
    numbers = {class_: number for number, class_ in enumerate(names)}
    for index, value in enumerate(values):
        if value not in numbers:
            raise DataError(
                f"{name}: {unit} {index} has label {value!r}, which is not one of the {len(names)} named classes"
            )
    return np.asarray([numbers[value] for value in values], dtype=np.int64), names


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Return names in sorted order, by value if all are whole numbers."""
    are_numbers = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if are_numbers else sorted(names))


def _categories(
    column: pa.Array, name: str, class_names: Sequence[str] | None, unit: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels that are categories (a dictionary column)."""
    categories = [str(value) for value in column.dictionary.to_pylist()]
    indices = column.indices.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if class_names is not None:
        return _names([categories[index] for index in indices], name, class_names, unit)
    return indices.astype(np.int64), tuple(categories)
