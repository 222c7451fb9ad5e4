from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from foreign_conv import conv_model, verified
from graphs import calibrated, normal
from onnx_ir.passes.common import ShapeInferencePass
from onnx_text import parse
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


def test_arithmetic_on_cast_codes_stays_real() -> None:
    """As other tools write dequantization out."""
    text = """
    net (float[2, 6] x) => (uint8[2, 6] y)
    <float s = {0.02}, uint8 z = {128}, float zero = {128}, float half = {0.5}, float one = {1.0}> {
        q = QuantizeLinear (x, s, z)
        c = Cast <to = 1> (q)
        d = Sub (c, zero)
        e = Mul (d, half)
        r = Round (e)
        y = QuantizeLinear (r, one, z)
    }
    """
    feeds: Arrays = {"x": np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)}
    expected = run_onnx(parse(text), feeds)["y"]
    model = ShapeInferencePass()(parse(text)).model

    result = CarryInFloatPass()(model)

    for level in LEVELS:
        np.testing.assert_array_equal(run_onnx(result.model, feeds, level=level)["y"], expected)


@pytest.mark.parametrize("pooling", ["ceil_mode = 1", "pads = [{pads}]", "ceil_mode = 1, pads = [{pads}]"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_varying_divisor_in_other_ranks(rng: np.random.Generator, rank: int, pooling: str) -> None:
    sizes, window = [7, 6, 5][:rank], ", ".join("3" * rank)
    pads = ", ".join("1" * 2 * rank)
    text = f"""
    net (float[N, 2, {", ".join(map(str, sizes))}] x) => (float[N, 3, {", ".join("ABC"[:rank])}] y) {{
        c = Conv (x, w)
        r = Relu (c)
        p = AveragePool <kernel_shape = [{window}], strides = [{", ".join("2" * rank)}],
            {pooling.format(pads=pads)}> (r)
        y = Conv (p, v)
    }}
    """
    weights = {"w": rng.normal(size=(4, 2, *[1] * rank)), "v": rng.normal(size=(3, 4, *[1] * rank))}
    feeds: Arrays = {"x": rng.normal(size=(2, 2, *sizes)).astype(np.float32)}
    model = normal(text, weights)
    qdq = pipelines.quantize(model, calibrated(model, feeds))
    assert not any(is_op(node, "AveragePool") for node in pipelines.lower(qdq, target="cuda").graph)
    check(qdq, feeds, targets=("cuda",))


@pytest.mark.parametrize("taken", [True, False], ids=["in-a-branch", "cast"])
def test_codes_that_are_used_as_numbers(tmp_path: pathlib.Path, taken: bool) -> None:
    body = "cq = QuantizeLinear (c, s1, z1) k = Cast <to = 1> (cq) y = Sin (k)"
    if taken:
        body = (
            "cq = QuantizeLinear (c, s1, z1) y = If (t) <then_branch = one () => (float[N, 4, 6, 6] a) "
            "{ a = Cast <to = 1> (cq) }, else_branch = two () => (float[N, 4, 6, 6] e) "
            "{ e = Cast <to = 1> (cq) }>"
        )
    qdq, feeds = conv_model("float[N, 4, 6, 6] y", body, t=np.bool_(True))

    assert verified(tmp_path, qdq, feeds, target="cuda").passed
