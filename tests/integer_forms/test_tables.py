"""Functions of one number: torch simulation, numpy reference and ONNX Runtime give the same codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from one_function import OPERATORS, Side, network

from mpqtool.importer import import_graph
from mpqtool.integer_forms import Codes
from mpqtool.integer_forms.tables import FORMS, substitute
from mpqtool.passes import pipelines
from mpqtool.passes.plan import Plan
from mpqtool.quantizers.attach import attach
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS
from mpqtool.simulate import IntegerSimulation


def _assert_all_agree(model: ir.Model, plan: Plan, feeds: dict[str, NDArray[Any]]) -> None:
    lowered = pipelines.lower(pipelines.quantize(model, plan))
    reference = Reference(lowered)
    assert reference.islands == ()
    expected = reference.run(feeds)
    found = {
        "simulation": IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)(feeds)
    }
    found |= {level: run_onnx(lowered, feeds, level=level, expose=reference.codes) for level in LEVELS}
    for engine, codes in found.items():
        for name in ("x.codes", "f.codes", "y.codes"):
            np.testing.assert_array_equal(codes[name], expected[name], err_msg=f"{name}, {engine}")


@st.composite
def _sides(draw: st.DrawFn, *, scales: tuple[float, ...], lowest: float) -> Side:
    bits = draw(st.integers(2, 8))
    exponent = draw(st.floats(lowest, lowest + 2, allow_nan=False))
    scale = draw(st.sampled_from((10.0**exponent, *scales)))
    return Side(scale, draw(st.integers(0, 2**bits - 1)), bits)


@pytest.mark.parametrize("op", [*OPERATORS, "Softmax <axis = -1> (x)", "Softmax <axis = 1> (x)"])
@settings(max_examples=4)
@given(
    x=_sides(scales=(3 / 64, 3 / 40, 3 / 7, 3 / 127), lowest=-2.5),
    f=_sides(scales=(1 / 255, 1 / 256, 0.5), lowest=-3),
    behind=st.sampled_from(["", "Relu", "Clip"]),
)
def test_all_engines_agree(op: str, x: Side, f: Side, behind: str) -> None:
    never_negative = op.split()[0] in ("Sigmoid", "HardSigmoid", "Softmax", "Softplus")
    if never_negative or behind == "Relu":
        f = Side(f.scale, 0, f.bits)
    _assert_all_agree(*network(op, x, f, behind=behind, shape="N, 3, 5"))


@pytest.mark.parametrize("zero", [0, 63, 64, 130, 255])
def test_all_engines_agree_on_products(zero: int) -> None:
    _assert_all_agree(*network("HardSwish (x)", Side(3 / 64, zero), Side(0.0217, 31)))


def _codes(scale: float, zero: int, *, requires_grad: bool = False) -> Codes:
    centered = torch.arange(256.0) - zero
    return Codes(centered.requires_grad_(requires_grad), torch.tensor(scale), zero, 255)


@pytest.mark.parametrize(
    ("op_type", "op", "args"),
    [
        ("Tanh", torch.tanh, ()),
        ("LeakyRelu", torch.nn.functional.leaky_relu, (0.2,)),
        ("HardSwish", torch.nn.functional.hardswish, ()),
        ("Gelu", torch.nn.functional.gelu, ()),
    ],
)
def test_gradient_is_that_of_the_function(op_type: str, op: Any, args: tuple[float, ...]) -> None:
    x = _codes(0.0512345, 117, requires_grad=True)
    real = ((torch.arange(256.0) - 117) * x.scale).requires_grad_()

    FORMS[op_type](op, x, *args).rescale(torch.tensor(0.01)).sum().backward()

    op(real, *args).sum().backward()
    assert x.centered.grad is not None
    torch.testing.assert_close(x.centered.grad, real.grad * x.scale / 0.01, rtol=1e-5, atol=1e-5)


def test_gradient_of_the_product_is_that_of_hard_swish() -> None:
    x = _codes(3 / 64, 70, requires_grad=True)
    real = ((torch.arange(256.0) - 70) * x.scale).requires_grad_()

    FORMS["HardSwish"](torch.nn.functional.hardswish, x).rescale(torch.tensor(0.01)).sum().backward()

    torch.nn.functional.hardswish(real).sum().backward()
    assert x.centered.grad is not None
    inner = torch.tensor([code not in (70 - 64, 70 + 64) for code in range(256)])  # where it has a kink
    torch.testing.assert_close(
        x.centered.grad[inner], (real.grad * x.scale / 0.01)[inner], rtol=1e-5, atol=1e-5
    )


def test_a_value_without_a_quantizer_is_that_of_the_table() -> None:
    x = _codes(0.0512345, 117)

    value = FORMS["Tanh"](torch.tanh, x).value()

    torch.testing.assert_close(value, torch.tanh(x.real()))


def test_real_values_are_left_to_torch() -> None:
    assert FORMS["Tanh"](torch.tanh, torch.zeros(3)) is NotImplemented
    assert FORMS["HardSwish"](torch.nn.functional.hardswish, torch.zeros(3)) is NotImplemented


def test_substitute_gives_one_and_the_gradient_of_the_other() -> None:
    smooth = torch.tensor([0.1, 0.2], requires_grad=True)

    value = substitute(torch.tensor([3.0, 5.0]), smooth)
    (value * torch.tensor([2.0, 7.0])).sum().backward()

    assert value.tolist() == [3, 5]
    assert smooth.grad is not None
    assert smooth.grad.tolist() == [2, 7]
