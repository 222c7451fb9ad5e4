from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError

WINDOWS = ["HannWindow", "HammingWindow", "BlackmanWindow"]


@pytest.mark.parametrize("operator", WINDOWS)
@pytest.mark.parametrize("attributes", ["", "<periodic = 0>"])
def test_window(operator: str, attributes: str) -> None:
    assert_imports(
        f"w = {operator} {attributes} (n)  y = Mul (x, w)",
        opset=17,
        inputs={"x": (10,)},
        initializers={"n": np.array(10)},
        rtol=1e-5,
        atol=1e-6,  # of the cosine near its zeros
    )


def test_window_of_a_computed_size() -> None:
    assert_imports(
        "s = Shape <start = 1> (x)  n = Squeeze (s)  w = HannWindow <output_datatype = 11> (n)"
        "  y = Cast <to = 1> (w)",
        opset=17,
        inputs={"x": (12,)},
        rtol=1e-5,
        atol=1e-6,  # of the cosine near its zeros
    )


def test_a_type_that_torch_has_not_is_refused() -> None:
    proto = parse("y = HannWindow <output_datatype = 8> (n)", inputs={}, initializers={"n": np.array(10)})
    with pytest.raises(UnsupportedOpError, match="its output is STRING, which torch cannot hold"):
        imported(proto)
