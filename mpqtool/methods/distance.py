"""How far the outputs of a network are from those of another, of any number and shape."""

from __future__ import annotations

__all__ = ["distance", "output_sizes"]

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_SMOOTH = 1e-5
"""Below its root, the distance of a number is nearly its square."""


def output_sizes(network: nn.Module, batches: Iterable[Sequence[Tensor]]) -> list[float | None]:
    """The root mean square of each output; None where it is not of real numbers, or always 0."""
    squares: dict[int, float] = {}
    numbers: dict[int, int] = {}
    count = 0
    with torch.no_grad():
        for batch in batches:
            outputs = network(*batch)
            count = len(outputs)
            for place, y in enumerate(outputs):
                if y.is_floating_point():
                    squares[place] = squares.get(place, 0.0) + float(y.double().square().sum())
                    numbers[place] = numbers.get(place, 0) + y.numel()
    sizes = {place: math.sqrt(squares[place] / max(numbers[place], 1)) for place in squares}
    return [sizes.get(place) or None for place in range(count)]


def distance(outputs: Sequence[Tensor], taught: Sequence[Tensor], sizes: Sequence[float | None]) -> Tensor:
    """How far outputs are from those of the float network, ``()``.

    ``mean sqrt((zq - z)^2 + 1e-5)`` over samples and elements, with each output in units of its root mean
    square, and summed over the outputs. Of one output that is the loss of the paper's code but for a
    constant factor, which Adam does not see; several have equal weight, whatever their shapes and units.

    Args:
        outputs: Of the quantized network.
        taught: Of the float network.
        sizes: Of ``output_sizes``; outputs without one do not count.
    """
    parts = [
        ((y - z) / size).square().add(_SMOOTH).sqrt().mean()
        for y, z, size in zip(outputs, taught, sizes, strict=True)
        if size is not None
    ]
    return torch.stack(parts).sum()
