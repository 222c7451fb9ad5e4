from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError

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


def test_reshape_allowzero() -> None:
    assert_imports("y = Reshape <allowzero = 1> (x, s)", opset=21, initializers=_ints(s=[-1, 120]), **EXACT)


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


def test_squeeze_everything() -> None:
    assert_imports("y = Squeeze (x)", opset=21, inputs={"x": (1, 4, 1)}, **EXACT)


@pytest.mark.parametrize("opset", AFTER_13)
@pytest.mark.parametrize("axes", [[1], [-1, 1], [4, 0]])
def test_unsqueeze(opset: int, axes: list[int]) -> None:
    assert_imports(
        "y = Unsqueeze (x, axes)", opset=opset, inputs={"x": (4, 3)}, initializers=_ints(axes=axes), **EXACT
    )


@pytest.mark.parametrize("opset", [4, 11, 13])
def test_concat(opset: int) -> None:
    assert_imports("y = Concat <axis = 1> (x, b, x)", opset=opset, inputs={"x": (4, 5), "b": (2, 5)}, **EXACT)


@pytest.mark.parametrize("opset", [10, 11, 13])
@pytest.mark.parametrize(
    ("cut", "given"),
    [
        ("s, e", _ints(s=[0, 1], e=[9, 3])),
        ("s, e, a", _ints(s=[-3, 1], e=[2**31, -1], a=[2, -1])),
        ("s, e, a, t", _ints(s=[0, 1], e=[2**62, 5], a=[2, 3], t=[2, 3])),
    ],
)
def test_slice(opset: int, cut: str, given: dict[str, np.ndarray]) -> None:
    assert_imports(f"y = Slice (x, {cut})", opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("opset", [13, 18])
def test_split_by_sizes(opset: int) -> None:
    assert_imports(
        "y, z = Split <axis = 2> (x, sizes)",
        opset=opset,
        initializers=_ints(sizes=[4, 2]),
        outputs=("y", "z"),
        **EXACT,
    )


@pytest.mark.parametrize(("opset", "attributes"), [(13, "axis = 2"), (18, "axis = 2, num_outputs = 3")])
def test_split_evenly(opset: int, attributes: str) -> None:
    assert_imports(f"y, z, w = Split <{attributes}> (x)", opset=opset, outputs=("y", "z", "w"), **EXACT)


def test_split_with_a_smaller_rest() -> None:
    assert_imports("y, z = Split <axis = 3, num_outputs = 2> (x)", opset=18, outputs=("y", "z"), **EXACT)


@pytest.mark.parametrize("opset", [11, 13, 18, 19, 21, 23, 24, 25])
@pytest.mark.parametrize("value", [None, 1.5])
def test_pad(opset: int, value: float | None) -> None:
    constant = {} if value is None else {"c": np.float32(value)}
    assert_imports(
        f"y = Pad (x, p{', c' if constant else ''})",
        opset=opset,
        initializers={**_ints(p=[0, 0, 1, 2, 0, 1, 0, 3]), **constant},
        **EXACT,
    )


def test_pad_of_some_axes_and_below_zero() -> None:
    assert_imports("y = Pad (x, p, , a)", opset=18, initializers=_ints(p=[1, -1, 2, 0], a=[-1, 1]), **EXACT)


@pytest.mark.parametrize("opset", [1, 13, 14, 16, 19, 21, 23, 24, 25])
def test_identity(opset: int) -> None:
    module = assert_imports("y = Identity (x)", opset=opset, **EXACT)
    assert [node.meta.get("onnx_name") for node in module.graph.nodes] == ["x", "y", None]


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_is_what_it_is_at_inference(opset: int) -> None:
    module = assert_imports("y = Dropout (x)", opset=opset, **EXACT)
    assert "y" in [node.meta.get("onnx_name") for node in module.graph.nodes]


@pytest.mark.parametrize(
    ("body", "given", "message"),
    [
        ('y = Pad <mode = "reflect"> (x, p)', _ints(p=[0, 1, 0, 1]), "mode='reflect'"),
        ("y = Slice (x, s, e, a, t)", _ints(s=[3], e=[0], a=[1], t=[-1]), r"steps=\[-1\]"),
        ("y = Dropout (x, r, t)", {"r": np.float32(0.5), "t": np.bool_(True)}, "training_mode is true"),
        ("s = Shape (x)  y = Reshape (x, s)", {}, r"Reshape .*: input 1 \('s'\) must be a constant"),
    ],
)
def test_refused(body: str, given: dict[str, np.ndarray], message: str) -> None:
    proto = parse(body, inputs={"x": (4,)}, initializers=given)
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)
