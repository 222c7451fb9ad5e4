"""What a script calls, as far as it is more than a call of another layer."""

from __future__ import annotations

import pathlib

import onnx
import pytest

import mpqtool
from mpqtool.errors import ModelError, OptionError

FLOAT = """<ir_version: 10, opset_import: ["": 21]>
g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(FLOAT), path)
    return path


def test_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"no option 'epoch'; options: method, data, .*epochs"):
        mpqtool.quantize("m.onnx", method="impq", epoch=3)


def test_unknown_target(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="no target 'tpu'; targets: cpu, standard, cuda"):
        mpqtool.lower("m.onnx", tmp_path / "i.onnx", target="tpu")


def test_lower_needs_a_quantized_file(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match="has no DequantizeLinear"):
        mpqtool.lower(model, tmp_path / "i.onnx")
    assert not (tmp_path / "i.onnx").exists()
