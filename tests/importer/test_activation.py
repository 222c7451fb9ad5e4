from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from importing import assert_imports, imported, parse
from torch.nn import functional as F
from typed import compute, typed

from mpqtool.importer.activation import clip, prelu, selu, shrink, swi_glu, swish


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        *(("Relu (x)", opset) for opset in (7, 13, 14)),
        *(("LeakyRelu (x)", opset) for opset in (7, 16)),
        ("LeakyRelu <alpha = 0.3> (x)", 21),
        *(("ThresholdedRelu (x)", opset) for opset in (10, 22)),
        ("ThresholdedRelu <alpha = 0.3> (x)", 21),
        *(("Sigmoid (x)", opset) for opset in (7, 13)),
        *(("HardSigmoid (x)", opset) for opset in (7, 22)),
        ("HardSigmoid <alpha = 0.5, beta = 0.4> (x)", 21),
        *(("HardSwish (x)", opset) for opset in (14, 22)),
        *(("Tanh (x)", opset) for opset in (7, 13)),
        *(("Elu (x)", opset) for opset in (7, 22)),
        ("Elu <alpha = 0.5> (x)", 21),
        ("Celu (x)", 12),
        ("Celu <alpha = 0.5> (x)", 12),
        *(("Selu (x)", opset) for opset in (7, 22)),
        ("Selu <alpha = 1.5, gamma = 2.0> (x)", 21),
        ("Gelu (x)", 20),
        ('Gelu <approximate = "tanh"> (x)', 20),
        *(("Softplus (x)", opset) for opset in (7, 22)),
        *(("Softsign (x)", opset) for opset in (7, 22)),
        *(("Mish (x)", opset) for opset in (18, 22)),
        ("Shrink (x)", 9),
        ("Shrink <bias = 0.25, lambd = 1.5> (x)", 21),
        ("Swish (x)", 24),
        ("Swish <alpha = 0.7> (x)", 24),
    ],
)
def test_function(node: str, opset: int) -> None:
    # From -5 to 5 every branch is taken; 2e-6 is a few float32 steps at 5, for the approximations of exp.
    assert_imports(f"y = {node}", opset=opset, low=-5, high=5, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize(
    ("op", "opset"),
    [
        ("Celu <alpha = 0.5>", 28), ("Elu", 22), ("Gelu", 20), ("HardSigmoid", 22), ("HardSwish", 22),
        ("LeakyRelu", 16), ("Mish", 22), ("Relu", 14), ("Selu", 22), ("Shrink", 9), ("Sigmoid", 13),
        ("Softplus", 22), ("Softsign", 22), ("Swish", 24), ("Tanh", 13), ("ThresholdedRelu", 22),
    ],
)  # fmt: skip
def test_other_widths(op: str, opset: int, dtype: Any) -> None:
    x = np.linspace(-3, 3, 13).astype(dtype)
    y = compute(f"y = {op} (x)", opset=opset, gives=dtype, x=x)
    exact = compute(f"y = {op} (x)", opset=opset, gives=np.float32, x=x.astype(np.float32))
    np.testing.assert_allclose(y, exact, rtol=2e-3 if dtype == np.float16 else 1e-6, atol=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swi_glu(alpha: float, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
    y = compute(f"y = SwiGLU <alpha = {alpha}> (a, b)", opset=28, a=a, b=b)
    np.testing.assert_allclose(y, a / (1 + np.exp(-alpha * a)) * b, rtol=1e-5)


def test_silu_of_our_domain_is_one_call_of_torch() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "mpqtool": 1]>'
        "net (float[N] x) => (float[N] y) { y = mpqtool.Silu (x) }"
    )
    module = imported(proto)
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [F.silu]
    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(module(x)[0], x * torch.sigmoid(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint16"])
def test_shrink_of_integers(dtype: str) -> None:
    x = np.array([0, 1, 2, 9], dtype)
    y = compute("y = Shrink <bias = 1.0, lambd = 1.5> (x)", gives=dtype, x=x)
    assert y.tolist() == [0, 0, 1, 8]


@pytest.mark.parametrize("opset", [7, 9, 16])
@pytest.mark.parametrize("shape", [(), (1,), (5, 1, 1), (1, 5, 1, 1), (1, 1, 5), (5,), (6, 5), (5, 1, 5)])
def test_prelu_learns_its_slope(opset: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    slope = rng.uniform(0.1, 0.5, shape).astype(np.float32)
    module = assert_imports(
        "y = PRelu (x, slope)",
        opset=opset,
        inputs={"x": (5, 6, 5)},
        initializers={"slope": slope},
        rtol=0,
        atol=0,
    )
    assert list(dict(module.named_parameters())) == ["slope"]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_prelu_of_integers(dtype: str) -> None:
    x = np.array([[0, 5], [np.iinfo(dtype).max, np.iinfo(dtype).min + 9]], dtype)
    y = compute("y = PRelu (x, s)", gives=dtype, x=x, s=np.array([3], dtype))
    with np.errstate(over="ignore"):
        assert y.tolist() == np.where(x < 0, x * np.array(3, dtype), x).tolist()


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("bounds", ["low, high", "low", ", high", ""])
def test_clip(opset: int, bounds: str) -> None:
    given = {"low": np.float32(-0.5), "high": np.float32(1)}
    module = assert_imports(
        f"y = Clip (x, {bounds})" if bounds else "y = Clip (x)",
        opset=opset,
        initializers={name: value for name, value in given.items() if name in bounds},
        rtol=0,
        atol=0,
    )
    assert not list(module.parameters())


@pytest.mark.parametrize("bounds", ["", "<min = -0.5>", "<max = 1.0>", "<min = -0.5, max = 1.0>"])
def test_clip_with_its_bounds_as_attributes(bounds: str) -> None:
    assert_imports(f"y = Clip {bounds} (x)", opset=7, rtol=0, atol=0)


def test_the_default_bounds_of_clip_6_are_not_numbers_of_float16() -> None:
    x = np.array([-6e4, 2], np.float16)
    assert compute("y = Clip <max = 1.0> (x)", opset=7, gives=np.float16, x=x).tolist() == [-60000, 1]


@pytest.mark.parametrize("bounds", ["low, high", "low", ", high", "low, one"])
def test_clip_with_computed_bounds(bounds: str) -> None:
    assert_imports(
        "low = ReduceMin <keepdims = 0> (b)  high = ReduceMax <keepdims = 0> (b)  "
        f"one = Constant <value_float = 0.1> ()  y = Clip (x, {bounds})",
        opset=21,
        inputs={"x": (4,), "b": (1,)},
        rtol=0,
        atol=0,
    )


def test_a_bound_may_be_an_array_of_one_number() -> None:
    bound = np.array([0.5], np.float32)
    module = imported(parse("y = Clip (x, , b)", inputs={"x": (2,)}, initializers={"b": bound}))
    assert module(torch.tensor([[0.0, 2.0]]))[0].tolist() == [[0, 0.5]]


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_clip_of_integers(dtype: str) -> None:
    high = np.iinfo(dtype).max - 1
    arrays = {
        "x": np.array([0, 5, high + 1], dtype),
        "low": np.array(2, dtype),
        "high": np.array(high, dtype),
    }
    assert compute("y = Clip (x, low, high)", gives=dtype, **arrays).tolist() == [2, 5, high]

    proto = typed("y = Clip (x, low, high)", opset=21, gives=dtype, arrays={"x": arrays["x"]})
    for name in ("low", "high"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(arrays[name], name))
    assert imported(proto)(torch.from_numpy(arrays["x"]))[0].tolist() == [2, 5, high]


def test_clip_gives_the_upper_bound_where_the_bounds_cross() -> None:
    x = torch.tensor([-3.0, 0.0, 3.0])
    assert clip(x, 2.0, 1.0).tolist() == [1, 1, 1]
    assert clip(x, torch.tensor(2.0), torch.tensor(1.0)).tolist() == [1, 1, 1]


def test_gradients_are_those_of_the_formulas() -> None:
    x = torch.tensor([-2.3, -0.4, 0.3, 2.9], dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    high = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prelu, (x, slope))
    assert torch.autograd.gradcheck(prelu, (x, slope.detach().repeat(4).requires_grad_()))
    assert torch.autograd.gradcheck(clip, (x, -1.0, 1.0))
    assert torch.autograd.gradcheck(clip, (x, None, high))
    assert torch.autograd.gradcheck(selu, (x, 1.7, 1.1))
    assert torch.autograd.gradcheck(shrink, (x, 0.2, 0.5))
    assert torch.autograd.gradcheck(swish, (x, 0.7))
    assert torch.autograd.gradcheck(swi_glu, (x, high, 1.0))


def test_infinite_bounds_do_not_bound() -> None:
    x = torch.tensor([-3.0, 3.0])
    assert clip(x, -math.inf, math.inf).tolist() == [-3, 3]
