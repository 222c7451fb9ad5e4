"""Every command: help, JSON, errors."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import pathlib
from typing import Any

import click
import onnxruntime
import pytest
from click.testing import CliRunner

import mpqtool.api
import mpqtool.coverage
from mpqtool import health
from mpqtool.cli import cli
from mpqtool.coverage import LoweredLayers
from mpqtool.errors import ModelError

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "digits.onnx"
COMMANDS = ("quantize", "lower", "verify", "inspect", "sensitivity", "bench", "export", "report", "doctor")


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


def test_commands_are_listed_in_order() -> None:
    assert tuple(cli.list_commands(click.Context(cli))) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_json(name: str) -> None:
    result = _run(name, "--help")
    assert result.exit_code == 0
    assert f"Example: mpqtool {name} " in " ".join(result.stdout.split())
    assert "--json" in result.stdout


def test_version() -> None:
    assert _run("--version").stdout == f"mpqtool {mpqtool.__version__}\n"


def test_unknown_command_exits_2() -> None:
    result = _run("quantise")
    assert result.exit_code == 2
    assert "No such command 'quantise'" in result.stderr


@dataclasses.dataclass
class _Verdict:
    passed: bool
    provider: str = "cpu"
    codes_compared: int = 1234
    codes_different: int = 0
    qdq_max_lsb: int | None = None
    qdq_rate: float | None = 0.5
    first_different: str | None = None
    engines: tuple[str, ...] = ("ort:all", "simulation")
    real_compared: int = 567
    real_unsettled: int = 8
    island_compared: int = 200
    island_different: int = 1
    local_max_lsb: int | None = 1
    local_rate: float | None = 0.25
    local_left_out: int = 0


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_verify_exits_1_when_not_passed(monkeypatch: pytest.MonkeyPatch, passed: bool, code: int) -> None:
    def verify(path: str, **options: Any) -> _Verdict:
        print("a banner of the runtime")  # noqa: T201
        assert (path, options["against"], options["provider"]) == ("i.onnx", "q.onnx", "auto")
        return _Verdict(passed)

    monkeypatch.setattr(mpqtool.api, "verify", verify)
    result = _run("verify", "i.onnx", "--against", "q.onnx", "--provider", "auto", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)["passed"] is passed
    shown = _run("verify", "i.onnx", "--against", "q.onnx", "--provider", "auto").stdout
    found = {" ".join(line.split()) for line in shown.splitlines()}
    assert found >= {
        "codes compared 1,234", "QDQ codes that differ 50.0000%", "real values compared 567",
        "codes behind float operators 200", "of these, different by one 1 (0.5000%)",
        "reference compared with ort:all, simulation",
    }  # fmt: skip


def test_json_has_null_where_a_number_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"qdq_rate": math.nan, "tensors": ({"largest": math.inf}, {"largest": 1.5})}
    monkeypatch.setattr(mpqtool.api, "inspect", lambda path: rows)
    result = _run("inspect", "m.onnx", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"qdq_rate": None, "tensors": [{"largest": None}, {"largest": 1.5}]}


@pytest.mark.parametrize(("share", "warned"), [(0.75, 0), (0.25, 1)])
def test_lower_reports_sizes_and_what_stays_float(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, share: float, warned: int
) -> None:
    source, target = tmp_path / "q.onnx", tmp_path / "i.onnx"
    source.write_bytes(bytes(1500))

    def lower(qdq: str, out: str, *, target: str, **options: Any) -> pathlib.Path:
        assert options["lower"] == "full"
        assert options["vnni"] is None
        pathlib.Path(out).write_bytes(bytes(500))
        return pathlib.Path(out)

    island = {"name": "c", "op": "Conv", "reason": "its bias is computed"}
    layers = LoweredLayers(integer=1, float=1, mac_share_integer=share, islands=[island])
    monkeypatch.setattr(mpqtool.api, "lower", lower)
    monkeypatch.setattr(mpqtool.coverage, "lowered_layers", lambda path: layers)
    result = _run("lower", str(source), "-o", str(target), "--json")
    assert json.loads(result.stdout) == {
        "path": str(target), "target": "cpu", "bytes": {"qdq": 1500, "integer": 500},
        "layers": {"integer": 1, "float": 1, "mac_share_integer": share, "islands": [island]},
    }  # fmt: skip
    said = result.stderr.splitlines()
    assert said[0] == f"1 of 2 layers compute in integers, {share:.1%} of the MACs"
    assert said[1] == "float: Conv 'c': its bias is computed"
    assert [line.startswith("warning: less than half") for line in said[2:]] == [True] * warned
    assert "500 bytes (QDQ: 1,500)" in _run("lower", str(source), "-o", str(target)).stdout


def test_lower_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    given: dict[str, Any] = {}

    def lower(qdq: str, out: str, **options: Any) -> pathlib.Path:
        given.update(options)
        raise ModelError("stop")

    monkeypatch.setattr(mpqtool.api, "lower", lower)
    arguments = ("--lower", "fastest", "--no-vnni", "--threads", "2", "--size", "x=1,3,8,8")
    assert _run("lower", "q.onnx", "-o", "i.onnx", *arguments).exit_code == 1
    assert (given["lower"], given["vnni"], given["threads"]) == ("fastest", False, 2)
    assert given["sizes"] == {"x": (1, 3, 8, 8)}
    assert _run("lower", "q.onnx", "-o", "i.onnx", "--size", "8x8").exit_code == 2


def test_bench_shows_times_and_what_onnx_runtime_did() -> None:
    shown = _run("bench", str(EXAMPLE), "--threads", "1", "--rounds", "2", "--batch", "3")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[0].split() == ["file", "ms", "x", "digits.onnx", "bytes"]
    assert f"; 1 thread, 2 rounds, cpu, ONNX Runtime {onnxruntime.__version__}\n" in shown.stdout
    found = json.loads(_run("bench", str(EXAMPLE), "--rounds", "1", "--json").stdout)
    assert found["files"][0]["ratio"] == 1
    assert found["files"][0]["quantized"] is False


def test_bench_asks_for_files_that_are_there() -> None:
    assert _run("bench").exit_code == 2
    assert _run("bench", "none.onnx").stderr == "mpqtool: Cannot read 'none.onnx': no such file.\n"


def test_inspect_shows_layers_and_sums() -> None:
    shown = " ".join(_run("inspect", str(EXAMPLE)).stdout.split())
    assert "conv.weight Conv" in shown
    assert "kind float" in shown
    assert "operators: Add " in shown
    assert json.loads(_run("inspect", str(EXAMPLE), "--json").stdout)["kind"] == "float"


def test_error_of_a_layer_below_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(path: str) -> None:
        raise RuntimeError("pass manager") from ModelError(f"{path!r} is not an ONNX file")

    monkeypatch.setattr(mpqtool.api, "inspect", inspect)
    result = _run("inspect", "x.onnx")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mpqtool: 'x.onnx' is not an ONNX file\n"


def test_file_system_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(mpqtool.api, "inspect", inspect)
    result = _run("inspect", "x.onnx")
    assert result.exit_code == 1
    assert result.stderr == "mpqtool: [Errno 13] Permission denied: 'x.onnx'\n"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        pytest.param([], {}, id="none"),
        pytest.param(
            [
                "--input-shape", "1,28,28", "--weights", "w.pt", "--arg", "n=3", "--arg", "kind=wide",
                "--seed", "7",
            ],
            {"input_shape": "1,28,28", "weights": "w.pt", "arg": ("n=3", "kind=wide"), "seed": 7},
            id="all",
        ),
    ],
)  # fmt: skip
def test_export_hands_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, arguments: list[str], given: dict[str, Any]
) -> None:
    def export_onnx(model: str, out: str, **options: Any) -> pathlib.Path:
        print("a remark of the user's module")  # noqa: T201
        assert model == "m:f"
        assert options == {"input_shape": None, "weights": None, "arg": (), "seed": 0, **given}
        pathlib.Path(out).write_bytes(bytes(12))
        return pathlib.Path(out)

    monkeypatch.setattr(mpqtool.api, "export_onnx", export_onnx)
    out = str(tmp_path / "m.onnx")
    assert _run("export", "m:f", "-o", out, *arguments).stdout == f"{out}\n"
    shown = _run("export", "m:f", "-o", out, "--json", *arguments).stdout
    assert json.loads(shown) == {"path": out, "bytes": 12}


def test_export_and_its_function_have_the_same_options() -> None:
    parameters = inspect.signature(mpqtool.export_onnx).parameters
    options = {option.name for option in cli.get_command(click.Context(cli), "export").params}  # type: ignore[union-attr]
    assert options - {"as_json"} == set(parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--input-shape", "1x28x28"], "got '1x28x28'", id="shape"),
        pytest.param(["--arg", "classes"], "got 'classes'", id="argument"),
    ],
)
def test_export_refuses_in_one_line_with_exit_status_2(
    tmp_path: pathlib.Path, arguments: list[str], message: str
) -> None:
    result = _run("export", "mpqtool.zoo:resnet20", "-o", str(tmp_path / "m.onnx"), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_report_of_no_run_directory(tmp_path: pathlib.Path) -> None:
    result = _run("report", str(tmp_path))
    assert result.exit_code == 1
    assert "No such file" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run("doctor", "--json")
    found = json.loads(result.stdout)
    assert found["providers"]["cpu"]["works"] is True
    assert set(found["cpu"]["features"]) == {"avx2", "avx512_vnni", "avx_vnni", "amx"}
    monkeypatch.setattr(health, "examine", lambda: found | {"problems": ["both are installed"]})
    shown = _run("doctor")
    assert "cpu: works" in shown.stdout
    assert shown.stderr == "problem: both are installed\n"
