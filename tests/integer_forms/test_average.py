"""Averages of codes in the simulation, the reference and ONNX Runtime: the same at every level."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from verified import write_files

from mpqtool.passes import metadata
from mpqtool.simulate import simulator_from_qdq

_SIZE = {1: "7", 2: "7,6"}


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize(
    ("attributes", "rank", "op"),
    [
        pytest.param("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", 2, "Conv", id="padding-does-not-count"),
        pytest.param(
            "kernel_shape = [3, 2], pads = [2, 0, 1, 1], strides = [2, 1], dilations = [1, 2]",
            2, "Conv", id="uneven",
        ),
        pytest.param(
            "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", 2, "Conv", id="size-rounded-up"
        ),
        pytest.param(
            "kernel_shape = [3, 3], strides = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1, "
            "ceil_mode = 1",
            2, "Conv", id="padding-counts-and-beyond-not",
        ),
        pytest.param(
            "kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1", 2, "QLinearConv", id="nothing-beyond"
        ),
        pytest.param("kernel_shape = [3], pads = [1, 1], strides = [2]", 1, "Conv", id="1d"),
    ],
)  # fmt: skip
def test_all_engines_agree(tmp_path: pathlib.Path, attributes: str, rank: int, op: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N,2,{_SIZE[rank]}] x) => (float[N,3] y) {{
        c = Conv (x, w)
        a = AveragePool <{attributes}> (c)
        r = Relu (a)
        d = Conv (r, v)
        g = GlobalAveragePool (d)
        y = Flatten (g)
    }}
    """
    ones = [1] * rank
    weights = {"w": rng.normal(size=(4, 2, *ones)), "v": rng.normal(size=(3, 4, *ones))}
    feeds = {"x": rng.normal(size=(4, 2, *(7, 6)[:rank])).astype(np.float32)}
    model = normal(text, weights)
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds, activation_bits=bits))

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert result.passed
    assert (result.codes_different, result.island_different) == (0, 0)
    made = ir.load(files.integer)
    assert not any(node.metadata_props.get(metadata.ISLAND) for node in made.graph)
    convolutions = [node.op_type for node in made.graph if node.op_type in ("Conv", "QLinearConv")]
    assert convolutions == ["QLinearConv", op, "QLinearConv"]
