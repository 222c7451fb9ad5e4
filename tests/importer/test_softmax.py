from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports
from typed import compute


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("axis", ["", "<axis = 1>", "<axis = -2>"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_over_one_axis(op: str, axis: str, opset: int) -> None:
    # 2e-6 is a few float32 steps at 5, for the approximations of exp.
    assert_imports(f"y = {op} {axis} (x)", opset=opset, low=-5, high=5, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("axis", ["", "<axis = 2>", "<axis = 3>", "<axis = 0>"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_over_all_axes_from_one_on_before_opset_13(op: str, axis: str, opset: int) -> None:
    assert_imports(f"y = {op} {axis} (x)", opset=opset, low=-5, high=5, rtol=1e-6, atol=2e-6)


def test_a_negative_axis_counts_from_the_end() -> None:
    assert_imports("y = Softmax <axis = -2> (x)", opset=11, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13])
def test_hardmax_takes_the_first_of_equals(opset: int) -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    y = compute("y = Hardmax (x)", opset=opset, x=x)
    assert y.tolist() == [[0, 1, 0], [1, 0, 0]]
