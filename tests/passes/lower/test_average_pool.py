from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.average_pool import LowerAveragePoolPass
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import ActivationQuant, Plan
from mpqtool.passes.values import array

X = np.random.default_rng(0).normal(size=(5, 3, 6, 4)).astype(np.float32)


def _model(pool: str, *, shape: str = "N, 3, 6, 4", scale: float = 0.011, bits: int = 8) -> ir.Model:
    model = normal(f"net (float[{shape}] x) => (float[N, 3, H, W] y) {{ y = {pool} (x) }}")
    x = ActivationQuant(name="x", bits=8, scale=0.02, zero_point=117)
    y = ActivationQuant(name="y", bits=bits, scale=scale, zero_point=2 ** (bits - 1))
    return quantize(model, Plan(weights=(), activations=(x, y)))


def _lowered_codes(model: ir.Model) -> tuple[np.ndarray, np.ndarray]:
    """The codes of x and y."""
    model.graph.opset_imports["com.microsoft"] = 1
    found = run_onnx(model, {"x": X}, expose=["x.codes", "y.codes"])
    return found["x.codes"].astype(np.int64) - 117, found["y.codes"]


@pytest.mark.parametrize("bits", [4, 8])
def test_global_pool_is_the_sum_times_one_multiplier(bits: int) -> None:
    result = LowerAveragePoolPass()(_model("GlobalAveragePool", bits=bits))

    assert result.modified
    assert "QLinearGlobalAveragePool" in ops(result.model)
    x, y = _lowered_codes(result.model)
    factor = arithmetic.mean_multiplier(0.02, 0.011, 24)
    acc = x.sum(axis=(2, 3), keepdims=True)
    expected = arithmetic.requantize(acc, factor, 2 ** (bits - 1), 0, 2**bits - 1)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("attributes", "pads", "strides"),
    [
        pytest.param("kernel_shape = [3, 2], strides = [2, 1]", (0, 0), (2, 1), id="no-padding"),
        pytest.param(
            "kernel_shape = [3, 2], pads = [1, 1, 1, 1], count_include_pad = 1",
            (1, 1),
            (1, 1),
            id="padding-counts",
        ),
        pytest.param('kernel_shape = [3, 2], auto_pad = "VALID"', (0, 0), (1, 1), id="valid"),
    ],
)
def test_pool_is_a_depthwise_convolution_with_ones(
    attributes: str, pads: tuple[int, int], strides: tuple[int, int]
) -> None:
    result = LowerAveragePoolPass()(_model(f"AveragePool <{attributes}>"))

    assert result.modified
    conv = next(node for node in result.model.graph if node.op_type == "QLinearConv")
    np.testing.assert_array_equal(array(conv.inputs[4]), np.full(3, 1 / 6, np.float32))
    x, y = _lowered_codes(result.model)
    padded = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[0]), (pads[1], pads[1])])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), axis=(2, 3))
    acc = windows[:, :, :: strides[0], :: strides[1]].sum(axis=(4, 5))
    factor = arithmetic.multiplier(0.02, np.float32(1 / math.prod((3, 2))), 0.011)
    np.testing.assert_array_equal(y, arithmetic.requantize(acc, factor, 128, 0, 255))


def test_divisors_that_vary_are_a_map() -> None:
    result = LowerAveragePoolPass()(
        _model("AveragePool <kernel_shape = [3, 2], pads = [1, 0, 0, 0], strides = [2, 2]>")
    )

    assert "QLinearConv" not in ops(result.model)
    x, y = _lowered_codes(result.model)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), axis=(2, 3))
    acc = windows[:, :, ::2, ::2].sum(axis=(4, 5))
    divisors = np.array([[4, 4], [6, 6], [6, 6]])
    factor = arithmetic.multiplier(0.02, (1 / divisors).astype(np.float32), 0.011)
    np.testing.assert_array_equal(y, arithmetic.requantize(acc, factor, 128, 0, 255))


@pytest.mark.parametrize(
    ("pool", "options", "reason"),
    [
        pytest.param(
            "AveragePool <kernel_shape = [2, 2], pads = [1, 0, 0, 0]>",
            {"shape": "N, 3, h, w"},
            "its sizes are not known",
            id="padding",
        ),
        pytest.param(
            "AveragePool <kernel_shape = [4, 3], ceil_mode = 1, strides = [3, 3]>",
            {"shape": "N, 3, h, w"},
            "its sizes are not known",
            id="ceil",
        ),
        pytest.param(
            "AveragePool <kernel_shape = [2, 2]>",
            {"shape": "N, C, 6, 4"},
            "channels is not known",
            id="channels",
        ),
        pytest.param("GlobalAveragePool", {"scale": 1e-7}, "too far apart", id="multiplier-out-of-range"),
    ],
)
def test_is_left_alone(pool: str, options: dict[str, object], reason: str) -> None:
    model = _model(pool, **options)  # type: ignore[arg-type]

    result = LowerAveragePoolPass()(model)

    assert not result.modified
    node = next(n for n in result.model.graph if n.op_type == pool.split()[0])
    assert reason in node.meta["mpqtool.reason"]


def test_onnx_runtime_needs_the_multiplier_in_range() -> None:
    """Why a multiplier of 256 or more is left alone; the day this runs, that guard can go."""
    model = _model("GlobalAveragePool", scale=0.02 / 24 / 256 * 1.01)
    lowered = LowerAveragePoolPass()(model).model
    assert "QLinearGlobalAveragePool" in ops(lowered)
    lowered.graph.initializers["y.scale"].const_value = ir.tensor(np.float32(0.02 / 24 / 256 * 0.99))

    with pytest.raises(Exception, match="parameter out of computation range"):
        _lowered_codes(lowered)


@pytest.mark.parametrize(
    "pool",
    [
        "GlobalAveragePool",
        "AveragePool <kernel_shape = [2, 2]>",
        "AveragePool <kernel_shape = [2, 2], pads = [1, 0, 0, 0]>",
    ],
)
def test_second_run_changes_nothing(pool: str) -> None:
    model = LowerAveragePoolPass()(_model(pool)).model

    assert not LowerAveragePoolPass()(model).modified
