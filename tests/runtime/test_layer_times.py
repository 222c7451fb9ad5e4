from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import quantized
from numpy.typing import NDArray

from mpqtool.errors import RuntimeFault
from mpqtool.passes.pipelines import lower
from mpqtool.runtime import layer_times as module
from mpqtool.runtime.layer_times import layer_times


def _integers(
    rng: np.random.Generator, text: str, weights: dict[str, Any], shape: tuple[int, ...]
) -> tuple[ir.Model, dict[str, NDArray[Any]]]:
    feeds = {"x": rng.normal(size=shape).astype(np.float32)}
    return lower(quantized(text, weights, feeds, weight_bits=8)), feeds


def test_a_layer_with_fifty_times_the_work_takes_longer(rng: np.random.Generator) -> None:
    text = """
        net (float[N, 8, 32, 32] x) => (float[N, 5] y) {
            c0 = Conv <pads = [1, 1, 1, 1]> (x, large)
            c1 = Conv <pads = [1, 1, 1, 1], strides = [8, 8]> (c0, small)
            g = GlobalAveragePool (c1)
            f = Flatten (g)
            y = Gemm <transB = 1> (f, last)
        }
    """
    weights = {
        "large": rng.normal(size=(32, 8, 3, 3)),
        "small": rng.normal(size=(8, 32, 3, 3)),  # as many weights, in 16 places and not in 1024
        "last": rng.normal(size=(5, 8)),
    }
    model, feeds = _integers(rng, text, weights, (1, 8, 32, 32))
    names = [node.name for node in model.graph]

    times = layer_times(model, feeds)

    assert list(times) == ["large", "small", "last"]
    assert all(len(each) == 1 and each[0] > 0 for each in times.values())
    assert times["large"][0] > times["small"][0]
    assert [node.name for node in model.graph] == names


def test_a_weight_that_is_used_twice_has_two_times_in_graph_order(rng: np.random.Generator) -> None:
    text = """
        net (float[N, 16, 32, 32] x) => (float[N, 16, 4, 4] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            r = Relu (c)
            y = Conv <pads = [1, 1, 1, 1], strides = [8, 8]> (r, w)
        }
    """
    model, feeds = _integers(rng, text, {"w": rng.normal(size=(16, 16, 3, 3))}, (1, 16, 32, 32))

    first, second = layer_times(model, feeds)["w"]

    assert first > second  # 64 times the work


def test_a_layer_gets_the_mean_of_its_faster_half_and_a_microsecond_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles = iter(
        [[("layer0", 9.0), ("layer0", 5.0)], [("layer0", 1.0), ("layer1", 0.0)], [("layer0", 2.0)]]
    )
    monkeypatch.setattr(module, "_profile", lambda source, feeds: next(profiles))

    assert layer_times(_model("a", "b"), {}) == {"a": (1.5,), "b": (1e-6,)}


def test_a_layer_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_profile", lambda source, feeds: [("layer0", 1.0)])

    with pytest.raises(RuntimeFault, match=r"layer of 'b' takes: ONNX Runtime merged it .* bitops"):
        layer_times(_model("a", "b"), {})


@pytest.mark.parametrize(
    ("seconds", "runs"), [(1e-4, 40), (0.03125, 17), (2.0, 5)], ids=["fast", "between", "slow"]
)
def test_half_a_second_is_spent_on_each_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, seconds: float, runs: int
) -> None:
    clock = [0.0]
    profile = tmp_path / "profile.json"

    class Session:
        def __init__(self) -> None:
            self.events: list[dict[str, Any]] = [{"name": "session_initialization", "dur": 1}]

        def run(self, outputs: None, feeds: dict[str, Any]) -> None:
            clock[0] += seconds
            self.events.append({"name": "layer0_token_7_kernel_time", "dur": 1e6 * seconds})
            self.events.append({"name": "other1_kernel_time", "dur": 3})

        def end_profiling(self) -> str:
            profile.write_text(json.dumps(self.events))
            return str(profile)

    monkeypatch.setattr(module, "make_session", lambda source, *, threads, traces: Session())
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    times = layer_times(_model("a"), {})

    assert times == {"a": (pytest.approx(seconds),)}
    assert clock[0] == pytest.approx(3 * runs * seconds)


def _model(*weights: str) -> ir.Model:
    nodes = [ir.node("QLinearConv", [], metadata_props={"mpqtool.weight": weight}) for weight in weights]
    return ir.Model(ir.Graph([], [], nodes=nodes, opset_imports={"": 21}), ir_version=10)
