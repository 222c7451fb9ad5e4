"""What a script calls, as far as it is more than a call of another layer."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import mpqtool
from mpqtool import api
from mpqtool.errors import DataError, ModelError, OptionError
from mpqtool.reporter import Reporter

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
    with pytest.raises(OptionError, match="no target 'tpu'; targets: cpu"):
        mpqtool.lower("m.onnx", tmp_path / "i.onnx", target="tpu")


def test_lower_needs_a_quantized_file(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match="has no DequantizeLinear"):
        mpqtool.lower(model, tmp_path / "i.onnx")
    assert not (tmp_path / "i.onnx").exists()


def test_samples_given(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2), np.float32))
    split = api._samples(tmp_path / "i.onnx", ir.load(model), tmp_path / "d.npz", Reporter(silent=True))
    assert len(split) == 2


def test_samples_of_the_run(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2), np.float32))
    content = {"data": {"spec": str(tmp_path / "d.npz")}, "settings": {"mean": None}}
    (tmp_path / "result.json").write_text(json.dumps(content))
    split = api._samples(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    np.testing.assert_array_equal(split.inputs["x"], np.ones((2, 2), np.float32))


@pytest.mark.parametrize("recorded", [None, "[]", '{"data": {"spec": "gone.npz"}, "settings": {}}'])
def test_noise_is_seeded_and_said(
    model: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, recorded: str | None
) -> None:
    if recorded is not None:
        (tmp_path / "result.json").write_text(recorded)
    first = api._samples(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    again = api._samples(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    assert first.inputs["x"].shape == (256, 2)
    np.testing.assert_array_equal(first.inputs["x"], again.inputs["x"])
    assert "no data: verifying on 256 samples of seeded noise" in caplog.text


def test_noise_needs_a_shape(tmp_path: pathlib.Path) -> None:
    model = ir.from_onnx_text(FLOAT.replace("float[N, 2] x", "float[N, M] x"))
    with pytest.raises(DataError, match="'x' has a free size beside the samples"):
        api._samples(tmp_path / "i.onnx", model, None, Reporter(silent=True))
