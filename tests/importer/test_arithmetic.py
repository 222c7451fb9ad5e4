from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import assert_imports, imported
from typed import compute, typed

from mpqtool.importer.arithmetic import divide, modulo, power

WRAPPING = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul}
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def _cases(table: dict[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    return [(op, opset) for op, opsets in table.items() for opset in opsets]


def _pairs(dtype: str) -> tuple[list[int], list[int]]:
    """Every pair of the numbers around the ends and the middle of the type, the second never 0."""
    info = np.iinfo(dtype)
    numbers = {info.min, info.min + 1, -7, -2, -1, 0, 1, 3, 10, info.max // 2 + 1, info.max - 1, info.max}
    numbers = sorted(number for number in numbers if info.min <= number)
    pairs = [(a, b) for a, b in itertools.product(numbers, numbers) if b and (a, b) != (info.min, -1)]
    return [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize("operand", ["value", "array", "number"])
@pytest.mark.parametrize(
    ("op", "opset"),
    _cases(
        {
            "Add": (7, 13, 14),
            "Sub": (7, 13, 14),
            "Mul": (7, 13, 14),
            "Div": (7, 13, 14),
            "Pow": (7, 12, 13, 15),
        }
    ),
)
def test_binary(op: str, opset: int, operand: str, rng: np.random.Generator) -> None:
    array = rng.uniform(0.5, 2, (4, 1, 1)).astype(np.float32)
    constants = {"value": {}, "array": {"b": array}, "number": {"b": np.float32(1.5)}}[operand]
    inputs = {"x": (4, 6, 5), **({} if constants else {"b": (4, 6, 5)})}
    module = assert_imports(
        f"y = {op} (x, b)", opset=opset, inputs=inputs, initializers=constants, low=0.5, rtol=1e-6, atol=0
    )
    learned = operand == "array" and op in ("Add", "Mul")  # Sub and Div normalize the input of the graph
    kept = operand != "value" and op != "Pow" and not learned
    assert list(dict(module.named_parameters())) == (["b"] if learned else [])
    assert list(dict(module.named_buffers())) == (["b"] if kept else [])


def test_a_constant_on_the_left() -> None:
    assert_imports("y = Sub (b, x)", opset=21, initializers={"b": np.float32(1)}, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["Max", "Mean", "Min", "Sum"])
@pytest.mark.parametrize("opset", [7, 8, 13])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(op: str, opset: int, count: int) -> None:
    names = ["x", "b", "c"][:count]
    shape = (4, 5) if opset == 7 else (1, 5)  # which does not broadcast yet
    constant = np.full((1, 4, 5), 0.3, np.float32)
    free = opset > 7
    assert_imports(
        f"y = {op} ({', '.join(names)})",
        opset=opset,
        inputs={
            "x": (4, 5),
            **({"b": shape} if count > 1 else {}),
            **({} if free or count < 3 else {"c": shape}),
        },
        initializers={"c": constant} if count == 3 and free else {},
        rtol=1e-6,
        atol=1e-7,
    )


def test_an_array_that_is_summed_learns() -> None:
    bias = np.arange(5, dtype=np.float32)
    module = assert_imports("y = Sum (x, b)", opset=13, initializers={"b": bias}, rtol=0, atol=0)
    assert list(dict(module.named_parameters())) == ["b"]


@pytest.mark.parametrize("op", WRAPPING)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around(op: str, dtype: str) -> None:
    a, b = _pairs(dtype)
    y = compute(f"y = {op} (a, b)", gives=dtype, a=np.array(a, dtype), b=np.array(b, dtype))
    whole = 1 << np.iinfo(dtype).bits
    low = np.iinfo(dtype).min
    assert y.tolist() == [(WRAPPING[op](m, n) - low) % whole + low for m, n in zip(a, b, strict=True)]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_divide_toward_zero(dtype: str) -> None:
    a, b = _pairs(dtype)
    y = compute("y = Div (a, b)", gives=dtype, a=np.array(a, dtype), b=np.array(b, dtype))
    signs = [-1 if m * n < 0 else 1 for m, n in zip(a, b, strict=True)]
    assert y.tolist() == [s * (abs(m) // abs(n)) for s, m, n in zip(signs, a, b, strict=True)]


@pytest.mark.parametrize("opset", [10, 13, 28])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_mod_of_integers_has_the_sign_of_the_divisor_or_of_the_dividend(dtype: str, opset: int) -> None:
    a, b = _pairs(dtype)
    feeds = {"a": np.array(a, dtype), "b": np.array(b, dtype)}
    y = compute("y = Mod (a, b)", opset=opset, gives=dtype, **feeds)
    assert y.tolist() == [m % n for m, n in zip(a, b, strict=True)]
    y = compute("y = Mod <fmod = 1> (a, b)", opset=opset, gives=dtype, **feeds)
    assert y.tolist() == [(-1 if m < 0 else 1) * (abs(m) % abs(n)) for m, n in zip(a, b, strict=True)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("fmod", "function"), [(0, np.mod), (1, np.fmod)])
def test_mod_of_floats(dtype: Any, fmod: int, function: Callable[..., Any]) -> None:
    numbers = [0.0, -0.0, 1.5, -1.5, 4.25, -4.25, math.inf, -math.inf, math.nan]
    a, b = (np.array(column, dtype) for column in zip(*itertools.product(numbers, numbers), strict=True))
    y = compute(f"y = Mod <fmod = {fmod}> (a, b)", opset=28, gives=dtype, a=a, b=b)
    with np.errstate(invalid="ignore"):
        expected = function(a, b)
    np.testing.assert_array_equal(y, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(y)[known], np.signbit(expected)[known])


@pytest.mark.parametrize("opset", [12, 13, 15])
@pytest.mark.parametrize(
    ("base", "exponent"), list(itertools.product(["int32", "int64", "float32", "float64"], repeat=2))
)
def test_pow_keeps_the_type_of_the_base(base: str, exponent: str, opset: int) -> None:
    arrays = {"a": np.array([1, 2, 3, 5, -2], base), "b": np.array([0, 1, 2, 3, 3], exponent)}
    if "float" in exponent:
        arrays["b"][1] = 0.5  # truncated in the end, not before
    proto = typed("y = Pow (a, b)", opset=opset, gives=base, arrays=arrays)
    y = compute("y = Pow (a, b)", opset=opset, gives=base, **arrays)
    # The square root of 2 once in float32 and once in float64.
    expected = run_onnx(proto, arrays)["y"]
    np.testing.assert_allclose(y, expected, rtol=1e-7)

    exponents = onnx.numpy_helper.from_array(arrays["b"], "b")
    del proto.graph.input[1]
    proto.graph.initializer.append(exponents)
    np.testing.assert_allclose(imported(proto)(torch.from_numpy(arrays["a"]))[0], expected, rtol=1e-7)


@pytest.mark.parametrize("base", ["float32", "int32"])
@pytest.mark.parametrize(
    ("exponent", "expected"), [(2.0, [1, 4, 9]), (-1.0, [1, 0.5, 1 / 3]), (0, [1, 1, 1])]
)
def test_pow_of_one_number(base: str, exponent: float, expected: list[float]) -> None:
    x = np.array([1, 2, 3], base)
    proto = typed("y = Pow (x, b)", opset=13, gives=base, arrays={"x": x})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(exponent), "b"))
    y = imported(proto)(torch.from_numpy(x))[0]
    np.testing.assert_allclose(y, np.array(expected).astype(base), rtol=1e-7)


def test_pow_takes_exponents_that_torch_does_not_mix() -> None:
    base = np.array([-1, 2], np.float16)
    assert compute("y = Pow (a, b)", gives=np.float16, a=base, b=np.array([3, 4], np.uint64)).tolist() == [
        -1,
        16,
    ]
    half = np.array([2, 0.5], np.float32)
    y = compute("y = Pow (a, b)", gives=np.float16, a=np.abs(base), b=half)
    assert y.tolist() == [1, np.float16(2**0.5)]
    y = compute(
        "y = Pow (a, b)", gives=np.int32, a=np.array([-1, 3], np.int32), b=np.array([3, 2], np.uint16)
    )
    assert y.tolist() == [-1, 9]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("op", "function"), [("Max", max), ("Min", min)])
def test_extremes_of_integers(op: str, function: Callable[..., Any], dtype: str) -> None:
    a, b = _pairs(dtype)
    y = compute(f"y = {op} (a, b)", gives=dtype, a=np.array(a, dtype), b=np.array(b, dtype))
    assert y.tolist() == list(map(function, a, b))


def test_gradients_are_those_of_the_formulas() -> None:
    a = torch.tensor([4.3, -4.3, 2.1], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.5, 1.5, -0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(divide, (a, b))
    assert torch.autograd.gradcheck(lambda a, b: modulo(a, b, True), (a, b))
    assert torch.autograd.gradcheck(lambda a, b: modulo(a, b, False), (a, b))
    assert torch.autograd.gradcheck(lambda a: power(a, torch.tensor([2, 3, 1])), (a,))
