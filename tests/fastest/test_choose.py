from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, residual_cnn

from mpqtool.errors import OptionError, RuntimeFault
from mpqtool.fastest import choose, fastest
from mpqtool.fastest.costs import Costs, measure
from mpqtool.lowering import lowered
from mpqtool.passes import metadata
from mpqtool.passes.lower.keep_float import kept_float, units
from mpqtool.passes.pipelines import canonical_qdq, lower, quantize
from mpqtool.reporter import Reporter

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


def test_it_is_never_slower_than_float(qdq: ir.Model) -> None:
    choice = fastest(qdq, path="q.onnx", threads=1)

    assert choice.ratio <= 1
    assert choice.ratio <= choice.full_ratio or choice.ratio <= choose._NOISE * choice.full_ratio


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


def test_lowered_says_what_it_chose(qdq: ir.Model, capsys: pytest.CaptureFixture[str]) -> None:
    model = lowered(qdq, path="q.onnx", reporter=Reporter(), lower="fastest", threads=1)

    assert "operators stay float" in capsys.readouterr().err
    assert set(kept_float(model)) <= {str(v.name) for node in qdq.graph for v in node.outputs}


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
        pytest.param(False, None, "4 layers have uint8 weights", id="this-cpu-has-none"),
        pytest.param(True, None, "could saturate on CPUs without VNNI", id="this-cpu-has-it"),
        pytest.param(True, False, "4 layers have uint8 weights", id="for-all"),
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
