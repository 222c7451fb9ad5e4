from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports

from mpqtool.importer.selection import reverse_sequence, unique

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("attributes", ["", "<axis = 2>", "<axis = -1>"])
@pytest.mark.parametrize("condition", [[True, False, True, True], [False, False]], ids=str)
def test_compress(opset: int, attributes: str, condition: list[bool]) -> None:
    given = {"c": np.array(condition)}
    assert_imports(f"y = Compress {attributes} (x, c)", opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("opset", [9, 13])
def test_non_zero(opset: int) -> None:
    assert_imports(
        "i = Cast <to = 6> (x)  n = NonZero (i)  y = Cast <to = 1> (n)",
        opset=opset,
        inputs={"x": (4, 3)},
        **EXACT,
    )


@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("axis", ["", ", axis = 0", ", axis = -1"])
def test_unique(sorted_: int, axis: str) -> None:
    counted = "  ".join(f"{name} = Cast <to = 1> (u{name})" for name in "ijk")
    assert_imports(
        f"r = Floor (x)  y, ui, uj, uk = Unique <sorted = {sorted_}{axis}> (r)  {counted}",
        opset=13,
        inputs={"x": (9,)},
        outputs=("y", "i", "j", "k"),
        **EXACT,
    )


def test_unique_without_its_other_outputs() -> None:
    assert_imports("r = Floor (x)  y = Unique (r)", opset=13, **EXACT)


def test_the_gradient_goes_to_the_first_occurrence() -> None:
    x = torch.tensor([2.0, 1.0, 2.0], requires_grad=True)
    unique(x, None, True)[0].sum().backward()
    assert x.grad.tolist() == [1, 1, 0]


@pytest.mark.parametrize("axes", ["batch_axis = 1, time_axis = 0", "batch_axis = 0, time_axis = 1"])
def test_reverse_sequence(axes: str) -> None:
    """The input is transposed so that the axis of the batch is known."""
    assert_imports(
        f"t = Reshape (x, s)  y = ReverseSequence <{axes}> (t, l)",
        opset=10,
        initializers={
            "s": np.array([3, 3, -1]),
            "l": np.array([1, 3, 2]),
        },
        inputs={"x": (3, 6)},
        **EXACT,
    )


def test_reversing_has_a_gradient() -> None:
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reverse_sequence(x, torch.tensor([4, 3]), 1, 0), x)
