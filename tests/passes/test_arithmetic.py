from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from compare import run_onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx_text import parse

from mpqtool.passes import arithmetic
from mpqtool.passes.plan import Grid

_scales = st.floats(min_value=2**-20, max_value=2**10, width=32)
_bits = st.integers(1, 8)
_grids = st.sampled_from(Grid)


def _reals(shape: Any, limit: float = 2.0**14) -> st.SearchStrategy[NDArray[np.float32]]:
    return hnp.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32))


def _widths(grid: Grid, bits: int) -> int:
    """A width that the grid has."""
    return bits if grid is Grid.ODD else max(bits, 2) if bits else 0


@pytest.mark.parametrize(
    ("bits", "grid", "expected"),
    [
        (0, Grid.ODD, (0, 0)),
        (0, Grid.SIGNED, (0, 0)),
        (1, Grid.ODD, (-1, 1)),
        (2, Grid.ODD, (-3, 3)),
        (7, Grid.ODD, (-127, 127)),
        (8, Grid.ODD, (-127, 127)),
        (2, Grid.SIGNED, (-1, 1)),
        (4, Grid.SIGNED, (-7, 7)),
        (8, Grid.SIGNED, (-127, 127)),
        (0, Grid.FULL, (0, 0)),
        *((b, Grid.FULL, (-(2 ** (b - 1)), 2 ** (b - 1) - 1)) for b in range(2, 9)),
    ],
)
def test_code_range(bits: int, grid: Grid, expected: tuple[int, int]) -> None:
    assert arithmetic.code_range(bits, grid) == expected


@settings(deadline=None)
@given(st.data(), _scales, _bits)
def test_quantize_gives_a_nearest_code(data: st.DataObject, scale: float, bits: int) -> None:
    high = 2**bits - 1
    zero = data.draw(st.integers(0, high))
    x = data.draw(_reals(5))
    codes = arithmetic.quantize(x, scale, zero, 0, high).astype(int)
    assert codes.min() >= 0
    assert codes.max() <= high
    for real, code in zip(x, codes, strict=True):
        exact = Fraction(float(real)) / Fraction(scale)
        nearest = min(max(exact, -zero), high - zero)
        # The division rounds once: half a code and 2**-24 of the quotient.
        assert abs(nearest - (int(code) - zero)) <= Fraction(1, 2) + abs(exact) / 2**24


def test_quantize_rounds_half_to_even_before_the_zero_point() -> None:
    x = [-1.5, -0.5, 0.5, 1.5, 2.5]
    np.testing.assert_array_equal(arithmetic.quantize(x, 1.0, 3, 0, 255), [1, 3, 3, 5, 5])


@settings(deadline=None)
@given(_reals(20), _scales, st.integers(0, 255))
def test_quantize_is_the_operator_of_onnx(x: NDArray[np.float32], scale: float, zero: int) -> None:
    text = f"net (float[20] x) => (uint8[20] y) <uint8 z = {{{zero}}}> {{ y = QuantizeLinear(x, s, z) }}"
    given_by_runtime = run_onnx(parse(text, {"s": np.float64(scale)}), {"x": x})["y"]
    np.testing.assert_array_equal(arithmetic.quantize(x, scale, zero, 0, 255), given_by_runtime)


@settings(deadline=None)
@given(_scales, st.integers(0, 255))
def test_codes_survive_dequantizing(scale: float, zero: int) -> None:
    codes = np.arange(256, dtype=np.uint8)
    reals = arithmetic.dequantize(codes, scale, zero)
    assert reals[zero] == 0
    np.testing.assert_array_equal(arithmetic.quantize(reals, scale, zero, 0, 255), codes)
    np.testing.assert_array_equal(arithmetic.rescale_codes(codes, scale, zero, scale, zero, 0, 255), codes)


@settings(deadline=None)
@given(st.data(), _grids, st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_weight_codes_are_on_their_grid(data: st.DataObject, grid: Grid, widths: list[int]) -> None:
    bits = [_widths(grid, b) for b in widths]
    weight = data.draw(_reals((len(bits), 3, 2), 100))
    scale = data.draw(hnp.arrays(np.float32, len(bits), elements=st.floats(2**-10, 8, width=32)))
    codes = arithmetic.quantize_weight(weight, scale, bits, grid)
    assert codes.dtype == np.int8
    assert codes.shape == weight.shape
    for kernel, b in zip(codes.astype(int), bits, strict=True):
        low, high = arithmetic.code_range(b, grid)
        assert kernel.min() >= low
        assert kernel.max() <= high
        if grid is Grid.ODD and 0 < b < 8:
            assert (kernel % 2 == 1).all()


@settings(deadline=None)
@given(st.data(), _grids, st.integers(1, 8))
def test_weight_codes_are_nearest(data: st.DataObject, grid: Grid, width: int) -> None:
    bits = _widths(grid, width)
    low, high = arithmetic.code_range(bits, grid)
    spacing = 2 if grid is Grid.ODD and bits < 8 else 1
    real = data.draw(st.floats(low, high, width=32))
    code = int(arithmetic.quantize_weight([[real]], [1.0], [bits], grid).item())
    assert abs(code - real) <= spacing / 2


@settings(deadline=None)
@given(st.data(), _grids, st.integers(1, 8))
def test_weight_codes_come_back(data: st.DataObject, grid: Grid, width: int) -> None:
    bits = _widths(grid, width)
    low, high = arithmetic.code_range(bits, grid)
    spacing = 2 if grid is Grid.ODD and bits < 8 else 1
    codes = np.arange(low, high + 1, spacing).astype(np.int8)[None]
    scale = np.float32([data.draw(_scales)])
    again = arithmetic.quantize_weight(codes * scale[:, None], scale, [bits], grid)
    np.testing.assert_array_equal(again, codes)


@settings(deadline=None, max_examples=40)
@given(st.data(), _grids, st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_fitted_scales_beat_the_largest_magnitude(data: st.DataObject, grid: Grid, widths: list[int]) -> None:
    bits = [_widths(grid, b) for b in widths]
    weight = data.draw(_reals((len(bits), 8), 100))
    scale = arithmetic.fit_weight_scale(weight, bits, grid)
    assert scale.dtype == np.float32
    assert (scale > 0).all()
    for kernel, fitted, b in zip(weight, scale, bits, strict=True):
        if b == 0 or not kernel.any():
            assert fitted == (arithmetic.NOTHING if b else 1)
            continue
        low, high = arithmetic.code_range(b, grid)
        unclipped = max(kernel.max() / np.float32(high), kernel.min() / np.float32(low))
        plain = np.maximum(unclipped, np.finfo(np.float32).tiny)

        def error(s: np.float32, kernel: NDArray[np.float32] = kernel, b: int = b) -> float:
            codes = arithmetic.quantize_weight(kernel[None], [s], [b], grid)
            return float(np.square(kernel - codes[0] * s, dtype=np.float32).sum())

        assert error(fitted) <= error(plain) * (1 + 1e-5)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("sign", [-1, 1], ids=["at-the-lowest-code", "at-the-highest-code"])
def test_all_codes_of_the_full_grid_are_fitted_exactly(bits: int, sign: int) -> None:
    low, high = arithmetic.code_range(bits, Grid.FULL)
    codes = np.arange(low, 1) if sign < 0 else np.arange(high + 1)  # clipped at one end alone
    weight = 0.375 * codes[None].astype(np.float32)

    scale = arithmetic.fit_weight_scale(weight, [bits], Grid.FULL)

    assert scale.tolist() == [0.375]
    np.testing.assert_array_equal(arithmetic.quantize_weight(weight, scale, [bits], Grid.FULL)[0], codes)


def test_fitting_clips_an_outlier() -> None:
    weight = np.full((1, 101), 0.1, np.float32)
    weight[0, 0] = 1
    assert arithmetic.fit_weight_scale(weight, [2], Grid.ODD)[0] < 0.2


@settings(deadline=None)
@given(_reals(6), _scales, _scales)
def test_bias_codes(bias: NDArray[np.float32], x_scale: float, w_scale: float) -> None:
    codes = arithmetic.quantize_bias(bias, x_scale, np.full(6, w_scale, np.float32))
    assert codes.dtype == np.int32
    unit = Fraction(float(np.float32(x_scale) * np.float32(w_scale)))
    for real, code in zip(bias, codes, strict=True):
        exact = Fraction(float(real)) / unit
        clamped = min(max(exact, -(2**31)), 2**31 - 1)
        assert abs(int(code) - clamped) <= Fraction(1, 2) + abs(exact) / 2**24


def test_a_bias_too_large_for_int32_is_clamped() -> None:
    codes = arithmetic.quantize_bias([1e9, -1e9], 1e-6, [1e-6, 1e-6])
    np.testing.assert_array_equal(codes, [2**31 - 1, -(2**31)])


@settings(deadline=None)
@given(_scales, st.lists(_scales, min_size=1, max_size=4), _scales)
def test_the_multiplier_rounds_twice(x_scale: float, w_scales: list[float], y_scale: float) -> None:
    factors = arithmetic.multiplier(x_scale, w_scales, y_scale)
    assert factors.dtype == np.float32
    for factor, w_scale in zip(factors, w_scales, strict=True):
        product = np.float32(x_scale) * np.float32(w_scale)
        assert factor == product / np.float32(y_scale)


def _requantize_exactly(acc: int, factor: float, zero: int, low: int, high: int) -> int:
    """The same in Python's own numbers: float32 products fit a double exactly."""
    product = float(np.float32(acc)) * factor
    rounded = float(np.float32(product))
    return min(max(round(rounded) + zero, low), high)  # Python rounds half to even, too


@settings(deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    st.floats(2**-30, 1, width=32),
    st.integers(0, 255),
    _bits,
)
def test_requantize_is_one_float32_product(accs: list[int], factor: float, zero: int, bits: int) -> None:
    high = 2**bits - 1
    codes = arithmetic.requantize(np.array(accs, np.int32), factor, zero, 0, high)
    assert codes.dtype == np.uint8
    assert codes.tolist() == [_requantize_exactly(acc, factor, zero, 0, high) for acc in accs]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_conv_semantics_are_those_of_onnx_runtime(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_zero, y_zero = (int(z) for z in rng.integers(0, 256, 2))
    x = rng.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
    w = rng.integers(-63, 64, (4, 3, 1, 1)).astype(np.int8)  # no pair of products can saturate
    bias = rng.integers(-(2**14), 2**14, 4).astype(np.int32)
    x_scale, y_scale = np.float32(rng.uniform(0.001, 0.1, 2))
    w_scale = rng.uniform(0.001, 0.1, 4).astype(np.float32)
    names = {
        "xs": x_scale, "xz": np.uint8(x_zero), "w": w, "ws": w_scale, "wz": np.zeros(4, np.int8),
        "ys": y_scale, "yz": np.uint8(y_zero), "b": bias,
    }  # fmt: skip
    text = "net (uint8[1,3,4,4] x) => (uint8[1,4,4,4] y) { y = QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b) }"
    model = parse(text, {name: np.asarray(value) for name, value in names.items()})
    acc = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(int), x.astype(int) - x_zero) + bias[:, None, None]
    factor = arithmetic.multiplier(x_scale, w_scale, y_scale)[:, None, None]
    expected = run_onnx(model, {"x": x})["y"]
    np.testing.assert_array_equal(arithmetic.requantize(acc, factor, y_zero, 0, 255), expected)


@settings(deadline=None)
@given(st.data(), _scales, st.integers(-3, 3), st.integers(-3, 3))
def test_sums_of_codes_whose_scales_are_powers_of_two_of_each_other_are_exact(
    data: st.DataObject, scale: float, up: int, down: int
) -> None:
    a, b = (data.draw(hnp.arrays(np.uint8, 6)) for _ in range(2))
    zeros = [data.draw(st.integers(0, 255)) for _ in range(3)]
    a_scale, b_scale = np.float32(scale) * 2.0**up, np.float32(scale) * 2.0**down
    ratios = arithmetic.add_ratios(a_scale, b_scale, scale)
    codes = arithmetic.add_codes(a, ratios[0], zeros[0], b, ratios[1], zeros[1], zeros[2], 0, 255)
    for left, right, code in zip(a.astype(int), b.astype(int), codes, strict=True):
        exact = (left - zeros[0]) * Fraction(2) ** up + (right - zeros[1]) * Fraction(2) ** down
        assert int(code) == min(max(round(exact + zeros[2]), 0), 255)


def test_adding_puts_the_zero_point_in_before_rounding() -> None:
    # 0.5 + 1 = 1.5 rounds to 2, while rounding 0.5 first would give 0 + 1.
    assert arithmetic.add_codes(1, 0.5, 0, 0, 0.5, 0, 1, 0, 255) == 2


@settings(deadline=None)
@given(_scales, _scales, _scales)
def test_ratios_of_a_sum_are_close_and_leave_no_term_to_round(a: float, b: float, y: float) -> None:
    exact = np.float64(np.float32(a) / np.float32(y)), np.float64(np.float32(b) / np.float32(y))

    ratios = [float(ratio) for ratio in arithmetic.add_ratios(a, b, y)]

    step = 2.0 ** (math.frexp(sum(exact) + 1)[1] - 16)
    assert all((ratio / step).is_integer() and ratio > 0 for ratio in ratios)
    assert 255 * (sum(ratios) + 1) <= 2**24 * step
    assert np.abs(np.subtract(ratios, exact)).max() <= step


def test_a_constant_is_added_before_rounding_and_the_zero_point_after() -> None:
    # 0.5 + 1 rounds to 2 and not to 0 + 1; 0.5 + 0 rounds to 0, the zero point makes it 1.
    assert arithmetic.shift_codes(1, 0.5, 0, 1.0, 1.0, 0, 0, 255) == 2
    assert arithmetic.shift_codes(1, 0.5, 0, 0.0, 1.0, 1, 0, 255) == 1


@settings(deadline=None)
@given(st.data(), st.integers(1, 64), _scales, _scales)
def test_a_mean_is_a_sum_with_a_smaller_multiplier(
    data: st.DataObject, count: int, x_scale: float, y_scale: float
) -> None:
    factor = arithmetic.mean_multiplier(x_scale, y_scale, count)
    assert factor.dtype == np.float32
    exact = Fraction(x_scale) / (Fraction(y_scale) * count)
    assert abs(Fraction(float(factor)) - exact) <= exact / 2**22  # two roundings
    codes = data.draw(hnp.arrays(np.uint8, count))
    mean = arithmetic.requantize(codes.sum(dtype=np.int32), factor, 0, 0, 255)
    real = float(codes.mean()) * x_scale / y_scale
    assert abs(min(real, 255) - int(mean)) <= 0.5 + 1e-3


@settings(deadline=None)
@given(st.data(), st.integers(-255, 0), st.integers(0, 255))
def test_no_input_leaves_the_accumulator_bound(data: st.DataObject, low: int, high: int) -> None:
    codes = data.draw(hnp.arrays(np.int8, (3, 4), elements=st.integers(-127, 127)))
    bias = data.draw(hnp.arrays(np.int32, 3, elements=st.integers(-(2**20), 2**20)))
    bound = arithmetic.accumulator_bound(codes, bias, low, high)
    x = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(low, high)))
    assert np.abs(codes.astype(int) @ x + bias).max() <= bound
    worst = [
        abs(int(np.where((row > 0) == up, high, low) @ row.astype(int)) + int(b))
        for row, b in zip(codes, bias, strict=True)
        for up in (True, False)
    ]
    assert bound == max(worst)


@pytest.mark.parametrize(
    ("magnitude", "x_high", "saturates"),
    [
        (64, 255, False),
        (65, 255, True),
        (127, 129, False),
        (127, 130, True),
        (127, 127, False),
        (0, 255, False),
    ],
)
def test_pairs_saturate_above_32767(magnitude: int, x_high: int, saturates: bool) -> None:
    codes = np.array([[1, -magnitude]], np.int8)
    assert arithmetic.pair_saturates(codes, x_high) is saturates
    assert saturates is (2 * magnitude * x_high > 32767)
    assert not arithmetic.pair_saturates(np.zeros((0, 3), np.int8), x_high)


def test_scales_are_used_as_float32() -> None:
    # In float32 the quotient is 3.5, and goes to the even 4; the same numbers in float64 give 3.4999999.
    assert arithmetic.quantize(0.35, 0.1, 0, 0, 255) == 4
    assert arithmetic.dequantize(3, 0.1).dtype == np.float32
    assert arithmetic.dequantize(3, 0.1) == np.float32(3) * np.float32(0.1)


@settings(deadline=None)
@given(st.floats(-50, 50, width=32), _scales, st.integers(0, 255), st.floats(-9, 9, width=32))
def test_an_offset_is_taken_off_before_all_else(x: float, scale: float, zero: int, offset: float) -> None:
    centered = np.float32(x) - np.float32(offset)

    found = arithmetic.quantize(x, scale, zero, 0, 255, offset=offset)

    assert found == arithmetic.quantize(centered, scale, zero, 0, 255)


@settings(deadline=None)
@given(st.data())
def test_folding_rounds_once_and_is_undone(data: st.DataObject) -> None:
    codes = data.draw(hnp.arrays(np.int8, (4, 9), elements=st.integers(-127, 127)))
    x_scale = np.float32(data.draw(_scales))
    w_scale = data.draw(hnp.arrays(np.float32, 4, elements=_scales))
    offset = np.float32(data.draw(st.floats(-2, 2, width=32))) * x_scale
    # From what int8 codes add, up to where floats lie many codes apart.
    in_codes = data.draw(hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**29), 2.0**29, width=32)))
    bias = in_codes * (x_scale * w_scale)

    folded = arithmetic.fold_offset(bias, x_scale, w_scale, offset, codes)

    for kernel in range(4):
        exact = Fraction(float(bias[kernel])) / Fraction(float(x_scale * w_scale[kernel]))
        exact += Fraction(float(offset)) / Fraction(float(x_scale)) * int(codes[kernel].sum(dtype=np.int64))
        assert abs(exact - int(folded[kernel])) <= Fraction(1, 2) + Fraction(1, 2**20)  # of float64
    again = arithmetic.unfold_offset(folded, x_scale, w_scale, offset, codes)
    np.testing.assert_array_equal(arithmetic.fold_offset(again, x_scale, w_scale, offset, codes), folded)


def test_a_result_has_its_offset_taken_off_in_whole_units() -> None:
    bias = arithmetic.shift_bias([10, -3], 0.5, [0.25, 2.0], 0.3)

    np.testing.assert_array_equal(bias, [10 - 2, -3 - 0])  # 0.3 / 0.125 = 2.4, 0.3 / 1
    assert bias.dtype == np.int32


def test_a_map_has_one_number_for_each_sum() -> None:
    added = arithmetic.border_bias(-0.3, 0.5, [[0, 3], [-4, 100]])

    np.testing.assert_array_equal(added, [[0, -2], [2, -60]])


def test_a_bias_beyond_int32_is_the_last_integer() -> None:
    top = np.iinfo(np.int32).max
    assert arithmetic.fold_offset([1e9], 1e-3, [1e-3], 0.1, [[1]]) == top
    assert arithmetic.shift_bias([top], 1.0, [1.0], -5) == top
