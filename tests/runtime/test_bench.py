from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, residual_cnn

from mpqtool.passes.pipelines import lower, quantize
from mpqtool.runtime import feeds
from mpqtool.runtime.bench import bench, interleaved, ratio
from mpqtool.runtime.errors import RuntimeFault

X = np.random.default_rng(1).normal(size=(1, 2, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder, model = tmp_path_factory.mktemp("bench"), residual_cnn(np.random.default_rng(0))
    wide = quantize(model, calibrated(model, {"x": X}, weight_bits=8))
    models = {
        "float": model,
        "qdq": wide,
        "guarded": lower(wide),
        "vnni": lower(wide, vnni=True),
        "narrow": lower(quantize(model, calibrated(model, {"x": X}, weight_bits=4, activation_bits=5))),
        "mixed": lower(wide, float_layers={"c1": "."}),
    }
    for name, made in models.items():
        ir.save(made, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in models}


def test_things_are_run_in_turn() -> None:
    calls: list[str] = []

    found = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)

    assert calls == ["a", "b", "a", "b", "a", "b"]  # the first two to warm up
    assert [len(times) for times in found.values()] == [2, 2]


def test_the_ratio_is_taken_round_by_round() -> None:
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 3.0]) == 2.0


def test_files_are_compared_with_the_first(paths: dict[str, pathlib.Path]) -> None:
    rounds = []

    result = bench(list(paths.values())[:3], batch=2, threads=1, rounds=3, on_round=lambda: rounds.append(0))

    assert len(rounds) == 3
    assert result.inputs == {"x": (2, 2, 8, 8)}
    assert [file.quantized for file in result.files] == [False, True, True]
    assert result.files[0].ratio == 1
    assert all(
        file.milliseconds > 0 and sum(file.share.values()) == pytest.approx(1) for file in result.files
    )


def test_what_onnx_runtime_did(paths: dict[str, pathlib.Path]) -> None:
    names = ("float", "guarded", "narrow", "mixed")

    real, guarded, narrow, mixed = bench([paths[name] for name in names], threads=1, rounds=1).files

    assert real.float_layers == ()
    assert guarded.float_layers == ()
    assert guarded.requantize == {"QuantizeLinear": 1}
    assert narrow.requantize["Clip"] >= 3  # codes below 8 bits
    assert mixed.float_layers[0][1] in ("Conv", "FusedConv")
    assert len(mixed.float_layers) == 1
    assert mixed.requantize["QuantizeLinear"] == 2
    assert guarded.operators["QLinearConv"] == 3
    assert guarded.microseconds["QLinearConv"] > 0


def test_what_could_saturate(paths: dict[str, pathlib.Path]) -> None:
    names = ("qdq", "guarded", "vnni", "narrow")

    qdq, guarded, vnni, narrow = bench([paths[name] for name in names], threads=1, rounds=1).files

    assert len(qdq.saturating) == len(vnni.saturating) == 4
    assert guarded.saturating == narrow.saturating == ()
    assert [file.needs_vnni for file in (qdq, guarded, vnni, narrow)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda p: bench([p["float"], p["float"]]), "each file once"),
        (lambda p: bench([]), "each file once"),
        (lambda p: bench([p["float"]], rounds=0), "Give more rounds"),
        (lambda p: bench([p["float"]], sizes={"z": (1,)}), "no input 'z', allowed 'x'"),
        (lambda p: bench([p["float"]], sizes={"x": (1, 3, 8, 8)}), "found 1,3,8,8"),
    ],
)
def test_errors(
    paths: dict[str, pathlib.Path], run: Callable[[dict[str, pathlib.Path]], object], message: str
) -> None:
    with pytest.raises(RuntimeFault, match=message):
        run(paths)


def test_open_sizes_are_asked_for(paths: dict[str, pathlib.Path]) -> None:
    model = ir.load(paths["float"])
    model.graph.inputs[0].shape = ir.Shape(["N", 2, None, None])

    with pytest.raises(
        RuntimeFault, match=r"it is \?,2,\?,\?\. Give one that fits, such as --size x=1,2,32,32"
    ):
        feeds.shapes(model, "a.onnx", batch=1, sizes={})
    assert feeds.shapes(model, "a.onnx", batch=1, sizes={"x": (1, 2, 5, 6)})["x"][1] == (1, 2, 5, 6)
