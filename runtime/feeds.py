"""Inputs of the right types and shapes, for running a file without data."""

from __future__ import annotations

__all__ = ["random_feeds", "shapes"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .errors import RuntimeFault

Array = NDArray[Any]


def shapes(
    model: ir.Model, path: str, *, batch: int, sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each input; ``sizes`` come first, then what the model says, then ``batch``.

    Raises:
        RuntimeFault: A size is open that is not the first, or one that is given is not that of the model,
            or below 1.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    unknown = sorted(sizes.keys() - {str(value.name) for value in inputs})
    if unknown:
        raise RuntimeFault(
            f"{path!r} has no input {unknown[0]!r}, allowed {', '.join(repr(v.name) for v in inputs)}. "
            "Give the size of one of these."
        )
    found = {}
    for value in inputs:
        name = str(value.name)
        dims = [d if isinstance(d, int) else None for d in value.shape] if value.shape is not None else []
        given = sizes.get(name, tuple(batch if i == 0 and d is None else d for i, d in enumerate(dims)))
        if any(size is not None and size < 1 and size not in dims for size in given):
            raise RuntimeFault(
                f"Input {name!r} of {path!r} cannot have the shape {','.join(map(str, given))}, allowed "
                "sizes of 1 or more. Give a larger batch or --size."
            )
        fits = len(given) == len(dims) and all(d in (None, g) for d, g in zip(dims, given, strict=True))
        if None in given or not fits or value.dtype is None:
            shown = ",".join("?" if d is None else str(d) for d in dims)
            raise RuntimeFault(
                f"Cannot choose a shape for input {name!r} of {path!r}: it is {shown or 'unknown'}"
                f"{', found ' + ','.join(map(str, given)) if fits is False else ''}. "
                f"Give one that fits, such as --size {name}={_example(dims)}."
            )
        found[name] = (value.dtype.numpy(), tuple(int(size) for size in given if size is not None))
    return found


def random_feeds(
    inputs: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], *, seed: int = 0
) -> dict[str, Array]:
    """Numbers for graph inputs: normal ones for floats, 0 or 1 for integers, which may be indices."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(dtype)
        if dtype.kind == "f"
        else rng.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
        for name, (dtype, shape) in inputs.items()
    }


def _example(dims: Sequence[int | None]) -> str:
    open_ = [str(size or (1 if index == 0 else 32)) for index, size in enumerate(dims)]
    return ",".join(open_) or "1,3,32,32"
