"""Put trained values back into the ONNX graph."""

from __future__ import annotations

__all__ = ["write_parameters"]

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mpqtool.passes.errors import ModelError

from .weight_codes import codes_of


def write_parameters(model: ir.Model, tensors: Mapping[str, np.ndarray]) -> int:
    """Replace the values of initializers, in place. All fit, or none is replaced.

    Args:
        model: The model that ``import_graph`` was given, or one with the same initializers.
        tensors: New values by the name of the initializer; they are cast to its dtype and copied. Real
            values of an initializer in codes are rounded to the codes that the torch graph computes with.

    Returns:
        How many were written.

    Raises:
        ModelError: The model has no initializer of that name, or one of another shape.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        initializer = model.graph.initializers.get(name)
        if initializer is None or initializer.const_value is None:
            raise ModelError(
                f"Cannot write {name!r}: the model has no such initializer. "
                "Use the model the weights were trained on."
            )
        old = initializer.const_value
        if tuple(tensor.shape) != tuple(old.shape.numpy()):
            raise ModelError(
                f"Cannot write {name!r}: its shape is {list(tensor.shape)}, and the initializer's is "
                f"{list(old.shape.numpy())}. Use the model the weights were trained on."
            )
        is_real = np.issubdtype(tensor.dtype, np.floating)
        codes = codes_of(initializer, tensor) if is_real else None
        arrays[name] = np.array(tensor, old.dtype.numpy(), order="C") if codes is None else codes
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return len(arrays)
