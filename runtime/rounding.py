"""How far float32 may take results apart that are computed by the same formula in two ways."""

from __future__ import annotations

__all__ = ["Rounding", "shaken"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import metadata

Array = NDArray[Any]
_STEP = 4 * float(np.finfo(np.float32).eps)
"""What an operator may be off by, relative to the largest number inside: ONNX Runtime's Tanh by 2.6 ``eps``,
its Sigmoid by 1.4."""

_TINY = float(np.finfo(np.float32).tiny)

_BOUNDED = ("Sigmoid", "HardSigmoid", "Tanh", "Erf", "Softmax")
"""Functions that are computed from numbers up to 1, however large their input."""

_WHOLE = ("Cast", "Ceil", "Floor", "Round")
_SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ReduceMean", "ReduceSum", "ReduceSumSquare")
_LONG = 16
"""What sums are off by, in steps: the root of some hundred terms, in whatever order they are added."""


class Rounding:
    """Follows a run of the reference and bounds the rounding of every value, relative to its largest element.

    An operator rounds in units of the largest number that goes in or comes out. The result may be much
    smaller: ONNX Runtime computes ``Sigmoid(-11)`` as 0.5 less a fraction, so it is off by 1e-7 where the
    result is 1e-5. To that comes what its inputs were off by, relatively. Codes are exact. This is a running
    error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, 3.3) to first order,
    tensor by tensor.

    Args:
        feeds: The graph inputs by name. Constants count as exact.
    """

    def __init__(self, feeds: Mapping[str, Array]) -> None:
        self._largest = {name: _largest(x) for name, x in feeds.items()}
        self._relative: dict[str, float] = {}

    def __call__(self, node: ir.Node, results: Sequence[Array]) -> None:
        """Take note of what a node gave."""
        names = [str(value.name) for value in node.inputs if value is not None]
        inside = max((self._largest.get(name, 0.0) for name in names), default=0.0)
        inside = 1.0 if node.op_type in _BOUNDED else inside
        before = max((self._relative.get(name, 0.0) for name in names), default=0.0)
        for value, result in zip(node.outputs, results, strict=False):
            if result.dtype.kind == "f":
                largest = self._largest[str(value.name)] = _largest(result)
                self._relative[str(value.name)] = before + _STEP * max(1.0, inside / max(largest, _TINY))

    def of(self, name: str) -> float:
        """How far a value may be off, in its own units; 0 where nothing rounds."""
        return self._relative.get(name, 0.0) * self._largest.get(name, 0.0)


def shaken(seed: int) -> Callable[[ir.Node, Sequence[Array]], Sequence[Array]]:
    """For a run of the reference that rounds otherwise: float results are off by what they may be.

    How far results of such runs are apart tells what float32 settles of them, element by element, also where
    a difference of large numbers is divided by: a variance as ``E[x**2] - E[x]**2``, for one.

    Source: Parker, Pierce and Eggert, Monte Carlo arithmetic: how to gamble with floating point and win,
    2000.
    """
    random = np.random.default_rng(seed)

    def shake(node: ir.Node, results: Sequence[Array]) -> Sequence[Array]:
        if metadata.ISLAND not in node.metadata_props or node.op_type in _WHOLE:
            return results  # exact by design, or of whole numbers
        step = _STEP * (_LONG if node.op_type in _SUMS else 1)
        return tuple(
            x * random.choice(np.array([1 - step, 1 + step], np.float32), x.shape)
            if isinstance(x, np.ndarray) and x.dtype == np.float32
            else x
            for x in results
        )

    return shake


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0, where=np.isfinite(x))) if x.dtype.kind == "f" else 0.0
