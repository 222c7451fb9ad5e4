from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mpqtool.passes import functions
from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.passes.placement import TABLES

S, Z = float(np.float32(0.0731)), 120


def _float32(number: float) -> float:
    return float(np.float32(number))


TORCH = {
    "Celu": lambda x: F.celu(x, 1.0),
    "Elu": lambda x: F.elu(x, 1.0),
    "Gelu": F.gelu,
    "HardSigmoid": lambda x: (_float32(0.2) * x + 0.5).clamp(0, 1),
    "HardSwish": F.hardswish,
    "LeakyRelu": lambda x: F.leaky_relu(x, _float32(0.01)),
    "Mish": F.mish,
    "Selu": F.selu,
    "Sigmoid": torch.sigmoid,
    "Silu": F.silu,
    "Softplus": lambda x: F.softplus(x, threshold=1000),
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}


def test_every_table_has_a_function() -> None:
    assert set(functions.FUNCTIONS) == set(TABLES) == set(TORCH)


@pytest.mark.parametrize("op_type", TORCH)
def test_is_the_function_that_torch_has_too(op_type: str) -> None:
    x = torch.from_numpy(dequantize(np.arange(256), S, Z)).double()

    found = functions.outputs(op_type, S, Z)

    # Selu: torch holds its constants in float64, a file in float32.
    rtol = 1e-6 if op_type == "Selu" else 2**-23
    np.testing.assert_allclose(found, TORCH[op_type](x).numpy(), rtol=rtol, atol=1e-30)


@pytest.mark.parametrize(
    ("op_type", "values", "attributes", "expected"),
    [
        ("Celu", (0.5,), {"alpha": 0.5}, lambda x: F.celu(x, 0.5)),
        ("Elu", (0.5,), {"alpha": 0.5}, lambda x: F.elu(x, 0.5)),
        ("Gelu", ("tanh",), {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
        ("HardSigmoid", (0.25, 0.75), {"beta": 0.75, "alpha": 0.25}, lambda x: (x / 4 + 0.75).clamp(0, 1)),
        ("LeakyRelu", (0.1,), {"alpha": 0.1}, lambda x: F.leaky_relu(x, _float32(0.1))),
        ("Selu", (2.0, 0.5), {"gamma": 0.5, "alpha": 2.0}, lambda x: 0.5 * F.elu(x, 2.0)),
    ],
)
def test_attributes_come_by_place_or_by_name(op_type, values, attributes, expected) -> None:  # type: ignore[no-untyped-def]
    x = torch.from_numpy(dequantize(np.arange(256), S, Z)).double()

    placed, named = functions.outputs(op_type, S, Z, *values), functions.outputs(op_type, S, Z, **attributes)

    np.testing.assert_array_equal(placed, named)
    # 1 + tanh cancels, so that both are off there.
    np.testing.assert_allclose(placed, expected(x).numpy(), rtol=2**-22, atol=1e-12)


@pytest.mark.parametrize("op_type", functions.FUNCTIONS)
def test_no_input_overflows(op_type: str) -> None:
    """Warnings are errors here."""
    assert np.isfinite(functions.outputs(op_type, 100.0, 255)).all()


@pytest.mark.parametrize(
    ("scale", "zero", "reach"),
    [
        (3 / 40, 40, 40),
        (3 / 40, 200, 40),
        (3 / 40, 0, 40),  # the gate is raised, so that its zero point is a code
        (3 / 128, 127, None),  # raised, its end would be none
        (3 / 128, 128, 128),
        (3 / 40 * (1 + 1e-6), 40, None),
        (0.07, 100, None),
        (100.0, 255, None),
    ],
)
def test_reach_of_hard_swish(scale: float, zero: int, reach: int | None) -> None:
    assert functions.hard_swish_reach(float(np.float32(scale)), zero) == reach


@pytest.mark.parametrize(("length", "most"), [(2, 1), (16, 1), (197, 1), (256, 1), (1024, 3)])
@pytest.mark.parametrize("spread", [1.0, 10.0, 30.0])
def test_softmax_is_within_a_code_of_the_real_one(length: int, most: int, spread: float) -> None:
    scale = float(np.float32(spread / 255))
    codes = np.random.default_rng(length).integers(0, 256, size=(64, length)).astype(np.uint8)
    codes[:32, 1:] //= 3  # one that stands out
    y_scale = float(np.float32(1 / 255))

    found = functions.softmax_codes(codes, -1, scale, y_scale, 0, 0, 255)

    real = torch.softmax(torch.from_numpy(dequantize(codes, scale)).double(), -1).numpy()
    assert np.abs(found.astype(int) - quantize(real, y_scale, 0, 0, 255)).max() <= most


def test_softmax_of_equal_codes_is_even() -> None:
    found = functions.softmax_codes(np.full((1, 4), 7, np.uint8), -1, 0.1, 1 / 256, 3, 0, 255)

    np.testing.assert_array_equal(found, [[67] * 4])
