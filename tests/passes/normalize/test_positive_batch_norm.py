from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes import pipelines
from mpqtool.passes.arithmetic import code_range, quantize_weight
from mpqtool.passes.normalize import FoldBatchNormPass, PositiveBatchNormPass, batch_norm_factors
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import array
from mpqtool.runtime.session import LEVELS

_NORM = "y = BatchNormalization<epsilon=0.01>(t, gamma, beta, mean, var)"
_CONV = f"net (float[n,4,5,5] x) => (float[n,4,c,d] y) {{ t = Conv(x, w) {_NORM} }}"
_GEMM = f"net (float[n,3] x) => (float[n,4] y) {{ t = Gemm<transB=1>(x, w, b) {_NORM} }}"
_TEXTS = {
    "conv": _CONV,
    "bias": _CONV.replace("Conv(x, w)", "Conv(x, w, b)"),
    "groups": _CONV.replace("Conv(x, w)", "Conv<group=2>(x, w, b)"),
    "gemm": _GEMM,
    "one-number-as-bias": _GEMM.replace("x, w, b", "x, w, one"),
    "row-as-bias": _GEMM.replace("x, w, b", "x, w, row"),
}
_SHAPES = {"conv": (4, 4, 3, 3), "bias": (4, 4, 3, 3), "groups": (4, 2, 3, 3)}


def _weights(name: str = "conv") -> dict[str, Any]:
    return {
        "gamma": [1.5, -0.7, 0.0, -1e-3],
        "beta": [0.1, -3.0, 0.5, 0.0],
        "mean": [0.3, -0.2, 4.0, 1.0],
        "var": [1.0, 0.25, 2.0, 1e-6],
        "b": [1.0, 2, -3, 4],
        "one": [0.7],
        "row": [[1.0, 2, -3, 4]],
        "w": np.random.default_rng(0).normal(size=_SHAPES.get(name, (4, 3))),
    }


def _feeds(model: ir.Model) -> dict[str, NDArray[Any]]:
    shape = [size if isinstance(size, int) else 7 for size in model.graph.inputs[0].shape or ()]
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def _parse(name: str) -> ir.Model:
    return parse(_TEXTS[name], _weights(name))


@pytest.mark.parametrize("name", _TEXTS)
def test_turns_kernels_with_a_negative_gamma(name: str) -> None:
    model, before = _parse(name), _parse(name)
    feeds = _feeds(model)

    result = PositiveBatchNormPass()(model)

    assert result.modified
    assert ops(model) == ops(before)
    assert list(model.graph.initializers) == list(before.graph.initializers)
    factors = batch_norm_factors(model)["w"]
    assert (factors >= 0).all()
    np.testing.assert_array_equal(factors, np.abs(batch_norm_factors(before)["w"]))
    kernels, turned = (array(m.graph.initializers["w"]) for m in (before, model))
    np.testing.assert_array_equal(turned, (kernels.T * [1, -1, 1, -1]).T)
    for level in LEVELS:
        # Floats round alike on both sides of 0.
        assert_equivalent(
            run_onnx(before, feeds, level=level), run_onnx(model, feeds, level=level), rtol=0, atol=0
        )


@pytest.mark.parametrize("name", _TEXTS)
def test_folding_gives_the_same_weights(name: str) -> None:
    model, turned = _parse(name), PositiveBatchNormPass()(_parse(name)).model

    before, after = (FoldBatchNormPass()(m).model.graph.initializers for m in (model, turned))

    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(array(after[key]), array(value), strict=True)


def _codes(weight: ir.Value, scale: NDArray[np.float32]) -> NDArray[np.int8]:
    return quantize_weight(array(weight), scale, [3] * 4, Grid.FULL)


@pytest.mark.parametrize("turned", [True, False], ids=["turned", "control"])
def test_folding_keeps_the_codes_of_the_full_grid(turned: bool) -> None:
    """The lowest code has no negative, which is what a kernel times a negative number would need."""
    weights = _weights() | {"gamma": [2.0, -0.5, -4, 1], "var": [0.99] * 4}
    weights["w"] = np.resize(np.arange(*code_range(3, Grid.FULL)), (4, 4, 3, 3))
    model = parse(_CONV, weights)
    if turned:
        model = pipelines.positive_batch_norm(model)
    factors = batch_norm_factors(model)["w"]
    trained = _codes(model.graph.initializers["w"], np.ones(4, np.float32))

    folded = _codes(FoldBatchNormPass()(model).model.graph.initializers["w"], np.abs(factors))

    signs = np.sign(factors)[:, None, None, None]
    assert np.array_equal(folded, signs * trained) is turned


@pytest.mark.parametrize(("shared", "copy"), [("gamma", "w_gamma"), ("mean", "w_mean"), ("b", "w_bias")])
def test_what_others_use_is_copied(shared: str, copy: str) -> None:
    text = _TEXTS["bias"].replace("d] y)", "d] y, float[4] z)").replace(_NORM, f"{_NORM} z = Neg({shared})")
    model, before = (parse(text, _weights()) for _ in range(2))
    feeds = _feeds(model)

    PositiveBatchNormPass()(model)

    assert set(model.graph.initializers) - set(before.graph.initializers) == {copy}
    assert (batch_norm_factors(model)["w"] >= 0).all()
    assert_equivalent(run_onnx(before, feeds), run_onnx(model, feeds), rtol=0, atol=0)


_CHAINS = {
    "behind-another": "s = Conv(x, w) t = BatchNormalization(s, other, beta, b, var)",
    "bias": "s = Conv(x, w, b) t = BatchNormalization(s, other, b2, m2, var)",
    "three": "r = Conv(x, w) s = BatchNormalization(r, other, b2, m2, var) "
    "t = BatchNormalization(s, third, b, m3, var)",
    "same-parameters": "s = Conv(x, w) t = BatchNormalization(s, gamma, beta, mean, var)",
    "gemm": "s = Gemm<transB=1>(x, w, row) t = BatchNormalization(s, other, b2, m2, var)",
}


def _chain(name: str) -> ir.Model:
    rng, is_gemm = np.random.default_rng(2), name == "gemm"
    text = f"{(_GEMM if is_gemm else _CONV).split('t = ')[0]} {_CHAINS[name]} {_NORM} }}"
    weights = _weights("gemm" if is_gemm else "conv") | {
        key: rng.normal(size=4) for key in ("b2", "m2", "m3")
    }
    return parse(text, weights | {"other": [-1.5, -0.4, 2.0, 0.6], "third": [1.0, -1, -1, 1]})


@pytest.mark.parametrize("name", _CHAINS)
def test_one_normalization_behind_another(name: str) -> None:
    model, before = _chain(name), _chain(name)

    result = PositiveBatchNormPass()(model)

    assert result.modified
    gammas = [array(node.inputs[1]) for node in model.graph if node.op_type == "BatchNormalization"]
    assert len(gammas) >= 2
    assert all((gamma >= 0).all() for gamma in gammas)
    feeds = _feeds(model)
    assert_equivalent(run_onnx(before, feeds), run_onnx(model, feeds), rtol=0, atol=0)
    folded, turned = (FoldBatchNormPass()(m).model.graph.initializers for m in (before, model.clone()))
    for key, value in folded.items():
        np.testing.assert_array_equal(array(turned[key]), array(value), strict=True)
    assert not PositiveBatchNormPass()(model).modified


def test_what_a_normalization_takes_twice_is_copied() -> None:
    text = _CONV.replace("gamma, beta, mean", "gamma, gamma, gamma")
    model, before = (parse(text, _weights()) for _ in range(2))

    PositiveBatchNormPass()(model)

    assert (batch_norm_factors(model)["w"] >= 0).all()
    feeds = _feeds(model)
    assert_equivalent(run_onnx(before, feeds), run_onnx(model, feeds), rtol=0, atol=0)


_TWO = "net (float[n,4,5,5] x) => (float[n,4,c,d] y, float[n,4,e,f] z)"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_CONV.replace("gamma,", "var,"), id="gamma-positive"),
        pytest.param(_CONV.replace("epsilon=0.01", "training_mode=1"), id="training-mode"),
        pytest.param(
            _CONV.replace("x) =>", "x, float[4] m) =>").replace("mean", "m"), id="parameter-not-constant"
        ),
        pytest.param(_CONV.replace("d] y)", "d] y, float[n,4,e,f] t)"), id="graph-output"),
        pytest.param(f"{_TWO} {{ t = Conv(x, w) z = Relu(t) {_NORM} }}", id="other-users"),
        pytest.param(_CONV.replace("t = Conv(x, w)", "v = Abs(w) t = Conv(x, v)"), id="weight-not-constant"),
        pytest.param(f"{_TWO} {{ t = Conv(x, w) s = Relu(x) z = Conv(s, w) {_NORM} }}", id="weight-shared"),
        pytest.param(_CONV.replace("t = Conv(x, w)", "s = Conv(x, w) t = Relu(s)"), id="not-after-a-layer"),
        pytest.param(
            _CONV.replace(
                "t = Conv(x, w)", "s = Conv(x, w) r = Relu(s) t = BatchNormalization(r, var, b, b, var)"
            ),
            id="two-not-after-a-layer",
        ),
        pytest.param(
            _CONV.replace(
                "t = Conv(x, w)", "s = Conv(x, w) t = BatchNormalization(s, var, b, b, var)"
            ).replace("epsilon=0.01", "training_mode=1"),
            id="behind-another-in-training-mode",
        ),
    ],
)
def test_leaves_alone(text: str) -> None:
    model, before = (parse(text, _weights()) for _ in range(2))

    assert not PositiveBatchNormPass()(model).modified
    assert model.graph.initializers.keys() == before.graph.initializers.keys()
    for key, value in before.graph.initializers.items():
        np.testing.assert_array_equal(array(model.graph.initializers[key]), array(value))


@pytest.mark.parametrize("name", _TEXTS)
def test_second_run_changes_nothing(name: str) -> None:
    model = PositiveBatchNormPass()(_parse(name)).model

    assert not PositiveBatchNormPass()(model).modified


def test_the_model_of_the_caller_stays_as_it_is() -> None:
    model = _parse("bias")

    pipelines.positive_batch_norm(model)

    for key, value in _parse("bias").graph.initializers.items():
        np.testing.assert_array_equal(array(model.graph.initializers[key]), array(value))
