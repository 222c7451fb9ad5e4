from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import quantized
from onnx_text import ops, parse

from mpqtool.passes import metadata
from mpqtool.passes.lower.islands import WriteOutIslandsPass
from mpqtool.passes.pipelines import lower
from mpqtool.runtime.session import LEVELS

X = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)


_INT8 = np.random.default_rng(3).integers(-127, 128, (8, 16)).astype(np.int8)
_CONSTANTS = {
    "a number": ("DequantizeLinear (c, s)", {"c": _INT8, "s": 0.013}),
    "columns": (
        "DequantizeLinear <axis = 1> (c, s, z)",
        {"c": _INT8, "s": np.linspace(0.01, 0.02, 16), "z": np.zeros(16, np.int8)},
    ),
    "rows, uint8": (
        "DequantizeLinear <axis = 0> (c, s, z)",
        {"c": _INT8.view(np.uint8), "s": np.linspace(0.01, 0.02, 8), "z": np.arange(8, dtype=np.uint8)},
    ),
}


@pytest.mark.parametrize("case", _CONSTANTS)
def test_a_product_by_a_dequantized_constant_is_computed_in_float(case: str) -> None:
    """ONNX Runtime makes MatMulNBits of the two, where it reads codes alone; that rounds x to 8 bits."""
    spelled, constants = _CONSTANTS[case]
    text = f"""
    net (float[4, 8] x) => (float[4, 16] y) {{
        n = Neg (x)
        w = {spelled}
        p = MatMul (n, w)
        y = Relu (p)
    }}
    """
    feeds = {"x": np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)}
    expected = run_onnx(parse(text, constants), feeds, level="disabled")

    model = WriteOutIslandsPass()(parse(text, constants)).model

    assert "DequantizeLinear" not in ops(model)
    assert model.graph.initializers["c"].dtype is not ir.DataType.FLOAT
    for level in LEVELS:
        assert_equivalent(expected, run_onnx(model, feeds, level=level), rtol=1e-6, atol=1e-6)  # float sums


def _model(bits: int = 8) -> ir.Model:
    rng = np.random.default_rng(0)
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 3] y) {
        c = Conv (x, w)
        s = Neg (c)
        m = Abs (s)
        d = Conv (m, v)
        g = GlobalAveragePool (d)
        f = Flatten (g)
        l = Gemm <transB = 1> (f, u)
        y = Softmax <axis = 1> (l)
    }
    """
    weights = {
        "w": rng.normal(size=(2, 2, 1, 1)),
        "v": rng.normal(size=(2, 2, 1, 1)),
        "u": rng.normal(size=(3, 2)),
    }
    return quantized(text, weights, {"x": X}, activation_bits=bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_computes_the_same_real_numbers(bits: int) -> None:
    names = ["c.codes", "s", "m", "m.codes", "d.codes"]
    before = run_onnx(_model(bits), {"x": X}, expose=names)

    result = WriteOutIslandsPass()(_model(bits))

    assert result.modified
    after = run_onnx(result.model, {"x": X}, expose=names)
    assert_equivalent(before, after, rtol=0, atol=0)
    m = next(n for n in result.model.graph if n.op_type == "Abs").outputs[0]
    assert [use.node.op_type for use in m.uses()] == ["Div"]


def test_says_what_stays_float_and_why() -> None:
    model = lower(_model())

    notes = {
        n.op_type: n.metadata_props[metadata.ISLAND]
        for n in model.graph
        if metadata.ISLAND in n.metadata_props
    }

    assert notes.keys() == {"Neg", "Abs", "Softmax", "QuantizeLinear"}
    assert notes["Abs"] == "it has no integer form"
    assert notes["QuantizeLinear"] == ""


@pytest.mark.parametrize(
    ("op", "is_island"),
    [
        pytest.param('Resize <mode = "linear"> (d, , double)', True, id="resize-linear"),
        pytest.param("Pad (d, pads, one)", True, id="pad-with-1"),
        pytest.param("Pad (d, pads)", False, id="pad-with-0"),
    ],
)
def test_what_computes_new_numbers_is_an_island_and_what_moves_them_is_not(op: str, is_island: bool) -> None:
    numbers = {"s": np.array(0.1), "z": np.array(128, np.uint8), "one": np.array(1.0)}
    numbers |= {"double": np.array([1.0, 1, 2, 2]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    body = f"q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = {op}"
    model = lower(parse(f"net (float[N, 2, 4, 4] x) => (float[A, B, C, D] y) {{ {body} }}", numbers))

    assert [n.op_type for n in model.graph if metadata.ISLAND in n.metadata_props] == (
        [op.split(" ")[0]] if is_island else []
    )


def test_says_why_a_transposed_convolution_is_no_conv() -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 3] y) {
        t = ConvTranspose <strides = [2, 2]> (x, w)
        c = Conv (t, v)
        g = GlobalAveragePool (c)
        y = Flatten (g)
    }
    """
    weights = {"w": np.ones((2, 2, 3, 3)), "v": np.ones((3, 2, 1, 1))}

    model = lower(quantized(text, weights, {"x": X}))

    node = next(n for n in model.graph if n.op_type == "ConvTranspose")
    reason = "it cannot become a Conv, as its kernel size 3 is no multiple of its stride 2"
    assert node.metadata_props[metadata.ISLAND] == reason


_FUSED = {
    "Sigmoid": "o = Sigmoid (x)",
    "Softmax": "o = Softmax (x)",
    "LeakyRelu": "o = LeakyRelu (x)",
    "GlobalAveragePool": "o = GlobalAveragePool (x)",
    "AveragePool": "o = AveragePool <kernel_shape = [2, 2]> (x)",
    "MaxPool": "o = MaxPool <kernel_shape = [2, 2]> (x)",
    "Transpose": "o = Transpose <perm = [0, 2, 3, 1]> (x)",
    "Clip": "o = Clip (x, low)",
    "nothing": "o = Identity (x)",
    "Mul": "o = Mul (x, x)",
    "Add": "o = Add (x, x)",
    "Concat": "o = Concat <axis = 1> (x, x)",
    "Conv": "o = Conv (x, w)",
    "MatMul": "o = MatMul (x, x)",
    "MatMul behind moves": "v = Transpose <perm = [0, 1, 3, 2]> (x) o = MatMul (x, v)",
    "MatMul by a constant": "o = MatMul (x, m)",
    "Gemm": "r = Reshape (x, rows) o = Gemm <transB = 1> (r, g)",
}


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("case", _FUSED)
def test_onnx_runtime_computes_what_is_written(case: str, bits: int) -> None:
    """As they stand, it makes integer operators of these at some levels, some of another rounding."""
    rng = np.random.default_rng(0)
    model = parse(
        f"""
        net (float[2, 8, 6, 6] a) => (float[A, B, C, D] y) {{
            q = QuantizeLinear (a, s, z)
            x = DequantizeLinear (q, s, z)
            w = DequantizeLinear <axis = 0> (wq, ws, wz)
            m = DequantizeLinear (mq, s, zero)
            g = DequantizeLinear (gq, s, zero)
            {_FUSED[case]}
            wide = QuantizeLinear (o, t, u)
            codes = Clip (wide, least, most)
            y = DequantizeLinear (codes, t, u)
        }}
        """,
        {
            "s": 0.0123, "t": 0.0191, "z": np.array(128, np.uint8), "u": np.array(117, np.uint8), "low": -0.5,
            "wq": rng.integers(-127, 128, (4, 8, 3, 3)).astype(np.int8), "ws": np.full(4, 0.01, np.float32),
            "wz": np.zeros(4, np.int8), "mq": rng.integers(-127, 128, (6, 5)).astype(np.int8),
            "gq": rng.integers(-127, 128, (5, 6)).astype(np.int8), "zero": np.array(0, np.int8),
            "rows": np.array([-1, 6]), "least": np.array(0, np.uint8),
            "most": np.array(2**bits - 1, np.uint8),
        },
    )  # fmt: skip
    if case == "Gemm":
        model.graph.outputs[0].shape = None
    feeds = {"a": rng.normal(size=(2, 8, 6, 6)).astype(np.float32)}
    expected = run_onnx(model, feeds, expose=["codes"])

    result = WriteOutIslandsPass()(model)

    for level in LEVELS:
        found = run_onnx(result.model, feeds, level=level, expose=["codes"])
        np.testing.assert_array_equal(found["codes"], expected["codes"], err_msg=level)
    assert not WriteOutIslandsPass()(result.model).modified


def test_reasons_of_other_passes_are_kept() -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, H, W] y) {
        p = Mul (x, k)
        y = Conv (p, w)
    }
    """
    qdq = quantized(text, {"w": np.ones((2, 2, 1, 1)), "k": np.ones((2, 1, 1))}, {"x": X})

    model = lower(qdq)

    mul = next(node for node in model.graph if node.op_type == "Mul")
    assert mul.metadata_props[metadata.ISLAND] == "its constant is not one positive number"


def test_a_graph_without_islands_keeps_input_and_output_pairs() -> None:
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { y = Conv (x, w) }"
    model = lower(quantized(text, {"w": np.ones((2, 2, 1, 1))}, {"x": X}))

    assert ops(model) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert not WriteOutIslandsPass()(model).modified


def test_second_run_changes_nothing() -> None:
    model = WriteOutIslandsPass()(_model()).model

    assert not WriteOutIslandsPass()(model).modified
