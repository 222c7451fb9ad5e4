"""Random convolutions whose inputs have offsets, drawn by Hypothesis."""

from __future__ import annotations

__all__ = ["OffsetCase", "offset_cases", "with_offsets"]

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from graphs import calibrated, normal
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete


@dataclasses.dataclass(frozen=True)
class OffsetCase:
    """A normal model, its inputs and a complete plan with offsets."""

    text: str
    model: ir.Model
    feeds: dict[str, NDArray[Any]]
    plan: Plan

    def __repr__(self) -> str:
        acts = [(a.name, a.bits, a.scale, a.zero_point, a.offset, a.padding) for a in self.plan.activations]
        return f"{self.text}\n{[(w.name, w.bits) for w in self.plan.weights]}\n{acts}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # else Hypothesis prints every number


def with_offsets(
    model: ir.Model, plan: Plan, betas: dict[str, float], padding: Literal["offset", "zero"] = "offset"
) -> Plan:
    """The plan, complete, with the learned offset ``beta`` of LSQ+ for each of these activations."""
    return complete(
        model,
        plan.replaced(
            activations=[
                a.with_beta(a.scale, betas[a.name]).model_copy(update={"padding": padding})
                if a.name in betas and a.scale is not None
                else a
                for a in plan.activations
            ]
        ),
    )


@st.composite
def offset_cases(draw: st.DrawFn) -> OffsetCase:
    """Two convolutions over one to three dimensions, what moves codes between them, and a Gemm."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, 3))
    channels, sizes = draw(st.integers(1, 4)), [draw(st.integers(3, 7 - rank)) for _ in range(rank)]
    shape, weights, lines, value = (channels, *sizes), {}, [], "x"
    for index in range(2):
        group = draw(st.sampled_from([g for g in {1, 2, channels} if channels % g == 0]))
        kernels = group * draw(st.integers(1, 3))
        window = [draw(st.integers(1, min(3, size))) for size in sizes]
        dilations = [draw(st.integers(1, 2)) for _ in window]
        spans = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
        pads = [draw(st.integers(0, 2)) for _ in window * 2]
        for axis in range(rank):  # a window has to fit
            pads[axis] += max(0, spans[axis] - sizes[axis] - pads[axis] - pads[axis + rank])
        strides = [draw(st.integers(1, 2)) for _ in window]
        sizes = [(sizes[i] + pads[i] + pads[i + rank] - spans[i]) // strides[i] + 1 for i in range(rank)]
        weights[f"w{index}"] = rng.normal(size=(kernels, channels // group, *window)).astype(np.float32)
        inputs = f"{value}, w{index}"
        if draw(st.booleans()):
            weights[f"b{index}"] = rng.normal(size=kernels).astype(np.float32)
            inputs += f", b{index}"
        attributes = f"group = {group}, pads = {pads}, strides = {strides}, dilations = {dilations}"
        lines.append(f"c{index} = Conv <{attributes}> ({inputs})")
        value, channels = f"c{index}", kernels
        if draw(st.booleans()):
            lines.append(f"r{index} = {draw(st.sampled_from(['Relu', 'Identity']))} ({value})")
            value = f"r{index}"
        if min(sizes) > 1 and draw(st.booleans()):
            lines.append(f"m{index} = MaxPool <kernel_shape = {[2] * rank}> ({value})")
            value, sizes = f"m{index}", [size - 1 for size in sizes]
    weights["w2"] = rng.normal(size=(3, channels * math.prod(sizes))).astype(np.float32)
    lines += [f"f = Flatten ({value})", "y = Gemm <transB = 1> (f, w2)"]
    body, dims = "\n".join(lines), ", ".join(map(str, shape))
    text = f"net (float[N, {dims}] x) => (float[N, 3] y) {{\n{body}\n}}"
    model, feeds = normal(text, weights), {"x": rng.normal(size=(3, *shape)).astype(np.float32)}
    plan = place(model, weight_bits=4, activation_bits=8, grid=draw(st.sampled_from(Grid)))
    plan = plan.replaced(
        weights=[
            w.model_copy(update={"bits": tuple(int(b) for b in rng.choice([0, 2, 3, 4, 6, 8], len(w.bits)))})
            for w in plan.weights
        ],
        activations=[a.model_copy(update={"bits": int(rng.integers(1, 9))}) for a in plan.activations],
    )
    plan = calibrated(model, feeds, plan=plan)
    betas = {a.name: float(rng.uniform(-3, 1) * (a.scale or 1)) for a in plan.activations}
    padding: Literal["offset", "zero"] = "zero" if draw(st.booleans()) else "offset"
    return OffsetCase(text, model, feeds, with_offsets(model, plan, betas, padding))
