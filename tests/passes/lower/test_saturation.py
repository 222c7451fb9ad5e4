from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated, normal

from mpqtool.passes import metadata
from mpqtool.passes.lower.saturation import GuardSaturationPass, saturates
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import array

X = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)


def _qdq(weight_bits: int, grid: Grid, activation_bits: int = 8) -> ir.Model:
    rng = np.random.default_rng(0)
    text = """
    net (float[N, 2, 6, 6] x) => (float[N, 5] y) {
        c = Conv (x, w, b)
        r = Relu (c)
        g = GlobalAveragePool (r)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, v)
    }
    """
    weights = {"w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3), "v": rng.normal(size=(5, 3))}
    model = normal(text, weights)
    options = {"weight_bits": weight_bits, "activation_bits": activation_bits, "grid": grid}
    return quantize(model, calibrated(model, {"x": X}, **options))  # type: ignore[arg-type]


def _layers(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in ("QLinearConv", "QGemm")]


@pytest.mark.parametrize(
    ("weight_bits", "grid", "activation_bits", "unsigned"),
    [
        pytest.param(6, Grid.ODD, 8, [False, False], id="pair-sums-fit"),
        pytest.param(7, Grid.SIGNED, 8, [False, False], id="signed-7-bits"),
        pytest.param(7, Grid.ODD, 8, [True, True], id="odd-7-bits"),
        pytest.param(8, Grid.SIGNED, 8, [True, True], id="8-bits"),
        pytest.param(8, Grid.SIGNED, 7, [True, False], id="7-bit-activations-but-the-input"),
    ],
)
def test_weights_that_would_saturate_are_stored_as_uint8(
    weight_bits: int, grid: Grid, activation_bits: int, unsigned: list[bool]
) -> None:
    qdq = _qdq(weight_bits, grid, activation_bits)
    layers = _layers(lower(qdq))
    for layer, is_unsigned in zip(layers, unsigned, strict=True):
        zero = array(layer.inputs[5])
        assert zero is not None
        assert (zero.dtype == np.uint8) is is_unsigned
        assert np.all(zero == (128 if is_unsigned else 0))
        stored = array(layer.inputs[3])
        if stored is not None:  # not packed
            assert stored.dtype == zero.dtype
            assert not saturates(layer)

    with_vnni = lower(qdq, vnni=True)

    assert all(array(layer.inputs[5]).dtype == np.int8 for layer in _layers(with_vnni))  # type: ignore[union-attr]
    assert (metadata.VNNI in with_vnni.metadata_props) is any(unsigned)


def test_uint8_weights_give_the_codes_of_int8_ones() -> None:
    """Small inputs: no pair saturates here, so both forms are exact on any CPU."""
    qdq, x = _qdq(8, Grid.SIGNED), X / 4
    names = ["r.codes", "g.codes"]

    guarded = run_onnx(lower(qdq), {"x": x}, expose=names)
    plain = run_onnx(lower(qdq, vnni=True), {"x": x}, expose=names)

    assert np.ptp(guarded["r.codes"]) > 20
    assert_equivalent(plain, guarded, rtol=0, atol=0)


def test_the_weight_of_two_layers_is_shifted_once() -> None:
    text = """
    net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
        c = Conv (x, w)
        y = Conv (c, w)
    }
    """
    model = normal(text, {"w": np.random.default_rng(0).normal(size=(2, 2, 1, 1))})
    plan = calibrated(model, {"x": X}, weight_bits=8, grid=Grid.SIGNED)

    first, second = _layers(lower(quantize(model, plan)))

    assert first.inputs[3] is second.inputs[3]
    assert array(first.inputs[3]).dtype == np.uint8  # type: ignore[union-attr]


@pytest.mark.parametrize("vnni", [False, True])
def test_second_run_changes_nothing(vnni: bool) -> None:
    model = lower(_qdq(8, Grid.SIGNED), vnni=vnni)

    assert not GuardSaturationPass(vnni=vnni)(model).modified
