"""What verification refuses or finds before anything is run."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from verified import Files, write_files

from mpqtool.passes.metadata import DOMAIN
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.inspect import inspect
from mpqtool.runtime.verify import verify
from mpqtool.simulate import simulator_from_qdq

TEXT = """
    net (float[N, 2, 6, 6] x) => (float[N, 3, 3, 3] y) {
        c = Conv (x, w0)
        i = InstanceNormalization <epsilon = 0.00001> (c, one, zero)
        y = Conv (i, w1)
    }"""


@pytest.fixture
def files(tmp_path: pathlib.Path, rng: np.random.Generator) -> Files:
    weights = {
        "w0": rng.normal(size=(16, 2, 3, 3)), "w1": rng.normal(size=(3, 16, 2, 2)), "one": np.ones(16),
        "zero": np.zeros(16),
    }  # fmt: skip
    model = normal(TEXT, weights)
    feeds = {"x": rng.normal(size=(8, 2, 6, 6)).astype(np.float32)}
    return write_files(tmp_path, model, feeds, calibrated(model, feeds))


def test_an_integer_file_is_nothing_to_verify_against(files: Files) -> None:
    with pytest.raises(RuntimeFault, match="it is an integer file, not the QDQ file"):
        verify(files.integer, files.integer, [files.feeds])
    with pytest.raises(RuntimeFault, match="it is an integer file, not the QDQ file"):
        simulator_from_qdq(files.integer)


def test_a_float_file_is_nothing_to_verify_against(files: Files, tmp_path: pathlib.Path) -> None:
    ir.save(normal("net (float[N] x) => (float[N] y) { y = Exp (x) }"), tmp_path / "float.onnx")
    with pytest.raises(RuntimeFault, match="it has no QuantizeLinear and DequantizeLinear"):
        verify(files.integer, tmp_path / "float.onnx", [files.feeds])


@pytest.mark.parametrize(("epsilon", "passed"), [(1e-5, True), (1.1e-5, False)])
def test_attributes_of_float_operators_are_compared(files: Files, epsilon: float, passed: bool) -> None:
    def change(model: ir.Model) -> None:
        (node,) = [node for node in model.graph if node.op_type == "InstanceNormalization"]
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)

    files.change(change)

    result = files.verify()

    assert result.passed is passed
    assert result.codes_different == 0  # the codes alone do not show it
    if not passed:
        expected = "epsilon of the InstanceNormalization of i (in the file)"
        assert result.first_different == expected


def test_weights_that_another_version_packed_are_refused(files: Files) -> None:
    def change(model: ir.Model) -> None:
        model.graph.opset_imports[DOMAIN] = 1

    files.change(change)

    with pytest.raises(RuntimeFault, match="another version of mpqtool: its weights are packed in form 1"):
        files.verify()
    with pytest.raises(RuntimeFault, match="another version of mpqtool"):
        inspect(files.integer)


@pytest.mark.parametrize("length", [0, 7])
def test_a_broken_qdq_file_is_named(files: Files, length: int) -> None:
    model = ir.load(files.qdq)
    name = next(name for name in model.graph.initializers if name.startswith("w0") and "scale" in name)
    model.graph.initializers[name].const_value = ir.tensor(np.ones(length, np.float32), name=name)
    model.graph.initializers[name].shape = ir.Shape([length])
    ir.save(model, files.qdq)

    with pytest.raises(RuntimeFault, match=r"Cannot lower .*a\.qdq\.onnx"):
        files.verify()
