from __future__ import annotations

import numpy as np
import pytest
from compare import run_onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import parse

from mpqtool.runtime.product_ops import OPERATORS
from mpqtool.runtime.session import LEVELS

# Shapes broadcast both ways; sizes are no multiples of a vector, so that the last elements have a path of
# their own in ONNX Runtime.
ELEMENTWISE = [
    ((37,), (37,)),
    ((2, 3, 5, 7), (2, 3, 1, 1)),
    ((3, 1, 1), (2, 3, 17, 3)),
    ((1,), (2, 67)),
    ((4, 1, 9), (3, 1)),
    ((2, 1, 300), (2, 5, 1)),
]
MATRICES = [
    ((5, 7), (7, 3)),
    ((2, 3, 4, 65), (2, 3, 65, 33)),
    ((2, 1, 4, 9), (3, 9, 2)),
    ((3, 19, 5), (5, 1)),
]


def _check(
    call: str,
    shapes: tuple[tuple[int, ...], ...],
    scales: list[float],
    zeros: list[int],
    bits: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        rng.integers(0, 2**width, shape).astype(np.uint8)
        for shape, width in zip(shapes, (bits, 8), strict=True)
    )
    if seed % 5 == 0:
        a, b = np.full_like(a, 255), np.full_like(b, 255)
    names = {name: np.array(scale, np.float32) for name, scale in zip(("s", "t", "u"), scales, strict=True)}
    names |= {name: np.array(zero, np.uint8) for name, zero in zip(("i", "j", "k"), zeros, strict=True)}
    dims = [",".join(map(str, shape)) for shape in shapes]
    call = f"y = {call} (a, s, i, b, t, j, u, k)"
    text = f"net (uint8[{dims[0]}] a, uint8[{dims[1]}] b) => (uint8[M] y) {{ {call} }}"
    model = parse(text, names)
    model.graph.outputs[0].shape = None
    (node,) = model.graph
    inputs = [a, names["s"], names["i"], b, names["t"], names["j"], names["u"], names["k"]]

    found = OPERATORS[node.domain, node.op_type](node, inputs)

    for level in LEVELS:
        np.testing.assert_array_equal(found, run_onnx(model, {"a": a, "b": b}, level=level)["y"])


@pytest.mark.parametrize("shapes", ELEMENTWISE)
@settings(max_examples=8, deadline=None)
@given(
    scales=st.lists(st.floats(2.0**-9, 1, width=32), min_size=3, max_size=3),
    zeros=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    bits=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)
def test_products_are_those_of_onnx_runtime(
    shapes: tuple[tuple[int, ...], ...], scales: list[float], zeros: list[int], bits: int, seed: int
) -> None:
    scales[2] = scales[2] * scales[0] * scales[1] * 128  # so that not all codes are clamped
    _check("com.microsoft.QLinearMul", shapes, scales, zeros, bits, seed)


@pytest.mark.parametrize("shapes", MATRICES)
@settings(max_examples=8, deadline=None)
@given(
    scales=st.lists(st.floats(2.0**-9, 1, width=32), min_size=3, max_size=3),
    zeros=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    bits=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)
def test_matrix_products_are_those_of_onnx_runtime(
    shapes: tuple[tuple[int, ...], ...], scales: list[float], zeros: list[int], bits: int, seed: int
) -> None:
    scales[2] = scales[2] * scales[0] * scales[1] * 1024
    _check("QLinearMatMul", shapes, scales, zeros, bits, seed)


def test_a_product_is_rounded_before_the_zero_point_is_added() -> None:
    """Not once, as a fused multiply-add does: where the two differ, the result would depend on the CPU."""
    factor = np.nextafter(np.float32(3.5 / 35), np.float32(1))
    products = np.arange(256, dtype=np.float32)[:, None] * np.arange(256, dtype=np.float32)
    twice = np.rint(products * factor + np.float32(64))
    once = np.rint((products.astype(np.float64) * factor + 64).astype(np.float32))
    assert (np.clip(twice, 0, 255) != np.clip(once, 0, 255)).any()
    codes = np.arange(256, dtype=np.uint8)
    numbers = {"s": factor, "t": 1, "z": np.array(0, np.uint8), "w": np.array(64, np.uint8)}
    call = "y = com.microsoft.QLinearMul (a, s, z, b, t, z, t, w)"
    model = parse(f"net (uint8[256,1] a, uint8[256] b) => (uint8[256,256] y) {{ {call} }}", numbers)

    found = run_onnx(model, {"a": codes[:, None], "b": codes})["y"]

    np.testing.assert_array_equal(found, np.clip(twice, 0, 255).astype(np.uint8))


def test_sums_of_the_largest_codes_do_not_saturate() -> None:
    a = np.full((3, 2048), 255, np.uint8)
    numbers = {"s": 1, "u": 2048 * 255 * 255 / 200, "z": np.array(0, np.uint8)}
    call = "y = QLinearMatMul (a, s, z, b, s, z, u, z)"
    text = f"net (uint8[3,2048] a, uint8[2048,3] b) => (uint8[3,3] y) {{ {call} }}"

    assert np.unique(run_onnx(parse(text, numbers), {"a": a, "b": a.T.copy()})["y"]).tolist() == [200]
