"""Whether samples are numbers that the model can take."""

from __future__ import annotations

__all__ = ["check"]

import dataclasses
import types as _types
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpqtool.errors import DataError

from .split import Data, Shape, Split


def check(
    data: Data,
    inputs: Mapping[str, Shape] | None,
    classes: int | None,
    *,
    any_labels: bool = False,
    types: Mapping[str, np.dtype[Any]] = _types.MappingProxyType({}),
) -> Data:
    """Hold every array against the model; give inputs in its types and order, and int64 labels.

    With ``any_labels``, labels may be numbers of any shape; real ones become float32.

    Raises:
        DataError: Names, counts, types, shapes, values or labels do not fit.
    """
    if (data.train.labels is None) != (data.test.labels is None):
        raise DataError(f"{data.spec!r}: one split has labels and the other has none; both or neither")
    labels = [split.labels for split in (data.train, data.test) if split.labels is not None]
    free = any_labels and not all(_are_classes(each, classes) for each in labels)
    train, test = (
        _checked_split(split, f"{data.spec!r}, {name} split", inputs, classes, free, types)
        for name, split in (("training", data.train), ("test", data.test))
    )
    return dataclasses.replace(data, train=train, test=test, class_labels=not free)


def _checked_split(
    split: Split,
    where: str,
    inputs: Mapping[str, Shape] | None,
    classes: int | None,
    free: bool,
    types: Mapping[str, np.dtype[Any]],
) -> Split:
    if not split.inputs:
        raise DataError(f"{where}: there is no input")
    if inputs is not None and set(split.inputs) != set(inputs):
        raise DataError(
            f"{where}: inputs are {', '.join(map(repr, split.inputs))}, "
            f"the model takes {', '.join(map(repr, inputs))}"
        )
    arrays = {
        name: _checked_input(
            split.inputs[name], f"{where}: {name!r}", inputs[name] if inputs else None, types.get(name)
        )
        for name in inputs or split.inputs
    }
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: inputs differ in their number of samples: {counts}")
    samples = next(iter(counts.values()))
    if samples == 0:
        raise DataError(f"{where}: there are no samples")
    if split.labels is None:
        return Split(arrays)
    if free:
        return Split(arrays, _checked_numbers(split.labels, where, samples))
    return Split(arrays, _checked_labels(split.labels, where, samples, classes))


def _checked_input(
    array: NDArray[Any], what: str, shape: Shape | None, kind: np.dtype[Any] | None
) -> NDArray[Any]:
    if kind is not None:
        return _checked_whole(array, what, shape, kind)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(
            f"{what} has type {found}, and float32 is needed; convert it the way the model's training did"
            + (", e.g. pixels / 255" if str(found) == "uint8" else "")
        )
    _check_shape(array, what, shape)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(converted)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), converted.shape)
        spot = ", ".join(str(int(i)) for i in index)
        raise DataError(f"{what} holds {array[index]} at [{spot}]; every number must be finite in float32")
    return converted


def _checked_whole(array: NDArray[Any], what: str, shape: Shape | None, kind: np.dtype[Any]) -> NDArray[Any]:
    """What is no float: indices, bytes, truth values; they keep their values."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iub":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{what} has type {found}, and the model takes {kind}; save it as that")
    _check_shape(array, what, shape)
    converted = np.ascontiguousarray(array, kind)
    if not np.array_equal(converted, array):
        raise DataError(f"{what} holds numbers that are not {kind}, which the model takes")
    return converted


def _check_shape(array: NDArray[Any], what: str, shape: Shape | None) -> None:
    if shape is not None:
        # Only what one sample looks like: how many there are is ours to choose.
        fits = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            wanted = ["N", *("any" if d is None else str(d) for d in shape[1:])]
            have = ["N", *map(str, array.shape[1:])]
            raise DataError(f"{what} has shape {' x '.join(have)}, the model takes {' x '.join(wanted)}")


def _checked_labels(labels: NDArray[Any], where: str, samples: int, classes: int | None) -> NDArray[np.int64]:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"{where}: labels have type {kind}; class indices are whole numbers, e.g. int64")
    if labels.ndim != 1:
        raise DataError(
            f"{where}: labels have shape {labels.shape}, and one class index per sample is needed"
        )
    if len(labels) != samples:
        raise DataError(f"{where}: {len(labels)} labels for {samples} samples")
    allowed = "0 or more" if classes is None else f"0 to {classes - 1}"
    wrong = (labels < 0) if classes is None else (labels < 0) | (labels >= classes)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(
            f"{where}: label {labels[index]} of sample {index} is out of range; allowed: {allowed}"
        )
    return labels.astype(np.int64)


def _are_classes(labels: Any, classes: int | None) -> bool:
    """Whether labels are one index per sample of classes that the model has."""
    if classes is None or not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return False
    return labels.ndim == 1 and bool(((labels >= 0) & (labels < classes)).all())


def _checked_numbers(labels: Any, where: str, samples: int) -> NDArray[Any]:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biuf":
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(
            f"{where}: labels have type {kind}; they must be numbers, whole, real or true and false"
        )
    if len(labels) != samples:
        raise DataError(f"{where}: {len(labels)} labels for {samples} samples")
    return labels.astype({"b": np.bool_, "f": np.float32}.get(labels.dtype.kind, np.int64))
