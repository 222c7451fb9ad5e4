from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError


def _cases(table: dict[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    return [(op, opset) for op, opsets in table.items() for opset in opsets]


@pytest.mark.parametrize(
    ("op", "opset"),
    _cases(
        {
            "Abs": (6, 13), "Erf": (9, 13), "Exp": (6, 13), "Log": (6, 13), "Neg": (6, 13), "Sqrt": (6, 13),
        }
    ),
)  # fmt: skip
def test_unary(op: str, opset: int) -> None:
    low = 0.1 if op in ("Log", "Sqrt") else -2.0
    assert_imports(f"y = {op} (x)", opset=opset, low=low, rtol=1e-6, atol=1e-6)


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
    learned = operand == "array" and op != "Pow"
    assert list(dict(module.named_parameters())) == (["b"] if learned else [])
    assert list(dict(module.named_buffers())) == (["b"] if constants and not learned else [])


def test_a_constant_on_the_left() -> None:
    assert_imports("y = Sub (b, x)", opset=21, initializers={"b": np.float32(1)}, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("opset", [8, 12, 13])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(op: str, opset: int, count: int) -> None:
    names = ["x", "b", "c"][:count]
    assert_imports(
        f"y = {op} ({', '.join(names)})",
        opset=opset,
        inputs={"x": (4, 5), "b": (1, 5)} if count > 1 else {"x": (4, 5)},
        initializers={"c": np.float32(0.3)} if count == 3 else {},
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("opset", [6, 9, 13, 19, 21, 23, 24, 25])
def test_cast(opset: int) -> None:
    assert_imports("i = Cast <to = 6> (x)  y = Cast <to = 1> (i)", opset=opset, rtol=0, atol=0)


def test_cast_to_a_type_that_torch_lacks_is_refused() -> None:
    proto = parse("i = Cast <to = 22> (x)  y = Cast <to = 1> (i)", inputs={"x": (4,)})
    with pytest.raises(UnsupportedOpError, match=r"Cast .* to=INT4, and handled are .*FLOAT"):
        imported(proto)
