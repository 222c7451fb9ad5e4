from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mpqtool.passes.constants import constant, scalar_of


@pytest.fixture
def graph() -> ir.Graph:
    return ir.Graph([], [], nodes=[], name="empty")


def test_equal_constants_are_made_once(graph: ir.Graph) -> None:
    first = constant(graph, "a", np.float32(1))

    assert constant(graph, "a", np.float32(1)) is first
    assert first.name == "a"
    assert first.dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    "other",
    [np.float32(2), np.float64(1), np.ones(1, np.float32)],
    ids=["another-number", "another-type", "another-shape"],
)
def test_others_get_another_name(graph: ir.Graph, other: np.generic) -> None:
    constant(graph, "a", np.float32(1))

    found = constant(graph, "a", other)

    assert found.name == "a_1"
    assert constant(graph, "a", other) is found


def test_scalar_of_one_element_only(graph: ir.Graph) -> None:
    assert scalar_of(constant(graph, "a", np.full(1, 3, np.uint8))) == np.uint8(3)
    assert scalar_of(constant(graph, "b", np.zeros(2))) is None
    assert scalar_of(None) is None
