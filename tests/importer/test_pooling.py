from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import assert_equivalent, run_onnx
from importing import assert_imports, imported, parse

from mpqtool.importer.pooling import average_pool, lp_pool, max_pool
from mpqtool.passes.errors import UnsupportedOpError

SPATIAL = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}
GEOMETRY = [
    "strides = [2, 2]",
    "pads = [1, 1, 1, 1]",
    "pads = [0, 1, 2, 1], strides = [2, 1]",
    "pads = [2, 2, 2, 2]",  # more than half of the kernel, which torch does not take
    "dilations = [2, 1], strides = [2, 2]",
    "dilations = [2, 2], pads = [1, 0, 1, 2]",
    "ceil_mode = 1, strides = [2, 3]",
    "ceil_mode = 1, strides = [5, 2], pads = [0, 1, 1, 1]",
    "ceil_mode = 1, strides = [3, 4], pads = [2, 2, 2, 2], dilations = [2, 2]",
    'auto_pad = "VALID"',
    'auto_pad = "VALID", ceil_mode = 1, strides = [2, 2]',
    'auto_pad = "SAME_UPPER", strides = [2, 2]',
    'auto_pad = "SAME_LOWER", strides = [1, 3], ceil_mode = 1',
]
# The order of summation is the runtime's choice.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [7, 8, 10, 11, 12, 22])
def test_max_pool(opset: int, rank: int) -> None:
    assert_imports(
        f"y = MaxPool <kernel_shape = {[3] * rank}> (x)",
        opset=opset,
        inputs={"x": (4, *SPATIAL[rank])},
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("attributes", GEOMETRY)
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


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("attributes", GEOMETRY)
def test_max_pool_indices(attributes: str, order: int) -> None:
    assert_imports(
        f"y, i = MaxPool <kernel_shape = [3, 3], storage_order = {order}, {attributes}> (x)"
        "  z = Cast <to = 1> (i)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        outputs=("y", "z"),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("rank", [1, 3])
def test_max_pool_indices_of_rows_and_volumes(rank: int, order: int) -> None:
    pads = [1] + [0] * (2 * rank - 1)
    assert_imports(
        f"y, i = MaxPool <kernel_shape = {[2] * rank}, storage_order = {order}, pads = {pads}> (x)"
        "  z = Cast <to = 1> (i)",
        opset=12,
        inputs={"x": (4, *SPATIAL[rank])},
        outputs=("y", "z"),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("number", [2, 3], ids=["uint8", "int8"])
@pytest.mark.parametrize("pads", ["pads = [1, 1, 1, 1]", "pads = [0, 1, 2, 1]"])
def test_max_pool_of_bytes(number: int, pads: str) -> None:
    assert_imports(
        f"c = Cast <to = {number}> (x)  m = MaxPool <kernel_shape = [3, 3], {pads}> (c)"
        "  y = Cast <to = 1> (m)",
        opset=12,
        inputs={"x": (4, 9, 8)},
        low=1,
        high=120,
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [7, 10, 11, 19, 22])
def test_average_pool(opset: int, rank: int) -> None:
    body = f"y = AveragePool <kernel_shape = {[3] * rank}> (x)"
    assert_imports(body, opset=opset, inputs={"x": (4, *SPATIAL[rank])}, **CLOSE)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("attributes", GEOMETRY)
def test_average_pool_attributes(attributes: str, include: int) -> None:
    body = f"y = AveragePool <kernel_shape = [3, 3], count_include_pad = {include}, {attributes}> (x)"
    assert_imports(body, opset=21, inputs={"x": (4, 9, 8)}, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_average_pool_of_half_precision_volumes(dtype: torch.dtype, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.uniform(size=(1, 2, 4, 4, 4)).astype(np.float32))
    arguments = ((2, 2, 2), (2, 2, 2), (0,) * 6, False, (1, 1, 1))
    y = average_pool(x.to(dtype), *arguments)
    assert y.dtype == dtype
    # bfloat16 has 8 bits: the inputs and the result are off by up to 2**-9 of 1.
    torch.testing.assert_close(y.float(), average_pool(x, *arguments), rtol=0, atol=2**-8)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("opset", [7, 11, 18, 22])
def test_lp_pool(opset: int, rank: int) -> None:
    body = f"y = LpPool <kernel_shape = {[3] * rank}> (x)"
    assert_imports(body, opset=opset, inputs={"x": (4, *SPATIAL[rank])}, **CLOSE)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("attributes", GEOMETRY)
def test_lp_pool_attributes(attributes: str, p: int) -> None:
    body = f"y = LpPool <kernel_shape = [3, 3], p = {p}, {attributes}> (x)"
    assert_imports(body, opset=21, inputs={"x": (4, 9, 8)}, **CLOSE)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("attributes", ['auto_pad = "SAME_LOWER"', "ceil_mode = 1, pads = [1, 0, 0, 1]"])
def test_the_size_is_known_only_when_it_runs(op: str, attributes: str, rng: np.random.Generator) -> None:
    proto = parse(
        f"y = {op} <kernel_shape = [3, 2], strides = [2, 2], {attributes}> (x)", inputs={"x": (4, "H", "W")}
    )
    module = imported(proto)
    for size in ((9, 8), (10, 13)):
        x = rng.normal(size=(2, 4, *size)).astype(np.float32)
        (y,) = module(torch.from_numpy(x))
        assert_equivalent(run_onnx(proto, {"x": x}), {"y": y.numpy()}, **CLOSE)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_gradients_of_lp_pool(p: int, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 5, 4))).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: lp_pool(x, (3, 2), (2, 1), (1, 0, 0, 1), (1, 2), True, "NOTSET", p), x
    )


def test_the_gradient_of_a_window_of_zeros_is_zero() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    lp_pool(x, (2, 2), (2, 2), (0,) * 4, (1, 1), False, "NOTSET", 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=0)


def test_gradients_of_uneven_windows(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 5, 4))).requires_grad_()
    geometry = ((3, 2), (2, 1), (1, 0, 0, 1))
    assert torch.autograd.gradcheck(lambda x: max_pool(x, *geometry, (1, 2), True), x)
    assert torch.autograd.gradcheck(lambda x: average_pool(x, *geometry, False, (1, 2), True), x)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_refused(op: str) -> None:
    proto = parse(f"y = {op} <kernel_shape = [2, 2, 2, 2]> (x)", inputs={"x": (4, 9, 8)})
    with pytest.raises(UnsupportedOpError, match=r"kernel_shape=\[2, 2, 2, 2\], allowed are 1, 2 and 3"):
        imported(proto)


def test_indices_that_nothing_uses_are_no_hindrance() -> None:
    imported(parse("y, i = MaxPool <kernel_shape = [2, 2]> (x)", inputs={"x": (4, 9, 8)}))
