"""A learned offset is that of a value which is padded with real 0 and then quantized: LSQ+ as printed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from graphs import normal
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_ir import Model
from torch import Tensor, fx
from torch.nn import functional as F

from mpqtool.importer import import_graph
from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.passes.plan import ActivationQuant, Plan
from mpqtool.quantizers import OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach
from mpqtool.quantizers.offset import fold_offset

SCALE = 0.31
INSIDE, AT_LOW, AT_HIGH, BELOW, ABOVE = -1.0, 0.0, -15 * SCALE, 0.9, -20.0
"""Offsets at 4 bits: real 0 inside the range, on either end of it, and clipped at either end."""


def _quantizer(low: int, *, bits: int = 4, scale: float = SCALE, beta: float = INSIDE) -> OffsetQuantizer:
    """``beta`` is that of configuration 4."""
    quantizer = OffsetQuantizer("x", bits, low=low)
    quantizer.set_numbers(scale=scale, beta=beta - low * scale)
    return quantizer


def _plain(x: Tensor, scale: Tensor, beta: Tensor, low: int, high: int) -> Tensor:
    """LSQ+ equation 2, left to autograd; gradients stop on the ends of the range, as equation 3 says."""
    v = (x - beta) / scale
    clamped = torch.where((v > low) & (v < high), v, v.detach().clamp(low, high))
    return ((clamped.round() - clamped).detach() + clamped) * scale + beta


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layer(x: Tensor, weight: Tensor, bias: Tensor | None, **window: Any) -> Tensor:
    if weight.ndim == 2:
        return F.linear(x.flatten(1), weight, bias)
    return F.conv2d(x, weight, bias, **window)


@pytest.mark.parametrize("low", [0, -8], ids=["config-4", "config-3"])
@pytest.mark.parametrize("beta", [INSIDE, AT_LOW, AT_HIGH, BELOW, ABOVE])
@pytest.mark.parametrize(
    ("weight_shape", "window"),
    [
        pytest.param((5, 4, 3, 3), {"padding": (1, 1)}, id="padded"),
        pytest.param((5, 4, 3, 3), {"padding": (2, 1), "stride": (2, 2)}, id="strided"),
        pytest.param((6, 2, 3, 3), {"padding": (1, 1), "groups": 2}, id="groups"),
        pytest.param((4, 1, 3, 3), {"padding": (1, 1), "groups": 4}, id="depthwise"),
        pytest.param((5, 4, 1, 1), {}, id="unpadded"),
        pytest.param((5, 4 * 36), {}, id="gemm"),
    ],
)
def test_it_is_padding_with_0_before_quantizing(
    low: int, beta: float, weight_shape: tuple[int, ...], window: dict[str, Any]
) -> None:
    x, weight = 2 * _randn(3, 4, 6, 6, seed=0), _randn(*weight_shape, seed=1)
    bias = _randn(len(weight), seed=2)
    quantizer = _quantizer(low, beta=beta)
    ours = [x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    y, zero = quantizer(ours[0])
    out = _layer(y, ours[1], fold_offset(y, ours[1], ours[2], zero), **window)
    grad = _randn(*out.shape, seed=3)
    (out * grad).sum().backward()

    theirs = [x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    scale, offset = (p.detach().clone().requires_grad_() for p in (quantizer.learned_scale, quantizer.beta))
    rows, columns = window.get("padding", (0, 0))
    padded = F.pad(theirs[0], (columns, columns, rows, rows))
    quantized = _plain(padded, scale, offset, low, low + 15)
    expected = _layer(quantized, theirs[1], theirs[2], **{**window, "padding": (0, 0)} if window else {})
    (expected * grad).sum().backward()

    damping = 1 / math.sqrt(4 * 36 * (low + 15))
    pairs = [
        (out, expected), *((a.grad, b.grad) for a, b in zip(ours, theirs, strict=True)),
        (quantizer.learned_scale.grad / damping, scale.grad), (quantizer.beta.grad / damping, offset.grad),
    ]  # fmt: skip
    for found, wanted in pairs:
        # Sums of some hundred float32 terms in another order: 1e-5 of the largest.
        torch.testing.assert_close(
            found, wanted, rtol=1e-5, atol=2e-5 * float(wanted.detach().abs().max() + 10)
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("beta", [INSIDE, BELOW, ABOVE])
@pytest.mark.parametrize("signed", [False, True], ids=["config-4", "config-3"])
def test_gradients_match_equations_3_and_4(bits: int, beta: float, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    quantizer = _quantizer(low, bits=bits, beta=beta)
    x = torch.linspace(-9, 9, 402).view(2, 201).requires_grad_()
    grad = _randn(2, 201, seed=0)

    y, zero = quantizer(x)
    ((y + zero) * grad).sum().backward()  # the value itself, so what real 0 becomes cancels out

    scale, offset = quantizer.learned_scale.detach().double(), quantizer.beta.detach().double()
    v = (x.detach().double() - offset) / scale
    inside = (v > low) & (v < high)
    slope = torch.where(inside, v.round() - v, v.round().clamp(low, high))
    damping = 1 / math.sqrt(201 * max(high, 1))
    assert torch.equal(x.grad, grad * inside)
    # float32 sums of 402 terms of at most ``high``
    atol = 1e-6 * (2**bits + 10)
    torch.testing.assert_close(
        quantizer.learned_scale.grad.double() / damping, (grad * slope).sum(), rtol=1e-4, atol=50 * atol
    )
    torch.testing.assert_close(
        quantizer.beta.grad.double() / damping, (grad * ~inside).sum().double(), rtol=1e-4, atol=50 * atol
    )


@pytest.mark.parametrize("end", [0, 15])
def test_an_element_on_the_end_of_the_grid_counts_as_clipped(end: int) -> None:
    quantizer = _quantizer(0, scale=0.25, beta=-1.0)
    x = torch.full((1, 1), 0.25 * end - 1).requires_grad_()
    y, zero = quantizer(x)
    (y + zero).sum().backward()
    damping = 1 / math.sqrt(15)
    assert float(x.grad) == 0
    assert float(quantizer.learned_scale.grad) == pytest.approx(end * damping)
    assert float(quantizer.beta.grad) == pytest.approx(damping)


@given(
    bits=st.integers(1, 8), signed=st.booleans(), beta=st.floats(-12, 4), scale=st.floats(0.01, 2),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_values_are_those_of_the_plan_up_to_the_rounding_of_the_offset(
    bits: int, signed: bool, beta: float, scale: float, seed: int
) -> None:
    quantizer = _quantizer(-(2 ** (bits - 1)) if signed else 0, bits=bits, scale=scale, beta=beta)
    x = _randn(4, 9, seed=seed) * 10

    y, zero = quantizer(x)

    entry = quantizer.to_plan()
    assert entry.scale is not None
    assert entry.zero_point is not None
    assert entry.scale == float(quantizer.scale.detach())
    # -beta/scale is rounded in float32 here and in float64 there: they part on a tie at most.
    v0 = -float(quantizer.beta.detach()) / entry.scale - quantizer.low
    tie = abs(abs(v0 - round(v0)) - 0.5) < 1e-4
    if not tie:
        # beta is of the order of 2**bits scales, in float32
        assert float(zero.detach()) == pytest.approx(entry.offset, abs=1e-6 * (2**bits * scale + abs(beta)))
        codes = quantize(x.numpy(), entry.scale, entry.zero_point, 0, 2**bits - 1, offset=entry.offset)
        made = y.detach().numpy() / entry.scale + entry.zero_point
        u = (x.numpy().astype(np.float64) - entry.offset) / entry.scale
        clear = np.abs(np.abs(u - np.rint(u)) - 0.5) > 1e-4 * 2**bits  # not within float32 errors of a tie
        np.testing.assert_array_equal(np.rint(made)[clear], codes[clear])
        np.testing.assert_allclose(
            y.detach().numpy()[clear],
            dequantize(codes, entry.scale, entry.zero_point)[clear],
            rtol=1e-6,
            atol=0,
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("beta", [INSIDE, BELOW, ABOVE])
def test_configurations_3_and_4_are_one_grid(bits: int, beta: float) -> None:
    """``beta_3 = beta_4 - n_3 * s``; powers of two, so that nothing is rounded."""
    beta = round(beta * 8) / 8
    three, four = (_quantizer(low, bits=bits, scale=0.25, beta=beta) for low in (-(2 ** (bits - 1)), 0))
    x = _randn(3, 100, seed=0)
    assert float(three.beta.detach()) == beta + 2 ** (bits - 1) * 0.25
    for left, right in zip(three(x), four(x), strict=True):
        assert torch.equal(left, right)
    assert three.to_plan() == four.to_plan()


def test_a_fixed_offset_has_no_gradient() -> None:
    quantizer = OffsetQuantizer("x", 4, low=0, learned=False)
    quantizer.set_numbers(scale=0.3, beta=-0.2)
    y, zero = quantizer(_randn(2, 9, seed=0))
    (y + zero).sum().backward()
    assert quantizer.beta.grad is None
    assert quantizer.learned_scale.grad is not None
    assert [name for name, p in quantizer.named_parameters() if p.requires_grad] == ["learned_scale"]


@pytest.mark.parametrize("stepped", [-0.1, 0.0, 1e-8])
def test_a_step_moves_the_scale_by_a_twentieth_at_most(stepped: float) -> None:
    quantizer = _quantizer(0)
    with torch.no_grad():
        quantizer.learned_scale.fill_(stepped)
    quantizer.restrain_scale()
    assert float(quantizer.scale.detach()) == pytest.approx(0.95 * SCALE, rel=1e-6)


def test_forgotten_initialization_is_loud() -> None:
    quantizer = OffsetQuantizer("x", 4, low=0)
    assert not quantizer.is_set
    assert quantizer(torch.ones(1, 3))[0].isnan().all()


def test_narrow_floats_come_out_as_float32() -> None:
    y, zero = _quantizer(0)(torch.ones(2, 3, dtype=torch.bfloat16))
    assert y.dtype == zero.dtype == torch.float32


# In a graph: layers take the value without its offset, all others get it back.


def _attached(body: str, output: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Model, fx.GraphModule]:
    """The quantized value is ``s``, what a HardSwish gives; nothing else is quantized."""
    rng = np.random.default_rng(0)
    model = normal(
        f"net (float[N, 2, 6, 6] x) => ({output} y) {{ s = HardSwish (x) {body} }}",
        {name: rng.normal(size=shape) for name, shape in shapes.items()},
    )
    plan = Plan(weights=(), activations=(ActivationQuant(name="s", bits=3),))
    network = attach(
        import_graph(model),
        plan,
        make_activation=lambda entry, source: OffsetQuantizer(entry.name, entry.bits, low=0),
    )
    (quantizer,) = activation_quantizers(network)
    quantizer.set_numbers(scale=0.25, beta=-0.33)
    return model, network.eval()


def _quantized(x: NDArray[np.float32]) -> Tensor:
    s = F.hardswish(torch.from_numpy(x))
    return _plain(s, torch.tensor(0.25), torch.tensor(-0.33), 0, 7)


ZERO = float(_quantized(np.zeros(1, np.float32)))
CONV = {"w": (3, 2, 3, 3), "b": (3,)}


def _weight(model: Model, name: str) -> Tensor:
    return torch.tensor(model.graph.initializers[name].const_value.numpy())


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_gemm_of_two_values_gets_the_offset_back(trans_b: int, alpha: float) -> None:
    body = (
        "f = Flatten (s) v = Gemm <transB = 1> (f, w) t = Transpose <perm = [1, 0]> (f)"
        f" y = Gemm <alpha = {alpha}, transB = {trans_b}> (f, {'f' if trans_b else 't'})"
    )
    model, network = _attached(body, "float[N, K] v, float[N, M]", {"w": (3, 72)})
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    s = _quantized(x).flatten(1)

    value, found = network(torch.from_numpy(x))

    torch.testing.assert_close(value.detach(), s @ _weight(model, "w").T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.detach(), alpha * s @ s.T, rtol=1e-5, atol=1e-5)


def _conv(x: Tensor, model: Model) -> Tensor:
    """A layer that pads with what real 0 becomes."""
    w, b = (_weight(model, name) for name in "wb")
    return F.conv2d(F.pad(x, (1, 1, 1, 1), value=ZERO), w, b)


BODIES = {
    "conv": ("y = Conv <pads = [1, 1, 1, 1]> (s, w, b)", lambda s, m: _conv(s, m)),
    "max-pool": (
        "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s) y = Conv <pads = [1, 1, 1, 1]> (p, w, b)",
        lambda s, m: _conv(F.max_pool2d(s, 2), m),
    ),
    "transpose": (
        "p = Transpose <perm = [0, 1, 3, 2]> (s) y = Conv <pads = [1, 1, 1, 1]> (p, w, b)",
        lambda s, m: _conv(s.mT, m),
    ),
    "average": ("y = GlobalAveragePool (s)", lambda s, m: s.mean((2, 3), keepdim=True)),
    "relu-behind-a-pool": (
        "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s) y = Relu (p)",
        lambda s, m: F.max_pool2d(s, 2).relu(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_users_read_the_quantized_value(name: str) -> None:
    body, expected = BODIES[name]
    model, network = _attached(body, "float[N, C, H, W]", CONV if "Conv" in body else {})
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)

    (found,) = network(torch.from_numpy(x))

    assert abs(ZERO) > 0.05
    # The offset is added in another place of the sums of 18 float32 products.
    torch.testing.assert_close(found.detach(), expected(_quantized(x), model), rtol=1e-5, atol=1e-5)


def test_a_value_that_a_layer_a_sum_a_product_and_the_output_use() -> None:
    body = "c = Conv <pads = [1, 1, 1, 1]> (s, w, b) t = Add (s, c) y = Mul (t, s)"
    outputs = "float[N, 2, 6, 6] s, float[N, 2, 6, 6]"
    model, network = _attached(body, outputs, {"w": (2, 2, 3, 3), "b": (2,)})
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    s = _quantized(x)

    value, found = network(torch.from_numpy(x))
    found.sum().backward()

    torch.testing.assert_close(value.detach(), s, rtol=0, atol=1e-6)  # less r, and r
    torch.testing.assert_close(found.detach(), (s + _conv(s, model)) * s, rtol=1e-5, atol=1e-5)
    (quantizer,) = activation_quantizers(network)
    assert float(quantizer.beta.grad) != 0


def test_gemm_behind_a_flatten() -> None:
    model, network = _attached("f = Flatten (s) y = Gemm <transB = 1> (f, w)", "float[N, 3]", {"w": (3, 72)})
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    (found,) = network(torch.from_numpy(x))
    w = _weight(model, "w")
    torch.testing.assert_close(found.detach(), _quantized(x).flatten(1) @ w.T, rtol=1e-5, atol=1e-5)
