from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import run_onnx
from importing import assert_imports, imported, parse

EXACT = {"rtol": 0, "atol": 0}
AFTER_13 = [13, 21, 23, 24, 25]


def _ints(**values: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.int64) for name, value in values.items()}


@pytest.mark.parametrize("opset", [1, 9, 11, *AFTER_13])
def test_flatten(opset: int) -> None:
    assert_imports("y = Flatten (x)", opset=opset, **EXACT)


@pytest.mark.parametrize("axis", [-2, 0, 2, 4])
def test_flatten_elsewhere(axis: int) -> None:
    assert_imports(f"y = Flatten <axis = {axis}> (x)", opset=21, **EXACT)


@pytest.mark.parametrize("opset", [5, 14, 19, *AFTER_13])
@pytest.mark.parametrize("shape", [[0, -1], [-1, 120], [0, 2, 2, -1], [-1]])
def test_reshape(opset: int, shape: list[int]) -> None:
    assert_imports("y = Reshape (x, s)", opset=opset, initializers=_ints(s=shape), **EXACT)


def test_reshape_where_a_size_may_be_0() -> None:
    assert_imports("y = Reshape <allowzero = 1> (x, s)", opset=21, initializers=_ints(s=[-1, 120]), **EXACT)
    empty = "e = Slice (x, o, o, a)  y = Reshape <allowzero = 1> (e, s)"
    assert_imports(empty, opset=21, initializers=_ints(o=[0], a=[1], s=[3, 0, 7]), **EXACT)


@pytest.mark.parametrize("opset", [1, *AFTER_13])
@pytest.mark.parametrize("attributes", ["", "<perm = [0, 2, 3, 1]>"])
def test_transpose(opset: int, attributes: str) -> None:
    assert_imports(f"y = Transpose {attributes} (x)", opset=opset, **EXACT)


@pytest.mark.parametrize("opset", AFTER_13)
@pytest.mark.parametrize("axes", [[1], [-1, 1]])
def test_squeeze(opset: int, axes: list[int]) -> None:
    assert_imports(
        "y = Squeeze (x, axes)", opset=opset, inputs={"x": (1, 4, 1)}, initializers=_ints(axes=axes), **EXACT
    )


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("attributes", ["", "<axes = [1]>", "<axes = [3, 1]>"])
def test_squeeze_by_attribute(opset: int, attributes: str) -> None:
    assert_imports(f"y = Squeeze {attributes} (x)", opset=opset, inputs={"x": (1, 4, 1)}, **EXACT)


def test_squeeze_everything() -> None:
    assert_imports("y = Squeeze (x)", opset=21, inputs={"x": (1, 4, 1)}, **EXACT)
    none = _ints(axes=[])
    assert_imports("y = Squeeze (x, axes)", opset=21, inputs={"x": (1, 4, 1)}, initializers=none, **EXACT)


@pytest.mark.parametrize("opset", AFTER_13)
@pytest.mark.parametrize("axes", [[1], [-1, 1], [4, 0]])
def test_unsqueeze(opset: int, axes: list[int]) -> None:
    assert_imports(
        "y = Unsqueeze (x, axes)", opset=opset, inputs={"x": (4, 3)}, initializers=_ints(axes=axes), **EXACT
    )


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("axes", [[1], [4, 0]])
def test_unsqueeze_by_attribute(opset: int, axes: list[int]) -> None:
    assert_imports(f"y = Unsqueeze <axes = {axes}> (x)", opset=opset, inputs={"x": (4, 3)}, **EXACT)


@pytest.mark.parametrize("opset", [8, 13])
@pytest.mark.parametrize("shape", [[1], [6, 1], [2, 1, 1, 6, 5], [4, 1, 1]])
def test_expand(opset: int, shape: list[int]) -> None:
    given = _ints(s=shape)
    assert_imports("y = Expand (x, s)", opset=opset, inputs={"x": (4, 1, 5)}, initializers=given, **EXACT)


@pytest.mark.parametrize("opset", [6, 13])
def test_tile(opset: int) -> None:
    assert_imports("y = Tile (x, r)", opset=opset, initializers=_ints(r=[1, 3, 1, 2]), **EXACT)


@pytest.mark.parametrize("operator", ["Expand", "Tile"])
def test_an_array_that_is_repeated_learns(operator: str) -> None:
    token = {"w": np.ones((1, 2), np.float32)}
    proto = parse(
        f"r = {operator} (w, s)  y = Mul (x, r)",
        inputs={"x": (2,)},
        initializers={**token, **_ints(s=[3, 1])},
    )
    module = imported(proto)
    module(torch.ones(3, 2))[0].sum().backward()
    assert module.get_parameter("w").grad.tolist() == [[3, 3]]


@pytest.mark.parametrize("opset", [1, 13, 14, 16, 19, 21, 23, 24, 25])
def test_identity(opset: int) -> None:
    module = assert_imports("y = Identity (x)", opset=opset, **EXACT)
    assert [node.meta.get("onnx_name") for node in module.graph.nodes] == ["x", "y", None]


@pytest.mark.parametrize("opset", [7, 13, 15, 19, 21, 23, 24, 25])
@pytest.mark.parametrize("operator", ["Shape", "Size"])
def test_shape_and_size(opset: int, operator: str) -> None:
    assert_imports(f"s = {operator} (x)  y = Cast <to = 1> (s)", opset=opset, **EXACT)


@pytest.mark.parametrize(
    "attributes",
    ["start = 1", "end = -1", "start = -3, end = 3", "start = -9, end = 9", "start = 3, end = 1"],
)
def test_shape_of_some_axes(attributes: str) -> None:
    assert_imports(f"s = Shape <{attributes}> (x)  y = Cast <to = 1> (s)", opset=21, **EXACT)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        pytest.param(
            "s = Shape (x)  n = Gather (s, zero)  m = Unsqueeze (n, zeros)  t = Concat <axis = 0> (m, rest)"
            "  y = Reshape (x, t)",
            {"zero": 0, "zeros": [0], "rest": [-1]},
            id="as-torch-flattens",
        ),
        pytest.param(
            "s = Shape (x)  hw = Slice (s, two, four)  p = ReduceProd <keepdims = 1> (hw, zeros)"
            "  nc = Slice (s, zeros, two)  t = Concat <axis = 0> (nc, p)  y = Reshape (x, t)",
            {"two": [2], "four": [4], "zeros": [0]},
            id="tokens",
        ),
        pytest.param(
            "s = Shape (x)  h = Gather (s, at)  y = Slice (x, one, h, at)",
            {"at": [2], "one": [1]},
            id="computed-end",
        ),
        pytest.param(
            "s = Shape <start = 2> (x)  p = Mod (s, two)  t = Concat <axis = 0> (zeros, p)  y = Pad (x, t)",
            {"two": [2], "zeros": [0] * 6},
            id="computed-pads",
        ),
        pytest.param(
            "s = Shape <start = 1, end = 2> (x)  h = Div (s, two)  t = Concat <axis = 0> (h, h)"
            "  y, z = Split <axis = 1> (x, t)",
            {"two": [2]},
            id="computed-split",
        ),
        pytest.param(
            "r = ReduceMean (x, hw)  s = Shape (x)  y = Expand (r, s)", {"hw": [2, 3]}, id="computed-expand"
        ),
        pytest.param(
            "s = Shape <start = 3> (x)  n = Squeeze (s)  r = Range (zero, n, one)"
            "  y = Gather <axis = 3> (x, r)",
            {"zero": 0, "one": 1},
            id="computed-range",
        ),
        pytest.param(
            "s = Shape (x)  c = ConstantOfShape (s)  y = Concat <axis = 1> (x, c)", {}, id="computed-zeros"
        ),
        pytest.param("n = Size (z)  y = Unsqueeze (x, n)", {"z": [0, 0]}, id="computed-axes"),
        pytest.param(
            "r = Shape <start = 1, end = 2> (x)  t = Concat <axis = 0> (o, o, o, r)  y = Tile (x, t)",
            {"o": [1]},
            id="computed-repeats",
        ),
    ],
)
def test_sizes_that_are_computed_follow_the_input(
    rng: np.random.Generator, body: str, constants: dict[str, list[int] | int]
) -> None:
    proto = parse(body, inputs={"x": (4, 6, 5)}, initializers=_ints(**constants))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    module = imported(proto)
    for shape in [(1, 4, 6, 5), (3, 2, 8, 8)]:
        x = rng.normal(size=shape).astype(np.float32)
        expected = run_onnx(proto, {"x": x})["y"]
        leaf = torch.from_numpy(x).requires_grad_()
        (made,) = module(leaf)
        # A reduction adds in another order; what moves is exact.
        np.testing.assert_allclose(made.detach().numpy(), expected, rtol=1e-6, atol=1e-7)
        made.sum().backward()
        assert leaf.grad.abs().sum() > 0
