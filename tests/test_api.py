"""What a script calls, as far as it is more than a call of another layer."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import calibrated, residual_cnn

import mpqtool
from mpqtool.errors import ModelError, OptionError
from mpqtool.passes.pipelines import quantize

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


def test_what_only_fastest_reads_is_refused_without_it(tmp_path: pathlib.Path) -> None:
    for options in ({"threads": 2}, {"sizes": {"x": (1, 2)}}):
        with pytest.raises(OptionError, match="for lower='fastest' alone"):
            mpqtool.lower("m.onnx", tmp_path / "i.onnx", **options)  # type: ignore[arg-type]


def test_lower_names_the_file_that_is_missing(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*none\.onnx': no such file"):
        mpqtool.lower(tmp_path / "none.onnx", model)


def test_lower_does_not_write_over_what_it_reads(model: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="is the file that is read"):
        mpqtool.lower(model, model)


def test_lower_into_a_folder(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    network = residual_cnn(rng)
    ir.save(
        quantize(network, calibrated(network, {"x": np.ones((1, 2, 8, 8), np.float32)})), tmp_path / "q.onnx"
    )
    with pytest.raises(ModelError, match=r"it is a folder\. Give the name of a file\.$"):
        mpqtool.lower(tmp_path / "q.onnx", tmp_path)
