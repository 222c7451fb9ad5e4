from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated, residual_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.errors import ModelError
from mpqtool.passes.lower.pack import (
    PackWeightsPass,
    pack_codes,
    pack_widths,
    unpack_codes,
    unpack_widths,
)
from mpqtool.passes.lower.unpack import UNPACK, UNPACK_MIXED, unpack_functions
from mpqtool.passes.metadata import DOMAIN
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import array
from mpqtool.runtime.session import LEVELS


def _codes(rng: np.random.Generator, shape: tuple[int, ...], bits: list[int], grid: Grid) -> np.ndarray:
    codes = np.zeros(shape, np.int8)
    for kernel, width in enumerate(bits):
        low, high = arithmetic.code_range(width, grid)
        step = 2 if grid is Grid.ODD and 0 < width < 8 else 1
        codes[kernel] = rng.choice(np.arange(low, high + 1, step), shape[1:])
    return codes


@st.composite
def _weights(draw: st.DrawFn) -> tuple[np.ndarray, list[int], Grid]:
    grid = draw(st.sampled_from(Grid))
    bits = draw(
        st.lists(st.integers(0, 8).filter(lambda b: grid is Grid.ODD or b != 1), min_size=1, max_size=12)
    )
    shape = (len(bits), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    return _codes(np.random.default_rng(draw(st.integers(0, 99))), shape, bits, grid), bits, grid


@given(_weights())
def test_numpy_unpacks_what_was_packed(weights: tuple[np.ndarray, list[int], Grid]) -> None:
    codes, bits, grid = weights

    data = pack_codes(codes, bits, grid)
    widths, kernels = pack_widths(bits)

    owed = sum(b * codes[0].size for b in bits) / 8
    assert owed <= len(data) <= owed + sum(set(bits))  # each width ends with a whole group of 8 weights
    np.testing.assert_array_equal(unpack_widths(widths, kernels, len(bits)), bits)
    np.testing.assert_array_equal(unpack_codes(data, np.array(bits), codes.shape, grid), codes)


def _unpack_model(
    codes: np.ndarray, bits: list[int], grid: Grid, zero: np.generic
) -> tuple[ir.Model, dict[str, np.ndarray]]:
    widths, kernels = pack_widths(bits)
    values = {
        "data": pack_codes(codes, bits, grid),
        "widths": widths,
        **({"kernels": kernels} if len(widths) > 1 else {}),
        "shape": np.array(codes.shape, np.int16),
        "zero": np.array(zero),
    }
    inputs = [
        ir.Value(name=n, type=ir.TensorType(ir.tensor(v).dtype), shape=ir.Shape(v.shape))
        for n, v in values.items()
    ]
    function = (UNPACK_MIXED if "kernels" in values else UNPACK)[grid]
    node = ir.node(function, inputs, domain=DOMAIN)
    output = node.outputs[0]
    output.name, output.type = "codes", ir.TensorType(ir.tensor(values["zero"]).dtype)
    output.shape = ir.Shape(codes.shape)
    graph = ir.Graph(inputs, [output], nodes=[node], opset_imports={"": 21, DOMAIN: 1}, name="unpack")
    return ir.Model(graph, ir_version=10, functions=unpack_functions(function)), values


@settings(max_examples=40, deadline=None)
@given(_weights(), st.sampled_from([np.int8(0), np.uint8(128)]))
def test_the_onnx_function_unpacks_what_was_packed(
    weights: tuple[np.ndarray, list[int], Grid], zero: np.generic
) -> None:
    codes, bits, grid = weights
    model, values = _unpack_model(codes, bits, grid, zero)

    found = run_onnx(model, values)["codes"]

    assert found.dtype == zero.dtype
    np.testing.assert_array_equal(found.astype(np.int16) - np.int16(zero), codes)


@pytest.fixture
def qdq(rng: np.random.Generator) -> ir.Model:
    model = residual_cnn(rng, width=8)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds)
    mixed = [
        w.model_copy(update={"bits": tuple(int(b) for b in rng.integers(0, 9, len(w.bits)))})
        for w in plan.weights
    ]
    return quantize(model, plan.replaced(weights=mixed))


def _unpacked(qdq: ir.Model, monkeypatch: pytest.MonkeyPatch) -> ir.Model:
    with monkeypatch.context() as patch:
        patch.setattr(
            PackWeightsPass, "call", lambda self, model: ir.passes.PassResult(model, modified=False)
        )
        return lower(qdq)


@pytest.mark.parametrize("level", LEVELS)
def test_packing_changes_no_output(
    qdq: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plain = _unpacked(qdq, monkeypatch)
    before = run_onnx(plain, feeds, level=level)

    result = PackWeightsPass()(plain)

    assert result.modified
    assert ops(result.model).count("UnpackOddMixed") == 4
    assert_equivalent(before, run_onnx(result.model, feeds, level=level), rtol=0, atol=0)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_onnx_runtime_unpacks_while_loading(qdq: ir.Model, tmp_path: pathlib.Path, level: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4

    ort.InferenceSession(
        ir.to_proto(lower(qdq)).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    kept = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "QLinearConv" in kept
    assert kept.isdisjoint({"BitShift", "Gather", "CumSum", "Reshape", "Mod", "Split", "Add", "CastLike"})


def test_equal_shapes_and_the_functions_are_stored_once(qdq: ir.Model) -> None:
    model = lower(qdq)

    assert [function.name for function in model.functions.values()] == ["UnpackFields", "UnpackOddMixed"]
    shapes = [name for name in model.graph.initializers if name.startswith("shape.")]
    assert len(shapes) == len(set(shapes))
    assert model.graph.opset_imports[DOMAIN] == 1
    assert all(function.opset_imports[""] == 21 for function in model.functions.values())


_SHAPES = {"3x3": (64, 32, 3, 3), "wide-depthwise": (1024, 1, 3, 3), "1x1": (96, 16, 1, 1), "dense": (10, 64)}


@pytest.mark.parametrize("shape", _SHAPES.values(), ids=_SHAPES)
@pytest.mark.parametrize(
    "widths", [*([b] for b in range(1, 8)), [2, 4], [1, 2], [2, 3, 4, 8], [0, 3, 4, 6]], ids=str
)
def test_what_is_stored_is_what_is_owed(
    rng: np.random.Generator, shape: tuple[int, ...], widths: list[int]
) -> None:
    bits = rng.choice(widths, shape[0]).tolist()
    codes = _codes(rng, shape, bits, Grid.ODD)
    _, values = _unpack_model(codes, bits, Grid.ODD, np.int8(0))

    owed = -(-sum(b * codes[0].size for b in bits) // 8)
    assert sum(held.nbytes for held in values.values()) <= 1.03 * owed + 200


def test_no_copy_of_a_weight_is_left_in_the_file(qdq: ir.Model) -> None:
    held = lower(qdq).graph.initializers

    assert sum(name.endswith(".packed") for name in held) == 4
    others = [array(value) for name, value in held.items() if not name.endswith((".packed", ".kernels"))]
    assert max(numbers.size for numbers in others) == 16  # what there is for each kernel


def test_one_width_for_all_kernels_is_stored_once(rng: np.random.Generator) -> None:
    model = residual_cnn(rng, width=8)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}

    lowered = lower(quantize(model, calibrated(model, feeds, weight_bits=3)))

    widths = array(lowered.graph.initializers["w1.widths"])
    assert widths is not None
    np.testing.assert_array_equal(widths, [3])


@pytest.mark.parametrize("spoil", ["all-8", "no-notes", "tiny"])
def test_is_left_alone(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    model = residual_cnn(rng, width=2 if spoil == "tiny" else 4)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    bits = 8 if spoil == "all-8" else 3
    lowered = _unpacked(quantize(model, calibrated(model, feeds, weight_bits=bits)), monkeypatch)
    if spoil == "no-notes":
        for node in lowered.graph:
            node.metadata_props.clear()

    result = PackWeightsPass()(lowered)

    packed = [name for name in result.model.graph.initializers if name.endswith(".packed")]
    assert "w2.packed" not in packed  # in the tiny network: 8 codes, and 12 bytes to pack them
    assert bool(packed) is (spoil == "tiny")


def test_second_run_changes_nothing(qdq: ir.Model) -> None:
    model = lower(qdq)

    assert not PackWeightsPass()(model).modified


def test_codes_off_the_noted_grid_are_refused(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    plan = calibrated(model, {"x": rng.normal(size=(4, 2, 8, 8)).astype(np.float32)}, weight_bits=3)
    qdq = quantize(model, plan)
    codes = qdq.graph.initializers["w0.codes"]
    altered = array(codes).copy()
    altered.flat[0] += 1  # an odd code becomes an even one
    codes.const_value = ir.tensor(altered, name="w0.codes")
    with pytest.raises(ModelError, match=r"Cannot pack weight 'w0': .* on the odd grid"):
        lower(qdq)
