"""Samples for a model: ``load_data(spec)`` reads them, checks them, and gives a training and a test split.

==========================  ==========================================================================
spec                        what it is
==========================  ==========================================================================
``FILE.npz``                arrays named after the inputs, ``label``; ``<input>_test``, ``label_test``
``idx:DIR``                 the four files of the MNIST family, plain or ``.gz``; pixels / 255
``cifar10:DIR``             the binary batches of CIFAR-10; pixels / 255
``DIR``                     pictures in ``train/<class>/`` and ``val/<class>/``; pixels / 255
``package.module:callable`` a callable that returns ``Data``, or a dict with the arrays of an ``.npz``
``FILE.py:callable``        the same, of a file
==========================  ==========================================================================

No pickle is ever loaded.
"""

from __future__ import annotations

__all__ = ["NO_DATA", "Data", "Shape", "Split", "default_data", "load_data"]

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpqtool.errors import DataError, OptionError
from mpqtool.locate import is_object_spec, locate

from . import cifar10, folder, idx, npz
from .checks import check
from .pixels import Pixels
from .split import Data, Shape, Split

NO_DATA = "none"
"""The spec that stands for no data, even where there is a file beside the model."""
_FORMS = "FILE.npz, idx:DIR, cifar10:DIR, a folder with train/ and val/, or package.module:callable"


def load_data(
    spec: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Shape] | None = None,
    classes: int | None = None,
    resize: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    any_labels: bool = False,
    types: Mapping[str, np.dtype[Any]] | None = None,
) -> Data:
    """Read samples and check that they fit.

    Args:
        spec: Where they are; see the table above.
        inputs: Shape of every model input, samples first, None for a free dimension. Without it, an
            ``.npz`` names its own inputs and pictures are called ``x``.
        classes: Number of classes that labels may name; None: not checked.
        resize: Height and width that the pictures of an image folder are brought to.
        mean: Subtracted from pixels in 0 to 1, one value per channel or one for all.
        std: What pixels are divided by after that, one value per channel or one for all.
        any_labels: Whether labels may be numbers of any shape, for functions of the user; ``class_labels`` of
            what is returned says whether they are class indices all the same.
        types: Of those inputs that are not float32: whole numbers, or truth values.

    Raises:
        DataError: There is nothing at ``spec``, or what is there cannot be read or does not fit.
        OptionError: ``resize``, ``mean`` or ``std`` is given for data that they do not apply to.
    """
    spec = os.fspath(spec)
    kind, _, rest = spec.partition(":")
    pixels = Pixels(resize, None if mean is None else tuple(mean), None if std is None else tuple(std))
    path = pathlib.Path(rest if kind in ("idx", "cifar10") else spec)
    if kind in ("idx", "cifar10"):
        if resize is not None:
            raise OptionError(f"resize applies to image folders only, not to {spec!r}")
        data = (idx if kind == "idx" else cifar10).load(path, spec, inputs, pixels)
    elif path.is_dir():
        data = folder.load(path, spec, inputs, pixels)
    else:
        pixels.refuse_for(spec)
        if path.is_file():
            data = npz.load(path, spec, inputs)
        elif is_object_spec(spec):
            data = _call(spec, inputs)
        elif path.suffix == ".npz" or ":" not in spec:
            raise DataError(f"No such file or folder: {spec!r}. Data can be {_FORMS}.")
        else:
            raise DataError(f"Data {spec!r} is of no known kind; it can be {_FORMS}")
    return check(data, inputs, classes, any_labels=any_labels, types=types or {})


def _call(spec: str, inputs: Mapping[str, Shape] | None) -> Data:
    function = locate(spec, DataError)
    try:
        found: object = function()
    except Exception as error:  # a user's function may raise anything
        raise DataError(f"{spec!r} raised {type(error).__name__}: {error}") from error
    if isinstance(found, Data):
        return found
    if isinstance(found, Mapping):
        return npz.from_arrays(found, spec, inputs)
    raise DataError(f"{spec!r} returned a {type(found).__name__}; it must return Data or a dict of arrays")


def default_data(model_path: str | os.PathLike[str]) -> str | None:
    """Give ``model.npz`` beside ``model.onnx`` if it is there, else None."""
    beside = pathlib.Path(model_path).with_suffix(".npz")
    return str(beside) if beside.is_file() else None
