from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.quantizers.observer import Observer
from mpqtool.quantizers.ranges import RANGES, Ranges, _divergence, entropy, fit_codes, min_max, percentile

BITS = range(2, 9)


def _seen(x: NDArray[np.float32]) -> Observer:
    observer = Observer(histogram=True)
    for part in np.array_split(x, 5):
        observer.add(torch.from_numpy(part))
    return observer


def _ends(scale: float, zero_point: int, bits: int) -> tuple[float, float]:
    """The least and the greatest value of a code."""
    return -zero_point * scale, (2**bits - 1 - zero_point) * scale


def _error(x: np.ndarray, scale: float, zero_point: int, bits: int) -> float:
    back = dequantize(
        quantize(x, np.float32(scale), zero_point, 0, 2**bits - 1), np.float32(scale), zero_point
    )
    return float(np.square(back - x).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_beats_covering_the_whole_range(bits: int, rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=4000)).astype(np.float32)
    scale, _ = fit_codes(x, bits, nonnegative=True)
    widest = float(x.max()) / (2**bits - 1)
    # The grid of 24 scales an octave can miss the exact maximum by 3 %: allow that much.
    assert _error(x, scale, 0, bits) <= 1.06 * _error(x, widest, 0, bits)
    if bits == 2:
        assert _error(x, scale, 0, bits) < 0.7 * _error(x, widest, 0, bits)


def test_two_bit_scale_of_a_half_gaussian_is_near_the_best_of_a_fine_search(rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=4000)).astype(np.float32)
    scale, _ = fit_codes(x, 2, nonnegative=True)
    best = min(_error(x, s, 0, 2) for s in np.linspace(0.05, 2, 800))
    assert _error(x, scale, 0, 2) <= 1.02 * best


def test_signed_values_get_a_zero_point_that_is_a_code(rng: np.random.Generator) -> None:
    x = rng.normal(loc=-1, size=2000).astype(np.float32)
    scale, zero_point = fit_codes(x, 4, nonnegative=False)
    assert 8 < zero_point <= 15
    assert _error(x, scale, zero_point, 4) < 0.02


def test_a_value_that_is_always_zero_gets_a_usable_scale() -> None:
    scale, zero_point = fit_codes(np.zeros(10, np.float32), 4, nonnegative=True)
    assert math.isfinite(scale)
    assert zero_point == 0


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rule", list(RANGES))
@pytest.mark.parametrize("low", [-3.0, -0.1, 0.5])
def test_numbers_are_usable_and_zero_points_even(rule: Ranges, bits: int, low: float) -> None:
    x = np.linspace(low, 2, 3000, dtype=np.float32)
    for nonnegative in {False, low >= 0}:
        scale, zero_point = RANGES[rule](_seen(x), bits, nonnegative=nonnegative)

        assert scale == float(np.float32(scale)) > 0
        assert zero_point % 2 == 0
        assert 0 <= zero_point < 2**bits
        assert zero_point == 0 if nonnegative else True
        # Of evenly spread values every rule keeps most; 2 bits around 0 with an even zero point are 3 levels.
        assert _error(x, scale, zero_point, bits) < 1.6 * (5 / 2**bits) ** 2 / 12 * (4 if bits == 2 else 1)


@pytest.mark.parametrize("rule", list(RANGES))
@pytest.mark.parametrize("x", [np.zeros(10, np.float32), np.zeros(0, np.float32)], ids=["zeros", "empty"])
def test_a_value_without_a_range_gets_a_usable_scale(rule: Ranges, x: NDArray[np.float32]) -> None:
    for nonnegative in (True, False):
        assert RANGES[rule](_seen(x), 4, nonnegative=nonnegative) == (1.0, 0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.01, 7.0), (-7.0, 0.01), (-3.0, -1.0), (2.0, 3.0)])
def test_min_max_is_the_smallest_scale_that_clips_nothing(low: float, high: float, bits: int) -> None:
    scale, zero_point = min_max(_seen(np.array([low, high], np.float32)), bits, nonnegative=False)

    least, greatest = _ends(scale, zero_point, bits)
    slack = 1 + 1e-6  # of float32
    assert least <= low / slack if low < 0 else least == 0
    assert greatest >= high / slack
    for even in range(0 if low >= 0 else 2, 2**bits - 1, 2):
        needed = max(-low / even if low < 0 else 0, high / (2**bits - 1 - even))
        assert scale <= needed * slack


def test_min_max_sees_the_one_element_that_the_sample_misses(rng: np.random.Generator) -> None:
    x = rng.uniform(size=200_000).astype(np.float32)
    x[:2] = 100, 50  # the first of a stream are in every prefix, so keys decide
    seen = _seen(x)
    assert seen.reservoir.sample.max() < 1
    assert min_max(seen, 8, nonnegative=True)[0] == pytest.approx(100 / 255, rel=1e-6)


@pytest.mark.parametrize("outlier", [1.0, 50.0])
def test_percentile_keeps_so_many_elements(rng: np.random.Generator, outlier: float) -> None:
    x = np.abs(rng.normal(size=300_000)).astype(np.float32)
    x[x < 0.5] = 0  # zeros count
    x[7] *= outlier

    scale, _ = percentile(_seen(x), 8, nonnegative=True)

    end = 255 * scale * (1 + 1e-6)
    assert (x > end).sum() <= 30
    # One bin further in, it is more than 30: a bin is at most a 4096th of the largest.
    assert (x > end - x.max() / 4096).sum() > 30


def test_percentile_halves_what_it_leaves_out_between_both_ends(rng: np.random.Generator) -> None:
    x = rng.normal(loc=0.5, size=300_000).astype(np.float32)
    x[:3] = -900, 900, 800

    scale, zero_point = percentile(_seen(x), 8, nonnegative=False)

    least, greatest = _ends(scale, zero_point, 8)
    bin_ = 900 / 4096
    assert (x < least).sum() <= 15 < (x < least + 2 * scale + bin_).sum()  # an even zero point: 2 codes
    assert (x > greatest).sum() <= 15 < (x > greatest - 2 * scale - bin_).sum()


def test_few_elements_are_all_kept_by_percentile(rng: np.random.Generator) -> None:
    x = rng.normal(size=5000).astype(np.float32)
    assert percentile(_seen(x), 6, nonnegative=False) == min_max(_seen(x), 6, nonnegative=False)


def test_divergence_is_that_of_the_definition() -> None:
    counts, codes = np.array([5, 1, 3, 2, 2, 4]), np.array([-1.0, 0, 0, 1, 1, 3])
    p, q = np.array([6, 3, 2, 6]) / 17, np.array([2, 2, 2, 2]) / 17
    assert _divergence(counts, codes, 1) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-12)


def test_entropy_clips_nothing_of_even_values_and_outliers_of_others(rng: np.random.Generator) -> None:
    even = rng.uniform(size=100_000).astype(np.float32)
    scale, _ = entropy(_seen(even), 8, nonnegative=True)
    assert 255 * scale == pytest.approx(1, rel=0.05)

    far = np.append(np.abs(rng.normal(size=100_000)), 20).astype(np.float32)
    scale, _ = entropy(_seen(far), 8, nonnegative=True)
    assert 2.5 < 255 * scale < 8  # 20 without clipping; a Gaussian of so many ends near 4.5


def test_entropy_spends_codes_on_the_side_where_the_values_are(rng: np.random.Generator) -> None:
    x = rng.normal(scale=2, size=100_000)
    swish = (x / (1 + np.exp(-x))).astype(np.float32)  # -0.28 to 9

    scale, zero_point = entropy(_seen(swish), 8, nonnegative=False)

    assert 2 <= zero_point <= 24
    assert _ends(scale, zero_point, 8)[1] > 5


def test_zeros_do_not_narrow_the_range_of_entropy(rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=50_000)).astype(np.float32)
    with_zeros = np.append(x, np.zeros(200_000, np.float32))
    assert entropy(_seen(with_zeros), 4, nonnegative=True) == entropy(_seen(x), 4, nonnegative=True)


def test_rules_differ_in_what_they_clip(rng: np.random.Generator) -> None:
    x = np.abs(rng.laplace(size=100_000)).astype(np.float32)
    scales = {name: rule(_seen(x), 4, nonnegative=True)[0] for name, rule in RANGES.items()}
    assert scales["minmax"] > scales["percentile"] > max(scales["entropy"], scales["mse"])


def test_a_rule_without_its_histogram_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="histogram"):
        entropy(Observer(), 8, nonnegative=True)
