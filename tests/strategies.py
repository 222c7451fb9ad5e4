"""Random small networks, and plans for them, drawn by Hypothesis."""

from __future__ import annotations

__all__ = ["Case", "cases"]

import dataclasses
from typing import Any

import blocks
import numpy as np
import onnx_ir as ir
from graphs import calibrated, normal
from hypothesis import strategies as st
from numpy.typing import NDArray

from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan


@dataclasses.dataclass(frozen=True)
class Case:
    """A normal model with inputs and a plan that lacks weight scales alone; ``text`` says which."""

    text: str
    model: ir.Model
    feeds: dict[str, NDArray[Any]]
    plan: Plan

    def __repr__(self) -> str:
        bits = [(w.name, w.bits, str(w.grid)) for w in self.plan.weights]
        acts = [(a.name, a.bits, a.zero_point) for a in self.plan.activations]
        return f"{self.text}\n{bits}\n{acts}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # else Hypothesis prints every number


@st.composite
def cases(draw: st.DrawFn, *, islands: bool = False) -> Case:
    """Networks of one to four blocks and a tail, widths mixed kernel by kernel.

    Args:
        draw: Given by Hypothesis.
        islands: Whether float operators stand between integer ones.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.sampled_from([2, 2, 1]))
    builder = blocks.Builder(rng, (draw(st.integers(1, 5)), *[draw(st.integers(4, 9)) for _ in range(rank)]))
    kinds = [
        blocks.conv, blocks.conv, blocks.depthwise, blocks.max_pool, blocks.average_pool, blocks.residual,
        blocks.concat, blocks.clamp, blocks.function, blocks.silu, blocks.gate, blocks.move, blocks.split,
    ]  # fmt: skip
    for block in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        block(draw, builder)
    if islands:
        blocks.island(builder)
        blocks.conv(draw, builder)
    tails = [
        blocks.pooled_tail,
        blocks.flat_tail,
        blocks.two_layers,
        blocks.softmax_tail,
        blocks.attention_tail,
    ]
    draw(st.sampled_from(tails))(draw, builder)
    text = builder.text()
    model = normal(text, builder.weights)
    feeds = {"x": (rng.normal(size=(3, *builder.input_shape)) * 2).astype(np.float32)}
    grid = draw(st.sampled_from(Grid))
    plan = place(model, weight_bits=4, activation_bits=8, grid=grid)
    allowed = np.array([b for b in range(9) if grid is Grid.ODD or b != 1])
    plan = plan.replaced(
        weights=[
            w.model_copy(update={"bits": tuple(int(b) for b in rng.choice(allowed, len(w.bits)))})
            for w in plan.weights
        ],
        activations=[
            a if a.name == "x" else a.model_copy(update={"bits": int(rng.integers(1, 9))})
            for a in plan.activations
        ],
    )
    plan = calibrated(model, feeds, plan=plan, powers_of_two=draw(st.booleans()))
    return Case(text, model, feeds, plan)
