from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.quantizers.calibrate import drawn, fit_codes


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


def test_channels_of_few_values_are_not_missed() -> None:
    values = torch.arange(8.0).repeat(2**15)  # every 16th is the same channel

    assert set(drawn(values).tolist()) == set(range(8))
    assert torch.equal(drawn(values), drawn(values))
    assert len(drawn(values, 100)) == 100
