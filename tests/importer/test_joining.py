from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports

from mpqtool.importer.joining import split_evenly

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [4, 11, 13])
@pytest.mark.parametrize("axis", [1, -2])
def test_concat(opset: int, axis: int) -> None:
    assert_imports(
        f"y = Concat <axis = {axis}> (x, b, x)", opset=opset, inputs={"x": (4, 5), "b": (2, 5)}, **EXACT
    )


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("sizes", [[4, 2], [0, 6]])
def test_split_by_sizes(opset: int, sizes: list[int]) -> None:
    assert_imports(
        "y, z = Split <axis = 2> (x, sizes)",
        opset=opset,
        initializers={"sizes": np.array(sizes, np.int64)},
        outputs=("y", "z"),
        **EXACT,
    )


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("attributes", ["axis = 2", "axis = 2, split = [4, 2]"])
def test_split_by_attribute(opset: int, attributes: str) -> None:
    assert_imports(f"y, z = Split <{attributes}> (x)", opset=opset, outputs=("y", "z"), **EXACT)


@pytest.mark.parametrize(("opset", "attributes"), [(13, "axis = 2"), (18, "axis = 2, num_outputs = 3")])
def test_split_evenly(opset: int, attributes: str) -> None:
    assert_imports(f"y, z, w = Split <{attributes}> (x)", opset=opset, outputs=("y", "z", "w"), **EXACT)


def test_split_with_a_smaller_rest() -> None:
    assert_imports("y, z = Split <axis = 3, num_outputs = 2> (x)", opset=18, outputs=("y", "z"), **EXACT)


def test_there_are_as_many_parts_as_asked_for() -> None:
    assert [len(part) for part in split_evenly(torch.zeros(5), 4, 0)] == [2, 2, 1, 0]
