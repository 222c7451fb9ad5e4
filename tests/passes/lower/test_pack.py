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
from mpqtool.passes.lower.pack import PackWeightsPass, codes_of, fields_of, pack_fields, unpack_fields
from mpqtool.passes.metadata import DOMAIN, GRID, PACKED, WEIGHT, WEIGHT_BITS, digits
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import array
from mpqtool.runtime import integer_layers
from mpqtool.runtime.reference import Reference
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


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_numpy_unpacks_what_was_packed(width: int, numbers: list[int]) -> None:
    fields = np.array(numbers) % 2**width

    data = pack_fields(fields.astype(np.uint8), width)

    assert len(data) == -(-len(fields) // 8) * width
    np.testing.assert_array_equal(unpack_fields(data, width, len(fields)), fields)


@pytest.mark.parametrize("width", range(2, 9))
def test_the_full_grid_is_stored_as_the_signed_one(width: int) -> None:
    low, high = arithmetic.code_range(width, Grid.FULL)
    codes = np.arange(low, high + 1).astype(np.int8)

    fields = fields_of(codes, width, Grid.FULL)

    np.testing.assert_array_equal(fields, np.arange(2**width))
    for grid in (Grid.FULL, Grid.SIGNED):
        np.testing.assert_array_equal(codes_of(fields, width, grid), codes, strict=True)


def _model(weights: list[tuple[np.ndarray, list[int], Grid]], zero: int) -> ir.Model:
    """A graph that gives the codes of weights as float32; they are packed."""
    nodes, initializers = [], []
    for index, (codes, bits, grid) in enumerate(weights):
        stored = (codes.astype(np.int16) + zero).astype(np.uint8 if zero else np.int8)
        value = ir.Value(name=f"w{index}", const_value=ir.tensor(stored), shape=ir.Shape(stored.shape))
        value.type = ir.TensorType(ir.tensor(stored).dtype)
        initializers.append(value)
        notes = {WEIGHT: f"w{index}", WEIGHT_BITS: digits(bits), GRID: grid.value}
        node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, metadata_props=notes)
        node.outputs[0].name, node.outputs[0].type = f"y{index}", ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(stored.shape)
        nodes.append(node)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        [],
        outputs,
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": 21, DOMAIN: PACKED},
        name="weights",
    )
    return ir.Model(graph, ir_version=10)


@settings(max_examples=40, deadline=None)
@given(st.lists(_weights(), min_size=1, max_size=3), st.sampled_from([0, 128]), st.sampled_from(list(LEVELS)))
def test_what_is_packed_is_unpacked_by_every_engine(
    weights: list[tuple[np.ndarray, list[int], Grid]], zero: int, level: str
) -> None:
    model = _model(weights, zero)

    PackWeightsPass()(model)
    found, reference = run_onnx(model, {}, level=level), Reference(model).run({})

    for index, (codes, _, _) in enumerate(weights):
        np.testing.assert_array_equal(found[f"y{index}"], codes.astype(np.float32) + zero)
        np.testing.assert_array_equal(reference[f"y{index}"], codes.astype(np.float32) + zero)


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
    assert ops(result.model).count("Arrange") >= 1
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
    assert kept.isdisjoint({"BitShift", "Gather", "TopK", "Reshape", "Mod", "Split", "Concat", "BitwiseXor"})


def test_equal_shapes_and_the_functions_are_stored_once(qdq: ir.Model) -> None:
    model = lower(qdq)

    names = [function.name for function in model.functions.values()]
    assert names == ["UnpackFields", "UnpackOdd", "Arrange"]
    shapes = [name for name in model.graph.initializers if name.startswith("shape.")]
    assert len(shapes) == len(set(shapes))
    assert model.graph.opset_imports[DOMAIN] == PACKED
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
    model = _model([(codes, bits, Grid.ODD)], 0)

    PackWeightsPass()(model)

    owed = -(-sum(b * codes[0].size for b in bits) // 8)
    assert integer_layers.stored(model) <= 1.03 * owed + 200
    assert integer_layers.stored(model) >= owed


def test_no_copy_of_a_weight_is_left_in_the_file(qdq: ir.Model) -> None:
    held = lower(qdq).graph.initializers

    assert any(name.endswith(".packed") for name in held)
    packed = [node.outputs[0].name for node in lower(qdq).graph if node.op_type == "Arrange"]
    assert packed
    assert not set(packed) & set(held)
    assert all(array(value).dtype != np.float32 or array(value).size <= 16 for value in held.values())


def test_a_stream_holds_all_kernels_of_a_width(rng: np.random.Generator) -> None:
    model = residual_cnn(rng, width=8)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}

    lowered = lower(quantize(model, calibrated(model, feeds, weight_bits=3)))

    assert [name for name in lowered.graph.initializers if name.endswith(".packed")] == ["odd3.packed"]
    assert ops(lowered).count("UnpackOdd") == 1


def test_both_grids_with_0_share_a_stream(rng: np.random.Generator) -> None:
    grids = (Grid.SIGNED, Grid.FULL)
    model = _model([(_codes(rng, (16, 8, 3, 3), [3] * 16, grid), [3] * 16, grid) for grid in grids], 0)

    PackWeightsPass()(model)

    assert [name for name in model.graph.initializers if name.endswith(".packed")] == ["signed3.packed"]
    assert ops(model).count("UnpackSigned") == 1


def test_many_weights_add_few_nodes(rng: np.random.Generator) -> None:
    """ONNX Runtime took two minutes to load 54 weights of 300 nodes each."""
    bits = [int(b) for b in rng.integers(1, 9, 16)]
    weights = [(_codes(rng, (16, 8, 3, 3), bits, Grid.ODD), bits, Grid.ODD) for _ in range(50)]
    model = _model(weights, 0)

    PackWeightsPass()(model)

    of_functions = {function.name: len(function.graph) for function in model.functions.values()}
    assert sum(of_functions.get(op, 1) for op in ops(model)) <= 8 * 60 + 50 * 20


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

    held = result.model.graph.initializers
    # In the tiny network there are 8 codes, which packing would not make smaller.
    assert spoil != "tiny" or "w2.codes" in held
    assert any(name.endswith(".packed") for name in held) is (spoil == "tiny")


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
