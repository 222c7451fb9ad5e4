"""Verification of files that compute some operators in float."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from numpy.typing import NDArray
from verified import write_files

from mpqtool.runtime.reference import Reference

Array = NDArray[Any]


def test_island_is_given_to_the_simulation_and_not_counted(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    text = """
    net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c = Conv (x, w0)
        m = Exp (c)
        d = Conv (m, w1)
        g = GlobalAveragePool (d)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, w2)
    }
    """
    weights = {
        "w0": rng.normal(size=(3, 2, 3, 3)),
        "w1": rng.normal(size=(3, 3, 3, 3)),
        "w2": rng.normal(size=(3, 3)),
    }
    feeds = {"x": rng.normal(size=(8, 2, 6, 6)).astype(np.float32)}
    model = normal(text, weights)
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds))
    reference = Reference(files.integer)
    seen: list[list[str]] = []

    def simulate(feeds: dict[str, Array]) -> dict[str, Array]:
        given = {name: feeds.pop(name) for name in list(feeds) if name != "x"}
        seen.append(list(given))
        codes = {name: x for name, x in reference.run(feeds, given).items() if name in reference.codes}
        wobble = codes["m.codes"].copy()
        few = wobble.reshape(-1)[:1]
        few[:] = np.where(few > 0, few - 1, 1)
        return codes | {"m.codes": wobble}

    result = files.verify(simulate=simulate)

    assert seen == [["m.codes"]]
    assert result.passed
    assert result.island_different == 1
    assert result.island_compared == 8 * 3 * 4 * 4
    assert result.codes_different == 0
    kinds = {row.name: row.kind for row in result.tensors}
    assert kinds["m.codes"] == "island"
    assert kinds["c.codes"] == "codes"
    assert kinds["y"] == "float"


@pytest.mark.parametrize("change", ["Neg", "Log", "Abs", None])
def test_outputs_behind_float_operators_are_compared_too(
    tmp_path: pathlib.Path, rng: np.random.Generator, change: str | None
) -> None:
    text = """
    net (float[N, 4] x) => (float[N, 3] y) {
        c = Gemm <transB = 1> (x, w0)
        y = Softmax <axis = 1> (c)
    }
    """
    feeds = {"x": rng.normal(size=(8, 4)).astype(np.float32)}
    model = normal(text, {"w0": rng.normal(size=(3, 4))})
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds))
    if change is not None:
        held = ir.load(files.integer)
        (softmax,) = [node for node in held.graph if node.op_type == "Softmax"]
        old = softmax.outputs[0]
        old.name = "before"
        node = ir.node("Abs", [old])  # the same numbers, so nothing to find
        if change != "Abs":
            node = ir.node("Neg", [old])
        if change == "Log":  # NaN, all of them
            node.outputs[0].name = "negative"
            held.graph.append(node)
            node = ir.node("Log", [node.outputs[0]])
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", old.type, old.shape
        held.graph.append(node)
        held.graph.outputs[0] = node.outputs[0]
        ir.save(held, files.integer)

    result = files.verify()

    assert result.passed is (change in ("Abs", None))
    assert result.real_unsettled == 0
    if not result.passed:
        assert "behind float operators" in str(result.first_different)


@pytest.mark.parametrize(("op", "passed"), [("Max", True), ("Add", False), ("Mul", False)])
def test_a_tail_whose_outputs_are_tiny(
    tmp_path: pathlib.Path, rng: np.random.Generator, op: str, passed: bool
) -> None:
    """ONNX Runtime computes Sigmoid to 1e-7, which is 1 % of these outputs; the reference to a millionth."""
    text = """
    net (float[N, 4] x) => (float[N, 3] y) {
        c = Gemm <transB = 1> (x, w, b)
        y = Sigmoid (c)
    }
    """
    feeds = {"x": rng.normal(size=(64, 4)).astype(np.float32)}
    model = normal(text, {"w": 0.2 * rng.normal(size=(3, 4)), "b": np.full(3, -13.0)})
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds))

    def append(model: ir.Model) -> None:
        (sigmoid,) = [node for node in model.graph if node.op_type == "Sigmoid"]
        old = sigmoid.outputs[0]
        old.name = "before"
        node = ir.node(op, [old, old])
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", old.type, old.shape
        model.graph.append(node)
        model.graph.outputs[0] = node.outputs[0]

    largest = Reference(files.integer).run(feeds)["y"].max()
    files.change(append)

    result = files.verify()

    assert largest < 2e-5
    assert result.codes_different == 0
    assert result.passed is passed
    if not passed:
        assert "behind float operators" in str(result.first_different)
