"""Random small networks, and plans for them, drawn by Hypothesis."""

from __future__ import annotations

__all__ = ["Case", "cases"]

import dataclasses
import math
from typing import Any

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
        acts = [(a.name, a.bits, a.zero_point, a.tie) for a in self.plan.activations]
        return f"{self.text}\n{bits}\n{acts}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # else Hypothesis prints every number


class _Builder:
    """Writes ONNX text, a line at a time, and keeps the shape of the value that is worked on."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng, self.shape, self.value = rng, shape, "x"
        self.input_shape = shape
        self.lines: list[str] = []
        self.weights: dict[str, NDArray[Any]] = {}

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[1:]

    def op(self, op: str, *inputs: str, shape: tuple[int, ...] | None = None, attributes: str = "") -> str:
        name = f"v{len(self.lines)}"
        shown = f" <{attributes}>" if attributes else ""
        self.lines.append(f"{name} = {op}{shown} ({', '.join(inputs)})")
        self.value, self.shape = name, self.shape if shape is None else shape
        return name

    def weight(self, *shape: int, spread: float = 1.0) -> str:
        name = f"w{len(self.weights)}"
        gain = spread / math.sqrt(max(1, math.prod(shape[1:])))
        per_kernel = np.exp(self.rng.normal(size=(shape[0], *[1] * (len(shape) - 1))))
        self.weights[name] = (self.rng.normal(size=shape) * gain * per_kernel).astype(np.float32)
        return name

    def text(self) -> str:
        shape = ", ".join(str(size) for size in self.input_shape)
        body = "\n".join(self.lines)
        return f"net (float[N, {shape}] x) => (float[N, M] {self.value}) {{\n{body}\n}}"


@st.composite
def cases(draw: st.DrawFn, *, islands: bool = False) -> Case:
    """Networks of one to four blocks and a tail, widths mixed kernel by kernel.

    Args:
        draw: Given by Hypothesis.
        islands: Whether float operators stand between integer ones.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.sampled_from([2, 2, 1]))
    builder = _Builder(rng, (draw(st.integers(1, 5)), *[draw(st.integers(4, 9)) for _ in range(rank)]))
    blocks = [_conv, _conv, _depthwise, _max_pool, _average_pool, _residual, _concat, _clamp]
    for block in draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=4)):
        block(draw, builder)
    if islands:
        _island(builder)
        _conv(draw, builder)
    draw(st.sampled_from([_pooled_tail, _flat_tail, _two_layers, _softmax_tail]))(draw, builder)
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
    return Case(text, model, feeds, calibrated(model, feeds, plan=plan, tied=draw(st.booleans())))


def _conv(draw: st.DrawFn, b: _Builder) -> None:
    rank = len(b.spatial)
    group = draw(st.sampled_from([g for g in (1, 1, 2, 3) if b.shape[0] % g == 0]))
    kernels = group * draw(st.integers(1, 4))
    window = [draw(st.integers(1, min(3, size))) for size in b.spatial]
    pads = [draw(st.integers(0, k - 1)) for k in window * 2]
    strides = [draw(st.integers(1, 2)) for _ in window]
    sizes = [
        (size + pads[i] + pads[i + rank] - window[i]) // strides[i] + 1 for i, size in enumerate(b.spatial)
    ]
    inputs = [
        b.value,
        b.weight(kernels, b.shape[0] // group, *window, spread=draw(st.sampled_from([1.0, 8.0]))),
    ]
    if draw(st.booleans()):
        inputs.append(b.weight(kernels))
    attributes = f"group = {group}, strides = {strides}, pads = {pads}"
    b.op("Conv", *inputs, shape=(kernels, *sizes), attributes=attributes)
    if draw(st.booleans()):
        b.op("Relu", b.value)
    elif draw(st.booleans()):
        _clip(b, low=draw(st.sampled_from([0.0, -0.7])))


def _clip(b: _Builder, *, low: float) -> None:
    names = [f"w{len(b.weights)}", f"w{len(b.weights) + 1}"]
    b.weights |= {names[0]: np.array(low, np.float32), names[1]: np.array(1.1, np.float32)}
    b.op("Clip", b.value, *names)


def _clamp(draw: st.DrawFn, b: _Builder) -> None:
    """A Relu or Clip that belongs to no operator before it."""
    if draw(st.booleans()):
        b.op("Relu", b.value)
    else:
        _clip(b, low=-0.5)


def _depthwise(draw: st.DrawFn, b: _Builder) -> None:
    channels, window = b.shape[0], [min(3, size) for size in b.spatial]
    pads = [k // 2 for k in window] + [(k - 1) // 2 for k in window]
    weight = b.weight(channels, 1, *window)
    b.op("Conv", b.value, weight, attributes=f"group = {channels}, pads = {pads}")
    b.op("Relu", b.value)


def _max_pool(draw: st.DrawFn, b: _Builder) -> None:
    stride = draw(st.integers(1, 2))
    ones = [1] * len(b.spatial)
    pads = [draw(st.integers(0, 1)) if min(b.spatial) > 1 else 0 for _ in ones * 2]
    ceil_mode = draw(st.integers(0, 1)) if not any(pads) else 0
    sizes = []
    for i, size in enumerate(b.spatial):
        room = size + pads[i] + pads[i + len(ones)] - min(2, size)
        steps = -(-room // stride) if ceil_mode else room // stride
        sizes.append(steps + 1 if steps * stride < size + pads[i] else steps)
    window = [min(2, size) for size in b.spatial]
    attributes = f"kernel_shape = {window}, strides = {[stride for _ in ones]}, pads = {pads}"
    attributes += f", ceil_mode = {ceil_mode}"
    b.op("MaxPool", b.value, shape=(b.shape[0], *sizes), attributes=attributes)


def _average_pool(draw: st.DrawFn, b: _Builder) -> None:
    window = [min(draw(st.integers(1, 3)), size) for size in b.spatial]
    padded = draw(st.booleans())
    pads = [int(padded and k > 1) for k in window * 2]
    half = len(window)
    sizes = [size + pads[i] + pads[i + half] - window[i] + 1 for i, size in enumerate(b.spatial)]
    attributes = f"kernel_shape = {window}, pads = {pads}, count_include_pad = 1"
    b.op("AveragePool", b.value, shape=(b.shape[0], *sizes), attributes=attributes)


def _residual(draw: st.DrawFn, b: _Builder) -> None:
    before, channels = b.value, b.shape[0]
    window = [1 if size < 3 else 3 for size in b.spatial]
    pads = [k // 2 for k in window * 2]
    b.op("Conv", before, b.weight(channels, channels, *window), attributes=f"pads = {pads}")
    b.op("Add", *((b.value, before) if draw(st.booleans()) else (before, b.value)))
    if draw(st.booleans()):
        b.op("Relu", b.value)


def _concat(draw: st.DrawFn, b: _Builder) -> None:
    before, shape, channels = b.value, b.shape, draw(st.integers(1, 3))
    b.op("Conv", before, b.weight(channels, shape[0], *[1] * len(shape[1:])), shape=(channels, *shape[1:]))
    b.op("Concat", before, b.value, shape=(shape[0] + channels, *shape[1:]), attributes="axis = 1")


def _island(b: _Builder) -> None:
    """x * sigmoid(x), one unit in the normal form, stays float."""
    before = b.value
    b.op("Sigmoid", before)
    b.op("Mul", before, b.value)


def _gemm(draw: st.DrawFn, b: _Builder, features: int) -> None:
    inputs = [b.value, b.weight(features, math.prod(b.shape))]
    if draw(st.booleans()):
        inputs.append(b.weight(features))
    b.op("Gemm", *inputs, shape=(features,), attributes="transB = 1")


def _pooled_tail(draw: st.DrawFn, b: _Builder) -> None:
    b.op("GlobalAveragePool", b.value, shape=(b.shape[0], *[1] * len(b.spatial)))
    _flat_tail(draw, b)


def _flat_tail(draw: st.DrawFn, b: _Builder) -> None:
    b.op("Flatten", b.value, shape=(math.prod(b.shape),))
    _gemm(draw, b, 4)


def _two_layers(draw: st.DrawFn, b: _Builder) -> None:
    _flat_tail(draw, b)
    b.op("Relu", b.value)
    _gemm(draw, b, 3)


def _softmax_tail(draw: st.DrawFn, b: _Builder) -> None:
    _pooled_tail(draw, b)
    b.op("Softmax", b.value, attributes="axis = 1")
