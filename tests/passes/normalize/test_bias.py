from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.normalize import FuseAddIntoConvBiasPass, RemoveZeroBiasPass
from mpqtool.passes.values import array

_W = np.arange(24).reshape(4, 2, 1, 3) / 7
_ADD = "net (float[n,2,5,5] x) => (float[n,4,c,d] y) { t = Conv(x, w) y = Add(t, c) }"
_FEEDS = {"x": np.linspace(-2, 3, 100, dtype=np.float32).reshape(2, 2, 5, 5)}


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)], ids=["rank4", "rank3"])
@pytest.mark.parametrize("swapped", [False, True], ids=["conv+c", "c+conv"])
def test_fuses_a_constant_per_channel(shape: tuple[int, ...], swapped: bool) -> None:
    text = _ADD.replace("Add(t, c)", "Add(c, t)") if swapped else _ADD
    weights = {"w": _W, "c": np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape) / 3}
    before = run_onnx(parse(text, weights), _FEEDS)

    result = FuseAddIntoConvBiasPass()(parse(text, weights))

    assert result.modified
    assert ops(result.model) == ["Conv"]
    assert [value.name for value in result.model.graph[0].inputs] == ["x", "w", "c"]
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    # The same float32 additions, except that the runtime may start its sum from the bias: seven of them,
    # each off by half a unit in the last place (6e-8) at most, of what does not cancel; atol is for 0.
    assert_equivalent(before, run_onnx(result.model, _FEEDS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("group", [1, 2])
def test_a_transposed_convolution(group: int) -> None:
    text = f"""net (float[n,2,5,5] x) => (float[n,4,c,d] y) {{
        t = ConvTranspose<group={group}>(x, w) y = Add(t, c) }}"""
    weights = {"w": _W.reshape(2, 4, 1, 3)[:, : 4 // group], "c": [[[1.0]], [[2]], [[3]], [[4]]]}
    before = run_onnx(parse(text, weights), _FEEDS)
    model = FuseAddIntoConvBiasPass()(parse(text, weights)).model
    assert ops(model) == ["ConvTranspose"]
    np.testing.assert_array_equal(array(model.graph[0].inputs[2]), [1, 2, 3, 4])
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)  # as above


def test_adds_to_the_bias_that_is_there() -> None:
    text = _ADD.replace("Conv(x, w)", "Conv(x, w, b)")
    weights = {"w": _W, "b": [1.0, 2, 3, 4], "c": [[[10.0]], [[20]], [[30]], [[40]]]}
    model = FuseAddIntoConvBiasPass()(parse(text, weights)).model
    assert model.graph[0].inputs[2].name == "b"
    np.testing.assert_array_equal(array(model.graph[0].inputs[2]), [11, 22, 33, 44])


def test_copies_a_constant_that_others_use() -> None:
    text = "net (float[n,2,5,5] x) => (float[n,4,c,d] y) { t = Conv(x, w) u = Add(t, c) y = Mul(u, c) }"
    weights = {"w": _W, "c": [[[1.0]], [[2]], [[3]], [[4]]]}
    before = run_onnx(parse(text, weights), _FEEDS)
    model = FuseAddIntoConvBiasPass()(parse(text, weights)).model
    assert model.graph[0].inputs[2].name == "w_bias"
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)  # as above


@pytest.mark.parametrize(
    ("text", "c"),
    [
        pytest.param(_ADD, np.ones((5, 3)), id="varies-over-positions"),
        pytest.param(_ADD, np.ones((2, 4, 1, 1)), id="varies-over-samples"),
        pytest.param(_ADD, np.ones(()), id="one-for-all-channels"),
        pytest.param(
            "net (float[n,2,5,5] x) => (float[n,4,c,d] y, float[n,4,e,f] t) { t = Conv(x, w) y = Add(t, c) }",
            np.ones((4, 1, 1)),
            id="graph-output",
        ),
        pytest.param(
            "net (float[n,2,5,5] x) => (float[n,4,c,d] y) { t = Conv(x, w) u = Add(t, c) y = Mul(u, t) }",
            np.ones((4, 1, 1)),
            id="other-users",
        ),
        pytest.param(
            "net (float[n,2,5,5] x, float[4] b) => (float[n,4,c,d] y) { t = Conv(x, w, b) y = Add(t, c) }",
            np.ones((4, 1, 1)),
            id="bias-not-constant",
        ),
        pytest.param(
            "net (float[n,2,5,5] x) => (float[n,4,c,d] y) { v = Relu(w) t = Conv(x, v) y = Add(t, c) }",
            np.ones((4, 1, 1)),
            id="weight-not-constant",
        ),
        pytest.param(
            "net (float[n,2,5,5] x) => (float[n,4,c,d] y) "
            "{ t = Conv(x, w) r = Relu(x) s = Conv(r, w) y = Add(t, s) z = Add(t, c) }",
            np.ones((4, 1, 1)),
            id="not-a-constant",
        ),
    ],
)
def test_leaves_alone(text: str, c: np.ndarray) -> None:
    assert not FuseAddIntoConvBiasPass()(parse(text, {"w": _W, "c": c})).modified


def test_second_run_changes_nothing() -> None:
    model = FuseAddIntoConvBiasPass()(parse(_ADD, {"w": _W, "c": np.ones((4, 1, 1))})).model
    assert not FuseAddIntoConvBiasPass()(model).modified


_NORM = "y = BatchNormalization(t, s, s, s, s)"


def _layer(op: str, bias: list[float], behind: str) -> ir.Model:
    shape = "n,3" if "Gemm" in op else "n,3,4,4"
    return parse(
        f"net (float[{shape}] x) => (float y) {{ t = {op}  {behind} }}",
        {"w": np.ones((2, 3) if "Gemm" in op else (2, 3, 1, 1)), "b": bias, "s": np.ones(2)},
    )


@pytest.mark.parametrize("op", ["Conv(x, w, b)", "Gemm<transB=1>(x, w, b)"], ids=["conv", "gemm"])
@pytest.mark.parametrize(
    ("bias", "behind", "parameters", "dropped"),
    [
        pytest.param([0.0, 0], _NORM, None, True, id="zeros-before-normalization"),
        pytest.param([0.0, 1e-30], _NORM, None, False, id="almost"),
        pytest.param([0.0, 0], "y = Relu(t)", None, False, id="may-be-a-parameter"),
        pytest.param([0.0, 0], "y = Relu(t)", {"b"}, False, id="is-a-parameter"),
        pytest.param([0.0, 0], "y = Relu(t)", {"w"}, True, id="is-no-parameter"),
        pytest.param([1.0, 0], "y = Relu(t)", {"w"}, False, id="is-no-parameter-but-counts"),
    ],
)
def test_drops_only_zeros_that_are_nobodys(
    op: str, bias: list[float], behind: str, parameters: set[str] | None, dropped: bool
) -> None:
    before = _layer(op, bias, behind)
    result = RemoveZeroBiasPass(parameters)(before.clone())
    assert result.modified is dropped
    assert len(result.model.graph[0].inputs) == (2 if dropped else 3)
    feeds = {"x": np.ones((2, 3) if "Gemm" in op else (2, 3, 4, 4), np.float32)}
    assert_equivalent(run_onnx(before, feeds), run_onnx(result.model, feeds), rtol=0, atol=0)
    assert not RemoveZeroBiasPass(parameters)(result.model).modified


def test_a_bias_from_outside_is_kept() -> None:
    model = parse(
        "net (float[n,3] x, float[2] b) => (float[n,2] y) { y = Gemm<transB=1>(x, w, b) }",
        {"w": np.ones((2, 3))},
    )
    assert isinstance(model, ir.Model)
    assert not RemoveZeroBiasPass(())(model).modified


def test_one_channel_takes_a_scalar_that_is_its_weight_too() -> None:
    text = "net (float[n,1,5,5] x) => (float[n,1,5,5] y) { t = Conv(x, w) y = Add(t, w) }"
    weights, feeds = {"w": [[[[3.0]]]]}, {"x": _FEEDS["x"].reshape(4, 1, 5, 5)}
    before = run_onnx(parse(text, weights), feeds)
    model = FuseAddIntoConvBiasPass()(parse(text, weights)).model
    assert ops(model) == ["Conv"]
    assert set(model.graph.initializers) == {"w", "w_bias"}
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-6, atol=1e-6)  # as above
