"""Weights that use all signed integers of their widths, in every form that files have."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated
from targets import network
from verified import Files

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.arithmetic import code_range
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import complete
from mpqtool.passes.targets import TARGETS
from mpqtool.passes.values import array
from mpqtool.quantizers.attach import attach
from mpqtool.simulate import IntegerSimulation


@pytest.mark.parametrize("name", ["residual", "concat-clip"])
@pytest.mark.parametrize("widths", [[2], [8], range(2, 9)], ids=["2-bit", "8-bit", "mixed"])
def test_every_code_is_verified_for_every_target(
    tmp_path: pathlib.Path, rng: np.random.Generator, name: str, widths: list[int]
) -> None:
    model = network(rng, name)
    feeds = {"x": rng.normal(size=(5, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, plan=place(model, weight_bits=8, activation_bits=8, grid=Grid.FULL))
    plan = plan.replaced(
        weights=[
            w.model_copy(update={"bits": tuple(np.resize(widths, len(w.bits)).tolist())})
            for w in plan.weights
        ]
    )
    # Finer steps than fitted ones, so that kernels are clipped.
    plan = complete(model, plan)
    plan = plan.replaced(
        weights=[w.model_copy(update={"scale": tuple(s / 2 for s in w.scale or ())}) for w in plan.weights]
    )
    qdq = pipelines.quantize(model, plan)
    ir.save(qdq, tmp_path / "a.qdq.onnx")
    simulation = IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)

    lowest: dict[int, int] = {}
    for w in plan.weights:
        for bits, kernel in zip(w.bits, array(qdq.graph.initializers[f"{w.name}.codes"]), strict=True):
            lowest[bits] = min(lowest.get(bits, 0), int(kernel.min()))
    assert lowest == {bits: code_range(bits, Grid.FULL)[0] for bits in lowest}
    for target in TARGETS:
        ir.save(pipelines.lower(qdq, target=target), tmp_path / f"{target}.onnx")
        files = Files(tmp_path / "a.qdq.onnx", tmp_path / f"{target}.onnx", feeds)
        result = files.verify(simulate=simulation)

        assert result.passed, (target, result.first_different)
        assert result.codes_compared > 0
        assert result.codes_different == result.constants_different == 0
