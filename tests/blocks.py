"""Blocks of random small networks, drawn by Hypothesis and written as ONNX text."""

from __future__ import annotations

__all__ = [
    "Builder",
    "attention_tail",
    "average_pool",
    "clamp",
    "concat",
    "conv",
    "depthwise",
    "flat_tail",
    "function",
    "gate",
    "island",
    "max_pool",
    "move",
    "pooled_tail",
    "residual",
    "silu",
    "softmax_tail",
    "split",
    "two_layers",
]

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


class Builder:
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

    def integers(self, numbers: list[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(numbers, np.int64)
        return name

    def text(self) -> str:
        shape = ", ".join(str(size) for size in self.input_shape)
        body = "\n".join(self.lines)
        return f"net (float[N, {shape}] x) => (float[N, M] {self.value}) {{\n{body}\n}}"


def conv(draw: st.DrawFn, b: Builder) -> None:
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
        clip(b, low=draw(st.sampled_from([0.0, -0.7])))


def clip(b: Builder, *, low: float) -> None:
    names = [f"w{len(b.weights)}", f"w{len(b.weights) + 1}"]
    b.weights |= {names[0]: np.array(low, np.float32), names[1]: np.array(1.1, np.float32)}
    b.op("Clip", b.value, *names)


def clamp(draw: st.DrawFn, b: Builder) -> None:
    """A Relu or Clip that belongs to no operator before it."""
    if draw(st.booleans()):
        b.op("Relu", b.value)
    else:
        clip(b, low=-0.5)


def depthwise(draw: st.DrawFn, b: Builder) -> None:
    channels, window = b.shape[0], [min(3, size) for size in b.spatial]
    pads = [k // 2 for k in window] + [(k - 1) // 2 for k in window]
    weight = b.weight(channels, 1, *window)
    b.op("Conv", b.value, weight, attributes=f"group = {channels}, pads = {pads}")
    b.op("Relu", b.value)


def max_pool(draw: st.DrawFn, b: Builder) -> None:
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


def average_pool(draw: st.DrawFn, b: Builder) -> None:
    window = [min(draw(st.integers(1, 3)), size) for size in b.spatial]
    padded = draw(st.booleans())
    pads = [int(padded and k > 1) for k in window * 2]
    half = len(window)
    sizes = [size + pads[i] + pads[i + half] - window[i] + 1 for i, size in enumerate(b.spatial)]
    attributes = f"kernel_shape = {window}, pads = {pads}, count_include_pad = 1"
    b.op("AveragePool", b.value, shape=(b.shape[0], *sizes), attributes=attributes)


def residual(draw: st.DrawFn, b: Builder) -> None:
    before, channels = b.value, b.shape[0]
    window = [1 if size < 3 else 3 for size in b.spatial]
    pads = [k // 2 for k in window * 2]
    b.op("Conv", before, b.weight(channels, channels, *window), attributes=f"pads = {pads}")
    b.op("Add", *((b.value, before) if draw(st.booleans()) else (before, b.value)))
    if draw(st.booleans()):
        b.op("Relu", b.value)


def concat(draw: st.DrawFn, b: Builder) -> None:
    before, shape, channels = b.value, b.shape, draw(st.integers(1, 3))
    b.op("Conv", before, b.weight(channels, shape[0], *[1] * len(shape[1:])), shape=(channels, *shape[1:]))
    b.op("Concat", before, b.value, shape=(shape[0] + channels, *shape[1:]), attributes="axis = 1")


def island(b: Builder) -> None:
    """An operator that has no integer form."""
    b.op("Sin", b.value)


def gemm(draw: st.DrawFn, b: Builder, features: int) -> None:
    inputs = [b.value, b.weight(features, math.prod(b.shape))]
    if draw(st.booleans()):
        inputs.append(b.weight(features))
    b.op("Gemm", *inputs, shape=(features,), attributes="transB = 1")


def pooled_tail(draw: st.DrawFn, b: Builder) -> None:
    b.op("GlobalAveragePool", b.value, shape=(b.shape[0], *[1] * len(b.spatial)))
    flat_tail(draw, b)


def flat_tail(draw: st.DrawFn, b: Builder) -> None:
    b.op("Flatten", b.value, shape=(math.prod(b.shape),))
    gemm(draw, b, 4)


def two_layers(draw: st.DrawFn, b: Builder) -> None:
    flat_tail(draw, b)
    b.op("Relu", b.value)
    gemm(draw, b, 3)


def softmax_tail(draw: st.DrawFn, b: Builder) -> None:
    pooled_tail(draw, b)
    b.op("Softmax", b.value, attributes="axis = 1")


def function(draw: st.DrawFn, b: Builder) -> None:
    """A function of one number, which is a table on codes."""
    alpha = f"alpha = {draw(st.sampled_from([0.1, 0.5]))}"
    plain = [(op, "") for op in ("Sigmoid", "Tanh", "HardSwish", "Softplus")]
    steered = [("LeakyRelu", alpha), ("HardSigmoid", alpha), ("Elu", alpha), ("Gelu", 'approximate = "tanh"')]
    op, attributes = draw(st.sampled_from(plain + steered))
    b.op(op, b.value, attributes=attributes)


def silu(draw: st.DrawFn, b: Builder) -> None:
    """x * sigmoid(x), one unit in the normal form."""
    before = b.value
    b.op("Sigmoid", before)
    b.op("Mul", before, b.value)


def gate(draw: st.DrawFn, b: Builder) -> None:
    """Squeeze and excite."""
    before, shape = b.value, b.shape
    b.op("GlobalAveragePool", before)
    ones = [1] * len(b.spatial)
    b.op("Conv", b.value, b.weight(2, shape[0], *ones))
    b.op("Relu", b.value)
    b.op("Conv", b.value, b.weight(shape[0], 2, *ones))
    b.op(draw(st.sampled_from(["Sigmoid", "HardSigmoid"])), b.value)
    b.op("Mul", *((b.value, before) if draw(st.booleans()) else (before, b.value)))


def move(draw: st.DrawFn, b: Builder) -> None:
    """An operator that gives codes another place or number."""
    rank = len(b.spatial)
    kind = draw(st.sampled_from(["Transpose", "Slice", "Pad", "Resize"]))
    if kind == "Transpose":
        order = [0, 1, *range(1 + rank, 1, -1)]
        b.op("Transpose", b.value, shape=(b.shape[0], *b.spatial[::-1]), attributes=f"perm = {order}")
    elif kind == "Slice":
        names = [b.integers([0] * rank), b.integers([size - (size > 2) for size in b.spatial])]
        sizes = [size - (size > 2) for size in b.spatial]
        b.op("Slice", b.value, *names, b.integers(list(range(2, 2 + rank))), shape=(b.shape[0], *sizes))
    elif kind == "Pad":
        mode = draw(st.sampled_from(["constant", "edge"]))
        pads = b.integers([0, 0, *[1] * rank, 0, 0, *[0] * rank])
        sizes = [size + 1 for size in b.spatial]
        b.op("Pad", b.value, pads, shape=(b.shape[0], *sizes), attributes=f'mode = "{mode}"')
    else:
        scales = f"w{len(b.weights)}"
        b.weights[scales] = np.array([1, 1, *[2] * rank], np.float32)
        attributes = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
        sizes = [2 * size for size in b.spatial]
        b.op("Resize", b.value, '""', scales, shape=(b.shape[0], *sizes), attributes=attributes)


def split(draw: st.DrawFn, b: Builder) -> None:
    """Both halves, put together the other way round."""
    if b.shape[0] % 2:
        return
    before = b.value
    first, second = f"s{len(b.lines)}a", f"s{len(b.lines)}b"
    b.lines.append(f"{first}, {second} = Split <axis = 1, num_outputs = 2> ({before})")
    b.op("Concat", second, first, attributes="axis = 1")


def attention_tail(draw: st.DrawFn, b: Builder) -> None:
    """Every place looks at every other."""
    channels, places = b.shape[0], math.prod(b.spatial)
    shape = b.integers([0, channels, places])
    b.op("Reshape", b.value, shape, shape=(channels, places))
    keys = b.value
    b.op("Transpose", keys, shape=(places, channels), attributes="perm = [0, 2, 1]")
    queries = b.value
    b.op("MatMul", queries, keys, shape=(places, places))
    b.op("Softmax", b.value, attributes="axis = -1")
    b.op("MatMul", b.value, queries, shape=(places, channels))
    flat_tail(draw, b)
