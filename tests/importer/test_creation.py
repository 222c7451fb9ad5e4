from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import assert_imports, imported, parse

from mpqtool.importer.creation import number_range, one_hot
from mpqtool.passes.errors import UnsupportedOpError

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 19, 21, 23, 24, 25])
def test_constant(opset: int) -> None:
    assert_imports("c = Constant <value = float[5] {1, 2, 3, 4, 5}> ()  y = Mul (x, c)", opset=opset, **EXACT)


@pytest.mark.parametrize("opset", [12, 25])
@pytest.mark.parametrize("attribute", ["value_float = 1.5", "value_floats = [1.5, 2.5, 0.0, 1.0, 1.0]"])
def test_constant_of_numbers(opset: int, attribute: str) -> None:
    assert_imports(f"c = Constant <{attribute}> ()  y = Mul (x, c)", opset=opset, **EXACT)


@pytest.mark.parametrize(
    "body",
    [
        "s = Constant <value_ints = [0, -1]> ()  y = Reshape (x, s)",
        "s = Constant <value_int = -1> ()  y = Gather <axis = 1> (x, s)",
    ],
)
def test_constant_that_steers(body: str) -> None:
    assert_imports(body, opset=21, **EXACT)


def test_a_constant_weight_learns() -> None:
    module = imported(
        parse("w = Constant <value_floats = [1.0, 2.0]> ()  y = Add (x, w)", inputs={"x": (2,)})
    )
    assert [name for name, _ in module.named_parameters()] == ["w"]


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.uint16, np.bool_]
)
def test_constants_of_any_type(dtype: type) -> None:
    array = np.array([0, 1, 3], dtype)
    tensor = onnx.numpy_helper.from_array(array)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Constant", [], ["y"], value=tensor)],
            "g",
            [],
            [onnx.helper.make_tensor_value_info("y", tensor.data_type, [3])],
        )
    )
    (y,) = imported(proto)()
    assert y.to(torch.float32).tolist() == array.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ('value_string = "a"', r"attribute 'value_string' .* is not handled"),
        ("value = float4e2m1[2] {1, 2}", "FLOAT4E2M1"),
    ],
)
def test_constant_refused(attribute: str, message: str) -> None:
    proto = parse(f"y = Constant <{attribute}> ()", inputs={})
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)


@pytest.mark.parametrize("opset", [9, 20, 21, 23, 24, 25])
@pytest.mark.parametrize("attributes", ["", "<value = float[1] {2.5}>"])
def test_constant_of_shape(opset: int, attributes: str) -> None:
    given = {"s": np.array([2, 3])}
    assert_imports(f"y = ConstantOfShape {attributes} (s)", opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.int64])
@pytest.mark.parametrize(
    ("start", "limit", "delta"), [(0, 5, 1), (1, 10, 3), (5, -4, -2), (3, 3, 1), (3, 9, -1)]
)
def test_range(dtype: type, start: int, limit: int, delta: int) -> None:
    given = {"a": np.array(start, dtype), "b": np.array(limit, dtype), "c": np.array(delta, dtype)}
    assert_imports("r = Range (a, b, c)  y = Cast <to = 1> (r)", opset=11, initializers=given, **EXACT)


def test_range_of_fractions_has_as_many_elements_as_in_the_runtime() -> None:
    """0.3 / 0.1 is above 3 in double, and not in single precision."""
    given = {"a": np.float32(0), "b": np.float32(0.3), "c": np.float32(0.1)}
    proto = parse("y = Range (a, b, c)", opset=11, inputs={}, initializers=given)
    (made,), expected = imported(proto)(), run_onnx(proto, {})["y"]
    # The runtime adds the step up, the standard multiplies it.
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6, atol=0)


def test_range_of_half_precision_is_computed_in_the_stash_type() -> None:
    """Step 257 is not a bfloat16."""
    limits = [torch.tensor(number, dtype=torch.bfloat16) for number in (0, 30, 0.1)]
    made = number_range(*limits, torch.float32)
    assert made.dtype == torch.bfloat16
    assert made[257] == (257 * limits[2].float()).bfloat16()


def test_range_has_a_gradient() -> None:
    start, delta = (torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (1.2, 0.7))
    limit = torch.tensor(5.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, d: number_range(a, limit, d, None), (start, delta))


@pytest.mark.parametrize("opset", [9, 22])
@pytest.mark.parametrize("attributes", ["", "<k = 1>", "<k = -2>", "<k = 9, dtype = 1>"])
def test_eye_like(opset: int, attributes: str) -> None:
    assert_imports(f"y = EyeLike {attributes} (x)", opset=opset, inputs={"x": (4,)}, **EXACT)


def test_eye_like_of_another_type() -> None:
    assert_imports("e = EyeLike <dtype = 7> (x)  y = Cast <to = 1> (e)", opset=9, inputs={"x": (4,)}, **EXACT)
    with pytest.raises(UnsupportedOpError, match="its output is STRING, which torch cannot hold"):
        imported(parse("y = EyeLike <dtype = 8> (x)", inputs={"x": (4,)}))


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("depth", [np.array(5), np.array([5]), np.array(5.0, np.float32)], ids=repr)
def test_one_hot(opset: int, axis: int, depth: np.ndarray) -> None:
    """Indices beyond the depth, on either side, are cold everywhere."""
    given = {"d": depth, "v": np.array([-1.5, 2.5], np.float32)}
    assert_imports(
        f"i = Cast <to = 7> (x)  y = OneHot <axis = {axis}> (i, d, v)",
        opset=opset,
        inputs={"x": (6,)},
        initializers=given,
        low=-8,
        high=8,
        **EXACT,
    )


def test_one_hot_of_a_computed_depth_has_a_gradient() -> None:
    values = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[0.0, 2.0]])
    assert torch.autograd.gradcheck(lambda values: one_hot(indices, torch.tensor([3]), values, 0), values)
    assert math.isclose(one_hot(indices, torch.tensor(3), values, -1).sum().item(), 2)
