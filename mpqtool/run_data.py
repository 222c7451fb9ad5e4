"""The samples of a run: read, checked against the model, and a part of them held out."""

from __future__ import annotations

__all__ = ["drawn", "hold_out", "read_data"]

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import fx

from .data import NO_DATA, Data, Split, default_data, load_data
from .errors import DataError
from .option_checks import METRICS
from .options import QuantizeOptions
from .reporter import Reporter
from .run_data_free import make_data
from .samples import input_shapes, input_types

_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.15, 5000
_POST_TRAINING_SHARE = 1 / 3
"""Where nothing is trained: a few samples are enough to calibrate on, too few tell what was lost."""


def read_data(
    path: pathlib.Path, model: ir.Model, network: fx.GraphModule, options: QuantizeOptions, reporter: Reporter
) -> Data:
    """Read the samples that ``--data`` names, or those beside the model; make some where there are none.

    Args:
        path: Of the model.
        model: Its normal form, BatchNormalization kept.
        network: The same, imported.
        options: What to do.
        reporter: Where progress goes.

    Raises:
        DataError: The samples do not fit the model; or there are none, and none can be made.
        OptionError: There are none, and an option needs them.
    """
    spec = options.data or default_data(path)
    classes = _classes(model)
    if spec is None or spec == NO_DATA:
        data = make_data(path, model, network, options, reporter)
    else:
        data = load_data(
            spec,
            inputs=input_shapes(model),
            types=input_types(model),
            classes=classes,
            resize=options.resize,
            mean=options.mean,
            std=options.std,
            any_labels=_is_function(options.metric) or options.loss is not None,
        )
    if data.train.labels is None:
        _say_no_labels(classes, options, reporter)
    elif not data.class_labels:
        _say_own_labels(options, reporter)
    elif classes is None:
        reporter.warn(
            "the labels are not used: the model does not have one output of shape (batch, classes); the "
            "float model is the teacher. Functions of yours can use them: --metric and --loss"
        )
        train, test = (dataclasses.replace(split, labels=None) for split in (data.train, data.test))
        data = dataclasses.replace(data, train=train, test=test)
    if data.held_out:
        reporter.warn("the data has no test split: its last fifth is held out for testing")
    return data


def _is_function(metric: str | None) -> bool:
    return metric not in (None, *METRICS)


def _say_no_labels(classes: int | None, options: QuantizeOptions, reporter: Reporter) -> None:
    """Two numbers may be classes or not, and nobody but the user knows."""
    if classes is None or options.metric == "sqnr_db" or options.loss is not None:
        return
    if _is_function(options.metric):
        reporter.say(
            f"no labels: training takes the {classes} outputs for class logits; if they are none, give --loss"
        )
        return
    reporter.say(
        f"no labels: the {classes} outputs are taken for class logits, and the answers of the float "
        "model for the right ones; if they are none, give `quantize` --metric sqnr_db, or a function"
    )


def _say_own_labels(options: QuantizeOptions, reporter: Reporter) -> None:
    if options.loss is None:
        reporter.say("labels: not class indices; they go to the metric alone, the float model is the teacher")
    elif not _is_function(options.metric):
        reporter.say("labels: not class indices; they go to the loss alone, the metric has none")


def _classes(model: ir.Model) -> int | None:
    """Number of classes, where the one output is ``(batch, classes)`` logits."""
    outputs = model.graph.outputs
    if len(outputs) != 1 or outputs[0].shape is None or len(outputs[0].shape) != 2:
        return None
    size = outputs[0].shape[1]
    return size if isinstance(size, int) and size > 1 else None


def drawn(split: Split, count: int, seed: int) -> dict[str, NDArray[Any]]:
    """Inputs of some samples in random order, so that the first ones are as good as any.

    Files are often sorted by class.
    """
    rows = np.random.default_rng(seed).permutation(len(split))[:count]
    return {name: array[rows] for name, array in split.inputs.items()}


def hold_out(train: Split, seed: int, *, trains: bool = True) -> tuple[Split, Split]:
    """Hold out some training samples to decide on: the test split only measures.

    Args:
        train: The training split.
        seed: Of the choice.
        trains: Whether the rest is trained on, or only calibrated on.

    Returns:
        What is left, and what is held out.

    Raises:
        DataError: There are too few samples.
    """
    count = len(train)
    if count < 2:
        raise DataError(
            f"The training split has {count} samples; at least 2 are needed, one of them to decide on."
        )
    share = _HELD_OUT_SHARE if trains else _POST_TRAINING_SHARE
    held_out = min(max(1, round(share * count)), _HELD_OUT_MOST)
    order = np.random.default_rng(seed).permutation(count)
    return _rows(train, np.sort(order[held_out:])), _rows(train, np.sort(order[:held_out]))


def _rows(split: Split, rows: NDArray[np.int64]) -> Split:
    labels = None if split.labels is None else split.labels[rows]
    return Split({name: array[rows] for name, array in split.inputs.items()}, labels)
