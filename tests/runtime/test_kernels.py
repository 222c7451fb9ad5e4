from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqtool.runtime import kernels


def _slow_convolve(x, zero, weight, bias, strides, pads, dilations, group):  # type: ignore[no-untyped-def]
    """The accumulator in int64, one output at a time."""
    kernels_, rank = len(weight), weight.ndim - 2
    padded = np.pad(
        x.astype(np.int64) - zero, [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))]
    )
    sizes = [
        (padded.shape[2 + i] - (weight.shape[2 + i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(rank)
    ]
    acc = np.zeros((len(x), kernels_, *sizes), np.int64)
    per_group = weight.shape[1]
    for o in range(kernels_):
        start = o // (kernels_ // group) * per_group
        for place in np.ndindex(*sizes):
            cut = tuple(
                slice(p * s, p * s + (k - 1) * d + 1, d)
                for p, s, k, d in zip(place, strides, weight.shape[2:], dilations, strict=True)
            )
            part = padded[(slice(None), slice(start, start + per_group), *cut)]
            acc[(slice(None), o, *place)] = (part * weight[o]).sum(axis=tuple(range(1, part.ndim))) + bias[o]
    return acc


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rank=st.integers(1, 3),
    group=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    zero=st.integers(0, 255),
)
def test_convolve_is_the_sum_of_products(
    seed: int, rank: int, group: int, stride: int, dilation: int, zero: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (2, 2 * group, *[5] * rank)).astype(np.uint8)
    weight = rng.integers(-127, 128, (2 * group, 2, *[2] * rank)).astype(np.int8)
    bias = rng.integers(-(2**20), 2**20, 2 * group)
    pads = rng.integers(0, 2, 2 * rank).tolist()
    strides, dilations = [stride] * rank, [dilation] * rank
    acc = _slow_convolve(x, zero, weight, bias, strides, pads, dilations, group)

    y = kernels.convolve(
        x, zero, weight, bias, np.full(2 * group, 1e-4, np.float32), 100,
        strides=strides, pads=pads, dilations=dilations, group=group,
    )  # fmt: skip

    expected = np.clip(np.rint(acc.astype(np.float32) * np.float32(1e-4)) + 100, 0, 255)
    np.testing.assert_array_equal(y, expected.astype(np.uint8))


@pytest.mark.parametrize("chunk", [1, 1 << 12, 1 << 19])
def test_chunks_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, chunk: int
) -> None:
    x = rng.integers(0, 256, (7, 3, 6, 6)).astype(np.uint8)
    weight = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    options = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
    factor = np.full(4, 1e-3, np.float32)
    whole = kernels.convolve(x, 3, weight, None, factor, 9, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(kernels, "_CHUNK", chunk)

    y = kernels.convolve(x, 3, weight, None, factor, 9, **options)  # type: ignore[arg-type]

    np.testing.assert_array_equal(y, whole)


def test_wide_sums_are_held_in_float64() -> None:
    """float32 would lose the last bit: 2**24 + 1."""
    weight, bias = np.full((1, 2), 127, np.int8), np.array([2**24 + 1 - 254])

    acc = kernels.matmul(np.ones((1, 2), np.uint8), 0, weight, bias)

    assert acc.dtype == np.float64
    assert acc.item() == 2**24 + 1


def test_narrow_sums_are_held_in_float32() -> None:
    assert kernels.exact_dtype(np.full((1, 100), 127), np.zeros(1, np.int64), 0) is np.float32


def test_padding_of_a_max_pool_never_wins() -> None:
    x = -np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4)
    options = {"strides": [1], "pads": [1, 1], "dilations": [1], "ceil_mode": False}

    real = kernels.max_pool(x, [2], **options)  # type: ignore[arg-type]
    codes = kernels.max_pool((x + 4).astype(np.uint8), [2], **options)  # type: ignore[arg-type]

    np.testing.assert_array_equal(real, [[[-1, -1, -2, -3, -4]]])
    np.testing.assert_array_equal(codes, real + 4)
