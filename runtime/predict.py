"""Outputs of a file over many samples."""

from __future__ import annotations

__all__ = ["BATCH", "batch_size", "predict"]

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .session import make_session

BATCH = 32


def batch_size(model: ir.Model) -> int:
    """How many samples a run is to take: what the first input fixes, else ``BATCH``."""
    shape = model.graph.inputs[0].shape if model.graph.inputs else None
    first = shape[0] if shape else None
    return first if isinstance(first, int) and first > 0 else BATCH


def predict(
    model: str | os.PathLike[str] | ir.Model, inputs: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run a model over all samples, a batch at a time.

    Args:
        model: A file, or a model in memory.
        inputs: One array per input, ``(samples, ...)``.

    Returns:
        One array per output, in graph order.
    """
    source = ir.to_proto(model).SerializeToString() if isinstance(model, ir.Model) else model
    session = make_session(source)
    samples = len(next(iter(inputs.values())))
    parts = [
        session.run(None, {name: array[start : start + BATCH] for name, array in inputs.items()})
        for start in range(0, samples, BATCH)
    ]
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
