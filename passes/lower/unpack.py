"""The ONNX functions that expand bit streams to weight codes."""

from __future__ import annotations

__all__ = ["FIELDS", "UNPACK", "UNPACK_MIXED", "unpack_functions"]

from typing import Any

import numpy as np
import onnx_ir as ir

from ..metadata import DOMAIN
from ..plan import Grid

FIELDS = "UnpackFields"
"""The function that expands fields of one width; those of codes call it."""
UNPACK = {Grid.ODD: "UnpackOdd", Grid.SIGNED: "UnpackSigned"}
"""The function that expands the codes of a grid, where all kernels have one width."""
UNPACK_MIXED = {Grid.ODD: "UnpackOddMixed", Grid.SIGNED: "UnpackSignedMixed"}
"""The function that expands the codes of a grid, where widths differ from kernel to kernel."""

_WIDTHS = range(9)


def unpack_functions(name: str) -> list[ir.Function]:
    """A function of ``UNPACK`` or ``UNPACK_MIXED``, and what it calls.

    ``codes + zero = Unpack(data, width, shape, zero)`` of one ``width``, uint8 ``(1,)``, and
    ``codes + zero = UnpackMixed(data, widths, kernels, shape, zero)``; see ``pack.py`` for the streams.
    ``shape`` is an integer vector, ``zero`` the zero point of the codes, whose type the result takes: int8
    or uint8.

    Whatever is as large as the weight is made of uint8: ONNX Runtime holds all of it until the file is
    loaded. ``2 * field + 129 - 2**b`` (odd grid below 8 bits) and ``field + 128 - 2**(b - 1)`` are
    ``code + 128``, in 0 to 255.
    """
    for grid in Grid:
        if name == UNPACK[grid]:
            return [_fields(), _uniform(grid)]
        if name == UNPACK_MIXED[grid]:
            return [_fields(), _mixed(grid)]
    raise ValueError(f"name must be one of UNPACK or UNPACK_MIXED, got {name!r}")


def _fields() -> ir.Function:
    """``fields = UnpackFields(data, width, count)``: uint8 ``(count,)``; 8 fields are ``width`` bytes."""
    data, width, count = (ir.Value(name=name) for name in ("d", "w", "n"))
    body = _Body()
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
    return body.function(FIELDS, [data, width, count], result)


def _uniform(grid: Grid) -> ir.Function:
    data, width, shape, zero = (ir.Value(name=name) for name in ("d", "w", "s", "z"))
    body = _Body()
    wide, dims = body("Cast", width, to=_I64), body("Cast", shape, to=_I64)
    fields = body(FIELDS, data, wide, body("ReduceProd", dims, keepdims=1))
    return body.function(
        UNPACK[grid], [data, width, shape, zero], _codes(body, grid, fields, wide, dims, zero)
    )


def _mixed(grid: Grid) -> ir.Function:
    data, widths, kernels, shape, zero = (ir.Value(name=name) for name in ("d", "w", "k", "s", "z"))
    body = _Body()
    dims = body("Cast", shape, to=_I64)
    count = body("Slice", dims, body.const([0]), body.const([1]))
    size = body("Div", body("ReduceProd", dims, keepdims=1), count)
    needed = body.const([max(n - 1, 0).bit_length() for n in range(len(_WIDTHS) + 1)])
    index = body(FIELDS, kernels, body("Gather", needed, body("Shape", widths)), count)
    width = body("Gather", widths, body("Cast", index, to=_I32))
    column = body("Unsqueeze", body("Cast", width, to=_I64), body.const([1]))

    # (kernels, 9): which width a kernel has. The stream holds the kernels by width, then in order.
    has = body("Cast", body("Equal", column, body.const(list(_WIDTHS))), to=_I64)
    of_width = body("ReduceSum", has, body.const([0]), keepdims=0)
    before = body("CumSum", of_width, body.const(0), exclusive=1)
    place = body("Add", body("CumSum", has, body.const(0), exclusive=1), before)
    rank = body("ReduceSum", body("Mul", has, place), body.const([1]), keepdims=0)

    counts = body("Mul", of_width, size)
    blocks = body("Div", body("Add", counts, body.const(7)), body.const(8))
    parts = body.split(data, body("Mul", blocks, body.const(list(_WIDTHS))), len(_WIDTHS))
    each = body.split(counts, None, len(_WIDTHS))
    groups = [body("Expand", body.byte(0), each[0])]
    groups += [body(FIELDS, parts[w], body.const([w]), each[w]) for w in _WIDTHS[1:]]
    rows = body("Reshape", body("Concat", *groups, axis=0), body("Concat", count, size, axis=0))
    fields = body("Gather", rows, rank)
    result = _codes(body, grid, fields, column, dims, zero)
    return body.function(UNPACK_MIXED[grid], [data, widths, kernels, shape, zero], result)


def _codes(
    body: _Body, grid: Grid, fields: ir.Value, width: ir.Value, dims: ir.Value, zero: ir.Value
) -> ir.Value:
    """``code + zero``, of fields and the widths that are along their first axis."""
    if grid is Grid.ODD:
        doubled = body("Gather", body.constant(np.array([0, *[1] * 7, 0], np.uint8)), width)
        fields = body("BitShift", fields, doubled, direction="LEFT")
        offsets = [129 - 2**b if b < 8 else 0 for b in _WIDTHS]
    else:
        offsets = [128, *(128 - 2 ** (b - 1) for b in _WIDTHS[1:])]
    offset = body("Gather", body.constant(np.array(offsets, np.uint8)), width)
    above = body("Add", fields, offset)  # code + 128
    flipped = body("BitwiseXor", above, body("Sub", body.byte(128), body("Cast", zero, to=_U8)))
    return body("Reshape", body("CastLike", flipped, zero), dims)


_U8, _I32, _I64 = (t.value for t in (ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64))


class _Body:
    """Collects nodes; equal constants are made once."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    def __call__(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        self.nodes.append(ir.node(op, inputs, attributes, domain=DOMAIN if op == FIELDS else ""))
        return self.nodes[-1].outputs[0]

    def split(self, value: ir.Value, sizes: ir.Value | None, parts: int) -> tuple[ir.Value, ...]:
        attributes = {"num_outputs": parts} if sizes is None else {}
        node = ir.node("Split", [value] if sizes is None else [value, sizes], attributes, num_outputs=parts)
        self.nodes.append(node)
        return tuple(node.outputs)

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
        imports = {"": 21, DOMAIN: 1} if any(node.domain for node in self.nodes) else {"": 21}
        graph = ir.Graph(inputs, [result], nodes=self.nodes, opset_imports=imports)
        return ir.Function(domain=DOMAIN, name=name, graph=graph, attributes=[])
