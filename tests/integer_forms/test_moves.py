"""Moved codes in the simulation, the reference and ONNX Runtime: the same at every optimization level."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from verified import write_files

from mpqtool.passes import metadata
from mpqtool.simulate import simulator_from_qdq

_INT = np.int64
MOVES = {
    "depth-to-space": ("m = DepthToSpace <blocksize = 2> (c)", {}),
    "depth-to-space-crd": ('m = DepthToSpace <blocksize = 2, mode = "CRD"> (c)', {}),
    "space-to-depth": ("m = SpaceToDepth <blocksize = 2> (c)", {}),
    "slice": ("m = Slice (c, a, b, axes)", {"a": [1, -5], "b": [9, -1], "axes": [1, 3]}),
    "slice-steps": (
        "m = Slice (c, a, b, axes, steps)",
        {"a": [-1, 0], "b": [-99, 6], "axes": [2, -1], "steps": [-2, 3]},
    ),
    "gather": ("m = Gather <axis = 1> (c, i)", {"i": [3, 0, -1]}),
    "expand": ("r = Slice (c, a, b, axes)  m = Expand (r, s)", {
        "a": [0], "b": [1], "axes": [3], "s": [1, 1, 1, 5],
    }),
    "tile": ("m = Tile (c, r)", {"r": [1, 1, 2, 1]}),
    "pad": ("m = Pad (c, p)", {"p": [0, 1, 2, 0, 0, 0, 1, 3]}),
    "pad-zero-axes": ("m = Pad (c, p, zero, axes)", {"p": [2, 1, 0, 1], "axes": [2, -1]}),
    "pad-negative": ("m = Pad (c, p)", {"p": [0, 0, -1, 0, 0, 0, 1, -2]}),
    "pad-reflect": ('m = Pad <mode = "reflect"> (c, p)', {"p": [0, 0, 2, 1, 0, 0, 1, 3]}),
    "pad-edge": ('m = Pad <mode = "edge"> (c, p)', {"p": [0, 0, 2, 1, 0, 0, 1, 3]}),
    "pad-wrap": ('m = Pad <mode = "wrap"> (c, p)', {"p": [0, 0, 2, 1, 0, 0, 1, 3]}),
    "split": ("m, u = Split <axis = 1, num_outputs = 2> (c)", {}),
    "split-sizes": ("u, m, k = Split <axis = 1> (c, s)", {"s": [1, 2, 1]}),
    "squeeze": ("u = Unsqueeze (c, e)  t = Transpose <perm = [0, 2, 1, 4, 3]> (u)  m = Squeeze (t, o)", {
        "e": [1], "o": [2],
    }),
    "reshape": ("m = Reshape (c, s)", {"s": [0, 4, 9, -1]}),
}  # fmt: skip
X = np.random.default_rng(0).normal(size=(5, 2, 6, 6)).astype(np.float32)


def _check(tmp_path: pathlib.Path, body: str, bits: int, more: dict[str, np.ndarray]) -> ir.Model:
    rng = np.random.default_rng(1)
    text = f"net (float[N, 2, 6, 6] x) => (float[N, C] y) {{ c = Conv (x, w) {body} }}"
    weights = {"w": rng.normal(size=(4, 2, 1, 1)), "zero": np.zeros(1), **more}
    model = normal(text, weights)
    plan = calibrated(model, {"x": X}, activation_bits=bits)
    files = write_files(tmp_path, model, {"x": X}, plan)

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert result.passed
    assert (result.codes_different, result.island_different) == (0, 0)
    made = ir.load(files.integer)
    assert not any(node.metadata_props.get(metadata.ISLAND) for node in made.graph)
    moved = next(value for node in made.graph for value in node.outputs if value.name == "m.codes")
    assert moved.dtype is ir.DataType.UINT8
    return made


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("name", MOVES)
def test_moves_codes(tmp_path: pathlib.Path, name: str, bits: int) -> None:
    body, numbers = MOVES[name]
    more = {key: np.array(value, _INT) for key, value in numbers.items()}
    _check(tmp_path, f"{body}  g = GlobalAveragePool (m)  y = Flatten (g)", bits, more)


def test_every_part_of_a_split_has_its_codes(tmp_path: pathlib.Path) -> None:
    body = """
    m, u = Split <axis = 1, num_outputs = 2> (c)
    r = Relu (u)
    a = Conv (m, v)
    b = Conv (r, v)
    s = Add (a, b)
    g = GlobalAveragePool (s)
    y = Flatten (g)
    """
    made = _check(tmp_path, body, 4, {"v": np.random.default_rng(2).normal(size=(3, 2, 1, 1))})
    names = {str(value.name) for node in made.graph for value in node.outputs}
    assert {"c.codes", "m.codes", "u.codes", "r.codes"} <= names


_WAYS = [
    pytest.param(mode, nearest, id=f"{mode}-{nearest}")
    for mode in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
]


@pytest.mark.parametrize(("mode", "nearest"), _WAYS)
def test_resize_takes_the_elements_that_onnx_runtime_takes(
    tmp_path: pathlib.Path, mode: str, nearest: str
) -> None:
    ways = f'coordinate_transformation_mode = "{mode}", nearest_mode = "{nearest}"'
    body = f"""
    u = Resize <mode = "nearest", {ways}> (c, , scales)
    d = Resize <mode = "nearest", {ways}, axes = [3, 2]> (u, , , sizes)
    m = Resize <mode = "nearest", {ways}> (d, , twice)
    g = GlobalAveragePool (m)
    y = Flatten (g)
    """
    numbers = {
        "scales": np.float32([1, 1, 2.7, 0.6]),
        "twice": np.float32([1, 1, 2, 2]),
        "sizes": np.array([4, 11], _INT),
    }
    _check(tmp_path, body, 8, numbers)


def test_a_pad_with_another_number_stays_float(tmp_path: pathlib.Path) -> None:
    weights = {"w": np.ones((4, 2, 1, 1)), "p": np.array([0, 0, 1, 1, 0, 0, 0, 0], _INT), "one": np.ones(1)}
    text = """
    net (float[N, 2, 6, 6] x) => (float[N, C] y) {
        c = Conv (x, w)
        f = Pad (c, p, one)
        g = GlobalAveragePool (f)
        y = Flatten (g)
    }
    """
    model = normal(text, weights)
    files = write_files(tmp_path, model, {"x": X}, calibrated(model, {"x": X}))

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert result.passed
    pad = next(node for node in ir.load(files.integer).graph if node.op_type == "Pad")
    assert pad.outputs[0].dtype is ir.DataType.FLOAT


@pytest.mark.parametrize("sizes", ["6,4", "t,4"])
def test_layers_of_tokens(tmp_path: pathlib.Path, sizes: str) -> None:
    """Rows of a matrix and back; sizes that can vary are those of the codes."""
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N,{sizes}] x) => (float[N,4] y) {{
        m = MatMul (x, w)
        a = Add (m, b)
        r = Relu (a)
        k = MatMul (r, v)
        s = Add (k, x)
        y = ReduceMean <keepdims = 0> (s, tokens)
    }}
    """
    weights = {
        "w": rng.normal(size=(4, 8)),
        "v": rng.normal(size=(8, 4)),
        "b": rng.normal(size=8),
        "tokens": np.array([1], _INT),
    }
    model = normal(text, weights)
    feeds = {"x": rng.normal(size=(5, 6, 4)).astype(np.float32)}
    files = write_files(tmp_path, model, feeds, calibrated(model, feeds, activation_bits=6))

    result = files.verify(simulate=simulator_from_qdq(files.qdq))

    assert result.passed
    assert (result.codes_different, result.island_different) == (0, 0)
    made = ir.load(files.integer)
    kinds = [node.op_type for node in made.graph]
    assert kinds.count("QGemm") == 2
    assert ("Shape" in kinds) is (sizes == "t,4")
    assert not any(node.metadata_props.get(metadata.ISLAND) for node in made.graph)
    shapes = [node for node in made.graph if node.op_type == "Shape"]
    assert all(str(node.inputs[0].name).endswith(metadata.SUFFIX) for node in shapes)
