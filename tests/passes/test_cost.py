from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from onnx_text import parse

from mpqtool.passes import cost
from mpqtool.passes.cost import Layer


def _conv(out: int, into: int, kernel: int, size: int, *, groups: int = 1, stride: int = 1) -> Layer:
    """A convolution whose output is ``size`` high and wide."""
    weights = out * into // groups * kernel**2
    return Layer(
        name=f"w{out}.{into}.{kernel}.{size}.{groups}",
        op="Conv",
        macs=weights * size**2,
        weights=weights,
        kernels=out,
        inputs=into * (size * stride) ** 2,
    )


def _linear(out: int, into: int) -> Layer:
    return Layer(name="fc", op="Gemm", macs=out * into, weights=out * into, kernels=out, inputs=into)


def _bits(
    rows: list[Layer], weights: float, activations: float, *, ends: tuple[float, float] | None
) -> list[Layer]:
    """The rows at one width, the first and the last at widths ``ends`` if given."""
    middle = {"weight_bits": (weights,), "activation_bits": activations}
    outer = middle if ends is None else {"weight_bits": (ends[0],), "activation_bits": ends[1]}
    last = len(rows) - 1
    return [dataclasses.replace(row, **(outer if i in (0, last) else middle)) for i, row in enumerate(rows)]


def _resnet20(*, shortcuts: bool) -> list[Layer]:
    rows = [_conv(16, 3, 3, 32)]
    into = 16
    for width, size in ((16, 32), (32, 16), (64, 8)):
        for _ in range(3):
            stride = 2 if width != into else 1
            rows += [_conv(width, into, 3, size, stride=stride), _conv(width, width, 3, size)]
            rows += [_conv(width, into, 1, size, stride=stride)] if shortcuts and width != into else []
            into = width
    return [*rows, _linear(10, 64)]


def _resnet18() -> list[Layer]:
    rows = [_conv(64, 3, 7, 112, stride=2)]
    into = 64
    for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        for _ in range(2):
            stride = 2 if width != into else 1
            rows += [_conv(width, into, 3, size, stride=stride), _conv(width, width, 3, size)]
            rows += [_conv(width, into, 1, size, stride=stride)] if width != into else []
            into = width
    return [*rows, _linear(1000, 512)]


def _mobilenet_v1() -> list[Layer]:
    rows = [_conv(32, 3, 3, 112, stride=2)]
    into, size = 32, 112
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for width, stride in plan:
        size //= stride
        rows += [_conv(into, into, 3, size, groups=into, stride=stride), _conv(width, into, 1, size)]
        into = width
    return [*rows, _linear(1000, 1024)]


def test_resnet20_costs_41_giga_bit_operations_in_float() -> None:
    plain, shortcuts = _resnet20(shortcuts=False), _resnet20(shortcuts=True)
    assert cost.macs(plain) == 40_551_040
    assert cost.macs(shortcuts) == 40_813_184
    assert cost.bitops(plain) == pytest.approx(41.52e9, abs=0.005e9)
    assert cost.bitops(shortcuts) == pytest.approx(41.79e9, abs=0.005e9)


@pytest.mark.parametrize(
    ("weights", "activations", "ends", "plain", "shortcuts"),
    [
        pytest.param(2, 32, (8, 32), 2.680, 2.697, id="2/32"),
        pytest.param(3, 8, (8, 8), 0.991, 0.997, id="3/8"),
        pytest.param(3, 4, (8, 8), 0.510, 0.513, id="3/4"),
        pytest.param(3, 3, (8, 8), 0.389, 0.392, id="3/3"),
        pytest.param(1.93, 32, (8, 32), 2.591, 2.607, id="1.93/32"),
    ],
)
def test_resnet20_at_mixed_widths(
    weights: float, activations: float, ends: tuple[float, float], plain: float, shortcuts: float
) -> None:
    for rows, expected in ((_resnet20(shortcuts=False), plain), (_resnet20(shortcuts=True), shortcuts)):
        quantized = _bits(rows, weights, activations, ends=ends)
        assert cost.bitops(quantized) == pytest.approx(expected * 1e9, abs=0.0006e9)


def test_resnet18_at_4_bits_with_ends_of_8() -> None:
    rows = _bits(_resnet18(), 4, 4, ends=(8, 8))
    assert cost.bitops(rows) == pytest.approx(34.71e9, abs=0.005e9)
    rows[-1] = dataclasses.replace(rows[-1], weight_bits=(32,), activation_bits=32)
    assert cost.bitops(rows) == pytest.approx(35.21e9, abs=0.015e9)


def test_mobilenet_v1_macs() -> None:
    assert cost.macs(_mobilenet_v1()) == pytest.approx(568.74e6, abs=0.005e6)


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [(8, 8, 50.1), (6, 6, 31.9), (5, 5, 24.5), (5, 8, 34.8), (4, 8, 29.6), (4, 4, 18.3)],
)
def test_mobilenet_v1_complexity(weights: int, activations: int, expected: float) -> None:
    rows = _bits(_mobilenet_v1(), weights, activations, ends=None)
    assert cost.c_c(rows) == pytest.approx(expected * 1e9, abs=0.05e9)


def _kernels(*bits: int) -> Layer:
    """Kernels of 8 weights that are used 10 times each."""
    count = len(bits)
    return Layer(
        name="w",
        op="Conv",
        macs=80 * count,
        weights=8 * count,
        kernels=count,
        weight_bits=bits,
        activation_bits=4,
    )


def test_kernels_of_several_widths_add_up() -> None:
    row = _kernels(2, 4, 8)
    assert cost.bitops([row]) == 80 * (2 + 4 + 8) * 4
    assert cost.c_c([row]) == sum(80 * (b * 4 + b + 4 + 3) for b in (2, 4, 8))
    assert cost.weights_eff([row]) == pytest.approx(14 / 3)
    assert cost.weights_owed([row]) == 14


def test_a_kernel_of_0_bits_costs_nothing_but_counts_in_the_mean() -> None:
    assert cost.c_c([_kernels(0, 4)]) == cost.c_c([_kernels(4)])
    assert cost.weights_eff([_kernels(0, 4)]) == 2


def test_effective_widths_weigh_by_size() -> None:
    rows = [
        Layer(
            name=name, op="Gemm", macs=1, weights=weights, kernels=1, input=x, inputs=inputs,
            weight_bits=(bits,), activation_bits=width,
        )
        for name, weights, bits, x, inputs, width in (
            ("a", 30, 2, "x", 10, 8), ("b", 10, 6, "r", 30, 4), ("c", 0, 6, "r", 30, 4),
        )
    ]  # fmt: skip
    assert cost.weights_eff(rows) == 3
    assert cost.activations_eff(rows) == 5  # r is multiplied twice, and is one value


def test_weights_that_were_removed_have_0_bits() -> None:
    row = Layer(name="a", op="Conv", macs=1, weights=30, kernels=3, weight_bits=(4,), removed=10)
    assert cost.weights_eff([row]) == 3
    assert cost.weights_owed([row]) == 15
    assert cost.wcr_true([row]) == 32 / 3


@pytest.mark.parametrize(("largest", "bits"), [(0, 1), (1, 2), (127, 8), (128, 9), (2**20, 22), (None, None)])
def test_the_accumulator_has_a_sign(largest: int | None, bits: int | None) -> None:
    row = Layer(name="a", op="Conv", macs=1, weights=1, kernels=1, accumulator=largest)
    assert row.accumulator_bits == bits


def test_the_printed_compression_leaves_out_the_ends() -> None:
    rows = _bits(_resnet20(shortcuts=False), 3, 4, ends=(8, 8))
    assert cost.wcr(rows) == pytest.approx(32 / 3)
    whole = cost.wcr_true(rows)
    assert whole is not None
    assert whole < 32 / 3
    assert whole == pytest.approx(32 / cost.weights_eff(rows))


def test_bytes_owed_are_whole_and_counted_once_per_tensor() -> None:
    odd = Layer(name="w", op="Gemm", macs=3, weights=3, kernels=1, weight_bits=(3,))  # 9 bits
    assert cost.weights_owed([odd]) == 2
    assert cost.weights_owed([odd, odd]) == 2
    assert cost.weights_owed([odd, dataclasses.replace(odd, name="v")]) == 4


def test_unknown_sizes_stay_unknown() -> None:
    row = Layer(name="w", op="Conv", macs=None, weights=9, kernels=1)
    assert (cost.macs([row]), cost.bitops([row]), cost.c_c([row])) == (None,) * 3
    assert cost.activations_eff([row, dataclasses.replace(row, input="other", inputs=None)]) is None
    assert cost.activations_eff([]) is None
    assert cost.weights_eff([row]) == 32
    assert cost.weights_eff([]) is None
    assert cost.wcr_true([]) is None


def test_one_width_per_kernel_or_one_for_all() -> None:
    with pytest.raises(ValueError, match=r"weight_bits of 'w' needs 1 or 3 entries, got 2"):
        Layer(name="w", op="Conv", macs=1, weights=9, kernels=3, weight_bits=(1, 2))


_NET = """
    net (float[n,4,SIZE,SIZE] x) => (float[n,5] y) {
        c = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)
        d = Conv<group=8>(c, dw)
        g = GlobalAveragePool(d)
        f = Flatten(g)
        y = GEMM
    }
"""


@pytest.mark.parametrize(
    ("gemm", "shape"),
    [("Gemm<transB=1>(f, fc)", (5, 8)), ("Gemm(f, fc)", (8, 5)), ("MatMul(f, fc)", (8, 5))],
)
def test_rows_of_a_graph(gemm: str, shape: tuple[int, int]) -> None:
    weights = {"w": np.ones((8, 4, 3, 3)), "dw": np.ones((8, 1, 3, 3)), "fc": np.ones(shape)}
    conv, depthwise, last = cost.layers(parse(_NET.replace("SIZE", "8").replace("GEMM", gemm), weights))
    assert (conv.name, conv.op, conv.input) == ("w", "Conv", "x")
    assert (conv.macs, conv.weights, conv.kernels, conv.inputs) == (288 * 16, 288, 8, 4 * 64)
    assert (depthwise.macs, depthwise.weights, depthwise.kernels) == (72 * 4, 72, 8)
    assert (last.name, last.macs, last.weights, last.kernels, last.inputs) == ("fc", 40, 40, 5, 8)
    assert math.isclose(conv.mean_bits, 32)


def test_symbolic_heights_leave_the_macs_open() -> None:
    weights = {"w": np.ones((8, 4, 3, 3)), "dw": np.ones((8, 1, 3, 3)), "fc": np.ones((5, 8))}
    text = _NET.replace("SIZE", "s").replace("GEMM", "Gemm<transB=1>(f, fc)")
    conv, _, last = cost.layers(parse(text, weights))
    assert (conv.macs, conv.weights, conv.inputs) == (None, 288, None)
    assert last.macs == 40


def test_sizes_of_samples_close_what_a_model_leaves_open() -> None:
    weights = {"w": np.ones((8, 4, 3, 3)), "dw": np.ones((8, 1, 3, 3)), "fc": np.ones((5, 8))}
    gemm = "Gemm<transB=1>(f, fc)"
    fixed = parse(_NET.replace("SIZE", "8").replace("GEMM", gemm), weights)
    free = parse(_NET.replace("SIZE", "s").replace("GEMM", gemm), weights)
    assert cost.layers(cost.sized(free, {"x": (7, 4, 8, 8)})) == cost.layers(fixed)
    assert cost.layers(free)[0].macs is None  # it was left as it is


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("layout", [0, 1])
def test_recurrent_layers_count_both_weights_at_every_step(op: str, gates: int, layout: int) -> None:
    rows, shape = gates * 6, "n,7,5" if layout else "7,n,5"
    text = f"""net (float[{shape}] x) => (float[a,b,c,d] y) {{
        y = {op}<hidden_size=6, direction="bidirectional", layout={layout}>(x, w, r)
    }}"""
    (row,) = cost.layers(parse(text, {"w": np.ones((2, rows, 5)), "r": np.ones((2, rows, 6))}))
    weights = 2 * rows * (5 + 6)
    assert (row.name, row.op, row.weights, row.kernels) == ("w", op, weights, 2 * rows)
    assert (row.macs, row.inputs, row.mean_bits) == (7 * weights, 7 * 5, 32)


def test_a_recurrent_layer_of_any_length() -> None:
    text = "net (float[t,n,5] x) => (float[t,1,n,6] y) { y = RNN<hidden_size=6>(x, w, r) }"
    (row,) = cost.layers(parse(text, {"w": np.ones((1, 6, 5)), "r": np.ones((1, 6, 6))}))
    assert (row.macs, row.inputs, row.weights) == (None, None, 66)


def test_a_transposed_convolution_uses_its_weights_at_every_input_element() -> None:
    text = (
        "net (float[n,4,5,5] x) => (float[n,6,10,10] y) { y = ConvTranspose<group=2, strides=[2,2]>(x, w) }"
    )
    (row,) = cost.layers(parse(text, {"w": np.ones((4, 3, 2, 2))}))
    assert (row.macs, row.weights, row.kernels, row.inputs) == (48 * 25, 48, 6, 100)
