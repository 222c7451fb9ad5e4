"""Transposed convolutions in integers: the simulation, the reference and ONNX Runtime give the same."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from verified import write_files

from mpqtool.passes import metadata
from mpqtool.simulate import simulator_from_qdq


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("attributes", "kernel", "sizes"),
    [
        pytest.param("strides = [2, 2]", (2, 2), "5,4", id="k2s2"),
        pytest.param("strides = [2, 2]", (2, 2), "h,w", id="free-sizes"),
        pytest.param("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 4), "5,4", id="k4s2p1"),
        pytest.param("strides = [3, 3], output_padding = [1, 2], group = 2", (6, 3), "5,4", id="groups"),
        pytest.param("strides = [4], pads = [2, 2]", (8,), "5", id="1d"),
    ],
)
def test_all_engines_agree(
    tmp_path: pathlib.Path, attributes: str, kernel: tuple[int, ...], sizes: str, bits: int
) -> None:
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N,4,{sizes}] x) => (float[N,3] y) {{
        t = ConvTranspose <{attributes}> (x, w, b)
        s = BatchNormalization (t, gamma, beta, mean, var)
        r = Relu (s)
        c = Conv (r, v)
        g = GlobalAveragePool (c)
        y = Flatten (g)
    }}
    """
    outputs = 6 // (2 if "group" in attributes else 1)
    weights = {
        "w": rng.normal(size=(4, outputs, *kernel)),
        "v": rng.normal(size=(3, 6, *[1] * len(kernel))),
        "var": rng.uniform(0.5, 2, size=6),
        **{name: rng.normal(size=6) for name in ("b", "gamma", "beta", "mean")},
    }
    feeds = {"x": rng.normal(size=(3, 4, *(5, 4)[: len(kernel)])).astype(np.float32)}
    model = normal(text, weights)
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds, activation_bits=bits))

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert result.passed
    assert (result.codes_different, result.island_different) == (0, 0)
    made = ir.load(files.integer)
    assert not any(node.metadata_props.get(metadata.ISLAND) for node in made.graph)
    assert [node.op_type for node in made.graph].count("QLinearConv") == 2
    assert ("DepthToSpace" in [node.op_type for node in made.graph]) is (sizes == "h,w")
