"""A float model that is changed still computes the same, or the run ends."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import normal

from mpqtool.equalizing import check_same, moved
from mpqtool.errors import ModelError


def test_a_change_of_the_outputs_is_an_error(rng: np.random.Generator) -> None:
    weight, x = rng.normal(size=(4, 3)), rng.normal(size=(20, 3)).astype(np.float32)
    one, other = (
        normal("net (float[N, 3] x) => (float[N, 4] y) { y = Gemm <transB = 1> (x, w) }", {"w": w})
        for w in (weight, weight * 1.01)
    )
    assert check_same(one, one, {"x": x}, "Nothing") == 0
    assert moved(one, other, {"x": x}) == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ModelError, match=r"Scaling moved a float output by 0.01 of its largest number"):
        check_same(one, other, {"x": x}, "Scaling")
