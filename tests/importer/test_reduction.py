from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports

VERSIONS = [("ReduceMean", 18), ("ReduceSum", 13), ("ReduceMax", 18), ("ReduceMax", 20)]


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 1], [2, 3], None])
def test_reduce(op: str, opset: int, keepdims: int, axes: list[int] | None) -> None:
    given = {} if axes is None else {"axes": np.array(axes, np.int64)}
    assert_imports(
        f"y = {op} <keepdims = {keepdims}> (x{', axes' if given else ''})",
        opset=opset,
        initializers=given,
        rtol=1e-5,
        atol=2e-5,  # a sum of 360 terms of size 2, in the runtime's order
    )


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
def test_no_axes_can_mean_nothing_to_do(op: str, opset: int) -> None:
    assert_imports(
        f"y = {op} <noop_with_empty_axes = 1> (x, axes)",
        opset=opset,
        initializers={"axes": np.array([], np.int64)},
        rtol=0,
        atol=0,
    )
