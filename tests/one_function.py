"""A network of one function and a layer that uses it, with scales to choose, and every code as input."""

from __future__ import annotations

__all__ = ["OPERATORS", "Side", "network"]

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from graphs import normal
from numpy.typing import NDArray

from mpqtool.passes.place import place
from mpqtool.passes.plan import ActivationQuant, Grid, Plan
from mpqtool.passes.quantize import complete

OPERATORS = (
    "Celu <alpha = 0.7> (x)",
    "Elu (x)",
    "Gelu (x)",
    'Gelu <approximate = "tanh"> (x)',
    "HardSigmoid <alpha = 0.3, beta = 0.6> (x)",
    "HardSwish (x)",
    "LeakyRelu (x)",
    "LeakyRelu <alpha = 1.7> (x)",
    "Mish (x)",
    "Selu (x)",
    "Sigmoid (x)",
    "Mul (x, gate)",
    "Softplus (x)",
    "Softsign (x)",
    "Tanh (x)",
)
"""Each function of one number; the Mul, with a Sigmoid for a gate, is Silu in the normal form."""


@dataclasses.dataclass(frozen=True)
class Side:
    """How the input or the result of the function is quantized."""

    scale: float
    zero_point: int
    bits: int = 8

    def planned(self, entry: ActivationQuant) -> ActivationQuant:
        scale = float(np.float32(self.scale))
        return entry.model_copy(update={"bits": self.bits, "scale": scale, "zero_point": self.zero_point})


def network(
    op: str, x: Side, f: Side, *, shape: str = "N, 2, 4", behind: str = "", samples: int = 32
) -> tuple[ir.Model, Plan, dict[str, NDArray[Any]]]:
    """The normal form, a complete plan, and inputs that cover every code of ``x``.

    Args:
        op: The text of the operator; its result ``f`` goes into a Conv.
        x: Of the input.
        f: Of the result.
        shape: Of the input, three sizes; the last two numbers of this text are those of the inputs.
        behind: An operator between the result and its quantizer, ``Relu`` or ``Clip``.
        samples: How many inputs to draw.
    """
    result = "f = Relu (g)" if behind == "Relu" else "f = Clip (g, low, high)"
    text = f"""
    net (float[{shape}] x) => (float[N, 3, M] y) {{
        gate = Sigmoid (x)
        {"g" if behind else "f"} = {op}
        {result if behind else ""}
        y = Conv (f, w)
    }}
    """
    sizes = [int(size) for size in shape.split(",")[1:]]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, sizes[0], 1)), "low": np.array(-0.1), "high": np.array(0.7)}
    model = normal(text, weights)
    of = {"x": x, "f": f, "y": Side(0.05, 128)}
    plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.SIGNED)
    plan = plan.replaced(activations=[of[entry.name].planned(entry) for entry in plan.activations])
    every = np.arange(samples * int(np.prod(sizes))) % 2**x.bits
    codes = rng.permutation(every).reshape(samples, *sizes)
    real = (codes - x.zero_point).astype(np.float32) * np.float32(x.scale)
    return model, complete(model, plan), {"x": real}
