"""A Resize to 2, 4, 8 ... times the size repeats the same elements as several to twice of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from onnx_text import ops, parse

from mpqtool.passes.lower.resize import doublings
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

X = np.arange(2 * 3 * 5 * 4, dtype=np.uint8).reshape(2, 3, 5, 4)


def _resize(scales: list[float], attributes: str = "") -> ir.Model:
    return parse(
        f"""
        net (uint8[N, 3, H, W] x) => (uint8[N, 3, A, B] y) {{
            y = Resize <mode = "nearest"{attributes}> (x, , scales)
        }}
        """,
        {"scales": np.array(scales, np.float32)},
    )


def _rewritten(model: ir.Model) -> ir.Model:
    (node,) = graph = model.graph
    nodes = doublings(graph, node, graph.inputs[0])
    if nodes:
        made = nodes[-1].outputs[0]
        made.name, made.type, made.shape = "y", ir.TensorType(ir.DataType.UINT8), node.outputs[0].shape
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [node.outputs[0]], [made])
    return model


def _ways(coordinates: str, nearest: str) -> str:
    return f', coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}"'


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    "attributes",
    [
        "",
        _ways("half_pixel", "round_prefer_ceil"),
        _ways("half_pixel_symmetric", "round_prefer_floor"),
        _ways("asymmetric", "floor"),
    ],
)
def test_repeats_the_same_elements(factor: int, attributes: str) -> None:
    expected = run_onnx(_resize([1, 1, factor, factor], attributes), {"x": X})["y"]
    np.testing.assert_array_equal(expected, X.repeat(factor, axis=2).repeat(factor, axis=3))

    model = _rewritten(_resize([1, 1, factor, factor], attributes))

    assert ops(model) == ["Reshape", *["Resize"] * int(np.log2(factor))]
    np.testing.assert_array_equal(Reference(model).run({"x": X})["y"], expected)
    for level in LEVELS:
        np.testing.assert_array_equal(run_onnx(model, {"x": X}, level=level)["y"], expected)


@pytest.mark.parametrize(
    ("scales", "attributes"),
    [
        pytest.param([1, 1, 3, 3], "", id="no-power-of-two"),
        pytest.param([1, 1, 0.5, 0.5], "", id="smaller"),
        pytest.param([1, 1, 1, 1], "", id="same"),
        pytest.param([1, 1, 2, 4], "", id="two-factors"),
        pytest.param([1, 2, 2, 2], "", id="channels"),
        pytest.param([1, 1, 2, 2], _ways("asymmetric", "round_prefer_floor"), id="other-elements"),
        pytest.param([1, 1, 2, 2], _ways("align_corners", "floor"), id="corners"),
        pytest.param([2, 2], ", axes = [2, 3]", id="axes"),
    ],
)
def test_is_left_alone(scales: list[float], attributes: str) -> None:
    assert ops(_rewritten(_resize(scales, attributes))) == ["Resize"]
