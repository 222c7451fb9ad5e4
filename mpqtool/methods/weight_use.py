"""What quantized weights multiply: their uses, recognised while a graph runs."""

from __future__ import annotations

__all__ = ["WeightUse", "weight_use"]

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mpqtool.errors import UnsupportedOpError
from mpqtool.importer.conv import any_conv, conv_window, padded_conv
from mpqtool.importer.window import torch_pads

_SPATIAL_RANK = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


@dataclasses.dataclass(frozen=True)
class WeightUse:
    """One use of a weight: what it multiplied, and how.

    Attributes:
        name: The weight.
        x: Input of the operator: rows ``(*, inputs)`` of a matrix, ``(rows, channels, *spatial)`` of a
            convolution.
        kernel: Shape of the weight.
        bias: ``(kernels,)``; None: there is none.
        groups: Of a convolution.
        window: Strides, pads as in ONNX and dilations of a convolution; None: a matrix.
    """

    name: str
    x: Tensor
    kernel: tuple[int, ...]
    bias: Tensor | None = None
    groups: int = 1
    window: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def trailing(self) -> int:
        """Axes of input and result that belong to one row."""
        return 1 if self.window is None else len(self.kernel) - 1

    def inputs(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """What each weight multiplies at each position, ``(samples, groups, inputs, positions)``.

        Args:
            x: Of the input, ``(samples, rows of a sample, ...)``.
            at: Which positions of a row of a convolution, as an index into all of them; None: all.
        """
        if self.window is None:
            return x.mT[:, None]
        columns = self._columns(x.flatten(0, 1), at)
        of_samples: Tensor = columns.unflatten(0, x.shape[:2])
        return of_samples.movedim(1, 3).flatten(3)

    def results(self, y: Tensor) -> Tensor:
        """What is at each position of a result, ``(samples, groups, kernels of a group, positions)``.

        Args:
            y: Of the result, or its gradient, ``(samples, rows of a sample, ...)``.
        """
        if self.window is None:
            return y.mT[:, None]
        of_groups: Tensor = y.flatten(3).unflatten(2, (self.groups, -1))
        return of_groups.movedim(1, 3).flatten(3)

    def added(self, y: Tensor) -> Tensor:
        """What the weight adds to a result of the operator: the result less the bias."""
        if self.bias is None:
            return y
        return y - self.bias.reshape(-1, *[1] * (self.trailing - 1))

    def _columns(self, x: Tensor, at: Tensor | None) -> Tensor:
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
        if at is not None:
            view = view[(..., *torch.unravel_index(at, tuple(out)))]  # type: ignore[index]  # torch gives tensors
        return view.reshape(len(x), self.groups, -1, math.prod(out) if at is None else len(at))


def weight_use(name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> WeightUse:
    """The use of a weight by an operator, its second argument.

    Raises:
        UnsupportedOpError: It is no Conv or Gemm.
    """
    x, kernel = args[0].detach(), tuple(args[1].shape)
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    bias = bias.detach() if bias is not None else None
    if target is F.linear:
        return WeightUse(name, x, kernel, bias)
    if target in (padded_conv, any_conv):
        _, weight, _, stride, pads, dilation, groups, *auto_pad = args
        if auto_pad:
            stride, pads, dilation = conv_window(x, weight, stride, pads, dilation, *auto_pad)
        return WeightUse(name, x, kernel, bias, groups, (stride, pads, dilation))
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
    return WeightUse(name, x, kernel, bias, int(given.get("groups", 1)), (stride, padding * 2, dilation))


def _tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)
