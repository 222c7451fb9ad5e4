from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mpqtool.passes.arithmetic import code_range, quantize_weight
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import DorefaWeightQuantizer, Gain, WeightQuantizer
from mpqtool.quantizers.attach import real_weights


def _quantizer(
    bits: tuple[int, ...], gain: Gain = Gain.ONE, *, elements: int = 1, positions: int = 1
) -> DorefaWeightQuantizer:
    return DorefaWeightQuantizer("w", bits, elements=elements, gain=gain, positions=positions)


def _weights(kernels: int, *shape: int, seed: int = 0, size: float = 0.4) -> Tensor:
    return torch.randn(kernels, *shape, generator=torch.Generator().manual_seed(seed)) * size


def _by_the_paper(w: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``2 q(f(w) + 1/2) - 1`` of section III-A, and where it is not within float32 roundings of a tie."""
    t = np.tanh(w)
    u, s = t / (2 * np.abs(t).max()) + 0.5, 2**k - 1
    return 2 * np.rint(u * s) / s - 1, np.abs(np.abs(u * s - np.rint(u * s)) - 0.5) > 1e-4


@given(k=st.integers(1, 7), seed=st.integers(0, 2**16), size=st.sampled_from([0.02, 0.5, 3.0]))
def test_levels_are_those_of_the_paper(k: int, seed: int, size: float) -> None:
    weight = _weights(3, 2, 5, seed=seed, size=size)
    expected, clear = _by_the_paper(weight.numpy().astype(np.float64), k)
    found = _quantizer((k,) * 3)(weight).numpy()
    np.testing.assert_allclose(found[clear], expected[clear], rtol=0, atol=2e-7)  # float32 of levels up to 1


@given(seed=st.integers(0, 2**16))
def test_eight_bits_are_symmetric_integers(seed: int) -> None:
    weight = _weights(2, 30, seed=seed)
    quantizer = _quantizer((8, 8))
    t = np.tanh(weight.numpy().astype(np.float64))
    real = 127 * t / np.abs(t).max()
    clear = np.abs(np.abs(real - np.trunc(real)) - 0.5) > 1e-3
    np.testing.assert_array_equal(
        quantizer.codes(quantizer.real(weight)).numpy()[clear], np.rint(real)[clear]
    )
    np.testing.assert_allclose(quantizer(weight).numpy()[clear], np.rint(real)[clear] / 127, atol=2e-7)
    np.testing.assert_array_equal(quantizer.scale.numpy(), np.float32([1, 1]) / np.float32(127))


@pytest.mark.parametrize("k", range(1, 8))
def test_all_odd_codes_are_used_and_no_other(k: int) -> None:
    weight = torch.atanh(torch.linspace(-0.9, 0.9, 4001)).view(1, -1)
    quantizer = _quantizer((k,))
    codes = quantizer.codes(quantizer.real(weight)).unique().tolist()
    assert codes == list(range(1 - 2**k, 2**k, 2))


def test_between_two_levels_the_upper_one_is_taken() -> None:
    """The paper rounds m half to even, our grid the code up, as ``passes/arithmetic.py``: w = 0 is +1."""
    one, two = _quantizer((1,)), _quantizer((2,))
    ends = [-1.0, 0.0, 1.0]
    assert one(torch.tensor([ends])).tolist() == [[-1, 1, 1]]
    paper = _by_the_paper(np.array(ends), 1)[0]
    assert paper.tolist() == [-1, -1, 1]
    thirds = two.codes(two.real(torch.tensor([ends])))
    assert thirds.tolist() == [[-3, 1, 3]]
    assert quantize_weight([[0.0]], [1.0], [2], Grid.ODD).tolist() == [[1]]


@pytest.mark.parametrize("gain", [Gain.ONE, Gain.CONSTANT])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_gradient_is_that_of_tanh_with_a_constant_maximum(gain: Gain, bits: int) -> None:
    weight = _weights(4, 3, 2, 2).requires_grad_()
    coefficient = _weights(4, 3, 2, 2, seed=1)
    quantizer = _quantizer((bits,) * 4, gain, positions=4)
    (quantizer(weight) * coefficient).sum().backward()
    t = torch.tanh(weight.detach().double())
    c = quantizer.scale.double() * code_range(bits, Grid.ODD)[1]
    expected = coefficient * (1 - t * t) / t.abs().max() * c.view(-1, 1, 1, 1)
    # A few roundings of float32; of the arg-max too, through which a second term would go.
    torch.testing.assert_close(weight.grad.double(), expected, rtol=1e-5, atol=1e-7)


def test_gradient_without_tanh_is_that_of_each_kernel_by_itself() -> None:
    weight = _weights(3, 20).mul(torch.tensor([[1.0], [10.0], [0.01]])).requires_grad_()
    coefficient = _weights(3, 20, seed=1)
    quantizer = _quantizer((2, 3, 8), Gain.LEAST_SQUARES)
    (quantizer(weight) * coefficient).sum().backward()
    largest = weight.detach().abs().amax(1)
    c = quantizer.scale * torch.tensor([3.0, 7.0, 127.0])
    torch.testing.assert_close(weight.grad, coefficient * (c / largest).view(-1, 1), rtol=1e-5, atol=0)


def test_each_kernel_has_its_own_width() -> None:
    weight = _weights(5, 40)
    bits = (1, 2, 5, 8, 0)
    mixed = _quantizer(bits)(weight)
    for kernel, width in enumerate(bits[:4]):
        assert torch.equal(mixed[kernel], _quantizer((width,) * 5)(weight)[kernel])
        assert len(mixed[kernel].unique()) <= 2**width
    assert not mixed[4].any()


@pytest.mark.parametrize("gain", list(Gain))
def test_kernels_of_no_bits_are_zero_and_have_no_other_effect(gain: Gain) -> None:
    weight = torch.cat([_weights(2, 30), torch.zeros(1, 30)]).requires_grad_()
    quantizer = _quantizer((2, 3, 0), gain)
    found = quantizer(weight)
    assert not found[2].any()
    assert quantizer.scale.isfinite().all()
    assert (quantizer.scale > 0).all()
    found.sum().backward()
    assert weight.grad.isfinite().all()


def test_constant_gain_is_that_of_sat() -> None:
    weight = _weights(8, 3, 3, 3)
    plain = _quantizer((3,) * 8)(weight).double()
    c = 1 / math.sqrt(8 * 9 * float(plain.var(correction=0)))
    found = _quantizer((3,) * 8, Gain.CONSTANT, positions=9)(weight)
    torch.testing.assert_close(found.double(), plain * c, rtol=1e-5, atol=0)  # a mean of 216 in float32
    assert float(found.var(correction=0)) * 8 * 9 == pytest.approx(1, rel=1e-5)


def test_weights_without_variance_keep_their_size() -> None:
    quantizer = _quantizer((1,), Gain.CONSTANT)
    assert quantizer(torch.tensor([[0.3, 0.2]])).tolist() == [[1, 1]]


def test_least_squares_gain_is_the_best_of_each_kernel() -> None:
    weight = _weights(4, 100, size=2.0).mul(torch.tensor([[1.0], [0.01], [30.0], [1.0]]))
    bits = (2, 3, 5, 8)
    quantizer = _quantizer(bits, Gain.LEAST_SQUARES)
    found = quantizer(weight).double()
    for kernel, k in enumerate(bits):
        w = weight[kernel].double().numpy()
        u, s = w / np.abs(w).max(), 127 if k == 8 else 2**k - 1
        q = np.rint(u * s) / s if k == 8 else 2 * np.rint((u / 2 + 0.5) * s) / s - 1
        c = (w @ q) / (q @ q)
        np.testing.assert_allclose(found[kernel].numpy(), c * q, rtol=1e-5)  # sums of 100 in float32
        # No other size of the same codes is closer.
        errors = [np.square(w - f * found[kernel].numpy()).sum() for f in (0.99, 1.0, 1.01)]
        assert min(errors) == errors[1]


def test_zeros_add_nothing_without_tanh() -> None:
    quantizer = _quantizer((2, 2), Gain.LEAST_SQUARES)
    found = quantizer(torch.cat([torch.zeros(1, 5), torch.ones(1, 5)]))
    assert float(found[0].abs().max()) < 1e-11  # no odd code is 0
    torch.testing.assert_close(found[1], torch.ones(5))


@given(
    bits=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8]), min_size=1, max_size=5),
    gain=st.sampled_from(list(Gain)), seed=st.integers(0, 2**16), size=st.sampled_from([0.01, 1.0, 20.0]),
)  # fmt: skip
def test_the_plan_on_real_weights_gives_the_same_weights(
    bits: list[int], gain: Gain, seed: int, size: float
) -> None:
    weight = _weights(len(bits), 3, 4, seed=seed, size=size)
    module = torch.nn.Module()
    module.register_parameter("w", torch.nn.Parameter(weight))
    module.add_module("q", _quantizer(tuple(bits), gain, elements=12, positions=4))
    trained = module.q(module.w).detach()
    with torch.no_grad():
        module.q.scale.fill_(7.0)  # of other weights, as between two steps

    real = real_weights(module)["w"]

    plan = module.q.to_plan()
    fixed = WeightQuantizer("w", plan.bits, plan.grid, elements=12)
    fixed.scale.copy_(torch.tensor(plan.scale))
    assert plan.grid is Grid.ODD
    assert torch.equal(fixed(real), trained)
    codes = quantize_weight(real.numpy(), plan.scale, plan.bits, plan.grid)
    np.testing.assert_array_equal(fixed.codes(real).numpy(), codes)
    np.testing.assert_array_equal(
        codes * np.float32(plan.scale)[:, None, None], trained.numpy()
    )  # code times scale, in one float32 rounding
    assert not real.requires_grad


def test_the_scale_holds_no_graph_and_follows_the_bits() -> None:
    quantizer, weight = _quantizer((8, 8), Gain.LEAST_SQUARES), _weights(2, 9).requires_grad_()
    for width in (8, 3):
        quantizer.bits.fill_(width)
        expected = _quantizer((width, width), Gain.LEAST_SQUARES)(weight)
        assert torch.equal(quantizer(weight), expected)
        assert not quantizer.scale.requires_grad
    assert set(quantizer.state_dict()) == {"bits", "factor", "scale"}
    assert torch.equal(copy.deepcopy(quantizer)(weight), expected)


@pytest.mark.parametrize("gain", list(Gain))
def test_half_precision_of_the_layers_changes_no_weight(gain: Gain) -> None:
    quantizer, weight = _quantizer((3, 4), gain), _weights(2, 50)
    full = quantizer(weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(weight), full)
