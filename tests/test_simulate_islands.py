"""The torch simulation of files of which a part stays float: it goes on from the codes it is given."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
from graphs import calibrated, normal
from offset_cases import with_offsets
from verified import Files

from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.lower.keep_float import units
from mpqtool.simulate import simulator_from_qdq

NETWORKS = {
    "max-pool": """
        net (float[N, 2, 6, 6] x) => (float[N, 3, P, Q] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            r = Relu (c)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
            y = Conv (m, w1)
        }""",
    "split-concat": """
        net (float[N, 2, 6, 6] x) => (float[N, 3, P, Q] y) {
            c = Conv (x, w0, b0)
            s, t = Split <axis = 1, num_outputs = 2> (c)
            m = MaxPool <kernel_shape = [2, 2]> (s)
            p = MaxPool <kernel_shape = [2, 2]> (t)
            d = Conv <pads = [0, 0, 1, 1]> (m, w2)
            e = Conv <pads = [0, 0, 1, 1]> (p, w2)
            j = Concat <axis = 1> (d, e)
            y = Conv (j, w1)
        }""",
    "resize": """
        net (float[N, 2, 6, 6] x) => (float[N, 3, P, Q] y) <float[4] up = {1, 1, 2, 2}> {
            c = Conv (x, w0, b0)
            u = Resize <mode = "nearest"> (c, , up)
            y = Conv (u, w1)
        }""",
}
SHAPES = {"w0": (4, 2, 3, 3), "w1": (3, 4, 2, 2), "w2": (2, 2, 2, 2)}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_units_may_stay_float(
    tmp_path: pathlib.Path, rng: np.random.Generator, name: str, beta: float
) -> None:
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    model = normal(NETWORKS[name], weights | {"b0": rng.normal(size=4)})
    feeds = {"x": rng.normal(size=(32, 2, 6, 6)).astype(np.float32)}
    plan = calibrated(model, feeds, activation_bits=8)
    owner = {"max-pool": "r", "split-concat": "c", "resize": "c"}[name]
    qdq = pipelines.quantize(model, with_offsets(model, plan, {owner: beta} if beta else {}))
    files = Files(tmp_path / "qdq.onnx", tmp_path / "int.onnx", feeds)
    save_model(qdq, files.qdq)
    simulate = simulator_from_qdq(files.qdq)
    canonical = pipelines.canonical_qdq(load_model(files.qdq))
    names = [[str(node.outputs[0].name) for node in unit] for unit in units(canonical.graph)]
    assert len(names) > 1
    islands = set()

    # Of many units only some subsets: each takes a fifth of a second.
    subsets = [chosen for count in range(len(names)) for chosen in itertools.combinations(names, count + 1)]
    for index in rng.permutation(len(subsets))[:12]:
        kept = {value: "it is faster" for unit in subsets[index] for value in unit}
        save_model(pipelines.lower(canonical, float_layers=kept), files.integer)
        result = files.verify(simulate=simulate, levels=["all"])
        assert result.passed, (kept, result.first_different)
        islands.update(row.name for row in result.tensors if row.kind == "island")

    assert islands
