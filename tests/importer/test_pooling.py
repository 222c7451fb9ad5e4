from __future__ import annotations

import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError

SPATIAL = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}
PADS = [
    "strides = [2, 2]",
    "pads = [1, 1, 1, 1]",
    "pads = [0, 1, 2, 1], strides = [2, 1]",
    'auto_pad = "VALID"',
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [1, 8, 10, 11, 12, 22])
def test_max_pool(opset: int, rank: int) -> None:
    kernel = ", ".join(["3"] * rank)
    assert_imports(
        f"y = MaxPool <kernel_shape = [{kernel}]> (x)",
        opset=opset,
        inputs={"x": (4, *SPATIAL[rank])},
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("attributes", [*PADS, "dilations = [2, 1], strides = [2, 2]"])
def test_max_pool_attributes(attributes: str) -> None:
    # All values are negative: padding with zeros would show.
    assert_imports(
        f"y = MaxPool <kernel_shape = [3, 3], {attributes}> (x)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        low=-2,
        high=-1,
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [7, 10, 11, 19, 22])
def test_average_pool(opset: int, rank: int) -> None:
    kernel = ", ".join(["3"] * rank)
    assert_imports(
        f"y = AveragePool <kernel_shape = [{kernel}]> (x)",
        opset=opset,
        inputs={"x": (4, *SPATIAL[rank])},
        rtol=1e-5,
        atol=1e-6,  # the order of summation is the runtime's choice
    )


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("attributes", PADS)
def test_average_pool_attributes(attributes: str, include: int) -> None:
    assert_imports(
        f"y = AveragePool <kernel_shape = [3, 3], count_include_pad = {include}, {attributes}> (x)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("opset", [1, 22])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pool(op: str, opset: int, rank: int) -> None:
    assert_imports(f"y = {op} (x)", opset=opset, inputs={"x": (4, *SPATIAL[rank])}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (x)", "ceil_mode=1"),
        ('y = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (x)', "auto_pad='SAME_UPPER'"),
        ("y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", r"dilations=\[2, 2\]"),
        ("y = MaxPool <kernel_shape = [2, 2, 2, 2]> (x)", r"kernel_shape=\[2, 2, 2, 2\]"),
        ("y, i = MaxPool <kernel_shape = [2, 2]> (x)  z = Cast <to = 1> (i)", r"output 1 \('i'\) is used"),
    ],
)
def test_refused(body: str, message: str) -> None:
    proto = parse(body, inputs={"x": (4, 9, 8)})
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)


def test_indices_that_nothing_uses_are_no_hindrance() -> None:
    imported(parse("y, i = MaxPool <kernel_shape = [2, 2]> (x)", inputs={"x": (4, 9, 8)}))
