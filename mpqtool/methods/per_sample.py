"""Squared gradients of every quantized tensor, sample by sample, out of one backward pass over a batch."""

from __future__ import annotations

__all__ = ["Tape"]

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mpqtool.errors import UnsupportedOpError
from mpqtool.importer.conv import any_conv, conv_window, padded_conv
from mpqtool.importer.softmax import flat_softmax
from mpqtool.importer.window import torch_pads
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer

_SPATIAL_RANK = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
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
        self._recorded: list[tuple[_WeightUse | str, Tensor]] = []
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
                (entry.name, entry.squares(known, self._samples))
                if isinstance(entry, _WeightUse)
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
                self._recorded.append((_weight_use(name, target, args, kwargs), result))
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


@dataclasses.dataclass(frozen=True)
class _WeightUse:
    """One use of a weight: what it multiplied, and how.

    Attributes:
        name: The weight.
        x: Input of the operator, ``(rows, ...)``.
        kernel: Shape of the weight.
        groups: Of a convolution.
        window: Strides, pads as in ONNX and dilations of a convolution; None: a matrix.
    """

    name: str
    x: Tensor
    kernel: tuple[int, ...]
    groups: int = 1
    window: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None

    def squares(self, grads: Sequence[Tensor], samples: int) -> Tensor:
        """``sum_p ||d scalar_pn / d w[o]||**2`` for each sample n and kernel o, ``(samples, kernels)``.

        Args:
            grads: Of the operator's output, one for each scalar.
            samples: Of the batch.
        """
        rows = _rows(len(self.x), samples)
        parts = len(self.x) // rows  # of one sample: windows, or steps of a sequence
        if self.window is None:
            return _spread(self._of_matrix(grads, rows), samples)
        per_sample = math.prod(self.kernel[1:]) * self.groups * math.prod(grads[0].shape[2:]) * parts
        chunk = max(1, _COLUMNS // per_sample)
        found = [
            self._of_convolution([grad[at : at + chunk * parts] for grad in grads], at, parts)
            for at in range(0, len(self.x), chunk * parts)
        ]
        return _spread(torch.cat(found), samples)

    def _of_matrix(self, grads: Sequence[Tensor], rows: int) -> Tensor:
        inputs = self.x.reshape(rows, -1, self.x.shape[-1])
        outputs = [grad.reshape(rows, -1, grad.shape[-1]) for grad in grads]
        if inputs.shape[1] == 1:  # the gradient is an outer product
            squares = torch.stack([grad[:, 0].square() for grad in outputs]).sum(0)
            return squares * inputs[:, 0].square().sum(1, keepdim=True)
        return torch.stack([(grad.mT @ inputs).square().sum(2) for grad in outputs]).sum(0)

    def _of_convolution(self, grads: Sequence[Tensor], at: int, parts: int) -> Tensor:
        """Of some rows, from ``at`` on: ``grad @ columns``, one product for all scalars."""
        columns = self._columns(self.x[at : at + len(grads[0])])  # (rows, groups, inputs, positions)
        stacked = torch.stack([grad.reshape(len(grad), self.groups, -1, columns.shape[-1]) for grad in grads])
        scalars, _, _, outputs, positions = stacked.shape
        together = stacked.permute(1, 2, 0, 3, 4)  # (rows, groups, scalars, outputs, positions)
        together = together.reshape(-1, self.groups, scalars * outputs, positions)
        if parts > 1:
            columns, together = (
                tensor.unflatten(0, (-1, parts)).movedim(1, 3).flatten(3) for tensor in (columns, together)
            )
        products: Tensor = (together @ columns.mT).unflatten(2, (scalars, outputs))
        return products.square().sum((2, 4)).flatten(1)

    def _columns(self, x: Tensor) -> Tensor:
        """What each weight multiplies at each position, ``(rows, groups, inputs, positions)``."""
        assert self.window is not None  # a convolution
        stride, pads, dilation = self.window
        x = F.pad(x, torch_pads(pads)) if any(pads) else x
        size = self.kernel[2:]
        out = [
            (length - d * (k - 1) - 1) // s + 1
            for length, k, s, d in zip(x.shape[2:], size, stride, dilation, strict=True)
        ]
        steps = x.stride()[2:]
        view = x.as_strided(
            (*x.shape[:2], *size, *out),
            (
                *x.stride()[:2],
                *(step * d for step, d in zip(steps, dilation, strict=True)),
                *(step * s for step, s in zip(steps, stride, strict=True)),
            ),
        )
        return view.reshape(len(x), self.groups, -1, math.prod(out))


def _weight_use(name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _WeightUse:
    x, kernel = args[0].detach(), tuple(args[1].shape)
    if target is F.linear:
        return _WeightUse(name, x, kernel)
    if target in (padded_conv, any_conv):
        _, weight, _, stride, pads, dilation, groups, *auto_pad = args
        if auto_pad:
            stride, pads, dilation = conv_window(x, weight, stride, pads, dilation, *auto_pad)
        return _WeightUse(name, x, kernel, groups, (stride, pads, dilation))
    if target not in _SPATIAL_RANK:
        raise UnsupportedOpError(
            f"No gradient by sample is known for {target.__name__}, which uses the weight {name!r}. Known "
            "are Conv and Gemm; cut this part off the model."
        )
    rank = _SPATIAL_RANK[target]
    names = ("bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args[2:], strict=False)) | kwargs
    stride, padding, dilation = (
        _tuple(given.get(key, default), rank)
        for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    return _WeightUse(name, x, kernel, int(given.get("groups", 1)), (stride, padding * 2, dilation))


def _tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
