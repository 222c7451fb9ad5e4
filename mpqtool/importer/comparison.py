"""Questions about each element: which is greater, is it a number; and what to choose by the answers."""

from __future__ import annotations

__all__ = [
    "greater",
    "greater_or_equal",
    "import_greater",
    "import_greater_or_equal",
    "import_is_inf",
    "import_is_nan",
    "import_less",
    "import_less_or_equal",
    "import_not",
    "import_where",
    "is_inf",
    "less",
    "less_or_equal",
]

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register
from .unsigned import in_order

_BINARY: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "And": (torch.logical_and, (7,)),
    "Equal": (torch.eq, (7, 11, 13, 19)),
    "Or": (torch.logical_or, (7,)),
    "Xor": (torch.logical_xor, (7,)),
}


def _register_binary(
    op_type: str, function: Callable[[Tensor, Tensor], Tensor], versions: tuple[int, ...]
) -> None:
    @register(op_type, *versions)
    def import_binary(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)


for _op_type, (_binary, _versions) in _BINARY.items():
    _register_binary(_op_type, _binary, _versions)


@register("Not", 1)
def import_not(node: ir.Node, x: Tensor) -> Tensor:
    """Import Not."""
    return torch.logical_not(x)


@register("Greater", 7, 9, 13)
def import_greater(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Greater."""
    return greater(a, b)


@leaf
def greater(a: Tensor, b: Tensor) -> Tensor:
    """``a > b``."""
    return torch.gt(in_order(a), in_order(b))


@register("GreaterOrEqual", 12, 16)
def import_greater_or_equal(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import GreaterOrEqual."""
    return greater_or_equal(a, b)


@leaf
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """``a >= b``."""
    return torch.ge(in_order(a), in_order(b))


@register("Less", 7, 9, 13)
def import_less(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Less."""
    return less(a, b)


@leaf
def less(a: Tensor, b: Tensor) -> Tensor:
    """``a < b``."""
    return torch.lt(in_order(a), in_order(b))


@register("LessOrEqual", 12, 16)
def import_less_or_equal(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import LessOrEqual."""
    return less_or_equal(a, b)


@leaf
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """``a <= b``."""
    return torch.le(in_order(a), in_order(b))


@register("Where", 9, 16)
def import_where(node: ir.Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Import Where."""
    return torch.where(condition, x, y)


@register("IsNaN", 9, 13, 20)
def import_is_nan(node: ir.Node, x: Tensor) -> Tensor:
    """Import IsNaN."""
    return torch.isnan(x)


@register("IsInf", 10, 20)
def import_is_inf(node: ir.Node, x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Import IsInf."""
    return is_inf(x, bool(detect_negative), bool(detect_positive))


@leaf
def is_inf(x: Tensor, negative: bool, positive: bool) -> Tensor:
    """Whether an element is infinite, of the signs asked for."""
    x = x.float() if x.dtype.itemsize == 1 else x  # torch asks no 8-bit float
    if negative and positive:
        return torch.isinf(x)
    if negative:
        return torch.isneginf(x)
    return torch.isposinf(x) if positive else torch.zeros_like(x, dtype=torch.bool)
