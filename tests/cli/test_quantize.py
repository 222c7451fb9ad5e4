"""``mpqtool quantize``, with a pipeline that only records what it was asked for."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import sys
import types
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mpqtool.cli import cli
from mpqtool.cli.quantize import command
from mpqtool.errors import VerificationError
from mpqtool.method_options import METHODS_OF
from mpqtool.options import CHOICES, QuantizeOptions
from mpqtool.result import (
    Bits,
    DataInfo,
    LayerBits,
    Metric,
    ModelInfo,
    Nodes,
    Result,
    ResultFile,
    Verification,
)

RESULT = ResultFile(
    method="impq",
    model=ModelInfo(path="m.onnx", sha256="0"),
    data=DataInfo(mode="labels"),
    metric=Metric(name="top1", float=98.333, integer=98.05),
    verify=Verification(passed=True),
    bits=Bits(
        weights_eff=24.5,
        layers=[
            LayerBits(name="a", op="Conv", weights=10, weight_bits={"1": 1, "3": 1}),
            LayerBits(name="b", op="MatMul", weights=30, weight_bits={"32": 4}),
        ],
    ),
    nodes=Nodes(mac_share_integer=0.25),
).to_dict()


class _Pipeline:
    """Stands in for ``mpqtool.pipeline``: its real one takes minutes."""

    def __init__(self) -> None:
        self.options: QuantizeOptions | None = None
        self.error: BaseException | None = None

    def run(self, model_path: pathlib.Path, options: QuantizeOptions, reporter: Any) -> Result:
        self.options = options
        reporter.say("working")
        if self.error is not None:
            raise self.error
        return Result(path=pathlib.Path("m.mpq"), result=RESULT)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> _Pipeline:
    fake, module = _Pipeline(), types.ModuleType("mpqtool.pipeline")
    module.run = fake.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpqtool.pipeline", module)
    return fake


def test_options_of_the_command_are_the_fields_of_the_dataclass() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(QuantizeOptions)}
    parameters = {p.name: p for p in command.params if p.name not in ("model", "as_json")}
    assert {name: parameter.default for name, parameter in parameters.items()} == fields
    for name, parameter in parameters.items():
        assert f"--{name.rstrip('_').replace('_', '-')}" in parameter.opts
        choices = getattr(parameter.type, "choices", None)
        assert choices == CHOICES.get(name), name


def _lines_of_help(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    result = CliRunner().invoke(cli, ["quantize", "--help"])
    assert result.exit_code == 0
    return click.unstyle(result.stdout).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_help_has_every_option_once_in_a_named_panel(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines_of_help(width, monkeypatch)
    flags = [line.split()[1].split("/")[0] for line in lines if line.startswith("│ --")]
    names = [field.name.rstrip("_") for field in dataclasses.fields(QuantizeOptions)]
    expected = [f"--{name.replace('_', '-')}" for name in names]
    assert sorted(flags) == sorted([*expected, "--json", "--help"])
    assert [line.split("─ ")[1].split(" ─")[0] for line in lines if line.startswith("╭")] == [
        "Method",
        "Data",
        "Search (--method impq, adaqat)",
        "Budgets",
        "IMPQ (--method impq)",
        "AdaQAT (--method adaqat)",
        "First and last layer (--method lsq, lsq+, adaqat, ptq, fat)",
        "Uniform widths (--method lsq, lsq+, ptq, fat)",
        "Post-training quantization (--method ptq)",
        "LSQ and LSQ+ (--method lsq, lsq+)",
        "Training (--method impq, lsq, lsq+, adaqat, fat)",
        "Training of weights (--method impq, lsq, lsq+, adaqat)",
        "Integer file",
        "Run",
    ]
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("title", "methods"),
    [
        ("Search", ("impq", "adaqat")), ("IMPQ", ("impq",)), ("AdaQAT", ("adaqat",)),
        ("First", ("lsq", "lsq+", "adaqat", "ptq", "fat")), ("Uniform", ("lsq", "lsq+", "ptq", "fat")),
        ("Post-training", ("ptq",)),
        ("LSQ", ("lsq", "lsq+")), ("Training (", ("impq", "lsq", "lsq+", "adaqat", "fat")),
        ("Training of weights", ("impq", "lsq", "lsq+", "adaqat")),
    ],
)  # fmt: skip
def test_panels_name_the_methods_that_have_their_options(title: str, methods: tuple[str, ...]) -> None:
    (panel,) = (panel for panel in command.panels if panel.name.startswith(title))
    of_these = {name for name, having in METHODS_OF.items() if having == methods}
    elsewhere = {"resume", "min_sqnr"}  # with what a run is, and beside max_drop, which it stands in for
    assert set(panel.options) - elsewhere == of_these - elsewhere


def test_defaults_reach_the_pipeline(pipeline: _Pipeline) -> None:
    assert CliRunner().invoke(cli, ["quantize", "m.onnx"]).exit_code == 0
    assert pipeline.options == QuantizeOptions()


def test_options_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--data", "d.npz", "--resize", "8x9", "--mean", "0.5,0.25,0.1", "--target-bits", "W2.5A4"]
    arguments += ["-o", "here", "--epoch-samples", "7", "--distill"]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        data="d.npz", resize=(8, 9), mean=(0.5, 0.25, 0.1), target_bits="W2.5A4", out="here", epoch_samples=7,
        distill=True,
    )  # fmt: skip


def test_options_of_impq_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--granularity", "layer", "--sensitivity", "repo", "--rank", "macs", "--step-groups", "9"]
    arguments += ["--first", "activations", "--clip", "max", "--activation-clip", "6sigma"]
    arguments += [
        "--target-size",
        "5000",
        "--target-bitops",
        "1.5e8",
        "--method",
        "impq",
        "--plan",
        "p.json",
        "--take",
        "4",
    ]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        granularity="layer", sensitivity="repo", rank="macs", step_groups=9, first="activations", clip="max",
        method="impq", plan="p.json", take=4, activation_clip="6sigma", target_size=5000, target_bitops=1.5e8,
    )  # fmt: skip


def test_options_of_fat_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--method", "fat", "--bits", "W4A8", "--all-layers", "--epochs", "3", "--epoch-samples", "9"]
    arguments += ["--batch-size", "8", "--lr", "0.002", "--seed", "4", "--resume"]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        method="fat", bits="W4A8", all_layers=True, epochs=3, epoch_samples=9, batch_size=8, lr=0.002, seed=4,
        resume=True,
    )  # fmt: skip


def test_options_of_lsq_plus_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--method", "lsq+", "--bits", "W2A3", "--config", "4", "--weight-scales", "layer"]
    arguments += ["--weight-grid", "odd", "--all-layers", "--init", "minmax", "--patience", "2"]
    arguments += ["--optimizer", "adamw", "--weight-decay", "0", "--accumulate", "4", "--epochs", "6"]
    arguments += ["--mixed-precision", "bf16"]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        method="lsq+", bits="W2A3", config="4", weight_scales="layer", weight_grid="odd", all_layers=True,
        init="minmax", patience=2, optimizer="adamw", weight_decay=0.0, accumulate=4, epochs=6,
        mixed_precision="bf16", lr=0.001,
    )  # fmt: skip


def test_options_of_ptq_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--method", "ptq", "--bits", "W4A8", "--ranges", "entropy", "--rounding", "adaround"]
    arguments += ["--no-bias-correction", "--calibration-samples", "99", "--all-layers"]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        method="ptq", bits="W4A8", ranges="entropy", rounding="adaround", bias_correction=False,
        calibration_samples=99, all_layers=True,
    )  # fmt: skip


def test_options_of_adaqat_reach_the_pipeline(pipeline: _Pipeline) -> None:
    arguments = ["--method", "adaqat", "--lambda", "0.3", "--granularity", "kernel", "--hardware", "latency"]
    arguments += ["--activation-granularity", "network", "--from-scratch", "--start-bits", "W6A8"]
    arguments += ["--tensorboard", "--all-layers"]
    assert CliRunner().invoke(cli, ["quantize", "m.onnx", *arguments]).exit_code == 0
    assert pipeline.options == QuantizeOptions(
        method="adaqat", lambda_=0.3, granularity="kernel", hardware="latency", from_scratch=True,
        activation_granularity="network", start_bits="W6A8", tensorboard=True, all_layers=True,
        epochs=30, lr=0.1,
    )  # fmt: skip


def test_table_on_stdout_and_talk_on_stderr(pipeline: _Pipeline) -> None:
    result = CliRunner().invoke(cli, ["quantize", "m.onnx"])
    lines = result.stdout.splitlines()
    shown = [" ".join(line.split()) for line in lines]
    assert "top1 float 98.33 %" in shown
    assert "top1 qdq -" in shown
    assert "verified yes" in shown
    assert "weight bits (all layers) 24.50" in shown
    assert "weight bits (of what is quantized and left) 2.00" in shown
    assert "MACs in integers 25.0%" in shown
    assert lines[-1] == "m.mpq"
    assert result.stderr == "working\n"


def test_warnings_of_libraries_are_not_shown(
    pipeline: _Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = pipeline.run

    def run(*arguments: Any) -> Result:
        for name in ("onnx_ir.passes.common", "onnxscript.optimizer", "somewhere.else"):
            logging.getLogger(name).warning("a step was left out")
        return honest(*arguments)

    monkeypatch.setattr(sys.modules["mpqtool.pipeline"], "run", run)
    for library in ("onnx_ir", "onnxscript"):
        monkeypatch.setattr(logging.getLogger(library), "level", logging.NOTSET)
    assert CliRunner().invoke(cli, ["quantize", "m.onnx"]).exit_code == 0
    assert [record.name for record in caplog.records] == ["somewhere.else"]


def test_json_is_alone_on_stdout(pipeline: _Pipeline) -> None:
    result = CliRunner().invoke(cli, ["quantize", "m.onnx", "--json"])
    assert json.loads(result.stdout) == RESULT
    assert result.stderr == "working\n"


def test_expected_error_is_one_line(pipeline: _Pipeline) -> None:
    pipeline.error = VerificationError("3 of 9 codes\n  differ")
    result = CliRunner().invoke(cli, ["quantize", "m.onnx"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "working\nmpqtool: 3 of 9 codes differ\n"


def test_interrupt_says_how_to_go_on(pipeline: _Pipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    result = CliRunner().invoke(cli, ["quantize", "m.onnx"])
    assert result.exit_code == 130
    assert "--resume" in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_other_errors_are_bugs_and_keep_their_traceback(pipeline: _Pipeline) -> None:
    pipeline.error = ZeroDivisionError("a bug")
    result = CliRunner().invoke(cli, ["quantize", "m.onnx"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Missing argument 'MODEL'", id="no-model"),
        pytest.param(["m.onnx", "--method", "magic"], "'magic' is not one of 'impq', 'lsq'", id="method"),
        pytest.param(["m.onnx", "--seed", "x"], "'x' is not a valid integer", id="type"),
        pytest.param(["m.onnx", "--resize", "8by8"], "'8by8' is not a size", id="resize"),
        pytest.param(["m.onnx", "--std", "a,b"], "'a,b' is not a list of numbers", id="std"),
        pytest.param(["m.onnx", "--target-bits", "W9A6"], "weight bits must be 1 to 8, got 9", id="bits"),
        pytest.param(["m.onnx", "--epochs", "-1"], "epochs must be at least 0, got -1", id="range"),
        pytest.param(["m.onnx", "--bits", "W2A2"], "with lsq and lsq+ and ptq and fat", id="other-method"),
        pytest.param(["m.onnx", "--method", "lsq", "--config", "4"], "choose method 'lsq+'", id="offsets"),
        pytest.param(["m.onnx", "--lambda", "0.1"], "lambda has no effect with method 'impq'", id="lambda"),
        pytest.param(["m.onnx", "--method", "adaqat", "--lambda", "0"], "lambda must be positive", id="zero"),
        pytest.param(["m.onnx", "--config", "5"], "'5' is not one of 'auto', '1'", id="choice"),
        pytest.param(["m.onnx", "--plan", "p.json", "--lr", "1"], "lr has no effect with a plan", id="plan"),
        pytest.param(
            ["m.onnx", "--bits", "W4A4"],
            "bits has no effect with method 'impq', only with lsq and lsq",
            id="default-value-of-another-method",
        ),
        pytest.param(
            ["m.onnx", "--no-bias-correction"],
            "bias_correction has no effect with method 'impq', only with ptq",
            id="switch-of-another-method",
        ),
        pytest.param(
            ["m.onnx", "--method", "ptq", "--epochs", "1"], "with method 'ptq', only", id="untrained"
        ),
        pytest.param(["m.onnx", "--nonsense"], "No such option", id="option"),
    ],
)
def test_wrong_usage_exits_2(pipeline: _Pipeline, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["quantize", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert pipeline.options is None
