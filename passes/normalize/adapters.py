"""How nodes of older and newer schema versions are said at opset 21: one function for each difference.

An operator of a version that is not named here keeps its form. ``ConvertOpsetPass`` checks that opset 21
has the operator, and that it takes the element types where the version is a later one; that attributes
and inputs fit, and mean the same, was found by comparing the schemas.
"""

from __future__ import annotations

__all__ = ["ADAPTERS", "Adapter"]

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..values import float_attribute, int_attribute, text_attribute
from .build import before, constant_before, set_input, take_place
from .resize import resize_10, resize_11, upsample_7, upsample_9

Adapter = Callable[[ir.Node], None]

ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("Upsample", 7): upsample_7,
    ("Upsample", 9): upsample_9,
    ("Resize", 10): resize_10,
    ("Resize", 11): resize_11,
}
"""By operator and schema version."""

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def _adapts(op_type: str, *since_versions: int) -> Callable[[Adapter], Adapter]:
    def enter(function: Adapter) -> Adapter:
        ADAPTERS.update({(op_type, version): function for version in since_versions})
        return function

    return enter


def _axes_as_input(node: ir.Node) -> None:
    """``axes`` is an input since opset 13 (ReduceSum, Squeeze, Unsqueeze) or 18 (other reductions)."""
    if "axes" in node.attributes:
        _as_input(node, 1, "axes")


for _op, _versions in {
    "ReduceSum": (1, 11),
    "Squeeze": (1, 11),
    "Unsqueeze": (1, 11),
    **{f"Reduce{name}": (1, 11, 12, 13) for name in _REDUCTIONS},
}.items():
    _adapts(_op, *_versions)(_axes_as_input)


@_adapts("Softmax", 1, 11)
@_adapts("LogSoftmax", 1, 11)
@_adapts("Hardmax", 1, 11)
def _softmax(node: ir.Node) -> None:
    """Before opset 13 it spans all axes from ``axis`` on, as if they were one.

    RestoreSoftmaxPass brings it into one node again when the rank is known.
    """
    axis = int_attribute(node, "axis", 1)
    if axis == -1:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    x = node.inputs[0]
    flat = before(node, "Flatten", x, name="flat", axis=axis)
    rows = before(node, node.op_type, flat, name="rows", axis=1)
    shape = before(node, "Shape", x, name="shape")
    take_place(node, before(node, "Reshape", rows, shape, name="result", allowzero=1))


@_adapts("Split", 2, 11)
def _split(node: ir.Node) -> None:
    """``split`` is an input since opset 13."""
    if "split" in node.attributes:
        _as_input(node, 1, "split")
    else:
        _split_evenly(node)


@_adapts("Split", 13)
def _split_evenly(node: ir.Node) -> None:
    """Since opset 18 the number of equal parts is told."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


@_adapts("Slice", 1)
def _slice(node: ir.Node) -> None:
    """``starts``, ``ends`` and ``axes`` are inputs since opset 10."""
    _as_input(node, 1, "starts")
    _as_input(node, 2, "ends")
    if "axes" in node.attributes:
        _as_input(node, 3, "axes")


@_adapts("Pad", 2)
def _pad(node: ir.Node) -> None:
    """``pads`` and the number are inputs since opset 11."""
    _as_input(node, 1, "pads")
    number = float_attribute(node, "value", 0.0)
    node.attributes.pop("value", None)
    if number:
        set_input(node, 2, constant_before(node, number, name="value", dtype=_dtype(node)))


@_adapts("Clip", 6)
def _clip(node: ir.Node) -> None:
    """The bounds are inputs since opset 11; the defaults were the range of float32."""
    for index, name in ((1, "min"), (2, "max")):
        if name in node.attributes:
            bound = node.attributes.pop(name).as_float()
            if abs(bound) < float(np.finfo(np.float32).max):
                set_input(node, index, constant_before(node, bound, name=name, dtype=_dtype(node)))


@_adapts("TopK", 1)
def _top_k(node: ir.Node) -> None:
    """``k`` is an input since opset 10."""
    k = node.attributes.pop("k").as_int()
    set_input(node, 1, constant_before(node, [k], name="k"))


@_adapts("Dropout", 7, 10)
def _dropout(node: ir.Node) -> None:
    """``ratio`` is an input since opset 12; the mask that is left without training is told since then."""
    used = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if used:
        raise ModelError(f"its mask {used[0].name!r} is used")
    node.resize_outputs(1)
    ratio = float_attribute(node, "ratio", 0.5)
    node.attributes.pop("ratio", None)
    set_input(node, 1, constant_before(node, ratio, name="ratio", dtype=np.float32))


@_adapts("BatchNormalization", 7, 9)
def _batch_norm(node: ir.Node) -> None:
    """Since opset 14 an attribute says whether it trains, before it was the number of outputs."""
    if not node.attributes.pop("spatial", ir.AttrInt64("spatial", 1)).as_int():
        raise ModelError("it has spatial=0: statistics for each position")
    used = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if used:
        raise ModelError(f"it computes statistics: its output {used[0].name!r} is used")
    node.resize_outputs(1)


@_adapts("GroupNormalization", 18)
def _group_norm(node: ir.Node) -> None:
    """Scale and bias are per group up to opset 20, and per channel since.

    ``InstanceNormalization(x as [n, groups, rest], scale, bias)`` is the same with them as they are.
    """
    x, scale, bias = node.inputs
    groups, epsilon = node.attributes["num_groups"].as_int(), float_attribute(node, "epsilon", 1e-5)
    to = constant_before(node, [0, groups, -1], name="to")
    rows = before(node, "Reshape", x, to, name="groups")
    rows = before(node, "InstanceNormalization", rows, scale, bias, name="normalized", epsilon=epsilon)
    shape = before(node, "Shape", x, name="shape")
    take_place(node, before(node, "Reshape", rows, shape, name="result"))


@_adapts("Scatter", 9, 11)
def _scatter(node: ir.Node) -> None:
    node.op_type = "ScatterElements"


@_adapts("GridSample", 16)
def _grid_sample(node: ir.Node) -> None:
    """Two modes have a new name since opset 20."""
    mode = text_attribute(node, "mode", "bilinear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    node.attributes["mode"] = ir.AttrString("mode", mode)


@_adapts("RoiAlign", 10)
def _roi_align(node: ir.Node) -> None:
    """Since opset 16 the default is half a pixel off."""
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "output_half_pixel"
    )


@_adapts("DFT", 17)
def _dft(node: ir.Node) -> None:
    """``axis`` is an input since opset 20."""
    axis = int_attribute(node, "axis", 1)
    node.attributes.pop("axis", None)
    set_input(node, 2, constant_before(node, axis, name="axis"))


@_adapts("Scan", 8)
def _scan(node: ir.Node) -> None:
    raise ModelError("it is a Scan over a batch")


def _cast(node: ir.Node) -> None:
    """``round_mode`` says something about float8e8m0 only, which opset 21 does not have."""
    node.attributes.pop("round_mode", None)


for _op in ("Cast", "CastLike"):
    _adapts(_op, 24, 25)(_cast)


@_adapts("DequantizeLinear", 23, 24, 25)
def _dequantize(node: ir.Node) -> None:
    """The result has the type of the scale, up to opset 22."""
    dtype = ir.DataType(int_attribute(node, "output_dtype", 0))
    node.attributes.pop("output_dtype", None)
    scale = node.inputs[1]
    if dtype and (scale is None or scale.dtype is not dtype):
        raise ModelError(f"it has output_dtype={dtype.name} beside another type of scale")


@_adapts("QuantizeLinear", 23, 24, 25)
def _quantize(node: ir.Node) -> None:
    """The type of the division is the one of ``x``, up to opset 22."""
    precision = int_attribute(node, "precision", 0)
    node.attributes.pop("precision", None)
    x = node.inputs[0]
    if precision and (x is None or x.dtype is None or x.dtype.value != precision):
        raise ModelError(f"it has precision={ir.DataType(precision).name} beside another type of x")


def _as_input(node: ir.Node, index: int, name: str) -> None:
    """Make an integer attribute an input."""
    numbers = node.attributes.pop(name).as_ints()
    set_input(node, index, constant_before(node, numbers, name=name))


def _dtype(node: ir.Node) -> np.dtype[np.generic]:
    """The type of the first input; where that is not known it is float32, which a normal model has."""
    x = node.inputs[0]
    return np.dtype(np.float32) if x is None or x.dtype is None else x.dtype.numpy()
