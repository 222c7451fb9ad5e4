"""Tiny models in normal form, and plans with numbers for them."""

from __future__ import annotations

__all__ = ["calibrated", "normal", "quantized", "residual_cnn"]

from typing import Any

import numpy as np
import onnx_ir as ir
from compare import run_onnx
from numpy.typing import NDArray
from onnx_text import parse

from mpqtool.passes.pipelines import normalize, quantize
from mpqtool.passes.place import place
from mpqtool.passes.plan import ActivationQuant, Grid, Plan


def normal(text: str, initializers: dict[str, NDArray[Any]] | None = None) -> ir.Model:
    """A model from the ONNX text of its graph and its weights, in normal form."""
    return normalize(parse(text, initializers), fold_batch_norm=True)


def residual_cnn(rng: np.random.Generator, *, width: int = 4, size: int = 8) -> ir.Model:
    """Conv, a residual block with a 1x1 shortcut, MaxPool, GlobalAveragePool, Gemm."""
    weights = {
        "w0": rng.normal(size=(width, 2, 3, 3)),
        "b0": rng.normal(size=width) * 0.1,
        "w1": rng.normal(size=(2 * width, width, 3, 3)) * 0.4,
        "b1": rng.normal(size=2 * width) * 0.1,
        "w2": rng.normal(size=(2 * width, width, 1, 1)) * 0.7,
        "w3": rng.normal(size=(5, 2 * width)),
        "b3": rng.normal(size=5),
    }
    return normal(
        f"""
        net (float[N, 2, {size}, {size}] x) => (float[N, 5] y) {{
            c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            r0 = Relu (c0)
            m0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r0)
            c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (m0, w1, b1)
            c2 = Conv <strides = [2, 2]> (m0, w2)
            a = Add (c1, c2)
            r1 = Relu (a)
            g = GlobalAveragePool (r1)
            f = Flatten (g)
            y = Gemm <transB = 1> (f, w3, b3)
        }}
        """,
        dict(weights),
    )


def calibrated(
    model: ir.Model,
    feeds: dict[str, NDArray[Any]],
    *,
    plan: Plan | None = None,
    weight_bits: int = 4,
    activation_bits: int = 8,
    grid: Grid = Grid.ODD,
    powers_of_two: bool = False,
) -> Plan:
    """A plan whose activations cover what they are on ``feeds``; weight scales stay open.

    Args:
        model: Normal form.
        feeds: What to calibrate on.
        plan: Widths and grids; None: uniform, of the next three arguments.
        weight_bits: Width of every kernel.
        activation_bits: Width of every activation but inputs.
        grid: Grid of the weights.
        powers_of_two: Round the scales to powers of two, so that many sums end in exact halves.
    """
    if plan is None:
        plan = place(model, weight_bits=weight_bits, activation_bits=activation_bits, grid=grid)
        inputs = {value.name for value in model.graph.inputs}
        narrow = {"bits": activation_bits}  # also what no layer multiplies, so that every width is tried
        plan = plan.replaced(
            activations=[a if a.name in inputs else a.model_copy(update=narrow) for a in plan.activations]
        )
    shown = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    values = {
        **feeds,
        **run_onnx(model, feeds, expose=[a.name for a in plan.activations if a.name not in shown]),
    }
    return plan.replaced(
        activations=[_calibrate(a, values[a.name], powers_of_two=powers_of_two) for a in plan.activations]
    )


def quantized(
    text: str, weights: dict[str, NDArray[Any]], feeds: dict[str, NDArray[Any]], **options: Any
) -> ir.Model:
    """The QDQ model of a text; ``options`` of ``calibrated``."""
    model = normal(text, weights)
    return quantize(model, calibrated(model, feeds, **options))


def _calibrate(planned: ActivationQuant, seen: NDArray[Any], *, powers_of_two: bool) -> ActivationQuant:
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1e-3)
    if planned.zero_point == 0:
        low = 0.0
    scale = float(np.float32((high - low) / (2**planned.bits - 1)))
    if powers_of_two:
        scale = 2.0 ** float(np.rint(np.log2(scale)))
    zero = int(np.clip(np.rint(-low / scale), 0, 2**planned.bits - 1))
    return planned.model_copy(update={"scale": scale, "zero_point": zero})
