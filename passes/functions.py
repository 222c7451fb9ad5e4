"""The functions of one number, and Softmax: what each makes of the codes of its input.

On codes a function of one number is a table: ``table[i] = quantize(f(dequantize(i)))``. It is computed once,
in float64, and rounded to float32 before it is quantized; so nothing transcendental is left in an integer
file.
"""

from __future__ import annotations

__all__ = [
    "CODES",
    "FLOAT32_SUM",
    "FUNCTIONS",
    "HARD_SWISH_REACH",
    "hard_swish_gate_scale",
    "hard_swish_reach",
    "outputs",
    "softmax_codes",
    "softmax_exponentials",
]

import functools
import inspect
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import Float, dequantize, quantize

Real = NDArray[np.float64]

CODES = 256
"""How many codes a uint8 has; a table has an entry for each."""

HARD_SWISH_REACH = (CODES - 1) // 2
"""How many codes real 3 may be for HardSwish to be a product of codes, whatever the zero point."""

_SOFTMAX_ONE = 2**16
"""What ``exp(0)`` is in the integer Softmax."""
FLOAT32_SUM = 2**24 // _SOFTMAX_ONE
"""Over how many codes float32 holds the sums of Softmax exactly; float64 holds them all."""


def _celu(x: Real, alpha: float = 1.0) -> Real:
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha)


def _elu(x: Real, alpha: float = 1.0) -> Real:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(x: Real, approximate: str = "none") -> Real:
    gate: Real
    if approximate == "tanh":
        gate = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    else:
        gate = np.array([math.erf(v) for v in x / math.sqrt(2)])
    result: Real = x * (1 + gate) / 2
    return result


def _hard_sigmoid(x: Real, alpha: float = 0.2, beta: float = 0.5) -> Real:
    return np.clip(alpha * x + beta, 0, 1)


def _hard_swish(x: Real) -> Real:
    return x * np.clip(x + 3, 0, 6) / 6


def _leaky_relu(x: Real, alpha: float = 0.01) -> Real:
    return np.where(x < 0, alpha * x, x)


def _mish(x: Real) -> Real:
    return x * np.tanh(_softplus(x))


def _selu(x: Real, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Real:
    return gamma * _elu(x, alpha)


def _sigmoid(x: Real) -> Real:
    small = np.exp(-np.abs(x))  # never above 1, so that nothing overflows
    result: Real = np.where(x < 0, small, 1) / (1 + small)
    return result


def _silu(x: Real) -> Real:
    return x * _sigmoid(x)


def _softplus(x: Real) -> Real:
    result: Real = np.logaddexp(0, x)
    return result


def _softsign(x: Real) -> Real:
    result: Real = x / (1 + np.abs(x))
    return result


def _tanh(x: Real) -> Real:
    return np.tanh(x)


FUNCTIONS: dict[str, Callable[..., Real]] = {
    "Celu": _celu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Mish": _mish,
    "Selu": _selu,
    "Sigmoid": _sigmoid,
    "Silu": _silu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Tanh": _tanh,
}
"""By operator: a function of an array and the attributes, in the order and with the defaults of ONNX."""


@functools.lru_cache(maxsize=1024)
def outputs(
    op_type: str, scale: float, zero_point: int, *values: float | str, **attributes: float | str
) -> Float:
    """What a function gives for each code of its input: ``float32(f(dequantize(i)))``, ``(256,)``.

    Args:
        op_type: A key of ``FUNCTIONS``.
        scale: Real units per code of the input.
        zero_point: The code of real 0.
        values: Attributes in the order of the schema; numbers are taken as float32, as a file holds them.
        attributes: Attributes by name, likewise.
    """
    function = FUNCTIONS[op_type]
    x = dequantize(np.arange(CODES), scale, zero_point).astype(np.float64)
    called = inspect.signature(function).bind(x, *values, **attributes)
    called.apply_defaults()
    held = {name: _float32(value) for name, value in called.arguments.items() if name != "x"}
    # float64 differs between mathematical libraries in the last bit, float32 after it all but never.
    reals: Float = function(x, **held).astype(np.float32)
    reals.flags.writeable = False  # it is shared by all callers
    return reals


def _float32(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(np.float32(value))


def hard_swish_reach(x_scale: float, x_zero: int) -> int | None:
    """How many codes real 3 is, where HardSwish is a product of codes; None where it is a table.

    If ``s_x`` is ``float32(3 / reach)``, the codes clamped to ``z_x - reach`` ... ``z_x + reach`` stand for
    ``relu6(x + 3)`` under the zero point ``z_x - reach``. HardSwish is ``x`` times that in steps of
    ``s_x / 6``. Where ``z_x < reach``, that zero point is no code; then all of them are raised by
    ``reach - z_x``, which leaves 0 ... ``2 * reach``, as far as these are codes.
    """
    reach = round(3 / float(x_scale))
    whole = reach > 0 and np.float32(3 / reach) == np.float32(x_scale)
    return reach if whole and reach <= max(x_zero, HARD_SWISH_REACH) else None


def hard_swish_gate_scale(x_scale: float) -> np.float32:
    """The scale of ``relu6(x + 3) / 6`` on the codes of ``x``: ``float32(s_x / 6)``."""
    return np.float32(x_scale) / np.float32(6)


def softmax_exponentials(x_scale: float) -> Float:
    """``rint(2**16 * exp(-d * s_x))`` for the distances ``d`` of a code from the largest, ``(256,)``."""
    distance = np.arange(CODES) * float(np.float32(x_scale))
    exponentials: Float = np.rint(_SOFTMAX_ONE * np.exp(-distance)).astype(np.float32)
    return exponentials


def softmax_codes(
    x: ArrayLike, axis: int, x_scale: float, y_scale: float, y_zero: int, low: int, high: int,
    *, offset: float = 0,
) -> NDArray[np.uint8]:  # fmt: skip
    """Softmax on codes: ``clamp(rint(e / (sum(e) * s_y)) + z_y)`` with ``e = exponentials[max(x) - x]``.

    From what is rounded, ``offset / s_y`` is taken off before.

    The sum is exact, whatever its order, and then rounded to float32. Each exponential is off by 0.5 at
    most, so before rounding a result over ``n`` codes is off by ``(n + 1) / 2**17 / s_y`` codes at most:
    by half a code at 256 of them.
    """
    codes = np.asarray(x, np.int64)
    e = softmax_exponentials(x_scale)[codes.max(axis, keepdims=True) - codes]
    total = e.sum(axis, keepdims=True, dtype=np.float64).astype(np.float32)
    over_scale = e / (total * np.float32(y_scale)) - np.float32(offset) / np.float32(y_scale)
    return quantize(over_scale, 1, y_zero, low, high)
