"""Squared gradients of every quantized tensor, sample by sample, out of one backward pass over a batch."""

from __future__ import annotations

__all__ = ["Tape"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mpqtool.importer.softmax import flat_softmax
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer

from .weight_use import WeightUse, weight_use

_COLUMNS = 2**20
"""Elements of the columns of a convolution that are held at a time: 4 MB, what a cache can keep."""


class Tape(fx.Interpreter):
    """Run a graph and remember what the gradients of its quantized tensors are made of.

    In evaluation mode samples do not interact: the gradient of a sum over samples, at the output of an
    operator, is that of each sample in its rows. Those of a weight follow from it sample by sample.

    A weight that several operators use gets the sum of its squares in each: gradients of different uses are
    taken as uncorrelated.

    Args:
        module: A graph with quantizers.
        quantized: Whether they are at work; else all that they do is to name tensors.
    """

    def __init__(self, module: fx.GraphModule, *, quantized: bool) -> None:
        super().__init__(module)
        self._quantized = quantized
        self._weights: list[tuple[Tensor, str]] = []  # recognised by identity
        self._recorded: list[tuple[WeightUse | str, Tensor]] = []
        self._softmax: tuple[Tensor, Tensor] | None = None
        self._samples = 0

    def record(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs; of a last Softmax its input, from which the margins of classes are taken."""
        self._weights, self._recorded, self._softmax = [], [], None
        self._samples = len(batch[0])
        outputs: tuple[Tensor, ...] = self.run(*batch)
        if self._softmax is not None and len(outputs) == 1 and outputs[0] is self._softmax[0]:
            return (self._softmax[1],)
        return outputs

    def squares(self, scalars: Sequence[Tensor], *, last: bool) -> dict[str, Tensor]:
        """Squared norms of the gradients of some sums over samples, added up over the sums.

        Args:
            scalars: Each ``()``, made of the outputs that were recorded last.
            last: Whether their graph is not needed again.

        Returns:
            By the name of the weight, ``(samples, kernels)``, or of the value, ``(samples,)``.
        """
        values = [value for _, value in self._recorded]
        grads = [
            torch.autograd.grad(
                scalar, values, retain_graph=not last or scalar is not scalars[-1], allow_unused=True
            )
            for scalar in scalars
        ]
        found: dict[str, Tensor] = {}
        for (entry, _), *of_scalars in zip(self._recorded, *grads, strict=True):
            known = [grad for grad in of_scalars if grad is not None]
            if not known:
                continue  # no output depends on it
            name, squares = (
                (entry.name, _of_weight(entry, known, self._samples))
                if isinstance(entry, WeightUse)
                else (entry, _of_value(known, self._samples))
            )
            found[name] = found[name] + squares if name in found else squares
        return found

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        quantizer = isinstance(module, WeightQuantizer | ActivationQuantizer)
        result = args[0] if quantizer and not self._quantized else super().call_module(target, args, kwargs)
        if isinstance(module, WeightQuantizer):
            self._weights.append((result, module.name))
        elif isinstance(module, ActivationQuantizer) and torch.is_grad_enabled():
            if not result.requires_grad:  # an input of the graph
                result = result.detach().requires_grad_()
            self._recorded.append((module.name, result))
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        if target in (torch.softmax, flat_softmax):
            self._softmax = result, args[0]
        if torch.is_grad_enabled() and len(args) > 1:
            for name in (name for tensor, name in self._weights if tensor is args[1]):
                self._recorded.append((weight_use(name, target, args, kwargs), result))
        return result


def _of_value(grads: Sequence[Tensor], samples: int) -> Tensor:
    """``sum_p ||d scalar_pn / d value||**2`` for each sample n, ``(samples,)``."""
    rows = _rows(len(grads[0]), samples)
    return _spread(torch.stack([grad.reshape(rows, -1).square().sum(1) for grad in grads]).sum(0), samples)


def _rows(length: int, samples: int) -> int:
    """How many samples the first dimension tells apart; rows of one sample lie one after the other.

    What does not depend on samples is of all of them: with random signs, products of the gradients of
    different samples vanish in expectation.
    """
    return samples if length % samples == 0 else 1


def _spread(squares: Tensor, samples: int) -> Tensor:
    """What all samples have together, as a part of each."""
    return squares if len(squares) == samples else squares.expand(samples, *squares.shape[1:]) / samples


def _of_weight(use: WeightUse, grads: Sequence[Tensor], samples: int) -> Tensor:
    """``sum_p ||d scalar_pn / d w[o]||**2`` for each sample n and kernel o, ``(samples, kernels)``.

    Args:
        use: What it multiplied, and how.
        grads: Of the operator's output, one for each scalar.
        samples: Of the batch.
    """
    rows = _rows(len(use.x), samples)
    parts = len(use.x) // rows  # of one sample: windows, or steps of a sequence
    if use.window is None:
        return _spread(_of_matrix(use, grads, rows), samples)
    per_sample = math.prod(use.kernel[1:]) * use.groups * math.prod(grads[0].shape[2:]) * parts
    chunk = max(1, _COLUMNS // per_sample)
    found = [
        _of_convolution(use, [grad[at : at + chunk * parts] for grad in grads], at, parts)
        for at in range(0, len(use.x), chunk * parts)
    ]
    return _spread(torch.cat(found), samples)


def _of_matrix(use: WeightUse, grads: Sequence[Tensor], rows: int) -> Tensor:
    inputs = use.x.reshape(rows, -1, use.x.shape[-1])
    outputs = [grad.reshape(rows, -1, grad.shape[-1]) for grad in grads]
    if inputs.shape[1] == 1:  # the gradient is an outer product
        squares = torch.stack([grad[:, 0].square() for grad in outputs]).sum(0)
        return squares * inputs[:, 0].square().sum(1, keepdim=True)
    return torch.stack([(grad.mT @ inputs).square().sum(2) for grad in outputs]).sum(0)


def _of_convolution(use: WeightUse, grads: Sequence[Tensor], at: int, parts: int) -> Tensor:
    """Of some rows, from ``at`` on: ``grad @ columns``, one product for all scalars."""
    columns = use.columns(use.x[at : at + len(grads[0])])  # (rows, groups, inputs, positions)
    stacked = torch.stack([grad.reshape(len(grad), use.groups, -1, columns.shape[-1]) for grad in grads])
    scalars, _, _, outputs, positions = stacked.shape
    together = stacked.permute(1, 2, 0, 3, 4)  # (rows, groups, scalars, outputs, positions)
    together = together.reshape(-1, use.groups, scalars * outputs, positions)
    if parts > 1:
        columns, together = (
            tensor.unflatten(0, (-1, parts)).movedim(1, 3).flatten(3) for tensor in (columns, together)
        )
    products: Tensor = (together @ columns.mT).unflatten(2, (scalars, outputs))
    return products.square().sum((2, 4)).flatten(1)
