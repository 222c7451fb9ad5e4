"""Pictures in one folder per class."""

from __future__ import annotations

__all__ = ["load"]

import pathlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mpqtool.errors import DataError

from .pixels import Pixels
from .split import Data, Shape, Split, input_name

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB"}


def load(path: pathlib.Path, spec: str, inputs: Mapping[str, Shape] | None, pixels: Pixels) -> Data:
    """Read ``train/<class>/*`` and ``val/<class>/*``; classes are numbered in the order of their names.

    Pictures are read as grey where the model's input has one channel, else as RGB, and brought to
    ``pixels.resize`` (bilinear). Without that, all must have one size.

    Shape:
        Pictures become ``(samples, channels, height, width)``.
    """
    name = input_name(spec, inputs)
    shape = [] if inputs is None else list(inputs[name])
    channels = shape[1] if len(shape) == 4 and shape[1] is not None else 3
    if channels not in _MODES:
        raise DataError(
            f"{spec!r} holds pictures, and the model's input {name!r} has {channels} channels, not 1 or 3"
        )
    classes = _classes(path / "train", spec)
    unknown = sorted(set(_classes(path / "val", spec)) - set(classes))
    if unknown:
        raise DataError(f"{spec!r}: val/ has classes that train/ has not: {', '.join(unknown)}")

    def split(part: str) -> Split:
        labels, pictures = [], []
        for label, class_name in enumerate(classes):
            for file in sorted((path / part / class_name).glob("*")):
                if file.suffix.lower() in _SUFFIXES:
                    pictures.append(_read(file, _MODES[channels], pixels.resize))
                    labels.append(label)
                    if pictures[-1].shape != pictures[0].shape:
                        raise DataError(
                            f"{str(file)!r} is {_size(pictures[-1])} and those before it are "
                            f"{_size(pictures[0])}; give one size, e.g. --resize {_size(pictures[0])}"
                        )
        if not pictures:
            raise DataError(
                f"{spec!r}: no pictures in {part}/<class>/; known are {' '.join(sorted(_SUFFIXES))}"
            )
        return Split({name: pixels.scale(np.stack(pictures))}, np.asarray(labels, np.int64))

    return Data(spec, split("train"), split("val"))


def _classes(folder: pathlib.Path, spec: str) -> list[str]:
    if not folder.is_dir():
        raise DataError(
            f"{spec!r} has no folder {folder.name}/; pictures go to train/<class>/ and val/<class>/"
        )
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _size(picture: NDArray[np.uint8]) -> str:
    return f"{picture.shape[1]}x{picture.shape[2]}"


def _read(file: pathlib.Path, mode: str, resize: tuple[int, int] | None) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as opened:
            image = opened.convert(mode)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise DataError(f"{str(file)!r} cannot be read as a picture: {error}") from error
    if resize is not None:
        image = image.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image, np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
