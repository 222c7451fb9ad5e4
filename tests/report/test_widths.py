"""The picture of learned widths."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import pytest

from mpqtool.report import widths
from mpqtool.report.log import Frozen, Log, Widths, read
from mpqtool.report.panel import LEFT, RIGHT, WIDTH
from mpqtool.report.series import smoothed


class _Counted(list[tuple[float, float]]):
    """Counts what is read of it."""

    read = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.read += len(found) if isinstance(key, slice) else 1
        return found


def _row(step: int, **more: Any) -> Widths:
    same = {"weights": 2.9, "activations": 3.8, "weight_bits": 3, "activation_bits": 4, "loss": 0.5}
    same |= {"weight_oscillations": 0, "activation_oscillations": 0}
    return Widths.model_validate({"step": step} | same | more)


def _frozen(
    variable: str, reason: str, *, granularity: str = "network", kind: str = "weights", **more: Any
) -> Frozen:
    same = {
        "step": 640,
        "granularity": granularity,
        "variable": variable,
        "kind": kind,
        "bits": 3,
        "reason": reason,
    }
    return Frozen.model_validate(same | more)


def _svg(rows: Sequence[Widths], frozen: Sequence[Frozen] = ()) -> ET.Element:
    drawn = widths.chart(Log([], rows, frozen))
    assert drawn is not None
    return ET.fromstring(drawn)


def _classes(svg: ET.Element, css: str) -> list[ET.Element]:
    return [part for part in svg.iter() if part.get("class") == css]


def _texts(svg: ET.Element) -> list[str]:
    return [part.text or "" for part in svg.iter("text")]


def _points(line: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in (line.get("points") or "").split()]  # type: ignore[misc]


def _levels(path: ET.Element) -> list[float]:
    return [float(y) for y in re.findall(r"[V ](-?[\d.]+)", path.get("d") or "")]


def test_fewer_than_two_updates_are_no_picture() -> None:
    assert widths.chart(Log()) is None
    assert widths.chart(Log([], [_row(8)])) is None


def test_it_is_relaxed_and_used_bits_loss_and_oscillations() -> None:
    rows = [_row(8, weights=4.5, weight_bits=5), _row(16, weights=3.5, weight_bits=4, weight_oscillations=2)]
    svg = _svg(rows)
    assert len(_classes(svg, "line thin weights")) == 1
    used, counts = _classes(svg, "line weights")
    assert _levels(used)[0] < _levels(used)[-1]  # 5 bits are drawn above 4
    assert _levels(counts)[0] > _levels(counts)[-1]
    assert len(_classes(svg, "line raw metric")) == len(_classes(svg, "line metric")) == 1
    assert {"bits", "task loss", "weights 4.00", "activations 4.00", "weights 2", "step"} <= set(_texts(svg))


def test_names_keep_clear_of_the_axis() -> None:
    svg = _svg([_row(8), _row(16)])  # both counts are 0
    step = next(part for part in svg.iter("text") if part.text == "step")
    low = [part for part in _classes(svg, "label") if part.text in ("weights 0", "activations 0")]
    places = sorted(float(part.get("y") or 0) for part in [*low, step])
    assert all(b - a >= 12 for a, b in itertools.pairwise(places))  # pixels, a line of text


def test_without_losses_there_is_no_panel_for_them() -> None:
    svg = _svg([_row(8, loss=None), _row(16, loss=math.nan)])
    assert "task loss" not in _texts(svg)
    assert not _classes(svg, "line metric")


def test_the_loss_is_smoothed_without_a_shift() -> None:
    rows = [_row(8 * i, loss=float(i % 2) + (i > 250)) for i in range(1, 501)]
    (smooth,) = _classes(_svg(rows), "line metric")
    (raw,) = _classes(_svg(rows), "line raw metric")
    heights = [y for _, y in _points(smooth)]
    spread = max(y for _, y in _points(raw)) - min(y for _, y in _points(raw))
    assert max(heights) - min(heights) < 0.7 * spread  # the mean goes from 0.5 to 1.5, the loss from 0 to 2
    middle = (max(heights) + min(heights)) / 2
    crossing = next(x for x, y in _points(smooth) if y <= middle)
    assert abs(crossing - (LEFT + WIDTH - RIGHT) / 2) < 10  # pixels; the window is 17 wide


def _losses(svg: ET.Element) -> tuple[list[float], list[float]]:
    """Heights of the smoothed line and of the one of each step."""
    (smooth,), (raw,) = _classes(svg, "line metric"), _classes(svg, "line raw metric")
    return [y for _, y in _points(smooth)], [y for _, y in _points(raw)]


@pytest.mark.parametrize("count", [8, 40, 3000])
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
def test_one_spike_does_not_flatten_the_loss(count: int, place: float) -> None:
    losses = [2 - i / count for i in range(count)]
    losses[round(place * (count - 1))] = 1e6
    smooth, raw = _losses(_svg([_row(8 * i, loss=loss) for i, loss in enumerate(losses)]))
    quarter = len(smooth) // 4
    assert sorted(smooth)[-1 - quarter] - sorted(smooth)[quarter] > 30  # of 120 pixels, by half of the points
    assert max(raw) - min(raw) <= 120  # it is cut off at the edge
    assert min(raw) < min(smooth)


def test_losses_that_end_as_no_number_say_so_at_the_margin() -> None:
    rows = [_row(8, loss=2.3), _row(16, loss=2.2), *(_row(8 * i, loss=None) for i in range(3, 9))]
    svg = _svg(rows)
    (label,) = [part for part in _classes(svg, "label") if (part.text or "").startswith("loss")]
    assert label.text == "loss: no number"
    assert float(label.get("x") or 0) > WIDTH - RIGHT


def test_a_ring_is_on_the_line_where_a_width_of_the_network_stopped() -> None:
    rows = [_row(8, weight_bits=5), _row(16, weight_bits=3), _row(24, weight_bits=3)]
    svg = _svg(rows, [_frozen("weights", "oscillation", step=16, bits=3)])
    (ring,) = _classes(svg, "ring weights")
    used, _ = _classes(svg, "line weights")
    assert float(ring.get("cy") or 0) == _levels(used)[-1]
    assert float(ring.get("cx") or 0) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 16 / 24, abs=0.1)
    assert ring[0].text == "weights stop at 3 bits: they oscillated between 2 and 3 (oscillation), step 16"


def test_a_width_that_stops_after_the_last_update_is_in_the_picture() -> None:
    svg = _svg([_row(8), _row(16, weight_bits=2)], [_frozen("weights", "budget", step=20, bits=3)])
    (ring,) = _classes(svg, "ring weights")
    assert float(ring.get("cx") or 0) == WIDTH - RIGHT


def test_a_kind_without_learned_widths_is_left_out() -> None:
    none = dict.fromkeys(("activations", "activation_bits", "activation_oscillations"))
    svg = _svg([_row(8, **none, weight_oscillations=1), _row(16, **none, weight_oscillations=2)])
    assert not [text for text in _texts(svg) if "activations" in text]
    assert not _classes(svg, "line activations")
    assert len(_classes(svg, "line weights")) == 2


def test_many_widths_are_marks_at_the_foot() -> None:
    stops = [_frozen(f"c{i}.weight", "stall", granularity="layer", step=16) for i in range(9)]
    stops.append(_frozen("relu", "stall", granularity="layer", kind="activations", step=24))
    svg = _svg([_row(8), _row(24)], stops)
    assert not list(svg.iter("circle"))
    marks = [part.get("d") or "" for part in svg.iter("path") if "thin" in (part.get("class") or "")]
    assert [mark.count("M") for mark in marks] == [1, 1]  # one place, one mark


@pytest.mark.parametrize(
    ("shared", "own", "counts"),
    [
        ("weights", "activations", "2 activations: 2 stall"),
        ("activations", "weights", "weights of 2 layers: 2 stall"),
    ],
)
def test_the_network_may_share_one_kind_and_not_the_other(shared: str, own: str, counts: str) -> None:
    rows = [_row(8), _row(16), _row(24), _row(32)]
    stops = [_frozen(shared, "bound", kind=shared, step=32)]
    stops += [_frozen(name, "stall", kind=own, granularity="layer", step=24) for name in ("a", "b")]
    assert widths.endings(Log([], rows, stops))[:2] == [
        f"{shared} stop at 3 bits: they may go no further (bound), step 32", counts,
    ]  # fmt: skip
    svg = _svg(rows, stops)
    (ring,) = svg.iter("circle")
    assert ring.get("class") == f"ring {shared}"
    marks = [part.get("class") for part in svg.iter("path") if "thin" in (part.get("class") or "")]
    assert marks == [f"line thin {own}"]


def test_a_width_of_the_network_ends_once() -> None:
    stops = [_frozen("weights", "stall"), _frozen("weights", "bound", bits=2, step=900)]
    assert widths.endings(Log([], [], stops)) == [
        "weights stop at 2 bits: they may go no further (bound), step 900"
    ]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            _frozen("weights", "oscillation"),
            "weights stop at 3 bits: they oscillated between 2 and 3 (oscillation), step 640",
        ),
        (
            _frozen("activations", "bound", kind="activations", bits=1, step=1200),
            "activations stop at 1 bit: they may go no further (bound), step 1,200",
        ),
        (_frozen("weights", "other"), "weights stop at 3 bits: (other), step 640"),
    ],
)
def test_ending_of_the_network(event: Frozen, text: str) -> None:
    assert widths.endings(Log([], [], [event])) == [text]


def test_endings_of_layers_and_kernels_are_counts() -> None:
    reasons = ["stall"] * 4 + ["oscillation"] * 12 + ["budget"] * 2
    events = [
        _frozen("weights", "stall"),
        *(_frozen(f"c{i}.weight", reason, granularity="layer") for i, reason in enumerate(reasons)),
        _frozen("relu", "budget", granularity="layer", kind="activations"),
    ]
    network, weights, activations, meaning = widths.endings(Log([], [], events))
    assert network.startswith("weights stop at 3 bits: ")
    assert weights == "weights of 18 layers: 12 oscillation, 4 stall, 2 budget"
    assert activations == "1 activation: 1 budget"
    assert meaning.startswith("oscillation: they oscillated between two widths; stall: ")
    assert "bound" not in meaning
    one = [_frozen("c.weight[3]", "stall", granularity="kernel")]
    assert widths.endings(Log([], [], one))[0] == "weights of 1 kernel: 1 stall"


def test_a_long_log_of_kernels_is_a_small_picture(tmp_path: pathlib.Path) -> None:
    lines: list[dict[str, Any]] = []
    for i in range(1, 2501):
        wave = math.sin(i) * math.sin(i / 70)
        lines.append({
            "event": "widths", "step": 8 * i, "weights": 4 + wave, "activations": 4 - wave,
            "weight_bits": 4.5 + wave, "activation_bits": 5 - wave, "loss": 100.0 if i == 770 else 0.5 + wave,
            "weight_oscillations": i % 10, "activation_oscillations": i % 7,
        })  # fmt: skip
        lines.append({
            "event": "frozen", "step": 8 * i, "granularity": "kernel", "variable": f"c.weight[{i}]",
            "kind": "weights", "bits": 3, "reason": "stall",
        })  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    log = read(tmp_path / "log.jsonl")
    drawn = widths.chart(log)
    assert drawn is not None
    assert (len(log.widths), len(log.frozen)) == (2500, 2500)
    assert len(drawn) < 100_000
    svg = ET.fromstring(drawn)
    for line in svg.iter("polyline"):
        assert len(_points(line)) <= 400
    for path in _classes(svg, "line weights") + _classes(svg, "line activations"):
        assert len(_levels(path)) <= 401


def test_a_long_loss_is_smoothed_in_linear_time() -> None:
    def values_read(count: int) -> int:
        points = _Counted((8 * i, i % 7) for i in range(count))
        smoothed(points)
        return points.read

    assert values_read(10_000) < 15 * values_read(1_000)  # ten times as many, in windows ten times as long


def test_thinning_keeps_levels_that_lasted() -> None:
    """A few changes early on are not lost to many later ones."""
    bits = [8 - i // 50 for i in range(300)] + [2 + 0.001 * (i % 2) + i * 1e-4 for i in range(2000)]
    svg = _svg([_row(8 * i, weight_bits=value) for i, value in enumerate(bits)])
    used, _ = _classes(svg, "line weights")
    step = (_levels(used)[1] - _levels(used)[0]) / 2  # pixels of half a bit
    assert sum(b - a > step for a, b in itertools.pairwise(_levels(used)[:10])) == 6  # from 8 to 2


def test_names_from_the_log_are_escaped() -> None:
    svg = widths.chart(Log([], [_row(8), _row(16)], [_frozen("<i>", "<u>")]))
    assert svg is not None
    assert not re.search("<[biu]>", svg)
