from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.normalize import FoldBatchNormPass, batch_norm_factors
from mpqtool.passes.values import array

_NORM = "y = BatchNormalization<epsilon=0.01>(t, gamma, beta, mean, var)"
_CONV = f"net (float[n,2,5,5] x) => (float[n,4,c,d] y) {{ t = Conv(x, w) {_NORM} }}"
_STATISTICS: dict[str, Any] = {
    "gamma": [1.5, -0.7, 0.0, 1e-3],
    "beta": [0.1, -3.0, 0.5, 0.0],
    "mean": [0.3, -0.2, 4.0, 1.0],
    "var": [1.0, 0.25, 2.0, 1e-6],
}


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, Any]:
    return {**_STATISTICS, "w": rng.normal(size=(4, 2, 3, 3))}


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {"x": rng.normal(size=(2, 2, 5, 5)).astype(np.float32)}


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_folds_into_a_conv(weights: dict[str, Any], feeds: dict[str, Any], bias: bool) -> None:
    text = _CONV.replace("Conv(x, w)", "Conv(x, w, b)") if bias else _CONV
    weights |= {"b": [1.0, 2, -3, 4]} if bias else {}
    before = run_onnx(parse(text, weights), feeds)
    model = parse(text, weights)
    factors = batch_norm_factors(model)
    unfolded = array(model.graph.initializers["w"])

    result = FoldBatchNormPass()(model)

    assert result.modified
    assert ops(model) == ["Conv"]
    conv = model.graph[0]
    assert [value.name for value in conv.inputs] == ["x", "w", "b" if bias else "w_bias"]
    assert set(model.graph.initializers) == {"w", "b" if bias else "w_bias"}
    assert conv.outputs[0].name == "y"
    # Values are of the order of ten: float32 rounding of another order of the same products.
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        array(conv.inputs[1]), unfolded * factors["w"][:, None, None, None], strict=True
    )


def test_factors_of_one_normalization_behind_another_are_their_product(weights: dict[str, Any]) -> None:
    first = _NORM.replace("y =", "u =").replace("gamma, beta", "gamma2, beta")
    text = _CONV.replace(_NORM, f"{first} {_NORM.replace('(t,', '(u,')}")
    model = parse(text, weights | {"gamma2": [2.0, 3.0, -0.5, 1.0]})
    factors, unfolded = batch_norm_factors(model)["w"], array(model.graph.initializers["w"])

    FoldBatchNormPass()(model)

    assert ops(model) == ["Conv"]
    folded = array(model.graph.initializers["w"])
    # The weight is multiplied twice, and rounded twice.
    np.testing.assert_allclose(folded, unfolded * factors[:, None, None, None], rtol=3e-7)


def test_factors_are_gamma_over_the_deviation(weights: dict[str, Any]) -> None:
    factors = batch_norm_factors(parse(_CONV, weights))
    assert factors.keys() == {"w"}
    assert factors["w"].dtype == np.float32
    expected = np.array(_STATISTICS["gamma"]) / np.sqrt(np.array(_STATISTICS["var"]) + 0.01)
    np.testing.assert_allclose(factors["w"], expected, rtol=1e-6)


def test_folds_into_a_gemm(rng: np.random.Generator) -> None:
    text = f"net (float[n,3] x) => (float[n,4] y) {{ t = Gemm<transB=1>(x, w, b) {_NORM} }}"
    weights = {**_STATISTICS, "w": rng.normal(size=(4, 3)), "b": [1.0, 2, 3, 4]}
    feeds = {"x": rng.normal(size=(5, 3)).astype(np.float32)}
    before = run_onnx(parse(text, weights), feeds)
    model = FoldBatchNormPass()(parse(text, weights)).model
    assert ops(model) == ["Gemm"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)  # as above


def test_a_bias_that_others_use_is_copied(weights: dict[str, Any], feeds: dict[str, Any]) -> None:
    text = (
        "net (float[n,2,5,5] x) => (float[n,4,c,d] y, float[n,4,e,f] z) "
        f"{{ t = Conv(x, w, b) {_NORM} z = Conv(x, v, b) }}"
    )
    weights |= {"b": [1.0, 2, 3, 4], "v": weights["w"] * 2}
    before = run_onnx(parse(text, weights), feeds)
    model = FoldBatchNormPass()(parse(text, weights)).model
    assert [node.inputs[2].name for node in model.graph] == ["w_bias", "b"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)  # as above


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_CONV.replace("epsilon=0.01", "training_mode=1"), id="training-mode"),
        pytest.param(
            _CONV.replace("x) =>", "x, float[4] m) =>").replace("mean", "m"), id="parameter-not-constant"
        ),
        pytest.param(_CONV.replace("d] y)", "d] y, float[n,4,e,f] t)"), id="graph-output"),
        pytest.param(
            _CONV.replace("d] y)", "d] y, float[n,4,e,f] z)").replace(
                "t = Conv(x, w)", "t = Conv(x, w) z = Relu(t)"
            ),
            id="other-users",
        ),
        pytest.param(_CONV.replace("t = Conv(x, w)", "v = Abs(w) t = Conv(x, v)"), id="weight-not-constant"),
        pytest.param(
            _CONV.replace("d] y)", "d] y, float[n,4,e,f] z)").replace(
                "t = Conv(x, w)", "t = Conv(x, w) s = Relu(x) z = Conv(s, w)"
            ),
            id="weight-shared",
        ),
        pytest.param(_CONV.replace("t = Conv(x, w)", "s = Conv(x, w) t = Relu(s)"), id="not-after-a-layer"),
    ],
)
def test_leaves_alone(weights: dict[str, Any], text: str) -> None:
    model = parse(text, weights)
    before = array(model.graph.initializers["w"]).copy()
    assert batch_norm_factors(model) == {}
    assert not FoldBatchNormPass()(model).modified
    assert "BatchNormalization" in ops(model)
    np.testing.assert_array_equal(array(model.graph.initializers["w"]), before)


def test_second_run_changes_nothing(weights: dict[str, Any]) -> None:
    model = FoldBatchNormPass()(parse(_CONV, weights)).model
    assert not FoldBatchNormPass()(model).modified


def test_scales_of_the_unfolded_weight_carry_over(weights: dict[str, Any]) -> None:
    # What batch_norm_factors is for: codes stay, but for the sign, when scales grow by abs(a).
    model = parse(_CONV, weights)
    factors = batch_norm_factors(model)["w"][:2]
    scale = np.float32(0.05)
    codes = np.rint(array(model.graph.initializers["w"])[:2] / scale)
    folded = array(FoldBatchNormPass()(model).model.graph.initializers["w"])[:2]
    again = np.rint(folded / (scale * np.abs(factors))[:, None, None, None])
    np.testing.assert_array_equal(again, codes * np.sign(factors)[:, None, None, None])
