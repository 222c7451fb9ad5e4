"""The arithmetic under the pictures."""

from __future__ import annotations

import pytest

from mpqtool.report import charts
from mpqtool.report.words import number, short
from mpqtool.result import LayerBits


def test_segments_are_shares_in_order_of_width() -> None:
    layer = LayerBits(name="w", op="Conv", weights=100, weight_bits={"10": 0, "4": 1, "2": 3})
    assert [(s.bits, s.kernels, s.share) for s in charts.segments(layer)] == [(2, 3, 75), (4, 1, 25)]
    assert charts.mean_bits(layer) == 2.5
    assert charts.mean_bits(LayerBits(name="w", op="Conv")) is None


def test_distribution_weighs_layers_by_their_weights() -> None:
    layers = [
        LayerBits(name="a", op="Conv", weights=300, weight_bits={"2": 1, "4": 1}),
        LayerBits(name="b", op="Conv", weights=100, weight_bits={"2": 5}),
    ]
    assert [(s.bits, s.kernels, s.share) for s in charts.distribution(layers)] == [
        (2, 250, 62.5), (4, 150, 37.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high"), [(3.0, 8.0), (96.1, 98.2), (5.0, 5.0), (0.0, 0.0), (-0.31, 0.02), (97.991, 97.993)]
)
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    bottom, top = charts._bounds(low, high)
    ticks = charts._ticks(bottom, top)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 3 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (950, "950 B"),
        (12_345, "12.3 kB"),
        (40.8e6, "40.8 MB"),
        (99_900, "99.9 kB"),
        (1e6, "1.00 MB"),
    ],
)
def test_short(value: float | None, text: str) -> None:
    assert short(value, "B") == text


def test_number() -> None:
    assert number(1_234_567) == "1,234,567"
    assert number(98.0, " %") == "98.00 %"
