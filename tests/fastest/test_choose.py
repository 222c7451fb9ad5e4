from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, residual_cnn

from mpqtool.errors import OptionError, RuntimeFault
from mpqtool.fastest import choose, fastest
from mpqtool.fastest.costs import Costs, measure
from mpqtool.lowering import lowered
from mpqtool.passes import metadata
from mpqtool.passes.lower.keep_float import kept_float, units
from mpqtool.passes.pipelines import canonical_qdq, lower, quantize
from mpqtool.passes.values import array, set_array
from mpqtool.reporter import Reporter
from mpqtool.runtime.interleaved import interleaved, ratio
from mpqtool.runtime.session import make_session

X = np.random.default_rng(1).normal(size=(1, 2, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choose, "_SECONDS", 0.0)  # the least number of rounds


@pytest.fixture(scope="module")
def qdq() -> ir.Model:
    model = residual_cnn(np.random.default_rng(0))
    return quantize(model, calibrated(model, {"x": X}))


def test_every_operator_of_both_forms_has_a_time(qdq: ir.Model) -> None:
    canonical = canonical_qdq(qdq)
    names = {str(node.outputs[0].name): "." for unit in units(canonical.graph) for node in unit}

    costs = measure(canonical, lower(qdq), lower(qdq, float_layers=names), {"x": X}, threads=1)

    assert costs.names[0] == ("c0", "r0")
    of_layers = [i for i, unit in enumerate(costs.names) if unit[0] in ("c0", "c1", "c2", "y")]
    assert all(costs.integer[i] > 0 and costs.real[i] > 0 for i in of_layers)
    assert (None, (0,), 2 * 8 * 8) in costs.crossings
    made = {maker: (users, elements) for maker, users, elements in costs.crossings}
    assert made[1] == ((2, 3), 4 * 4 * 4)  # MaxPool, which two Conv use


_DEPTHWISE = """
    net (float[N, 8, 32, 32] x) => (float[N, 8, 32, 32] y) {
        a = Conv <pads = [1, 1, 1, 1], group = 8> (x, w0)
        b = LeakyRelu (a)
        c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w1)
        y = LeakyRelu (c)
    }"""


def test_the_file_is_no_slower_than_float(rng: np.random.Generator) -> None:
    """Of a network that takes several times as long in integers, where CPUs have no VNNI.

    The margin is for what else the machine does: all in integers is twice as far off.
    """
    model = normal(_DEPTHWISE, {name: rng.normal(size=(8, 1, 3, 3)) for name in ("w0", "w1")})
    feeds = {"x": rng.normal(size=(1, 8, 32, 32)).astype(np.float32)}
    wide = quantize(model, calibrated(model, feeds, weight_bits=8))
    names = {str(node.outputs[0].name): "." for unit in units(wide.graph) for node in unit}

    choice = fastest(wide, path="q.onnx", threads=1)

    found = interleaved(
        {
            name: functools.partial(
                make_session(
                    ir.to_proto(lower(wide, float_layers=layers)).SerializeToString(), threads=1
                ).run, None, feeds,
            )
            for name, layers in (("chosen", choice.float_layers), ("float", names))
        },
        rounds=60,
    )  # fmt: skip
    assert ratio(found["chosen"], found["float"]) <= 1.5


def _costs(count: int) -> Costs:
    names = tuple((str(index),) for index in range(count))
    return Costs(names, (1.0,) * count, (1.0,) * count, ())


_ALL, _ONE, _NONE = frozenset({0, 1}), frozenset({0}), frozenset[int]()


@pytest.mark.parametrize(
    ("second", "best", "measured"),
    [
        pytest.param({_ONE: 0.9, _NONE: 0.5}, (_ONE, 0.9), [_ONE], id="holds"),
        pytest.param({_ONE: 1.01, _NONE: 0.95}, (_NONE, 0.95), [_ONE, _NONE], id="the-second-best"),
        pytest.param({_ONE: 1.01, _NONE: 1.2}, (_ALL, 1.0), [_ONE, _NONE], id="none-but-float"),
    ],
)
def test_what_does_not_hold_a_second_time_is_dropped(
    second: dict[frozenset[int], float],
    best: tuple[frozenset[int], float],
    measured: list[frozenset[int]],
) -> None:
    calls: list[frozenset[int]] = []

    def again(chosen: frozenset[int]) -> float:
        calls.append(chosen)
        return second[chosen]

    found = choose._settle({_ALL: 1.0, _ONE: 0.6, _NONE: 0.8}, _ALL, _costs(2), again)

    assert found == best
    assert calls == measured


def test_float_that_is_fastest_is_not_measured_again() -> None:
    def again(_: frozenset[int]) -> float:
        raise AssertionError("measured again")

    assert choose._settle({_ALL: 1.0, _NONE: 1.5}, _ALL, _costs(2), again) == (_ALL, 1.0)


_CHOICE = choose.Choice({"c0": "why"}, 1.0, 0.5, 0.75, "2026-01-31")
_CONTENT = {
    "float_layers": {"c0": "why"}, "date": "2026-01-31",
    "milliseconds": 1.0, "ratio": 0.5, "full_ratio": 0.75,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("{", id="torn"),
        pytest.param("[]", id="no-object"),
        pytest.param('{"ratio": 1.0}', id="keys"),
        pytest.param(json.dumps(_CONTENT | {"ratio": "x"}), id="text-for-a-number"),
        pytest.param(json.dumps(_CONTENT | {"full_ratio": float("inf")}), id="infinite"),
        pytest.param(json.dumps(_CONTENT | {"milliseconds": -1.0}), id="negative"),
        pytest.param(json.dumps(_CONTENT | {"date": 5}), id="date"),
        pytest.param(json.dumps(_CONTENT | {"float_layers": ["c0"]}), id="list"),
        pytest.param(json.dumps(_CONTENT | {"float_layers": {"c0": None}}), id="reason"),
        pytest.param(json.dumps(_CONTENT | {"float_layers": {"no such": "why"}}), id="name"),
    ],
)
def test_a_cache_that_cannot_be_used_is_written_anew(
    qdq: ir.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(choose, "_choose", lambda *_, **__: _CHOICE)
    fastest(qdq, path="q.onnx", threads=1)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == _CONTENT
    kept.write_text(content, encoding="utf-8")

    choice = fastest(qdq, path="q.onnx", threads=1)

    assert choice.cached is None
    assert json.loads(kept.read_text(encoding="utf-8")) == _CONTENT
    assert fastest(qdq, path="q.onnx", threads=1).cached == kept


def test_a_relative_cache_folder_is_ignored(
    qdq: ir.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(choose, "_choose", lambda *_, **__: _CHOICE)

    fastest(qdq, path="q.onnx", threads=1)

    assert not (tmp_path / "relative").exists()
    assert len(list((tmp_path / "home" / ".cache").rglob("*.json"))) == 1


@pytest.mark.parametrize("what", ["onnxruntime", "mpqtool", "cpu", "vnni", "weights", "sizes"])
def test_it_is_measured_again_for_what_matters(
    qdq: ir.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    model, options = qdq.clone(), {"path": "q.onnx", "threads": 1}
    monkeypatch.setattr(choose, "_choose", lambda *_, **__: _CHOICE)
    fastest(model, **options)  # type: ignore[arg-type]
    if what == "onnxruntime":
        monkeypatch.setattr("onnxruntime.__version__", "0")
    elif what == "mpqtool":
        monkeypatch.setattr("mpqtool.__version__", "0")
    elif what == "cpu":
        monkeypatch.setattr(choose, "cpu_model", lambda: "another")
    elif what == "vnni":
        options["vnni"] = True
    elif what == "sizes":
        model.graph.inputs[0].shape = ir.Shape(["N", 2, "H", 8])
        options["sizes"] = {"x": (1, 2, 16, 8)}
    else:
        value = next(v for v in model.graph.initializers.values() if "w1" in str(v.name))
        set_array(value, np.array(array(value)) + np.ones((), array(value).dtype))

    fastest(model, **options)  # type: ignore[arg-type]

    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


def test_it_is_measured_once(qdq: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = fastest(qdq, path="q.onnx", threads=1)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(choose, "_choose", fail)
    assert fastest(qdq, path="other.onnx", threads=1) == choice
    with pytest.raises(AssertionError, match="measured again"):
        fastest(qdq, path="q.onnx", threads=2)


_A, _B = frozenset({0, 1, 2}), frozenset({1})


@pytest.mark.parametrize(
    ("ratios", "best"),
    [
        pytest.param({_A: 1.0, _B: 0.7, frozenset(): 0.8}, _B, id="fastest"),
        pytest.param({_A: 1.0, _B: 0.7, frozenset(): 0.71}, frozenset(), id="more-integers-within-noise"),
        pytest.param({_A: 1.0, _B: 1.01, frozenset(): 1.5}, _A, id="not-slower-than-float"),
        pytest.param({_A: 1.0, _B: 1.0, frozenset(): 1.0}, frozenset(), id="the-same"),
    ],
)
def test_best(ratios: Mapping[frozenset[int], float], best: frozenset[int]) -> None:
    costs = Costs((("a",), ("b",), ("c",)), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), ())

    assert choose._best(ratios, costs) == best


def test_reasons_have_the_times_of_the_region() -> None:
    costs = Costs(
        (("a",), ("b", "b2"), ("c",), ("d",)), (300.0, 400.0, 9.0, 5.0), (100.0, 150.0, 9.0, 8.0),
        ((None, (0,), 1), (0, (1,), 1), (1, (2,), 1), (2, (3,), 1)),
    )  # fmt: skip

    reasons = choose._reasons(frozenset({0, 1, 3}), costs)

    assert set(reasons) == {"a", "b", "b2", "d"}
    assert reasons["a"] == reasons["b2"] == "float is faster here: 0.25 ms against 0.7 ms"
    assert reasons["d"] == "float is faster here, as it is around it"


def test_reasons_add_up_to_the_times_of_the_files() -> None:
    costs = Costs((("a",), ("b",)), (30.0, 10.0), (10.0, 30.0), ((None, (0,), 1), (0, (1,), 1)))

    scaled = choose._scaled(costs, real=20e-6, integer=60e-6)

    assert scaled.real == pytest.approx((5.0, 15.0))
    assert scaled.integer == pytest.approx((45.0, 15.0))


def test_lowered_says_what_it_chose(
    qdq: ir.Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {"c0": "why", "r0": "why", "c1": "why"}
    monkeypatch.setattr(
        choose, "_choose", lambda *_, **__: choose.Choice(layers, 1.5, 0.5, 0.75, "2026-01-31")
    )

    model, _ = (
        lowered(qdq, path="q.onnx", reporter=Reporter(), lower="fastest", threads=1) for _ in range(2)
    )

    assert set(kept_float(model)) >= {"c0", "c1"}
    first, second = (line for line in capsys.readouterr().err.splitlines() if line.startswith("fastest"))
    assert first == (
        "fastest: 2 of 4 layers stay float, 3 operators in all; 1.5 ms, 0.50 of the time of the network "
        "without quantization (all in integers: 0.75)"
    )
    assert second.startswith(f"{first}; measured on 2026-01-31, from the cache: delete '")


def test_a_product_of_activations_is_an_operator_and_no_layer(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "net (float[4, 4] x) => (float[4, 4] y) { a = MatMul (x, w) y = MatMul (a, a) }"
    model = normal(text, {"w": rng.normal(size=(4, 4))})
    feeds = {"x": rng.normal(size=(4, 4)).astype(np.float32)}
    choice = choose.Choice({"a": "why", "y.float": "why"}, 1.5, 0.5, 0.75, "2026-01-31")
    monkeypatch.setattr(choose, "_choose", lambda *_, **__: choice)

    lowered(quantize(model, calibrated(model, feeds)), path="q.onnx", reporter=Reporter(), lower="fastest")

    assert "1 of 1 layers stay float, 2 operators in all" in capsys.readouterr().err


def test_open_sizes_are_asked_for() -> None:
    model = residual_cnn(np.random.default_rng(0))
    open_model = quantize(model, calibrated(model, {"x": X}))
    open_model.graph.inputs[0].shape = ir.Shape(["N", 2, "H", "W"])

    with pytest.raises(RuntimeFault, match=r"--size x=1,2,32,32"):
        fastest(open_model, path="q.onnx", threads=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower": "quick"}, "allowed: full, fastest"),
        ({"lower": "fastest", "target": "standard"}, "target 'cpu'"),
    ],
)
def test_options_are_checked(qdq: ir.Model, options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        lowered(qdq, path="q.onnx", reporter=Reporter(silent=True), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("here", "vnni", "words"),
    [
        pytest.param(False, None, "uint8 weights in 4 layers", id="this-cpu-has-none"),
        pytest.param(True, None, "could saturate on CPUs without VNNI", id="this-cpu-has-it"),
        pytest.param(True, False, "uint8 weights in 4 layers", id="for-all"),
        pytest.param(False, True, "warning: sums of int8 weights could saturate", id="not-for-this-one"),
    ],
)
def test_what_saturation_costs_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: bool,
    vnni: bool | None,
    words: str,
) -> None:
    model = residual_cnn(np.random.default_rng(0))
    wide = quantize(model, calibrated(model, {"x": X}, weight_bits=8))
    monkeypatch.setattr("mpqtool.lowering.has_vnni", lambda: here)

    result = lowered(wide, path="q.onnx", reporter=Reporter(), vnni=vnni)

    assert words in capsys.readouterr().err
    assert (metadata.VNNI in result.metadata_props) is (here if vnni is None else vnni)
