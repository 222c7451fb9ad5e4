"""How nodes of older and newer schema versions are said at opset 21: one function for each difference.

Every operator and version that is not named here has the same meaning at opset 21 wherever it fits the
schema of opset 21; ``ConvertOpsetPass`` checks that it does.
"""

from __future__ import annotations

__all__ = ["ADAPTERS", "Adapter"]

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..values import array, float_attribute, int_attribute, own
from .build import before, constant_before, take_place

Adapter = Callable[[ir.Node], None]

ADAPTERS: dict[tuple[str, int], Adapter] = {}
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
    take_place(node, before(node, "Reshape", rows, shape, name="result"))


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
        _set_input(node, 2, constant_before(node, number, name="value", dtype=_dtype(node)))


@_adapts("Clip", 6)
def _clip(node: ir.Node) -> None:
    """The bounds are inputs since opset 11; the defaults were the range of float32."""
    for index, name in ((1, "min"), (2, "max")):
        if name in node.attributes:
            bound = node.attributes.pop(name).as_float()
            if abs(bound) < float(np.finfo(np.float32).max):
                _set_input(node, index, constant_before(node, bound, name=name, dtype=_dtype(node)))


@_adapts("TopK", 1)
def _top_k(node: ir.Node) -> None:
    """``k`` is an input since opset 10."""
    k = node.attributes.pop("k").as_int()
    _set_input(node, 1, constant_before(node, [k], name="k"))


@_adapts("Dropout", 7, 10)
def _dropout(node: ir.Node) -> None:
    """``ratio`` is an input since opset 12; the mask that is left without training is told since then."""
    used = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if used:
        raise ModelError(f"its mask {used[0].name!r} is used")
    node.resize_outputs(1)
    ratio = float_attribute(node, "ratio", 0.5)
    node.attributes.pop("ratio", None)
    _set_input(node, 1, constant_before(node, ratio, name="ratio", dtype=np.float32))


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
    """Scale and bias are per group up to opset 20, and per channel since."""
    x, groups = node.inputs[0], node.attributes["num_groups"].as_int()
    channels = x.shape[1] if x is not None and x.shape is not None and len(x.shape) > 1 else None
    for index, name in ((1, "scale"), (2, "bias")):
        value = node.inputs[index]
        numbers = array(value)
        if value is None or numbers is None or not isinstance(channels, int):
            _repeat(node, index, groups)
        elif isinstance(node.graph, ir.Graph):
            per_channel = np.repeat(numbers, channels // groups)
            copy = f"{node.outputs[0].name}.{name}"
            node.replace_input_with(index, own(node.graph, value, per_channel, users=(node,), copy=copy))


def _repeat(node: ir.Node, index: int, groups: int) -> None:
    """Repeat each number of ``[groups]`` as often as a group has channels, when the model runs."""
    one, many, column, flat = (
        constant_before(node, to, name="to") for to in ([1], [groups], [groups, 1], [-1])
    )
    size = before(node, "Shape", node.inputs[0], name="channels", start=1, end=2)
    row = before(node, "Concat", one, before(node, "Div", size, many, name="repeats"), name="row", axis=0)
    value = before(node, "Reshape", node.inputs[index], column, name="column")
    value = before(node, "Expand", value, row, name="repeated")
    node.replace_input_with(index, before(node, "Reshape", value, flat, name="per_channel"))


@_adapts("Upsample", 7)
def _upsample_7(node: ir.Node) -> None:
    scales = node.attributes.pop("scales").as_floats()
    _set_input(node, 1, constant_before(node, scales, name="scales", dtype=np.float32))
    _upsample(node)


@_adapts("Resize", 10)
@_adapts("Upsample", 9)
def _upsample(node: ir.Node) -> None:
    """Positions were ``x / scale``, and the nearest was the one below."""
    node.op_type = "Resize"
    scales = node.inputs[1]
    node.replace_input_with(1, None)
    _set_input(node, 2, scales)
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "asymmetric"
    )
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")


@_adapts("Resize", 11)
def _resize_11(node: ir.Node) -> None:
    """``tf_half_pixel_for_nn`` is gone since opset 13: ``floor((x + 0.5) / scale)``, which is rounding up.

    An empty tensor of scales stands for none since opset 13; ``roi`` need not be there.
    """
    attributes = node.attributes
    if _text(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        if _text(node, "mode") == "linear" or _text(node, "nearest_mode") not in ("floor", "simple"):
            raise ModelError("it has coordinate_transformation_mode='tf_half_pixel_for_nn'")
        attributes["coordinate_transformation_mode"] = ir.AttrString(
            "coordinate_transformation_mode", "half_pixel"
        )
        attributes["nearest_mode"] = ir.AttrString("nearest_mode", "round_prefer_ceil")
    for index in (1, 2):
        numbers = array(node.inputs[index]) if len(node.inputs) > index else None
        if numbers is not None and not numbers.size:
            node.replace_input_with(index, None)


@_adapts("Scatter", 9, 11)
def _scatter(node: ir.Node) -> None:
    node.op_type = "ScatterElements"


@_adapts("GridSample", 16)
def _grid_sample(node: ir.Node) -> None:
    """Two modes have a new name since opset 20."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(_text(node, "mode"), "linear")
    if _text(node, "mode") != "nearest":
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
    _set_input(node, 2, constant_before(node, axis, name="axis"))


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
    _set_input(node, index, constant_before(node, numbers, name=name))


def _set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    node.resize_inputs(max(index + 1, len(node.inputs)))
    node.replace_input_with(index, value)


def _dtype(node: ir.Node) -> np.dtype[np.generic]:
    """The type of the first input; where that is not known it is float32, which a normal model has."""
    x = node.inputs[0]
    return np.dtype(np.float32) if x is None or x.dtype is None else x.dtype.numpy()


def _text(node: ir.Node, name: str) -> str:
    """A text attribute, or its default."""
    if name in node.attributes:
        return node.attributes[name].as_string()
    default = onnx.defs.get_schema(node.op_type, 11 if node.op_type == "Resize" else 16).attributes[name]
    return default.default_value.s.decode()
