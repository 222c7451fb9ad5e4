from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mpqtool.passes.constants import constant, scalar_of
from mpqtool.passes.values import gathered_names, take_name


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


@pytest.mark.parametrize("name", ["x", "y"], ids=["graph-input", "node-output"])
def test_names_of_other_values_are_not_taken(name: str) -> None:
    x = ir.Value(name="x")
    node = ir.node("Relu", [x])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node])

    found = constant(graph, name, np.float32(1))

    assert found.name == f"{name}_1"
    assert constant(graph, name, np.float32(1)) is found
    assert constant(graph, name, np.float32(2)).name == f"{name}_2"


def test_gathered_names_are_those_that_are_given(graph: ir.Graph) -> None:
    with gathered_names(graph):
        first = constant(graph, "a", np.float32(1))
        take_name(graph, "b")
        with gathered_names(graph):
            assert constant(graph, "a", np.float32(1)) is first
            assert constant(graph, "a", np.float32(2)).name == "a_1"
        assert constant(graph, "b", np.float32(1)).name == "b_1"

    assert constant(graph, "b", np.float32(1)).name == "b"


def test_scalar_of_one_element_only(graph: ir.Graph) -> None:
    assert scalar_of(constant(graph, "a", np.full(1, 3, np.uint8))) == np.uint8(3)
    assert scalar_of(constant(graph, "b", np.zeros(2))) is None
    assert scalar_of(None) is None
