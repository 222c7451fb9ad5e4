"""From uniform to mixed widths: which tensor loses a bit next."""

from __future__ import annotations

__all__ = ["Point", "first_that_holds", "steps_down"]

import dataclasses
import heapq
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Point:
    """A tensor whose width can change.

    Attributes:
        name: Of a weight or value.
        cost: What a bit of it costs, in units that all points share.
        bits: Width to begin with.
        noise: What it adds to the outputs, by width, down to the narrowest that it may have.
    """

    name: str
    cost: float
    bits: int
    noise: Mapping[int, float]


def steps_down(points: Sequence[Point]) -> list[str]:
    """The order in which tensors lose bits: always the least noise for what is saved.

    A width at which a tensor adds less noise than at the next larger one, as estimates may say, is taken to
    add as much.

    Returns:
        Names; each occurrence takes one more bit from that tensor.
    """
    heap: list[tuple[float, int, int]] = []

    def push(place: int, bits: int) -> None:
        point = points[place]
        if bits - 1 in point.noise and point.cost > 0:
            added = max(point.noise[bits - 1] - point.noise[bits], 0.0)
            heapq.heappush(heap, (added / point.cost, place, bits - 1))

    for place, point in enumerate(points):
        push(place, point.bits)
    order = []
    while heap:
        _, place, bits = heapq.heappop(heap)
        order.append(points[place].name)
        push(place, bits)
    return order


def first_that_holds(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number from ``low`` to ``high - 1`` for which something holds; ``high`` if none is known.

    What holds for a number holds for all larger ones; so it is found by halves.
    """
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
