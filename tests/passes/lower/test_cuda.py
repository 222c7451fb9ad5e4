from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from targets import Arrays, check, qdq_and_feeds

from mpqtool.passes import pipelines
from mpqtool.passes.lower import sums
from mpqtool.passes.lower.cuda import CarryInFloatPass
from mpqtool.passes.values import is_op
from mpqtool.runtime.session import LEVELS


def test_one_channel_that_is_too_much_stays_on_uint8(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    qdq, feeds = qdq_and_feeds(rng, "residual")
    monkeypatch.setattr(sums, "EXACT_BELOW", 2**10)
    ops = [node.op_type for node in pipelines.lower(qdq, target="cuda").graph]
    assert ops.count("QLinearConv") + ops.count("QGemm") > 0
    check(qdq, feeds, targets=("cuda",))


def _from_codes_to_codes(model: ir.Model) -> None:
    """Let a QDQ graph begin and end with its codes."""
    graph = model.graph
    (quantize,) = [node for node in graph if is_op(node, "QuantizeLinear") and node.inputs[0].name == "x"]
    codes = ir.Value(name="x_codes", shape=graph.inputs[0].shape, type=ir.TensorType(ir.DataType.UINT8))
    quantize.outputs[0].replace_all_uses_with(codes)
    graph.remove(quantize, safe=True)
    graph.inputs[0] = codes
    last = next(value for node in graph for value in node.outputs if value.name == "r0.codes")
    graph.outputs.append(last)


def test_uint8_inputs_and_outputs_stay_uint8(rng: np.random.Generator) -> None:
    qdq, _ = qdq_and_feeds(rng, "residual", activation_bits=5)
    _from_codes_to_codes(qdq)
    feeds: Arrays = {"x_codes": rng.integers(0, 256, size=(3, 2, 8, 8)).astype(np.uint8)}
    expected = run_onnx(pipelines.lower(qdq), feeds)

    model = pipelines.lower(qdq, target="cuda")

    assert not CarryInFloatPass()(model).modified
    for level in LEVELS:
        found = run_onnx(model, feeds, level=level)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values, err_msg=f"{name} {level}")


def test_a_mean_over_an_open_size(rng: np.random.Generator) -> None:
    text = """
    net (float[N, 2, H, W] x) => (float[N, 2, 1, 1] g) {
        c = Conv (x, w)
        g = GlobalAveragePool (c)
    }
    """
    model, feeds = normal(text, {"w": rng.normal(size=(2, 2, 1, 1))}), {}
    feeds["x"] = rng.normal(size=(2, 2, 9, 7)).astype(np.float32)
    qdq = pipelines.quantize(model, calibrated(model, feeds))
    assert "Shape" in [node.op_type for node in pipelines.lower(qdq, target="standard").graph]
    check(qdq, feeds)
