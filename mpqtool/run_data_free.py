"""The samples of a run without data: made from the model alone, and said so."""

from __future__ import annotations

__all__ = ["make_data"]

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import fx

from .data import NO_DATA, Data, Split
from .data_free import has_statistics, synthesize
from .errors import OptionError
from .options import QuantizeOptions
from .processes import is_main, make_accelerator
from .reporter import Reporter

_TRAIN, _TEST = 256, 64
"""Samples to learn from and to verify on. Each costs 200 passes through the network, forward and back."""
_NEED_DATA = {
    "resize": "there are no pictures",
    "mean": "there are no pictures",
    "std": "there are no pictures",
    "max_drop": "it is in points of a metric, and none is measured",
    "min_sqnr": "it is in dB of a metric, and none is measured",
    "from_scratch": "new weights learn nothing from inputs that are made of the old ones",
}


def make_data(
    path: pathlib.Path, model: ir.Model, network: fx.GraphModule, options: QuantizeOptions, reporter: Reporter
) -> Data:
    """Make samples for a model, and warn that no accuracy can be measured on them.

    Args:
        path: Of the model.
        model: Its normal form, BatchNormalization kept.
        network: The same, imported.
        options: What to do.
        reporter: Where progress goes; from here on it names what is measured as what it is.

    Raises:
        OptionError: An option needs data.
        DataError: The inputs of the model are of a kind that nobody can make up.
    """
    for name, reason in _NEED_DATA.items():
        if getattr(options, name) != options.default_of(name):
            raise OptionError(
                f"{name} needs data: {reason}. Give samples with --data, or put {path.stem}.npz beside the "
                f"model; or leave {name} out."
            )
    kind = (
        "noise, shaped until its mean and deviation in front of every BatchNormalization are those stored"
        if has_statistics(network)
        else "plain Gaussian noise, as the model has no BatchNormalization to shape them by"
    )
    reporter.warn(
        f"NO DATA: {_TRAIN} + {_TEST} inputs are made up ({kind}), the float model is the teacher, and the "
        "accuracy is not measured: what is called held-out compares with the float model on such inputs. "
        "Give samples with --data"
    )
    reporter.synthetic = True
    made: list[Any] = [None]
    if is_main():  # the others get what the main process made: on GPUs, sums differ from run to run
        try:
            made[0] = _made(model, network, options.seed, reporter)
        except Exception as error:  # the others would wait for ever
            made[0] = error
    broadcast_object_list(made)
    if isinstance(made[0], Exception):
        raise made[0]
    train, test = (
        Split({name: array[rows] for name, array in made[0].items()})
        for rows in (slice(_TRAIN), slice(_TRAIN, None))
    )
    return Data(NO_DATA, train, test, synthetic=True)


def _made(
    model: ir.Model, network: fx.GraphModule, seed: int, reporter: Reporter
) -> dict[str, NDArray[np.float32]]:
    count, inputs = _TRAIN + _TEST, [value for value in model.graph.inputs if not value.is_initializer()]
    network.to(make_accelerator().device)
    with reporter.progress(count, "synthetic inputs") as progress:
        found = synthesize(network, inputs, count, seed=seed, on_samples=progress.advance)
    network.cpu()
    return found
