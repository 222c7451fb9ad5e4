"""The ONNX functions that expand a bit stream to weight codes."""

from __future__ import annotations

__all__ = ["UNPACK", "unpack_function"]

from typing import Any

import numpy as np
import onnx_ir as ir

from ..metadata import DOMAIN
from ..plan import Grid

UNPACK = {Grid.ODD: "UnpackOdd", Grid.SIGNED: "UnpackSigned"}
"""The function that expands the codes of a grid."""


def unpack_function(grid: Grid) -> ir.Function:
    """``codes + zero = Unpack(data, widths, shape, zero)``, in standard operators.

    Weight ``j`` of kernel ``o`` begins at bit ``K * (w_0 + ... + w_(o-1)) + j * w_o``, ``K`` weights a
    kernel. Two bytes hold every field: ``((byte[p / 8] + 256 * byte[p / 8 + 1]) >> p % 8) % 2**w``.

    Inputs: ``data`` uint8 ``(bytes,)``; ``widths`` uint8 ``(kernels,)`` or ``(1,)``; ``shape`` an integer
    vector; ``zero``, the zero point of the codes, whose type the result takes: int8 or uint8.
    """
    body = _Body()
    data, widths, shape, zero = (ir.Value(name=name) for name in ("d", "w", "s", "z"))
    i32 = ir.DataType.INT32.value
    dims = body("Cast", shape, to=ir.DataType.INT64.value)
    kernels = body("Slice", dims, body.const([0]), body.const([1]))
    width = body("Cast", body("Expand", widths, kernels), to=i32)
    size = body("Cast", body("Div", body("ReduceProd", dims, keepdims=1), kernels), to=i32)
    start = body("CumSum", body("Mul", width, size), body.const(0), exclusive=1)
    one = body.const([1])
    column = body("Unsqueeze", width, one)
    count = body("Range", body.const32(0), body("Squeeze", size), body.const32(1))
    position = body("Add", body("Unsqueeze", start, one), body("Mul", column, count))
    eight = body.const32(8)
    wide = body("Pad", body("Cast", data, to=i32), body.const([0, 2]))  # a 0-bit kernel may start at the end
    byte = body("Div", position, eight)
    low, high = body("Gather", wide, byte), body("Gather", wide, body("Add", byte, body.const32(1)))
    pair = body("Add", low, body("Mul", high, body.const32(256)))
    u32 = ir.DataType.UINT32.value
    shifted = body(
        "BitShift",
        body("Cast", pair, to=u32),
        body("Cast", body("Mod", position, eight), to=u32),
        direction="RIGHT",
    )
    two = body("BitShift", body.constant(np.uint32(1)), body("Cast", column, to=u32), direction="LEFT")
    levels = body("Cast", two, to=i32)
    field = body("Mod", body("Cast", shifted, to=i32), levels)
    signed = body("Sub", field, body("Div", levels, body.const32(2)))
    code = signed
    if grid is Grid.ODD:
        odd = body("Add", body("Add", signed, signed), body.const32(1))
        code = body("Where", body("Equal", levels, body.const32(256)), signed, odd)
        # 0 bits: levels 1, field 0, and 2 * 0 + 1 would be the code 1
        code = body("Mul", code, body("Cast", body("Cast", column, to=ir.DataType.BOOL.value), to=i32))
    total = body("Add", code, body("Cast", zero, to=i32))
    result = body("Reshape", body("CastLike", total, zero), dims)
    for index, node in enumerate(body.nodes):
        node.outputs[0].name = f"t{index}"
    return ir.Function(
        domain=DOMAIN,
        name=UNPACK[grid],
        graph=ir.Graph([data, widths, shape, zero], [result], nodes=body.nodes, opset_imports={"": 21}),
        attributes=[],
    )


class _Body:
    """Collects nodes; equal constants are made once."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    def __call__(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.nodes.append(ir.node(op, inputs, attributes))
        return self.nodes[-1].outputs[0]

    def constant(self, array: Any) -> ir.Value:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self("Constant", value=ir.tensor(array))
        return self._constants[key]

    def const(self, number: int | list[int]) -> ir.Value:
        return self.constant(np.array(number, np.int64))

    def const32(self, number: int) -> ir.Value:
        return self.constant(np.array(number, np.int32))
