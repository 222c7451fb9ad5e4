"""Constants that many nodes share."""

from __future__ import annotations

__all__ = ["constant", "scalar_of"]

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .values import add_initializer, array, numbered, taken_names


def constant(graph: ir.Graph, name: str, numbers: NDArray[Any] | np.generic) -> ir.Value:
    """The initializer ``name`` of this value, made if need be.

    If the name is taken by another value or another array, ``name_1``, ``name_2``, ... are tried.
    """
    data, taken = np.asarray(numbers), taken_names(graph)
    for candidate in numbered(name):
        if candidate not in taken:
            return add_initializer(graph, candidate, data)
        held = array(graph.initializers.get(candidate))
        if held is not None and held.dtype == data.dtype and np.array_equal(held, data):
            break
    return graph.initializers[candidate]


def scalar_of(value: ir.Value | None) -> Any | None:
    """The one element of an initializer, as a numpy scalar, or None where it is not one."""
    numbers = array(value)
    return numbers.reshape(())[()] if numbers is not None and numbers.size == 1 else None
