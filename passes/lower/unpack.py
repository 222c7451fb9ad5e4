"""The ONNX functions that expand streams of bits to weight codes."""

from __future__ import annotations

__all__ = ["ARRANGE", "FIELDS", "UNPACK", "unpack_functions"]

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from ..metadata import DOMAIN, PACKED
from ..plan import Grid

FIELDS = "UnpackFields"
"""The function that expands fields of one width; those of codes call it."""
UNPACK = {Grid.SIGNED: "UnpackSigned", Grid.ODD: "UnpackOdd"}
"""The function that expands codes of one width on a grid; ``FULL`` is stored as ``SIGNED``."""
ARRANGE = "Arrange"
"""The function that brings kernels, sorted by width, into their own order."""

_WIDTHS = range(9)


def unpack_functions(names: Collection[str]) -> list[ir.Function]:
    """The functions of these names, and what they call.

    See ``pack.py`` for the streams. Whatever is as large as the weight is made of bytes: ONNX Runtime holds
    all of it until the file is loaded.
    """
    made = [_codes(grid) for grid, name in UNPACK.items() if name in names]
    if made or FIELDS in names:
        made.insert(0, _fields())
    return [*made, *([_arrange()] if ARRANGE in names else [])]


def _fields() -> ir.Function:
    """``fields = UnpackFields(data, width, count)``: uint8 ``(count,)``; 8 fields are ``width`` bytes."""
    data, small, fields = (ir.Value(name=name) for name in ("d", "w", "n"))
    body = _Body()
    width, count = body("Cast", small, to=_I64), body("Cast", fields, to=_I64)
    start = body("Mul", body.const(list(range(8))), width)
    shift = body("Cast", body("Mod", start, body.const(8)), to=_U8)
    at = body("Div", start, body.const(8))
    after = body("Min", body("Add", at, body.const(1)), body("Sub", width, body.const(1)))
    rows = body("Reshape", data, body("Concat", body.const([-1]), width, axis=0))
    low = body("BitShift", body("Gather", rows, at, axis=1), shift, direction="RIGHT")
    # By 8 - shift in two steps: a shift by 8 of a byte is not defined.
    left = body("Sub", body.byte(7), shift)
    high = body("BitShift", body("Gather", rows, after, axis=1), left, direction="LEFT")
    high = body("BitShift", high, body.byte(1), direction="LEFT")
    unused = body("Cast", body("Sub", body.const(8), width), to=_U8)
    mask = body("BitShift", body.byte(255), unused, direction="RIGHT")
    field = body("BitwiseAnd", body("BitwiseOr", low, high), mask)
    result = body("Slice", body("Reshape", field, body.const([-1])), body.const([0]), count)
    return body.function(FIELDS, [data, small, fields], result)


def _codes(grid: Grid) -> ir.Function:
    """``codes = Unpack(data, width, count, shift)``: int8 ``(count,)``, of 1 to 7 bits, times ``2**shift``.

    ``2 * field + 1 - 2**b`` (odd grid) and ``field - 2**(b - 1)`` are the code. Times ``2**shift``, and with
    128 added, it is in 0 to 255: the byte of the result with its first bit turned over.
    """
    data, width, count, shift = (ir.Value(name=name) for name in ("d", "w", "n", "s"))
    body = _Body()
    fields = body("BitShift", body(FIELDS, data, width, count), shift, direction="LEFT")
    if grid is Grid.ODD:
        fields = body("BitShift", fields, body.byte(1), direction="LEFT")
        lowest = [1 - 2**b for b in _WIDTHS]
    else:
        lowest = [0, *(-(2 ** (b - 1)) for b in _WIDTHS[1:])]
    low = body("Gather", body.const(lowest), body("Cast", width, to=_I64))
    times = body("Gather", body.const([2**s for s in _WIDTHS]), body("Cast", shift, to=_I64))
    offset = body("Add", body("Mul", low, times), body.const(128))
    above = body("Add", fields, body("Cast", offset, to=_U8))  # code * 2**shift + 128
    result = body("Cast", body("BitwiseXor", above, body.byte(128)), to=_I8)
    return body.function(UNPACK[grid], [data, width, count, shift], result)


def _arrange() -> ir.Function:
    """``codes = Arrange(sorted, kernels, shape)``, int8; see ``pack.arrange``.

    The first TopK sorts the kernels by width, the earlier first where these are equal: its indices say
    which kernel stands where. The second turns that round: where each kernel stands.
    """
    codes, kernels, shape = (ir.Value(name=name) for name in ("c", "k", "s"))
    body = _Body()
    count = body("Shape", kernels)
    order = body.top_k(body("Cast", kernels, to=_I64), count)
    rank = body.top_k(order, count)
    rows = body("Reshape", codes, body("Concat", count, body.const([-1]), axis=0))
    result = body("Reshape", body("Gather", rows, rank), body("Cast", shape, to=_I64))
    return body.function(ARRANGE, [codes, kernels, shape], result)


_U8, _I8, _I64 = (t.value for t in (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT64))


class _Body:
    """Collects nodes; equal constants are made once."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    def __call__(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.nodes.append(ir.node(op, inputs, attributes, domain=DOMAIN if op == FIELDS else ""))
        return self.nodes[-1].outputs[0]

    def top_k(self, keys: ir.Value, count: ir.Value) -> ir.Value:
        """The indices that sort the keys, smallest first."""
        node = ir.node("TopK", [keys, count], {"largest": 0}, num_outputs=2)
        self.nodes.append(node)
        return node.outputs[1]

    def constant(self, array: Any) -> ir.Value:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self("Constant", value=ir.tensor(array))
        return self._constants[key]

    def const(self, number: int | list[int]) -> ir.Value:
        return self.constant(np.array(number, np.int64))

    def byte(self, number: int) -> ir.Value:
        return self.constant(np.array(number, np.uint8))

    def function(self, name: str, inputs: list[ir.Value], result: ir.Value) -> ir.Function:
        values = [value for node in self.nodes for value in node.outputs]
        for index, value in enumerate(values):
            value.name = f"t{index}"
        imports = {"": 21, DOMAIN: PACKED} if any(node.domain for node in self.nodes) else {"": 21}
        graph = ir.Graph(inputs, [result], nodes=self.nodes, opset_imports=imports)
        return ir.Function(domain=DOMAIN, name=name, graph=graph, attributes=[])
