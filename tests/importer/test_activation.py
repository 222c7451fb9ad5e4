from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        *(("Relu (x)", opset) for opset in (6, 13, 14)),
        *(("LeakyRelu (x)", opset) for opset in (6, 16)),
        ("LeakyRelu <alpha = 0.3> (x)", 21),
        *(("Sigmoid (x)", opset) for opset in (6, 13)),
        *(("HardSigmoid (x)", opset) for opset in (6, 22)),
        ("HardSigmoid <alpha = 0.5, beta = 0.4> (x)", 21),
        *(("HardSwish (x)", opset) for opset in (14, 22)),
        *(("Tanh (x)", opset) for opset in (6, 13)),
        *(("Elu (x)", opset) for opset in (6, 22)),
        ("Elu <alpha = 0.5> (x)", 21),
        ("Gelu (x)", 20),
        ('Gelu <approximate = "tanh"> (x)', 20),
        *(("Softplus (x)", opset) for opset in (1, 22)),
        ("Softmax (x)", 13),
        ("Softmax <axis = 1> (x)", 21),
        ("LogSoftmax (x)", 13),
        ("LogSoftmax <axis = 1> (x)", 21),
    ],
)
def test_function(node: str, opset: int) -> None:
    # From -5 to 5 every branch is taken; 2e-6 is a few float32 steps at 5, for the approximations of exp.
    assert_imports(f"y = {node}", opset=opset, low=-5, high=5, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("opset", [7, 9, 16])
@pytest.mark.parametrize("shape", [(1,), (4, 1, 1)])
def test_prelu_learns_its_slope(opset: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    slope = rng.uniform(0.1, 0.5, shape).astype(np.float32)
    module = assert_imports(
        "y = PRelu (x, slope)", opset=opset, initializers={"slope": slope}, rtol=0, atol=0
    )
    assert list(dict(module.named_parameters())) == ["slope"]


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


def test_clip_with_a_computed_bound_is_refused() -> None:
    proto = parse("m = ReduceMax (x)  y = Clip (x, m)", inputs={"x": (4,)})
    with pytest.raises(UnsupportedOpError, match=r"Clip .*: input 1 \('m'\) must be a constant"):
        imported(proto)
