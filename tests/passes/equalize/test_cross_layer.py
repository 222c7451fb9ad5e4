from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from channels import feeds_of, maxima_of, names_of, quantized_per_tensor, sqnr
from compare import assert_equivalent, run_onnx
from graphs import residual_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import ops, parse

from mpqtool.passes import pipelines
from mpqtool.passes.equalize import EqualizeLayersPass, clipped_values
from mpqtool.passes.errors import PassError
from mpqtool.passes.layers import by_channel, is_layer
from mpqtool.passes.values import array

RELATIVE = 2e-5
"""Each changed weight, bias and product is rounded once more to float32, 6e-8; sums of some hundred of them,
as a part of the largest number of the output."""

_HEAD = "net (float[n,3,6,6] x) => (float[n,5,h,k] y)"
_PAIR = f"{_HEAD} {{ t = Conv(x, w, b) r = Relu(t) y = Conv(r, v, c) }}"
_SEPARABLE = (
    f"{_HEAD} {{ t = Conv(x, w, b) r = Relu(t) "
    "d = Conv<group=4, pads=[1,1,1,1]>(r, u, e) s = Relu(d) y = Conv(s, v, c) }"
)
_FLAT = "net (float[n,3,6,6] x) => (float[n,5] y)"
_BETWEEN = {
    "nothing": "r = Identity(t)",
    "relu": "r = Relu(t)",
    "leaky": "r = LeakyRelu<alpha=0.3>(t)",
    "prelu": "r = PRelu(t, slopes)",
    "open-clip": "r = Clip(t, zero)",
    "max-pool": "p = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(t) r = Relu(p)",
    "average-pool": "p = Relu(t) r = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0], count_include_pad=1>(p)",
    "global-pool": "p = Relu(t) r = GlobalAveragePool(p)",
    "factor": "p = Relu(t) r = Mul(p, half)",
}
_TEXTS = {
    **{name: _PAIR.replace("r = Relu(t)", text) for name, text in _BETWEEN.items()},
    "no-bias": _PAIR.replace("w, b", "w").replace("v, c", "v"),
    "padded": _PAIR.replace("Conv(", "Conv<pads=[1,1,1,1]>("),
    "groups": _PAIR.replace("Conv(r", "Conv<group=2>(r").replace("n,5", "n,6"),
    "flatten": f"{_FLAT} {{ t = Conv(x, w, b) r = Relu(t) f = Flatten(r) y = Gemm<transB=1>(f, v, c) }}",
    "gemm": "net (float[n,3] x) => (float[n,5] y) { "
    "t = Gemm<transB=1>(x, w, one) r = Relu(t) y = Gemm<transB=1>(r, v, c) }",
    "separable": _SEPARABLE,
    "reshape": _PAIR.replace("Relu(t)", "Reshape(t, runs)").replace("h,k", "h"),
    "one-dimension": _PAIR.replace("6,6", "6").replace("h,k", "h"),
}  # fmt: skip
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "groups": {"v": (6, 2, 1, 1), "c": (6,)},
    "flatten": {"v": (5, 4 * 16)},
    "gemm": {"w": (4, 3), "v": (5, 4)},
    "one-dimension": {"w": (4, 3, 3), "v": (5, 4, 1)},
    "reshape": {"v": (5, 8, 1)},
    "padded": {"v": (5, 4, 3, 3)},
}
_UNEQUAL = np.array([1.0, 30.0, 0.02, 4.0])


def _weights(name: str = "", seed: int = 0) -> dict[str, Any]:
    """Kernels of very different sizes; no two numbers are related."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "u": (4, 1, 3, 3), "e": (4,), "v": (5, 4, 1, 1), "c": (5,)}
    numbers = {key: rng.normal(size=shape) for key, shape in (shapes | _SHAPES.get(name, {})).items()}
    for key in ("w", "b", "u"):
        sizes = rng.permutation(_UNEQUAL) if key == "u" else _UNEQUAL
        numbers[key] *= sizes.reshape(-1, *[1] * (numbers[key].ndim - 1))
    constants = {"slopes": np.float32([[[0.1]], [[0.0]], [[2.0]], [[0.5]]]), "zero": 0.0, "half": 0.37}
    return numbers | constants | {"six": 6.0, "one": [0.7], "runs": np.array([0, 8, 8])}


def _parse(name: str, **changes: Any) -> ir.Model:
    text, weights = _TEXTS.get(name, name), _weights(name) | changes
    used = set(re.findall(r"\w+", text))
    model = parse(text, {key: numbers for key, numbers in weights.items() if key in used})
    return pipelines.normalize(model) if "Reshape" in text else model  # which needs shapes


def _ranges(model: ir.Model, target: str, source: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The largest weight of each channel, in the layer that makes and the one that uses it."""
    before, behind = (
        next(node for node in model.graph if is_layer(node) and node.inputs[1].name == name)
        for name in (source, target)
    )
    kernels = np.abs(array(before.inputs[1]))
    first = kernels.reshape(len(kernels), -1).max(axis=1)
    return first, np.abs(by_channel(behind, len(first))).max(axis=(1, 3)).reshape(-1)


def _assert_same(before: ir.Model, after: ir.Model) -> None:
    feeds = feeds_of(before)
    wanted, found = run_onnx(before, feeds), run_onnx(after, feeds)
    for name, numbers in wanted.items():
        atol = RELATIVE * float(np.abs(numbers).max())
        assert_equivalent({name: numbers}, {name: found[name]}, rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name for name in _TEXTS if name != "separable"])
def test_both_layers_get_the_same_range(name: str) -> None:
    model = _parse(name)
    before = model.clone()
    r1, r2 = _ranges(before, "v", "w")

    result = EqualizeLayersPass()(model)

    assert result.modified
    assert ops(model) == ops(before)
    assert names_of(model) == names_of(before)
    for found in _ranges(model, "v", "w"):
        np.testing.assert_allclose(found, np.sqrt(r1 * r2), rtol=1e-6)  # float32
    _assert_same(before, model)


def test_the_factor_of_two_layers_is_that_of_the_paper() -> None:
    """Nagel et al., equation 11: S = sqrt(r1 / r2), the first layer divided, the second multiplied by it."""
    model = _parse("relu")
    weights = _weights()
    r1, r2 = _ranges(model, "v", "w")
    s = np.sqrt(r1 / r2)

    EqualizeLayersPass()(model)

    expected = {
        "w": weights["w"] / s[:, None, None, None],
        "b": weights["b"] / s,
        "v": weights["v"] * s[None, :, None, None],
        "c": weights["c"],
    }
    for key, numbers in expected.items():
        np.testing.assert_allclose(array(model.graph.initializers[key]), numbers, rtol=1e-6)  # float32


def test_the_factors_of_three_layers_are_their_cubic_mean() -> None:
    model = _parse("separable")
    before = model.clone()
    (r1, r2), (_, r3) = _ranges(before, "u", "w"), _ranges(before, "v", "u")
    mean = np.cbrt(r1 * r2 * r3)
    s12, s23 = r1 / mean, mean / r3

    EqualizeLayersPass()(model)

    for found in (*_ranges(model, "u", "w"), *_ranges(model, "v", "u")):
        np.testing.assert_allclose(found, mean, rtol=1e-6)  # float32
    biases = [array(model.graph.initializers[key]) for key in ("b", "e")]
    np.testing.assert_allclose(biases[0], _weights()["b"] / s12, rtol=1e-6)
    np.testing.assert_allclose(biases[1], _weights()["e"] / s23, rtol=1e-6)
    _assert_same(before, model)


_LONG = (
    f"{_HEAD} {{ t1 = Conv(x, w, b) r1 = Relu(t1) t2 = Conv(r1, w2) r2 = LeakyRelu(t2) "
    "d = Conv<group=4>(r2, u, e) m = MaxPool<kernel_shape=[2,2]>(d) y = Conv(m, v, c) }"
)


def _long() -> ir.Model:
    return _parse(
        _LONG, w2=np.random.default_rng(5).normal(size=(4, 4, 1, 1)) * _UNEQUAL[::-1, None, None, None]
    )


def test_layers_in_two_pairs_settle() -> None:
    model = _long()
    before = model.clone()

    EqualizeLayersPass()(model)

    for target, source in (("w2", "w"), ("u", "w2"), ("v", "u")):
        first, second = _ranges(model, target, source)
        np.testing.assert_allclose(first, second, rtol=1e-3)  # sweeps end below 0.01 % a sweep
    _assert_same(before, model)


@pytest.mark.parametrize("text", [*_TEXTS, _LONG], ids=[*_TEXTS, "long"])
def test_second_run_changes_nothing(text: str) -> None:
    model = EqualizeLayersPass()(_long() if text == _LONG else _parse(text)).model

    assert not EqualizeLayersPass()(model).modified


def test_channels_of_zeros_keep_their_factor() -> None:
    weights = {key: np.array(numbers) for key, numbers in _weights().items() if key in ("w", "v")}
    weights["w"][0] = 0
    weights["w"][1] *= 1e-12
    weights["v"][:, 2] = 0
    model = _parse("relu", **weights)
    before = model.clone()

    EqualizeLayersPass()(model)

    for key in ("w", "b"):
        old, new = (array(m.graph.initializers[key]) for m in (before, model))
        np.testing.assert_array_equal(new[:3], old[:3])
        assert not np.array_equal(new[3], old[3])
    _assert_same(before, model)


_SIX = _TEXTS["separable"].replace("Relu(t)", "Clip(t, zero, six)").replace("Relu(d)", "Clip(d, zero, six)")


def _six() -> ir.Model:
    """ReLU6 twice; in both, some channels are cut and some are not."""
    weights = _weights()
    return _parse(_SIX, w=weights["w"] / 3, b=weights["b"] / 3, u=weights["u"] / 4, e=np.ones(4))


def test_a_clip_without_maxima_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = _six()

    with caplog.at_level(logging.INFO):
        assert not EqualizeLayersPass()(model).modified

    assert "no maxima of the Clip behind are given: t, d" in caplog.text


def test_channels_that_a_clip_cuts_are_locked() -> None:
    model = _six()
    before, feeds = model.clone(), feeds_of(model)
    maxima = maxima_of(model, feeds)
    assert set(maxima) == set(clipped_values(model)) == {"r", "s"}
    assert all((top >= 6).any() and (top < 5.9).any() for top in maxima.values())

    result = EqualizeLayersPass(maxima)(model)

    assert result.modified
    after = maxima_of(model, feeds)
    for name, bias in (("r", "b"), ("s", "e")):
        old, new = (array(m.graph.initializers[bias]) for m in (before, model))
        cut = maxima[name] >= 5.9
        np.testing.assert_array_equal(new[cut], old[cut])
        assert not np.array_equal(new[~cut], old[~cut])
        assert (after[name] <= 6).all()
        # A channel that was not cut is multiplied, and not cut now: its maximum has its factor.
        np.testing.assert_allclose(after[name], maxima[name] * new / old, rtol=1e-5)  # float32
    _assert_same(before, model)
    assert not EqualizeLayersPass(after)(model).modified


def test_cutting_channels_would_show() -> None:
    """A control: with maxima that are too low, the outputs change."""
    model = _six()
    before, feeds = model.clone(), feeds_of(model)

    EqualizeLayersPass({name: top / 100 for name, top in maxima_of(model, feeds).items()})(model)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _assert_same(before, model)


def test_maxima_of_another_shape_are_refused() -> None:
    with pytest.raises(PassError, match=r"maxima of 'r': their shape is \[3\], allowed is \[4\]"):
        pipelines.equalize(_six(), {"r": np.ones(3), "s": np.ones(4)})


_TWO = _PAIR.replace("h,k] y)", "h,k] y, float[n,4,o,p] z)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(_TWO.replace("r = Relu(t)", "r = Relu(t) z = Neg(t)"), "other nodes use it", id="users"),
        pytest.param(_TWO.replace("z)", "t)"), "is a graph output", id="graph-output"),
        pytest.param(_PAIR.replace("Relu(t)", "Sigmoid(t)"), "Sigmoid follows", id="sigmoid"),
        pytest.param(_PAIR.replace("Relu(t)", "Add(t, half)"), "Add follows", id="add"),
        pytest.param(_PAIR.replace("Relu(t)", "Clip(t, half, six)"), "Clip follows", id="clip-elsewhere"),
        pytest.param(
            _PAIR.replace("Relu(t)", "Transpose<perm=[0,2,1,3]>(t)"), "Transpose follows", id="transpose"
        ),
        pytest.param(
            _TWO.replace("r = Relu(t)", "r = Relu(t) q = Abs(x) z = Conv(q, w)"),
            "other nodes use its weight",
            id="weight-shared",
        ),
        pytest.param(
            _PAIR.replace("Conv(x, w, b)", "Conv(x, a, b)").replace("{", "{ a = Abs(w)"),
            "its weight is not constant",
            id="weight-computed",
        ),
        pytest.param(
            _PAIR.replace("Conv(x, w, b)", "Conv(x, w, a)").replace("{", "{ a = Abs(b)"),
            "its bias is not constant",
            id="bias-computed",
        ),
        pytest.param(
            _PAIR.replace("Conv(r, v, c)", "Conv(r, a, c)").replace("{", "{ a = Abs(v)"),
            "of the layer behind, its weight is not constant",
            id="weight-behind-computed",
        ),
    ],
)
def test_leaves_alone(text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    model = _parse(text)
    before = model.clone()

    with caplog.at_level(logging.INFO):
        assert not EqualizeLayersPass()(model).modified

    assert reason in caplog.text
    assert names_of(model) == names_of(before)
    for name, value in before.graph.initializers.items():
        np.testing.assert_array_equal(array(model.graph.initializers[name]), array(value))


@pytest.mark.parametrize("runs", [[0, 2, 32], [-1, 8, 8], [3, -1, 8]], ids=["channels", "batch", "both"])
def test_a_reshape_that_joins_channels_or_samples_is_left_alone(runs: list[int]) -> None:
    text = _TEXTS["reshape"].replace("float[n,3,6,6]", "float[n,3,6,k]")
    model = _parse(text, runs=np.array(runs), v=np.ones((5, 2 if runs[1] == 2 else 8, 1)))

    assert not EqualizeLayersPass()(model).modified


def test_a_bias_that_others_use_is_copied() -> None:
    model = _parse(
        _TWO.replace("float[n,4,o,p] z", "float[4] z").replace("r = Relu(t)", "r = Relu(t) z = Neg(b)")
    )
    before = model.clone()

    EqualizeLayersPass()(model)

    assert set(names_of(model)) - set(names_of(before)) == {"w_bias"}
    _assert_same(before, model)


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(_TEXTS)),
    st.lists(st.floats(-20, 20), min_size=8, max_size=8),
)
def test_any_sizes_give_the_same_outputs(name: str, powers: list[float]) -> None:
    weights = _weights(name, seed=3)
    for key, part in (("w", powers[:4]), ("u", powers[4:])):
        weights[key] = weights[key] * np.exp2(part).reshape(-1, *[1] * (weights[key].ndim - 1))
    model = _parse(name, **weights)
    before = model.clone()

    EqualizeLayersPass()(model)

    _assert_same(before, model)


def test_around_a_residual_block_only_what_is_alone_changes(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)

    after = pipelines.equalize(model)

    for name, value in model.graph.initializers.items():  # its layers go into an Add, or to two layers
        np.testing.assert_array_equal(array(after.graph.initializers[name]), array(value))


def test_unequal_channels_stand_8_bits_per_tensor() -> None:
    """Channels 1500 times larger than others leave these no step of a scale that all share."""
    model = _parse("separable")
    equalized = pipelines.equalize(model)
    feeds = feeds_of(model, batch=16)
    wanted = run_onnx(model, feeds)["y"]

    before, after = (sqnr(wanted, run_onnx(quantized_per_tensor(m), feeds)["y"]) for m in (model, equalized))

    assert after > 30
    assert after > before + 10


def test_the_model_of_the_caller_stays_as_it_is() -> None:
    model = _parse("relu")

    pipelines.equalize(model)

    for name, value in _parse("relu").graph.initializers.items():
        np.testing.assert_array_equal(array(model.graph.initializers[name]), array(value))


def test_says_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        pipelines.equalize(_long())

    assert "Equalized 3 of 3 pairs of layers" in caplog.text
    assert "Left 1 layers alone, as the result is a graph output, or other nodes use it: y" in caplog.text
