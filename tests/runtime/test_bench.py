from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, residual_cnn

from mpqtool.passes.pipelines import lower, quantize
from mpqtool.runtime import feeds
from mpqtool.runtime.bench import bench
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.interleaved import interleaved, ratio, table
from mpqtool.runtime.optimized import trace

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
        "standard": lower(wide, target="standard"),
        "cuda": lower(wide, target="cuda"),
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


def test_the_table_has_milliseconds_and_ratios() -> None:
    shown = table({"float": [0.002, 0.002], "ours": [0.001, 0.001]}, reference="float").splitlines()

    assert [line.split() for line in shown[1:]] == [["float", "2.00", "1.00"], ["ours", "1.00", "0.50"]]


def test_files_are_compared_with_the_first(paths: dict[str, pathlib.Path]) -> None:
    rounds = []

    result = bench(list(paths.values())[:3], batch=2, threads=1, rounds=3, on_round=lambda: rounds.append(0))

    assert len(rounds) == 3
    assert all(file.inputs == {"x": (2, 2, 8, 8)} for file in result.files)
    assert [file.quantized for file in result.files] == [False, True, True]
    assert result.files[0].ratio == 1
    assert all(sum(file.share.values()) == pytest.approx(1) for file in result.files)


def test_milliseconds_are_the_median_of_the_rounds(
    paths: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [[0.004, 0.001, 0.002], [0.002, 0.002, 0.003]]
    monkeypatch.setattr(
        "mpqtool.runtime.bench.interleaved", lambda things, **_: dict(zip(things, seconds, strict=True))
    )

    first, second = bench([paths["float"], paths["qdq"]], threads=1).files

    assert (first.milliseconds, second.milliseconds) == (2.0, 2.0)
    assert (first.ratio, second.ratio) == (1.0, 1.5)


def _renamed(path: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    model = ir.load(path)
    model.graph.inputs[0].name = "other"
    model.graph.inputs[0].shape = ir.Shape(["N", 2, "H", "W"])
    ir.save(model, out)
    return out


def test_a_size_is_for_the_files_with_an_input_of_this_name(
    paths: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    other = _renamed(paths["float"], tmp_path / "other.onnx")

    result = bench([paths["float"], other], threads=1, rounds=1, sizes={"other": (1, 2, 8, 8)})

    assert [file.inputs for file in result.files] == [{"x": (1, 2, 8, 8)}, {"other": (1, 2, 8, 8)}]


def test_the_provider_is_the_one_that_was_used(
    paths: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mpqtool.runtime.session.ort.get_available_providers", lambda: ["CPUExecutionProvider"]
    )

    assert bench([paths["float"]], threads=1, rounds=1, provider="auto").provider == "cpu"


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


def test_layers_have_their_names_in_the_layout_of_onnx_runtime(rng: np.random.Generator) -> None:
    """Conv of 16 channels get a layout of blocks, on CPUs with AVX2, and ``_nchwc`` behind their names."""
    text = "net (float[N, 16, 8, 8] x) => (float[N, 16, 8, 8] y) { a = Conv (x, w) y = Conv (a, w) }"
    model = normal(text, {"w": rng.normal(size=(16, 16, 1, 1))})

    steps = trace(
        ir.to_proto(model).SerializeToString(), {"x": np.ones((1, 16, 8, 8), np.float32)}, runs=1
    ).steps

    assert [step.name for step in steps if step.op == "Conv"] in (["a", "y"], ["Conv", "Conv_1"])


@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_layers_that_are_written_out_are_no_float_layers_and_do_not_requantise(
    paths: dict[str, pathlib.Path], target: str
) -> None:
    (file,) = bench([paths[target]], threads=1, rounds=1).files

    assert file.float_layers == ()
    assert {"Conv", "FusedConv", "Gemm", "MatMulInteger"}.isdisjoint(file.requantize)
    assert {"MatMulInteger", "Gemm"} & set(file.operators)
    assert sum(file.requantize.values()) > 3


def test_external_data_counts(paths: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    ir.save(ir.load(paths["float"]), tmp_path / "a.onnx", external_data="a.data")

    (file,) = bench([tmp_path / "a.onnx"], threads=1, rounds=1).files

    assert file.bytes == sum((tmp_path / name).stat().st_size for name in ("a.onnx", "a.data"))


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
        (lambda p: bench([p["float"]], sizes={"z": (1,)}), "No file has an input 'z', allowed 'x'"),
        (lambda p: bench([p["float"]], sizes={"x": (0, 2, 8, 8)}), "0,2,8,8, allowed sizes of 1 or more"),
        (lambda p: bench([p["float"]], batch=0), "0,2,8,8, allowed sizes of 1 or more"),
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
