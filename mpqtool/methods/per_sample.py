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

from .sample_axis import by_sample, distinct, samples_before
from .weight_use import WeightUse, weight_use

_HELD = 2**20
"""Numbers that the gradients of a weight are made of, held at a time: 4 MB, what a cache can keep."""


class Tape(fx.Interpreter):
    """Run a graph and remember what the gradients of its quantized tensors are made of.

    In evaluation mode samples do not interact: the gradient of a sum over samples, at the output of an
    operator, is that of each sample in its rows. Those of a weight follow from it sample by sample.

    Which rows are whose is found out once, with two samples; see ``samples_before``. What no sample changes
    is of all of them: with random signs, products of the gradients of different samples vanish in
    expectation.

    Args:
        module: A graph with quantizers.
        quantized: Whether they are at work; else all that they do is to name tensors.

    Raises:
        UnsupportedOpError: An operator uses a weight in a way that is not known, or mixes samples.
    """

    def __init__(self, module: fx.GraphModule, *, quantized: bool) -> None:
        super().__init__(module)
        self._quantized = quantized
        self._weights: list[tuple[Tensor, str]] = []  # recognised by identity
        self._recorded: list[tuple[WeightUse | str, Tensor]] = []
        self._softmax: tuple[Tensor, Tensor] | None = None
        self._samples = 0
        self._recording = False
        self._before: list[int | None] | None = None  # of what is recorded, once there were two samples

    def record(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs; of a last Softmax its input, from which the margins of classes are taken."""
        if self._before is None:
            self._before = self._find(batch)
        return self._record(batch, recording=torch.is_grad_enabled())

    def squares(self, scalars: Sequence[Tensor], *, last: bool) -> dict[str, Tensor]:
        """Squared norms of the gradients of some sums over samples, added up over the sums.

        A weight that several operators use gets the sum of its squares in each: gradients of different uses
        are taken as uncorrelated. A tensor that no output depends on has none: zeros.

        Args:
            scalars: Each ``()``, made of the outputs that were recorded last.
            last: Whether their graph is not needed again.

        Returns:
            By the name of the weight, ``(samples, kernels)``, or of the value, ``(samples,)``.
        """
        grads = [self._gradients(scalar, keep=not last or scalar is not scalars[-1]) for scalar in scalars]
        found: dict[str, Tensor] = {}
        for index, (entry, value) in enumerate(self._recorded):
            known = [grad for of_scalar in grads if (grad := of_scalar[index]) is not None]
            known, before = known or [torch.zeros_like(value)], self._place(index)
            if isinstance(entry, WeightUse):
                name, squares = entry.name, _of_weight(entry, known, before, self._samples)
            else:
                name, squares = entry, _of_value(known, before, self._samples)
            squares = _spread(squares, self._samples, 1)
            squares = squares if isinstance(entry, WeightUse) else squares[:, 0]
            found[name] = found[name] + squares if name in found else squares
        return found

    def changes(self, scalar: Tensor) -> dict[str, Tensor]:
        """``<d scalar_n / d w_k, w_k>`` for each sample n and kernel k, over all uses of a weight.

        Args:
            scalar: A sum over samples, ``()``, made of the outputs that were recorded last.

        Returns:
            By the name of the weight, ``(samples, kernels)``.
        """
        found: dict[str, Tensor] = {}
        grads = self._gradients(scalar, keep=False)
        for index, ((use, value), grad) in enumerate(zip(self._recorded, grads, strict=True)):
            if not isinstance(use, WeightUse):
                continue
            of_results, added = (
                use.results(by_sample(y, self._place(index), self._samples, use.trailing))
                for y in (torch.zeros_like(value) if grad is None else grad, use.added(value.detach()))
            )
            change = _spread((of_results * added).sum(3).flatten(1), self._samples, 2)
            found[use.name] = found[use.name] + change if use.name in found else change
        return found

    def _record(self, batch: Sequence[Tensor], *, recording: bool) -> tuple[Tensor, ...]:
        self._weights, self._recorded, self._softmax = [], [], None
        self._samples, self._recording = len(batch[0]), recording
        outputs: tuple[Tensor, ...] = self.run(*batch)
        if self._softmax is not None and len(outputs) == 1 and outputs[0] is self._softmax[0]:
            return (self._softmax[1],)
        return outputs

    @torch.no_grad()
    def _find(self, batch: Sequence[Tensor]) -> list[int | None] | None:
        """The rows before the samples in all that is recorded; None if all samples are the same."""
        pair = distinct(batch)
        if pair is None:
            return None
        quantized, self._quantized = self._quantized, False  # coarse codes would hide what changes
        seen = []
        for order in ([0, 1], [1, 1], [0, 0]):
            self._record([x[order] for x in pair], recording=True)
            seen.append([_rows(*recorded) for recorded in self._recorded])
        self._quantized = quantized
        return [
            samples_before(name, both, second, first, trailing)
            for (name, both, trailing), (_, second, _), (_, first, _) in zip(*seen, strict=True)
        ]

    def _place(self, index: int) -> int | None:
        return 1 if self._before is None else self._before[index]

    def _gradients(self, scalar: Tensor, *, keep: bool) -> tuple[Tensor | None, ...]:
        values = [value for _, value in self._recorded]
        return torch.autograd.grad(scalar, values, retain_graph=keep, allow_unused=True)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        quantizer = isinstance(module, WeightQuantizer | ActivationQuantizer)
        result = args[0] if quantizer and not self._quantized else super().call_module(target, args, kwargs)
        if isinstance(module, WeightQuantizer):
            self._weights.append((result, module.name))
        elif isinstance(module, ActivationQuantizer) and self._recording:
            if not result.requires_grad:  # an input of the graph
                result = result.detach().requires_grad_()
            self._recorded.append((module.name, result))
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        if target in (torch.softmax, flat_softmax):
            self._softmax = result, args[0]
        if self._recording and len(args) > 1:
            for name in (name for tensor, name in self._weights if tensor is args[1]):
                self._recorded.append((weight_use(name, target, args, kwargs), result))
        return result


def _rows(entry: WeightUse | str, value: Tensor) -> tuple[str, Tensor, int]:
    """The name of what was recorded, where its samples are looked for, and the axes of one row of that."""
    return (entry.name, entry.x, entry.trailing) if isinstance(entry, WeightUse) else (entry, value, 0)


def _spread(numbers: Tensor, samples: int, power: float) -> Tensor:
    """What all samples have together, as a part of each: their sum, of this power, is as it was."""
    if len(numbers) == samples:
        return numbers
    part: Tensor = numbers.expand(samples, -1) / samples ** (1 / power)
    return part


def _of_value(grads: Sequence[Tensor], before: int | None, samples: int) -> Tensor:
    """``sum_p ||d scalar_pn / d value||**2`` for each sample n, ``(samples, 1)``."""
    squares = [by_sample(grad, before, samples, 0).square().sum(1, keepdim=True) for grad in grads]
    return torch.stack(squares).sum(0)


def _of_weight(use: WeightUse, grads: Sequence[Tensor], before: int | None, samples: int) -> Tensor:
    """``sum_p ||d scalar_pn / d w[o]||**2`` for each sample n and kernel o, ``(samples, kernels)``.

    Args:
        use: What it multiplied, and how.
        grads: Of the operator's output, one for each scalar.
        before: Rows before the samples.
        samples: Of the batch.
    """
    x, *of_results = (by_sample(rows, before, samples, use.trailing) for rows in (use.x, *grads))
    inputs, kernels = math.prod(use.kernel[1:]), use.kernel[0] // use.groups * len(grads)
    positions = math.prod(of_results[0].shape[1:]) // use.kernel[0]
    by_products = kernels * inputs < positions * (kernels + inputs)  # fewer multiplications
    made = kernels * inputs if by_products else positions * (kernels + positions)
    chunk = max(1, _HELD // (use.groups * (positions * (kernels + inputs) + made)))
    found = []
    for at in range(0, len(x), chunk):
        columns = use.inputs(x[at : at + chunk])  # (samples, groups, inputs, positions)
        rows = torch.cat([use.results(grad[at : at + chunk]) for grad in of_results], 2)
        norms = _products(rows, columns) if by_products else _gram(rows, columns)
        found.append(norms.unflatten(2, (len(grads), -1)).sum(2).flatten(1))
    return torch.cat(found)


def _products(grads: Tensor, columns: Tensor) -> Tensor:
    """``||sum_p g_op x_p||**2``, ``(samples, groups, kernels)``, by the sum itself: a kernel's gradient."""
    products: Tensor = grads @ columns.mT
    return products.square_().sum(3)


def _gram(grads: Tensor, columns: Tensor) -> Tensor:
    """The same as ``sum_pq g_op (x_p . x_q) g_oq``: shorter where positions are few, and inputs many."""
    weighted: Tensor = grads @ (columns.mT @ columns)
    return weighted.mul_(grads).sum(3).clamp_(min=0)  # rounding may leave less than nothing
