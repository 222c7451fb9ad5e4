from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes import pipelines
from mpqtool.passes.errors import PassError
from mpqtool.passes.normalize import FoldBatchNormPass, InsertBatchNormPass, without_batch_norm
from mpqtool.passes.values import all_values, array

_CONV = "t = Conv(x, w, b)"
_TEXT = f"net (float[n,4,6,6] x) => (float[n,2,h,k] y) {{ {_CONV} r = Relu(t) y = Conv(r, v) }}"
_TEXTS = {
    "bias": _TEXT,
    "no-bias": _TEXT.replace("w, b", "w"),
    "groups": _TEXT.replace("Conv(x", "Conv<group=2>(x"),
    "depthwise": _TEXT.replace("Conv(x", "Conv<group=4, pads=[1,1,1,1]>(x"),
    "strides": _TEXT.replace("Conv(x", "Conv<strides=[2,2], pads=[1,1,1,1]>(x"),
    "pointwise": _TEXT,
    "open-sizes": _TEXT.replace("6,6", "p,q"),
    "sum": _TEXT.replace("Conv(x", "Conv<pads=[1,1,1,1]>(x").replace("Relu(t)", "Add(t, x)"),
    "two-users": _TEXT.replace("Relu(t)", "Add(u, t)").replace("r =", "u = Sigmoid(t) r ="),
    "one-dimension": _TEXT.replace("6,6", "36").replace("h,k", "h"),
}
_SHAPES = {"groups": (4, 2, 3, 3), "depthwise": (4, 1, 3, 3), "one-dimension": (4, 4, 3)}
_SPREAD = np.array([1.0, 0.0, 40.0, 0.02])


def _weights(name: str = "bias") -> dict[str, Any]:
    """Kernels of very different sizes, one of them zero."""
    rng = np.random.default_rng(0)
    shape = (4, 4, 1, 1) if name == "pointwise" else _SHAPES.get(name, (4, 4, 3, 3))
    w = rng.normal(size=shape) * _SPREAD.reshape(-1, *[1] * (len(shape) - 1))
    v = rng.normal(size=(2, 4, *[1] * (len(shape) - 2)))
    return {"w": w, "v": v} | ({} if name == "no-bias" else {"b": [1.0, 2, -3, 4]})


def _parse(name: str) -> ir.Model:
    return _normal(_TEXTS[name], _weights(name))


def _normal(text: str, weights: dict[str, Any]) -> ir.Model:
    return pipelines.normalize(parse(text, weights))


def _feeds(model: ir.Model) -> dict[str, NDArray[Any]]:
    shape = [size if isinstance(size, int) else 6 for size in model.graph.inputs[0].shape or ()]
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def _statistics(model: ir.Model, name: str = "t") -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Mean and variance of a value on the feeds."""
    t = run_onnx(model, _feeds(model), expose=[name])[name].astype(np.float64)
    axes = (0, *range(2, t.ndim))
    return {name: (t.mean(axes), t.var(axes))}


def _inserted(model: ir.Model) -> ir.Model:
    return pipelines.insert_batch_norm(model, _statistics(model))


def _numbers(model: ir.Model, name: str) -> NDArray[Any]:
    numbers = array(model.graph.initializers[name])
    assert numbers is not None
    return numbers


def _assert_same(before: ir.Model, after: ir.Model) -> None:
    """Sums of at most 36 products, added up in float32: 16 roundings of the largest number."""
    feeds, expose = _feeds(before), ["t"]
    then, now = (run_onnx(model, feeds, expose=expose) for model in (before, after))
    for name, numbers in then.items():
        assert_equivalent(
            {name: numbers}, {name: now[name]}, rtol=0, atol=16 * 2.0**-24 * np.abs(numbers).max()
        )


@pytest.mark.parametrize("name", _TEXTS)
def test_the_network_computes_what_it_did(name: str) -> None:
    model = _parse(name)
    assert without_batch_norm(model) == ("t",)

    inserted = _inserted(model)

    assert ops(inserted) == ["Conv", "BatchNormalization", *ops(model)[1:]]
    conv, norm, *_ = inserted.graph
    assert [value.name for value in conv.inputs if value] == ["x", "w"]
    assert [value.name for value in (*norm.inputs, *norm.outputs) if value] == [
        "t_conv", "w_gamma", "w_beta", "w_mean", "w_var", "t",
    ]  # fmt: skip
    assert (norm.outputs[0].shape, norm.outputs[0].type) == (conv.outputs[0].shape, conv.outputs[0].type)
    assert "b" not in inserted.graph.initializers
    _assert_same(model, inserted)


@pytest.mark.parametrize("name", _TEXTS)
def test_folding_gives_the_network_back(name: str) -> None:
    model = _parse(name)

    folded = pipelines.fold_batch_norm(_inserted(model))

    assert ops(folded) == ops(model)
    assert [value.name for value in all_values(folded.graph)] == [v.name for v in all_values(model.graph)]
    assert set(folded.graph.initializers) == {"w", "v", "w_bias"}
    # Divided, multiplied, and the factor itself: four roundings.
    np.testing.assert_allclose(_numbers(folded, "w"), _numbers(model, "w"), rtol=4 * 2.0**-24)
    _assert_same(model, folded)


def test_the_bias_of_a_folded_file_keeps_its_name() -> None:
    model = pipelines.fold_batch_norm(_inserted(_parse("no-bias")))

    again = pipelines.fold_batch_norm(_inserted(model))

    assert list(again.graph.initializers) == list(model.graph.initializers)


@pytest.mark.parametrize("name", _TEXTS)
def test_the_statistics_are_those_of_the_rescaled_layer(name: str) -> None:
    inserted = _inserted(_parse(name))

    mean, variance = _statistics(inserted, "t_conv")["t_conv"]

    size = np.sqrt(variance)  # float32 rounds the output with its bias, of up to 200 times this size
    np.testing.assert_allclose(_numbers(inserted, "w_mean"), mean, rtol=0, atol=1e-5 * (1 + size.max()))
    np.testing.assert_allclose(_numbers(inserted, "w_var"), variance, rtol=1e-4)


@pytest.mark.parametrize("name", _TEXTS)
def test_kernels_get_one_size(name: str) -> None:
    model = _parse(name)
    sizes, after = (
        np.sqrt(np.square(_numbers(m, "w").reshape(4, -1)).mean(1)) for m in (model, _inserted(model))
    )

    assert after[1] == 0
    common = min(np.median(sizes[[0, 2, 3]]), 0.1)
    np.testing.assert_allclose(after[[0, 2, 3]], common, rtol=1e-6)  # float32 sums
    gamma = _numbers(_inserted(model), "w_gamma")
    assert (gamma > 0).all()
    np.testing.assert_allclose(gamma[1], np.sqrt(1e-5), rtol=1e-6)


@pytest.mark.parametrize(
    "kernels",
    [
        pytest.param(np.zeros((4, 4, 3, 3)), id="all-zero"),
        pytest.param(_weights()["w"] + [[[[0]]], [[[1e-44]]], [[[0]]], [[[0]]]], id="vanishing"),
        pytest.param(np.full((4, 4, 3, 3), 0.25), id="averages"),
    ],
)
def test_kernels_without_spread(kernels: NDArray[Any]) -> None:
    model = _normal(_TEXT, _weights() | {"w": kernels})

    inserted = _inserted(model)

    assert all(np.isfinite(_numbers(inserted, key)).all() for key in inserted.graph.initializers)
    assert np.abs(_numbers(inserted, "w")).max() <= np.abs(kernels).max()
    assert (_numbers(inserted, "w_gamma") > 0).all()
    _assert_same(model, inserted)


def test_kernels_of_one_weight() -> None:
    text = _TEXTS["depthwise"].replace("1,1,1,1", "0,0,0,0")
    model = _normal(text, _weights() | {"w": np.reshape([1.0, -0.1, 40, -2], (4, 1, 1, 1))})

    inserted = _inserted(model)

    np.testing.assert_allclose(_numbers(inserted, "w").ravel(), [0.1, -0.1, 0.1, -0.1], rtol=1e-6)
    _assert_same(model, inserted)


def test_names_that_are_taken_stay() -> None:
    text = _TEXT.replace("r = Relu(t)", "t_conv = Mul(t, w_mean) r = Relu(t_conv)")
    model = _normal(text, _weights() | {"w_mean": np.full((1, 4, 1, 1), -2.0)})

    inserted = _inserted(model)

    norm = inserted.graph[1]
    assert [value.name for value in norm.inputs if value] == [
        "t_conv_1", "w_gamma", "w_beta", "w_mean_1", "w_var",
    ]  # fmt: skip
    _assert_same(model, inserted)


def test_a_bias_that_others_use_stays() -> None:
    model = _normal(_TEXT.replace("Relu(t)", "Conv(t, q, b)"), _weights() | {"q": np.ones((4, 4, 1, 1))})

    inserted = _inserted(model)

    np.testing.assert_array_equal(_numbers(inserted, "b"), _numbers(model, "b"))
    _assert_same(model, inserted)


_TWO = _TEXT.replace("k] y)", "k] y, float[n,4,g,l] z)")
_FED = _TEXT.replace("6] x)", "6] x, float[4] s)")
_NORM = "BatchNormalization(t, b, b, b, g)"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_TEXT.replace("Relu(t)", _NORM), id="normalized"),
        pytest.param(_TEXT.replace(_CONV, "s = Abs(x) t = Relu(s)"), id="last"),
        pytest.param(_TWO.replace(_CONV, "z = Conv(x, w, b) t = Relu(z)"), id="graph-output"),
        pytest.param(_TWO.replace(_CONV, f"{_CONV} z = Sigmoid(t)"), id="last-of-another-head"),
        pytest.param(_TEXT.replace(_CONV, "s = Conv(x, w, b) t = Conv(s, w, b)"), id="weight-shared"),
        pytest.param(_FED.replace(_CONV, "a = Mul(w, s) t = Conv(x, a, b)"), id="weight-computed"),
        pytest.param(_FED.replace(_CONV, "c = Mul(b, s) t = Conv(x, w, c)"), id="bias-computed"),
        pytest.param(_TEXT.replace("6,6", "3,3"), id="one-position"),
        pytest.param(
            _TEXT.replace(_CONV, "p = GlobalAveragePool(x) t = Conv<pads=[1,1,1,1]>(p, w, b)"), id="gate"
        ),
        pytest.param(
            "net (float[n,4] x) => (float[n,2] y) "
            "{ t = Gemm<transB=1>(x, m) r = Relu(t) y = Gemm<transB=1>(r, l) }",
            id="gemm",
        ),
        pytest.param(
            "net (float[n,4,4] x) => (float[n,4,2] y) { t = MatMul(x, m) r = Relu(t) y = MatMul(r, l) }",
            id="matmul",
        ),
    ],
)
def test_layers_that_get_none(text: str) -> None:
    numbers = _weights() | {"g": np.ones(4), "m": np.eye(4), "l": np.ones((2, 4))}
    if "MatMul" in text:
        numbers["l"] = np.ones((4, 2))
    model = _normal(text, numbers)

    assert without_batch_norm(model) == ()


def test_a_normalization_that_cannot_be_folded_does_not_count() -> None:
    text = _FED.replace("Relu(t)", "BatchNormalization(t, s, b, b, s)")

    assert without_batch_norm(_normal(text, _weights())) == ("t",)


def test_names_are_in_graph_order_and_each_has_one_afterwards() -> None:
    text = _TEXT.replace("r = Relu(t)", "s = Conv(t, q) c = Conv<pads=[1,1,1,1]>(s, u) r = Add(c, s)")
    model = _normal(text, _weights() | {"q": np.ones((4, 4, 1, 1)), "u": np.ones((4, 4, 3, 3))})
    names = without_batch_norm(model)
    assert names == ("t", "s", "c")
    statistics = {key: value for name in names for key, value in _statistics(model, name).items()}

    inserted = pipelines.insert_batch_norm(model, statistics)

    assert ops(inserted).count("BatchNormalization") == 3
    assert without_batch_norm(inserted) == ()
    _assert_same(model, inserted)


def test_second_run_changes_nothing() -> None:
    model = _parse("bias")
    pass_ = InsertBatchNormPass(_statistics(model))

    assert pass_(model).modified
    assert not pass_(model).modified
    assert FoldBatchNormPass()(model).modified


def test_the_model_of_the_caller_stays_as_it_is() -> None:
    model = _parse("bias")

    _inserted(model)

    assert ops(model) == ops(_parse("bias"))
    for key, value in _parse("bias").graph.initializers.items():
        np.testing.assert_array_equal(_numbers(model, key), array(value))


@pytest.mark.parametrize("name", ["y", "nothing"])
def test_another_value_is_refused(name: str) -> None:
    with pytest.raises(PassError, match=f"behind '{name}': allowed are t\\."):
        pipelines.insert_batch_norm(_parse("bias"), {name: (np.zeros(2), np.ones(2))})
