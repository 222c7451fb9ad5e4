from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated, normal, residual_cnn
from onnx_text import ops

from mpqtool.passes import metadata
from mpqtool.passes.errors import PassError
from mpqtool.passes.lower.keep_float import KeepFloatPass, kept_float, units
from mpqtool.passes.pipelines import canonical_qdq, lower, lower_like, quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import add_initializer, array, bypass, set_array
from mpqtool.runtime import inspect as inspection
from mpqtool.runtime.optimized import trace
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.verify import verify

X = np.random.default_rng(1).normal(size=(3, 2, 8, 8)).astype(np.float32)


def _qdq(weight_bits: int = 3, activation_bits: int = 6) -> ir.Model:
    model = residual_cnn(np.random.default_rng(0))
    plan = calibrated(model, {"x": X}, weight_bits=weight_bits, activation_bits=activation_bits)
    return quantize(model, plan)


def _all(model: ir.Model) -> dict[str, str]:
    graph = canonical_qdq(model).graph
    return {str(node.outputs[0].name): "because" for unit in units(graph) for node in unit}


def _float_network(model: ir.Model) -> ir.Model:
    """The QDQ model without the rounding of its activations: a clamp to what the codes can hold is left."""
    copy = model.clone()
    for node in copy.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None:  # type: ignore[union-attr]
            real, scale, zero = node.outputs[0], array(node.inputs[1]), array(node.inputs[2])
            source = node.inputs[0]
            low, high = 0, 255
            while source is not None and (before := source.producer()) is not None:
                source = before.inputs[0]
                if before.op_type == "QuantizeLinear":
                    break
                low, high = (int(array(bound)) for bound in before.inputs[1:])  # type: ignore[call-overload]
            assert source is not None
            assert scale is not None
            assert zero is not None
            if (low, high) != (0, 255):
                ends = [np.float32(scale * (code - int(zero))) for code in (low, high)]
                bounds = [add_initializer(copy.graph, f"{real.name}.{end!r}", np.array(end)) for end in ends]
                clip = ir.node("Clip", [source, *bounds])
                source = clip.outputs[0]
                source.type = ir.TensorType(ir.DataType.FLOAT)
                source.name, real.name = real.name, f"{real.name}.old"
                copy.graph.insert_before(node, clip)
            real.replace_all_uses_with(source, replace_graph_outputs=True)
    return copy


def test_units_are_what_real_values_connect() -> None:
    model = canonical_qdq(_qdq())

    found = [[node.op_type for node in unit] for unit in units(model.graph)]

    assert found == [
        ["Conv", "Relu"], ["MaxPool"], ["Conv"], ["Conv"], ["Add", "Relu"], ["GlobalAveragePool"],
        ["Flatten"], ["Gemm"],
    ]  # fmt: skip


def test_all_in_float_computes_the_network_without_activation_quantizers() -> None:
    qdq = _qdq()
    model = lower(qdq, float_layers=_all(qdq))

    assert not {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} & set(ops(model))
    expected, found = run_onnx(_float_network(qdq), {"x": X}), run_onnx(model, {"x": X})
    # The same float32 operations but for the order of sums.
    assert_equivalent(expected, found, rtol=1e-5, atol=1e-5)


def test_weights_stay_packed_and_are_unfolded_while_loading(tmp_path: pathlib.Path) -> None:
    qdq = _qdq()
    model = lower(qdq, float_layers=_all(qdq))
    path = tmp_path / "a.onnx"
    ir.save(model, path)

    real = [v for v in model.graph.initializers.values() if v.dtype is ir.DataType.FLOAT]
    assert max(v.const_value.size for v in real if v.const_value is not None) <= 8  # scales and biases
    steps = trace(path, {"x": X}, runs=1).steps
    assert {"Cast", "Unpack"}.isdisjoint({step.op for step in steps})
    assert [step.kind for step in steps].count("float_layer") == 4
    rows = inspection.inspect(path)["bits"]["layers"]
    assert [row["name"] for row in rows] == ["w0", "w1", "w2", "w3"]
    assert all(row["weight_bits"] == {"3": kernels} for row, kernels in zip(rows, (4, 8, 8, 5), strict=True))
    assert all(row["activation_bits"] == 32 for row in rows)


def test_a_region_is_float_inside_and_has_codes_at_its_borders() -> None:
    qdq = _qdq()
    model = lower(qdq, float_layers={"c1": "c is fast", "c2": "c is fast"})

    notes = {
        n.op_type: n.metadata_props[metadata.ISLAND]
        for n in model.graph
        if metadata.FLOAT in n.metadata_props
    }
    assert notes == {"Conv": "c is fast"}
    assert kept_float(model) == {"c1": "c is fast", "c2": "c is fast"}
    names = Reference(model).codes
    assert "m0.codes" in names
    assert "c1.codes" in names  # the Add behind it is integer
    assert set(Reference(model).islands) == {"c1.codes", "c2.codes"}


def test_every_operator_that_computes_has_the_reason() -> None:
    qdq = _qdq()
    model = lower(qdq, float_layers=_all(qdq))

    noted = {
        n.op_type: n.metadata_props[metadata.ISLAND]
        for n in model.graph
        if metadata.ISLAND in n.metadata_props
    }
    assert noted == dict.fromkeys(("Conv", "Clip", "MaxPool", "Add", "GlobalAveragePool", "Gemm"), "because")


@pytest.mark.parametrize("between", ["b = Relu (a)", "b = Tanh (a)", "b = Identity (a)"])
def test_what_is_beyond_the_codes_stays_clamped(tmp_path: pathlib.Path, between: str) -> None:
    """A learned clip of 3 bits, at a third of the range."""
    rng = np.random.default_rng(0)
    body = f"a = Conv (x, w0) {between} y = Conv (b, w1)"
    text = f"net (float[N, 2, 8, 8] x) => (float[N, 3, 4, 4] y) {{ {body} }}"
    model = normal(text, {"w0": rng.normal(size=(4, 2, 3, 3)), "w1": rng.normal(size=(3, 4, 3, 3))})
    plan = calibrated(model, {"x": X}, activation_bits=3)
    narrow = [p.model_copy(update={"scale": p.scale / 3}) for p in plan.activations]  # type: ignore[operator]
    qdq = quantize(model, plan.replaced(activations=[plan.activations[0], *narrow[1:]]))
    kept = _all(qdq)
    ir.save(qdq, tmp_path / "q.onnx")
    ir.save(lower(qdq, float_layers=kept), tmp_path / "i.onnx")

    lowered = ir.load(tmp_path / "i.onnx")
    assert "Relu" not in ops(lowered)
    assert "QuantizeLinear" not in ops(lowered)
    expected, found = run_onnx(_float_network(qdq), {"x": X}), run_onnx(lowered, {"x": X})
    assert_equivalent(expected, found, rtol=1e-5, atol=1e-5)
    assert kept_float(lowered).items() <= kept.items()
    assert verify(tmp_path / "i.onnx", tmp_path / "q.onnx", [{"x": X}], threads=1).passed
    unclamped = ir.load(tmp_path / "i.onnx")
    for node in unclamped.graph:
        if node.op_type == "Clip":
            set_array(node.inputs[2], np.array(1e3, np.float32))  # type: ignore[arg-type]
    ir.save(unclamped, tmp_path / "i.onnx")
    assert not verify(tmp_path / "i.onnx", tmp_path / "q.onnx", [{"x": X}], threads=1).passed


def test_codes_that_stand_for_a_relu_stay_a_clamp() -> None:
    """Other tools leave out a Relu before codes that cannot be negative."""
    rng = np.random.default_rng(0)
    body = "a = Conv (x, w0) b = Relu (a) y = Conv (b, w1)"
    text = f"net (float[N, 2, 8, 8] x) => (float[N, 3, 4, 4] y) {{ {body} }}"
    model = normal(text, {"w0": rng.normal(size=(4, 2, 3, 3)), "w1": rng.normal(size=(3, 4, 3, 3))})
    qdq = quantize(model, calibrated(model, {"x": X}, weight_bits=8, grid=Grid.SIGNED))
    expected = run_onnx(qdq, {"x": X}, level="disabled")["y"]
    for node in list(qdq.graph):
        node.metadata_props.clear()
        if node.op_type == "Relu":
            bypass(node)

    found = run_onnx(lower(qdq, float_layers=_all(qdq)), {"x": X})["y"]

    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_clamp_costs_no_operator(tmp_path: pathlib.Path) -> None:
    """ONNX Runtime computes it in Conv, as it does with a Relu; behind MaxPool it is not repeated."""
    text = """
    net (float[N, 2, 8, 8] x) => (float[N, 3, 1, 1] y) {
        c = Conv (x, w0)
        r = Relu (c)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        y = Conv (m, w1)
    }"""
    rng = np.random.default_rng(0)
    model = normal(text, {"w0": rng.normal(size=(4, 2, 3, 3)), "w1": rng.normal(size=(3, 4, 3, 3))})
    counts = []
    for bits in (4, 8):
        qdq = quantize(model, calibrated(model, {"x": X}, activation_bits=bits))
        graph = canonical_qdq(qdq).graph
        layers = {str(v.name): "." for unit in units(graph) for node in unit for v in node.outputs[:1]}
        ir.save(lower(qdq, float_layers=layers), tmp_path / f"{bits}.onnx")
        steps = [step.op for step in trace(tmp_path / f"{bits}.onnx", {"x": X}, runs=1).steps]
        counts.append(len(steps))
    assert counts[0] == counts[1]


def test_values_between_float_operators_are_not_quantized() -> None:
    model = lower(_qdq(), float_layers=dict.fromkeys(["c1", "c2", "a"], "."))

    codes = Reference(model).codes
    assert not {"c1.codes", "c2.codes"} & set(codes)
    assert "r1.codes" in codes  # the Relu is in the unit of the Add


@pytest.mark.parametrize(
    "layers",
    [[], ["c0"], ["m0"], ["c1", "c2", "a"], ["y"], ["c0", "m0", "g"], ["c0", "y"]],
    ids=lambda layers: "+".join(layers) or "none",
)
def test_mixed_files_verify(tmp_path: pathlib.Path, layers: list[str]) -> None:
    qdq = _qdq()
    ir.save(qdq, tmp_path / "q.onnx")
    ir.save(lower(qdq, float_layers=dict.fromkeys(layers, ".")), tmp_path / "i.onnx")

    result = verify(tmp_path / "i.onnx", tmp_path / "q.onnx", [{"x": X}], threads=1)

    assert result.passed, result.first_different
    assert result.codes_compared > 0


def test_a_file_in_float_alone_verifies_by_its_outputs(tmp_path: pathlib.Path) -> None:
    qdq = _qdq()
    ir.save(qdq, tmp_path / "q.onnx")
    model = lower(qdq, float_layers=_all(qdq))
    ir.save(model, tmp_path / "i.onnx")

    result = verify(tmp_path / "i.onnx", tmp_path / "q.onnx", [{"x": X}], threads=1)

    assert result.passed
    assert (result.codes_compared, result.real_compared) == (0, 4 * 15)  # levels x outputs

    bias = next(v for v in model.graph.initializers.values() if v.name and v.name.startswith("b3"))
    bias.const_value = ir.tensor(bias.const_value.numpy() + 1)  # type: ignore[union-attr]
    ir.save(model, tmp_path / "i.onnx")
    assert not verify(tmp_path / "i.onnx", tmp_path / "q.onnx", [{"x": X}], threads=1).passed


def test_lower_like_makes_the_same_file_again() -> None:
    qdq = _qdq(8)
    first = lower(qdq, vnni=True, float_layers={"c1": "reason"})

    again = lower_like(qdq, first)

    assert ir.to_proto(again).SerializeToString(deterministic=True) == ir.to_proto(first).SerializeToString(
        deterministic=True
    )


def test_an_operator_that_could_be_integer_between_codes_stays_float() -> None:
    text = """
    net (float[N, 2, 8, 8] x) => (float[N, 2, 8, 8] y) {
        c = Conv (x, w)
        a = Add (c, x)
        y = Conv (a, w)
    }
    """
    model = normal(text, {"w": np.random.default_rng(0).normal(size=(2, 2, 1, 1))})
    lowered = lower(quantize(model, calibrated(model, {"x": X})), float_layers={"a": "."})

    assert "Add" in ops(lowered)
    assert "QLinearAdd" not in ops(lowered)


def test_an_operator_that_is_not_there_is_refused() -> None:
    with pytest.raises(PassError, match=r"leave 'c9' in float: no operator has .*\. Name the first outputs"):
        lower(_qdq(), float_layers={"c1": ".", "c9": "."})


def test_lower_like_leaves_out_what_is_not_there() -> None:
    noted = lower(_qdq(), float_layers={"c1": "."})
    next(n for n in noted.graph if metadata.FLOAT in n.metadata_props).metadata_props[metadata.FLOAT] = "c9"

    assert not any(metadata.FLOAT in node.metadata_props for node in lower_like(_qdq(), noted).graph)


def test_second_run_changes_nothing() -> None:
    model = canonical_qdq(_qdq())
    layers = {"c1": "."}

    assert KeepFloatPass(layers)(model).modified
    assert not KeepFloatPass(layers)(model).modified
