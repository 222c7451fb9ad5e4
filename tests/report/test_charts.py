"""The arithmetic under the pictures."""

from __future__ import annotations

import math
import re

import pytest

from mpqtool.report import charts
from mpqtool.report.panel import Panel, bounds, ticks
from mpqtool.report.words import number, short, signed
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
    ("low", "high"), [(3.0, 8.0), (96.1, 98.2), (5.0, 5.0), (0.0, 0.0), (-0.31, 0.02), (97.1, 97.75)]
)
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    bottom, top = bounds([high, low])
    found = ticks(bottom, top)
    assert found[0] <= low <= high <= found[-1]
    assert 3 <= len(found) <= 8


@pytest.mark.parametrize("value", [97.991, 0.123456, 8e5, 123_456.0, 3.2e-7, -0.0123456])
@pytest.mark.parametrize("spread", [0, 1e-6, 1e-3])
def test_ticks_of_values_that_hardly_differ_fit_the_margin(value: float, spread: float) -> None:
    low, high = sorted([value, value * (1 + spread)])
    bottom, top = bounds([low, high])
    assert bottom <= low <= high <= top
    frame = Panel(0, 1, 0, 100, bottom, top).frame("")
    texts = re.findall(r'class="tick end"[^>]*>([^<]*)<', frame)
    assert len(set(texts)) == len(texts) >= 2
    assert max(map(len, texts)) <= 8  # about 50 pixels, in a margin of 60


@pytest.mark.parametrize(
    ("high", "text"), [(8e5, "8e5"), (1.5e6, "1.5e6"), (20_000, "20000"), (0.005, "0.005"), (5e-5, "5e-5")]
)
def test_ticks_far_from_one_are_powers_of_ten(high: float, text: str) -> None:
    assert f">{text}</text>" in Panel(0, 1, 0, 100, 0, high).frame("")


def test_constants_need_no_higher_tick() -> None:
    assert bounds([100.0, 100.0]) == (99.0, 100.0)


def test_kept_epoch_is_the_last_of_the_best() -> None:
    rows = [{"epoch": i, "held_out": value} for i, value in enumerate((1.0, 5.0, math.nan, 5.0, 4.0))]
    assert charts.kept_epoch(rows) == (3, 5.0)
    assert charts.kept_epoch([{"epoch": 0, "held_out": 9.0, "searching": True}, *rows[1:]]) == (3, 5.0)
    assert charts.kept_epoch([{"iteration": 0, "held_out": 1.0}]) is None


def _epochs(*held_out: float, **more: float) -> list[dict[str, float]]:
    return [{"epoch": i, "held_out": value} | more for i, value in enumerate(held_out)]


def _centre(svg: str, css: str) -> tuple[float, float]:
    found = re.search(rf'class="{css}" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert found is not None
    return float(found[1]), float(found[2])


def test_ring_is_around_the_kept_point() -> None:
    svg = charts.history(_epochs(3.0, 1.0, 2.0), "metric")
    assert svg is not None
    assert _centre(svg, "ring") == _centre(svg, "dot metric")  # that of epoch 0


def test_float_metric_is_a_line_with_its_name_apart() -> None:
    without = charts.history(_epochs(90.0, 91.0), "metric")
    svg = charts.history(_epochs(90.0, 91.0, float_held_out=91.02), "metric")
    assert svg is not None
    assert without is not None
    assert "float" not in without
    assert 'class="line float"' in svg
    places = {name: float(y) for y, name in re.findall(r'class="label" x="[\d.]+" y="([\d.]+)">(\S+) ', svg)}
    assert places["held-out"] - places["float"] >= 12  # pixels, the height of a line of text


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


@pytest.mark.parametrize(("value", "text"), [(-0.0, "0"), (-1.2345, "\N{MINUS SIGN}1.23"), (7.0, "7")])
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text
