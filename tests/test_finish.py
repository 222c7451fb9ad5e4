from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqtool.finish import _rescaled, _short
from mpqtool.passes.arithmetic import quantize_weight
from mpqtool.passes.plan import Grid, WeightQuant


@given(scale=st.floats(1e-6, 1e3), codes=st.tuples(st.integers(-255, 255), st.integers(-255, 255)))
def test_a_short_scale_makes_sums_of_codes_exact(scale: float, codes: tuple[int, int]) -> None:
    short = _short(scale)
    assert short == pytest.approx(scale, rel=2**-12)
    s = np.float32(short)
    assert float(s) == short
    a, b = (np.float32(code) * s for code in codes)
    assert float(a + b) == (codes[0] + codes[1]) * short  # float32 on the left, float64 on the right


@pytest.mark.parametrize("grid", list(Grid))
def test_folding_keeps_the_codes_up_to_the_sign(rng: np.random.Generator, grid: Grid) -> None:
    weight = rng.normal(size=(4, 50)).astype(np.float32)
    entry = WeightQuant(name="w", bits=(2, 4, 8, 3), grid=grid, scale=(0.5, 0.2, 0.01, 0.3))
    factor = np.array([2.0, -0.5, -4.0, 0.0], np.float32)  # powers of two: no rounding in the way
    if grid is Grid.FULL:  # its lowest code has no negative
        factor = np.abs(factor)

    folded = _rescaled(entry, factor)

    before = quantize_weight(weight, entry.scale, entry.bits, grid)
    after = quantize_weight(weight * factor[:, None], folded.scale, folded.bits, grid)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1:3], np.sign(factor[1:3, None]) * before[1:3])
    assert folded.bits == (2, 4, 8, 0)  # times 0: no bits, all codes 0
    assert not after[3].any()
