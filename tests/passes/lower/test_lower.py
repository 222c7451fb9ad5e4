"""All lowering passes together."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, residual_cnn
from onnx_text import ops

from mpqtool.passes import values
from mpqtool.passes.errors import ModelError, PassError
from mpqtool.passes.lower import lowering_passes
from mpqtool.passes.lower.opsets import ImportContribPass
from mpqtool.passes.pipelines import canonical_qdq, lower, quantize
from mpqtool.passes.targets import TARGETS
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS


@pytest.fixture
def qdq(rng: np.random.Generator) -> ir.Model:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    return quantize(model, calibrated(model, feeds, weight_bits=3, activation_bits=5))


def test_a_residual_network_has_no_float_operator(qdq: ir.Model) -> None:
    model = lower(qdq)

    block = ["QLinearConv", "Clip"]
    unpacked = ["Reshape"] * 3  # one is so small that it stays as it is
    assert ops(model) == [
        "UnpackOdd", "Split", *unpacked, "QuantizeLinear", *block, "MaxPool", *block, *block, "QLinearAdd",
        "Clip", "QLinearGlobalAveragePool", "Clip", "Flatten", "QGemm",
    ]  # fmt: skip


def test_the_file_is_what_old_runtimes_read(qdq: ir.Model) -> None:
    proto = ir.to_proto(lower(qdq))

    onnx.checker.check_model(proto)
    assert proto.ir_version == 10
    assert {o.domain: o.version for o in proto.opset_import} == {"": 21, "com.microsoft": 1, "mpqtool": 3}


def test_codes_have_shapes_where_onnx_cannot_infer_them(qdq: ir.Model) -> None:
    held = {value.name: value for value in ir.to_proto(lower(qdq)).graph.value_info}

    for name, shape in (("r0.codes", [4, 8, 8]), ("r1.codes", [8, 2, 2]), ("g.codes", [8, 1, 1])):
        assert held[name].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [dim.dim_value for dim in held[name].type.tensor_type.shape.dim[1:]] == shape


def test_weights_take_little_more_than_their_bits(rng: np.random.Generator) -> None:
    model = residual_cnn(rng, width=32)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds)
    mixed = [
        w.model_copy(update={"bits": tuple(int(b) for b in rng.integers(1, 5, len(w.bits)))})
        for w in plan.weights
    ]
    plan = plan.replaced(weights=mixed)
    sizes = {
        name: value.const_value.size for name, value in model.graph.initializers.items() if value.const_value
    }
    owed = sum(sum(w.bits) * sizes[w.name] // len(w.bits) / 8 for w in plan.weights)

    held = lower(quantize(model, plan)).graph.initializers

    stored = sum(
        value.const_value.nbytes
        for name, value in held.items()
        if value.const_value and name.endswith((".packed", ".sizes"))
    )
    assert owed <= stored <= 1.05 * owed


def test_twice_gives_the_same_bytes(qdq: ir.Model) -> None:
    first, second = (ir.to_proto(lower(qdq)).SerializeToString(deterministic=True) for _ in range(2))

    assert first == second


def test_the_model_is_left_as_it_is(qdq: ir.Model) -> None:
    before = ir.to_proto(qdq).SerializeToString(deterministic=True)

    lower(qdq)

    assert ir.to_proto(qdq).SerializeToString(deterministic=True) == before


def test_unknown_target_is_refused(qdq: ir.Model) -> None:
    with pytest.raises(PassError, match=r"target 'npu', allowed: cpu, standard, cuda\. Choose"):
        lower(qdq, target="npu")


@pytest.mark.parametrize("target", TARGETS)
def test_an_integer_file_is_refused(qdq: ir.Model, target: str) -> None:
    integer = lower(qdq, target=target)

    for refusing in (lower, canonical_qdq):
        with pytest.raises(ModelError, match=f"integer file for target '{target}', allowed QDQ models"):
            refusing(integer)


def test_the_names_are_gathered_once_a_pass(qdq: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for each constant, which would take 16 times as long for a graph of 4 times the size."""
    gather, calls = values.names, []

    def counted(graph: ir.Graph) -> set[str]:
        calls.append(graph)
        return gather(graph)

    monkeypatch.setattr(values, "names", counted)

    lower(qdq)

    assert 0 < len(calls) <= len(lowering_passes("cpu"))


def test_import_of_contrib_happens_once(qdq: ir.Model) -> None:
    assert not ImportContribPass()(qdq).modified
    model = lower(qdq)
    del model.graph.opset_imports["com.microsoft"]

    assert ImportContribPass()(model).modified
    assert not ImportContribPass()(model).modified


def test_a_file_of_another_tool_is_lowered(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter([{"x": rng.normal(size=(8, 2, 8, 8)).astype(np.float32)}])

        def get_next(self) -> Any:
            return next(self.rows, None)

    ir.save(residual_cnn(rng), tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx", tmp_path / "qdq.onnx", Reader(), per_channel=True,
        quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    qdq = ir.load(tmp_path / "qdq.onnx")
    feeds = {"x": rng.normal(size=(8, 2, 8, 8)).astype(np.float32)}

    model = lower(qdq)

    assert {"QLinearConv", "MaxPool", "QLinearGlobalAveragePool", "QGemm"} <= set(ops(model))
    assert not {"Conv", "Gemm", "Relu"} & set(ops(model))
    reference = Reference(model)
    expected = reference.run(feeds)
    for level in LEVELS:
        found = run_onnx(model, feeds, level=level, expose=reference.codes)
        for name in reference.codes:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} at {level}")
    before = run_onnx(qdq, feeds)
    scale = np.abs(before["y"]).max() / 255
    # The QDQ file rounds y to 8 bits, half a step; the rest is for codes on the way that differ by one.
    np.testing.assert_allclose(expected["y"], before["y"], rtol=0, atol=2 * scale)
