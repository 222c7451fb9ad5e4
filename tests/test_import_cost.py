"""What is not asked for is not loaded: ``import mpqtool`` is cheap, and ``inspect`` needs no torch."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import mpqtool

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "digits.onnx"
HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "pydantic", "rich", "click", "jinja2", "PIL")


def _loaded(code: str, *names: str) -> list[str]:
    """Run code in a fresh interpreter and tell which of the modules it loaded."""
    report = f"import sys; sys.stderr.write(repr([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return eval(done.stderr.splitlines()[-1])


def test_import_loads_nothing_heavy() -> None:
    assert _loaded("import mpqtool; dir(mpqtool); mpqtool.__version__", *HEAVY) == []


def test_options_and_api_load_nothing_heavy() -> None:
    assert (
        _loaded("import mpqtool; mpqtool.QuantizeOptions(); mpqtool.quantize; mpqtool.verify", *HEAVY) == []
    )


def test_errors_load_nothing_heavy() -> None:
    assert _loaded("import mpqtool.errors", *HEAVY) == []


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["quantize", "--help"], id="quantize-help"),
        pytest.param(["export", "--help"], id="export-help"),
        pytest.param(["inspect", str(EXAMPLE)], id="inspect"),
    ],
)
def test_command_without_torch(arguments: list[str]) -> None:
    call = f"try:\n    cli.main({arguments!r})\nexcept SystemExit as exit:\n    assert not exit.code"
    assert _loaded(f"from mpqtool.cli import cli\n{call}", "torch") == []


def test_public_names() -> None:
    for name in mpqtool.__all__:
        assert getattr(mpqtool, name) is not None
        assert name in dir(mpqtool)
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = mpqtool.quantise
