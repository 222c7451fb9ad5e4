"""Is the network that will be trained the one in the file? Measured before anything long begins."""

from __future__ import annotations

__all__ = ["check_import", "check_learnable", "check_normal_form"]

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from mpqtool.runtime.predict import predict
from mpqtool.runtime.session import make_session

from .data import Split
from .errors import DataError, ModelError

_TOLERANCE = 1e-3
"""Largest difference of torch and ONNX Runtime on the float model, in units of the largest output."""


def check_normal_form(path: pathlib.Path, model: ir.Model, split: Split) -> None:
    """Refuse to go on with a graph that does not compute what the file computes."""
    session = make_session(path)
    first = session.get_inputs()[0].shape[0]
    count = first if isinstance(first, int) else min(4, len(split))
    if count > len(split):
        raise DataError(
            f"The model fixes a batch of {count}, and the test split has {len(split)} samples. "
            f"Give at least {count}."
        )
    feeds = {name: array[:count] for name, array in split.inputs.items()}
    try:
        expected = session.run(None, feeds)
    except Exception as error:  # ONNX Runtime has many kinds
        raise DataError(
            f"ONNX Runtime cannot run the model on the first test samples: {' '.join(str(error).split())} "
            "Give samples of a shape and with values that the model takes."
        ) from error
    _compare(predict(model, feeds), expected, "normal form of the network")


def _compare(found: list[NDArray[Any]], expected: list[NDArray[Any]], what: str) -> None:
    for y, reference in zip(found, expected, strict=True):
        largest = max(float(np.abs(reference).max(initial=0)), 1e-6)
        worst = float(np.abs(y - reference).max(initial=0)) if y.shape == reference.shape else np.inf
        if not worst <= _TOLERANCE * largest:
            raise ModelError(
                f"The {what} gives outputs that differ from the file's by {worst:g} on the first samples, "
                f"allowed is {_TOLERANCE * largest:g}. Please report the file; it was not changed."
            )


def check_import(network: fx.GraphModule, split: Split, expected: list[NDArray[Any]]) -> None:
    """Refuse to train a network that is not the one in the file."""
    network.eval()
    with torch.no_grad():
        got = network(*(torch.from_numpy(array[:16]) for array in split.inputs.values()))
    _compare([y.numpy() for y in got], [y[:16] for y in expected], "imported network")


def check_learnable(path: pathlib.Path, network: nn.Module, weights: Iterable[str]) -> None:
    """See that gradients reach the weights that are quantized.

    Raises:
        ModelError: They do not.
    """
    learned = dict(network.named_parameters())
    if not all(name in learned for name in weights):
        raise ModelError(
            f"No gradient reaches a weight of {str(path)!r}: its outputs are indices, comparisons or "
            "rounded. Give the model without what comes behind its logits."
        )
