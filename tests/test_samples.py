"""Which samples a file is verified on."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mpqtool.errors import DataError
from mpqtool.reporter import Reporter
from mpqtool.samples import samples_for

FLOAT = """<ir_version: 10, opset_import: ["": 21]>
g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(FLOAT), path)
    return path


def test_samples_given(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2), np.float32))
    split = samples_for(tmp_path / "i.onnx", ir.load(model), tmp_path / "d.npz", Reporter(silent=True))
    assert len(split) == 2


def test_samples_of_the_run(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2), np.float32))
    content = {"data": {"spec": str(tmp_path / "d.npz")}, "settings": {"mean": None}}
    (tmp_path / "result.json").write_text(json.dumps(content))
    split = samples_for(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    np.testing.assert_array_equal(split.inputs["x"], np.ones((2, 2), np.float32))


@pytest.mark.parametrize("recorded", [None, "[]"])
def test_noise_is_seeded_and_said(
    model: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, recorded: str | None
) -> None:
    if recorded is not None:
        (tmp_path / "result.json").write_text(recorded)
    first = samples_for(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    again = samples_for(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))
    assert first.inputs["x"].shape == (256, 2)
    np.testing.assert_array_equal(first.inputs["x"], again.inputs["x"])
    assert "no data: verifying on 256 samples of seeded noise" in caplog.text


def test_data_of_the_run_that_are_gone_are_not_replaced_by_noise(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "result.json").write_text('{"data": {"spec": "gone.npz"}, "settings": {}}')
    with pytest.raises(DataError, match=r"cannot be read from here: .*'gone\.npz'.* Give it with --data"):
        samples_for(tmp_path / "i.onnx", ir.load(model), None, Reporter(silent=True))


def test_noise_needs_a_shape(tmp_path: pathlib.Path) -> None:
    model = ir.from_onnx_text(FLOAT.replace("float[N, 2] x", "float[N, M] x"))
    with pytest.raises(DataError, match="'x' has a free size beside the samples"):
        samples_for(tmp_path / "i.onnx", model, None, Reporter(silent=True))


def test_none_is_noise_even_beside_a_run(
    model: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "result.json").write_text('{"data": {"spec": "gone.npz"}, "settings": {}}')
    split = samples_for(tmp_path / "i.onnx", ir.load(model), "none", Reporter(silent=True))
    assert len(split) == 256
    assert "seeded noise" in caplog.text


@pytest.mark.parametrize(("labels", "kept"), [(np.ones((10, 4)), False), (np.arange(10), True)])
def test_labels_that_are_no_classes_are_no_hindrance(
    model: pathlib.Path, tmp_path: pathlib.Path, labels: np.ndarray, kept: bool
) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2), np.float32), label=labels)
    content = {"data": {"spec": str(tmp_path / "d.npz")}, "settings": {}}
    (tmp_path / "result.json").write_text(json.dumps(content))
    for data in (None, tmp_path / "d.npz"):
        split = samples_for(tmp_path / "i.onnx", ir.load(model), data, Reporter(silent=True))
        assert len(split) == 2
        assert (split.labels is not None) == kept
