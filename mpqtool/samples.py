"""Which samples a file is verified on."""

from __future__ import annotations

__all__ = ["input_shapes", "input_types", "samples_for"]

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from .data import NO_DATA, Data, Shape, Split, load_data
from .errors import DataError, ModelError, OptionError
from .reporter import Reporter
from .rundir import RESULT

_NOISE_SAMPLES = 256


def input_shapes(model: ir.Model) -> dict[str, tuple[int | None, ...]]:
    """Name and shape of every input, None where a size is free.

    Raises:
        ModelError: An input has no shape.
    """
    shapes = {}
    for value in model.graph.inputs:
        if value.is_initializer():  # it has a number of its own: nobody feeds it
            continue
        if value.shape is None:
            raise ModelError(f"Input {value.name!r} of the model has no shape; export it with one")
        shapes[str(value.name)] = tuple(size if isinstance(size, int) else None for size in value.shape)
    return shapes


def input_types(model: ir.Model) -> dict[str, np.dtype[Any]]:
    """Name and type of every input that is not float32: what data must not be made of."""
    return {
        str(value.name): value.dtype.numpy()
        for value in model.graph.inputs
        if value.dtype not in (None, ir.DataType.FLOAT) and not value.is_initializer()
    }


def samples_for(
    int_path: pathlib.Path, model: ir.Model, data: str | os.PathLike[str] | None, reporter: Reporter
) -> Split:
    """Give the test split of the data; else of the run that made the file; else noise, said loudly.

    Raises:
        DataError: The data does not fit, or there is none and an input has no fixed size.
    """
    shapes, types = input_shapes(model), input_types(model)
    if data is not None and data != NO_DATA:
        return _test_split(load_data(data, inputs=shapes, types=types, any_labels=True))
    recorded = None if data == NO_DATA else _recorded_data(int_path)
    if recorded is not None:
        try:
            split = _test_split(
                load_data(recorded.pop("spec"), inputs=shapes, types=types, any_labels=True, **recorded)
            )
        except (DataError, OptionError) as error:
            raise DataError(
                f"The data of the run that made the file cannot be read from here: {error}. "
                "Give it with --data."
            ) from error
        reporter.say("data: the test split of the run that made the file")
        return split
    if types:
        name, kind = next(iter(types.items()))
        raise DataError(f"Input {name!r} is {kind}, which noise has no numbers for; pass --data")
    return _noise(shapes, reporter)


def _test_split(data: Data) -> Split:
    """Without labels that are no class indices: those are for the metric and loss of a run alone."""
    labels = data.test.labels
    if labels is not None and (labels.ndim != 1 or labels.dtype != np.int64):
        return Split(data.test.inputs)
    return data.test


def _recorded_data(int_path: pathlib.Path) -> dict[str, Any] | None:
    """Read from ``result.json`` beside the file which data the run had."""
    try:
        content = json.loads((int_path.parent / RESULT).read_text())
        spec, settings = content["data"]["spec"], content["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(spec, str) or not isinstance(settings, dict):
        return None
    recorded: dict[str, Any] = {"spec": spec}
    recorded |= {key: settings.get(key) for key in ("resize", "mean", "std")}
    return recorded


def _noise(shapes: Mapping[str, Shape], reporter: Reporter) -> Split:
    free = [name for name, shape in shapes.items() if None in shape[1:]]
    if free:
        raise DataError(
            f"Input {free[0]!r} has a free size beside the samples, so noise has no shape; pass --data"
        )
    reporter.warn(
        f"no data: verifying on {_NOISE_SAMPLES} samples of seeded noise; pass --data for real ones"
    )
    rng = np.random.default_rng(0)
    return Split(
        {
            name: rng.standard_normal((_NOISE_SAMPLES, *(size or 1 for size in shape[1:])), dtype=np.float32)
            for name, shape in shapes.items()
        }
    )
