"""Post-training quantization by the command: a float file and inputs in, a verified integer file out."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from after_training import SHARED, SHARED_SHAPES, shaped
from click.testing import CliRunner
from graphs import normal, residual_cnn

from mpqtool.cli import cli
from mpqtool.passes.plan import Plan
from mpqtool.runtime.predict import predict

ANYTHING = ("--max-drop", "100")  # the classes of random weights are not what is looked at


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small network with inputs beside it, without labels."""
    folder, rng = tmp_path_factory.mktemp("ptq"), np.random.default_rng(0)
    ir.save(residual_cnn(rng, width=8), folder / "net.onnx")
    np.savez(folder / "net.npz", x=rng.normal(size=(160, 2, 8, 8)).cumsum(2).astype(np.float32))
    return folder / "net.onnx"


def _quantize(path: pathlib.Path, out: pathlib.Path, *options: str) -> tuple[dict[str, Any], str]:
    """The result, and what was said; inputs are beside the run directory."""
    data = out.parent / "net.npz"
    arguments = ["quantize", str(path), "--data", str(data), "-o", str(out), "--json"]
    run = CliRunner().invoke(cli, [*arguments, *options])
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout), run.stderr


@pytest.fixture(scope="module")
def run(model: pathlib.Path) -> pathlib.Path:
    out = model.parent / "run"
    _quantize(model, out, "--method", "ptq", "--bits", "W3A8", "--all-layers", *ANYTHING)
    return out


def _error(model: pathlib.Path, out: pathlib.Path) -> float:
    """Mean squared error of the integer file on the inputs of the test split."""
    with np.load(model.parent / "net.npz") as arrays:
        inputs = {"x": arrays["x"][128:]}
    (float_y,), (y,) = (predict(path, inputs) for path in (model, out / "model.int.onnx"))
    return float(np.square(y - float_y).mean())


def test_the_integer_file_is_verified_and_has_no_islands(run: pathlib.Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert (result["method"], result["data"]["labels"], result["history"]) == ("ptq", False, [])
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    assert result["nodes"]["islands"] == []
    assert (result["bits"]["weights_eff"], result["bits"]["activations_eff"]) == (3, 8)
    asked = {
        "bits": "W3A8", "rounding": "auto", "ranges": "auto", "bias_correction": True,
        "calibration_samples": 512,
    }  # fmt: skip
    assert asked.items() <= result["settings"].items()
    assert {"epochs", "lr", "start_bits"}.isdisjoint(result["settings"])
    assert not (run / "checkpoint").exists()


def test_the_plan_is_complete_and_its_codes_are_in_range(run: pathlib.Path) -> None:
    plan = Plan.load(run / "plan.json")
    assert plan.is_complete
    assert plan.left_float == {}
    codes = {
        v.name: v.const_value.numpy() for v in ir.load(run / "model.qdq.onnx").graph.initializers.values()
    }
    for entry in plan.weights:
        of_weight = codes[f"{entry.name}.codes"] // 2**entry.shift
        assert set(np.unique(of_weight)) <= set(range(-4, 4))


def test_roundings_and_biases_make_the_error_smaller(model: pathlib.Path, run: pathlib.Path) -> None:
    uniform = ("--method", "ptq", "--bits", "W3A8", "--all-layers", *ANYTHING)
    nearest, plain = model.parent / "nearest", model.parent / "plain"
    _quantize(model, nearest, *uniform, "--rounding", "nearest")
    _quantize(model, plain, *uniform, "--rounding", "nearest", "--no-bias-correction")
    assert _error(model, run) < _error(model, nearest) < _error(model, plain)


def test_the_same_command_gives_the_same_bytes(model: pathlib.Path, run: pathlib.Path) -> None:
    again = model.parent / "again"
    _quantize(model, again, "--method", "ptq", "--bits", "W3A8", "--all-layers", *ANYTHING)
    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_a_plan_that_leaves_tensors_in_float_is_applied(model: pathlib.Path, run: pathlib.Path) -> None:
    """To the weights that rounding made; and the QDQ file of that gives the same file once more."""
    plan = json.loads((run / "plan.json").read_text())
    plan["weights"] = [entry for entry in plan["weights"] if entry["name"] != "w2"]
    plan["left_float"] = {"w2": "it costs too much"}
    path = model.parent / "partial.json"
    path.write_text(json.dumps(plan))
    partial, again = model.parent / "partial", model.parent / "partial2"
    result, _ = _quantize(run / "model.qdq.onnx", partial, "--plan", str(path))
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    assert [(row["name"], row["reason"]) for row in result["nodes"]["islands"]] == [
        ("Conv_2", "its weight is not quantized")
    ]
    assert Plan.load(partial / "plan.json").left_float == {"w2": "it costs too much"}
    _quantize(partial / "model.qdq.onnx", again, "--plan", str(partial / "plan.json"))
    assert (again / "model.int.onnx").read_bytes() == (partial / "model.int.onnx").read_bytes()

    verified = CliRunner().invoke(
        cli,
        ["verify", str(partial / "model.int.onnx"), "--against", str(partial / "model.qdq.onnx"), "--json"],
    )
    assert verified.exit_code == 0, verified.stderr
    assert json.loads(verified.stdout)["codes_different"] == 0


def test_what_cannot_be_fitted_is_said(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    ir.save(normal(SHARED, shaped(rng, SHARED_SHAPES)), tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=rng.normal(size=(30, 2, 6, 6)).astype(np.float32))
    result, said = _quantize(
        tmp_path / "net.onnx", tmp_path / "out", "--method", "ptq", "--calibration-samples", "7",
        "--min-sqnr", "1",
    )  # fmt: skip
    assert result["verify"]["passed"]
    assert "1 weights are rounded to nearest: 'w0', as several layers use it" in said
