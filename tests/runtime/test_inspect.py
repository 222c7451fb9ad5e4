from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, quantized, residual_cnn

from mpqtool.passes.errors import ModelError
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.values import add_initializer, array, set_array
from mpqtool.runtime.inspect import _kind, inspect

WEIGHTS = {"w0": 4 * 2 * 9, "w1": 8 * 4 * 9, "w2": 8 * 4, "w3": 5 * 8}
MACS = {"w0": WEIGHTS["w0"] * 64, "w1": WEIGHTS["w1"] * 4, "w2": WEIGHTS["w2"] * 4, "w3": WEIGHTS["w3"]}


@pytest.fixture
def paths(tmp_path: pathlib.Path, rng: np.random.Generator) -> dict[str, pathlib.Path]:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=4, activation_bits=6)
    w1 = plan.weights[1].model_copy(update={"bits": (0, 1, 2, 2, 3, 3, 3, 8)})
    qdq = quantize(model, plan.replaced(weights=[plan.weights[0], w1, *plan.weights[2:]]))
    found = {kind: tmp_path / f"{kind}.onnx" for kind in ("float", "qdq", "int")}
    for kind, made in (("float", model), ("qdq", qdq), ("int", lower(qdq))):
        ir.save(made, found[kind])
    return found


@pytest.mark.parametrize("kind", ["float", "qdq", "int"])
def test_layers_have_the_same_sizes_in_every_kind(paths: dict[str, pathlib.Path], kind: str) -> None:
    facts = inspect(paths[kind])

    rows = facts["bits"]["layers"]
    assert facts["kind"] == kind
    assert [row["name"] for row in rows] == ["w0", "w1", "w2", "w3"]
    assert [row["op"] for row in rows] == ["Conv", "Conv", "Conv", "Gemm"]
    assert {row["name"]: row["weights"] for row in rows} == WEIGHTS
    assert {row["name"]: row["macs"] for row in rows} == MACS
    assert facts["cost"]["macs"] == sum(MACS.values())
    assert facts["bytes"]["integer" if kind == "int" else kind] == paths[kind].stat().st_size
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("kind", ["qdq", "int"])
def test_widths_are_read_from_the_file(paths: dict[str, pathlib.Path], kind: str) -> None:
    facts = inspect(paths[kind])

    rows = {row["name"]: row for row in facts["bits"]["layers"]}
    assert rows["w1"]["weight_bits"] == {"0": 1, "1": 1, "2": 2, "3": 3, "8": 1}
    assert rows["w0"]["weight_bits"] == {"4": 4}
    assert [row["activation_bits"] for row in rows.values()] == [8, 6, 6, 6]
    bits = 4 * (WEIGHTS["w0"] + WEIGHTS["w2"] + WEIGHTS["w3"]) + (0 + 1 + 4 + 9 + 8) * WEIGHTS["w1"] / 8
    assert facts["bits"]["weights_eff"] == pytest.approx(bits / sum(WEIGHTS.values()))
    # x; r0, whose codes MaxPool hands to two layers, and g, those of f. No layer reads the sum.
    values = {8: 2 * 64, 6: 4 * 64 + 8}
    expected = sum(width * count for width, count in values.items()) / sum(values.values())
    assert facts["bits"]["activations_eff"] == pytest.approx(expected)
    assert facts["bytes"]["weights_owed"] == bits / 8


def test_an_integer_file_counts_its_nodes_and_bytes(paths: dict[str, pathlib.Path]) -> None:
    facts = inspect(paths["int"])

    assert facts["operators"]["QLinearConv"] == 3
    assert facts["nodes"] == {"integer": 14, "float": 0, "mac_share_integer": 1.0, "islands": []}
    held = ir.load(paths["int"]).graph.initializers
    named = {n: v.const_value.nbytes for n, v in held.items() if v.const_value is not None}
    describing = (".packed", ".sizes")
    starts = ("shape.", "sizes.", "width", "fields", "shift", "count")
    stored = sum(size for name, size in named.items() if name.endswith(describing) or name.startswith(starts))
    plain = sum(named.get(f"{w}.codes", 0) + named.get(f"{w}.codes_u8", 0) for w in WEIGHTS)
    assert facts["bytes"]["weights_stored"] == stored + plain


def test_the_largest_accumulator_is_proved(paths: dict[str, pathlib.Path]) -> None:
    qdq = ir.load(paths["qdq"]).graph.initializers
    rows = {row["name"]: row for row in inspect(paths["int"])["bits"]["layers"]}

    for name, bias, x, bits in (("w0", "b0", "x", 8), ("w1", "b1", "r0", 6)):
        codes, zero = array(qdq[f"{name}.codes"]).astype(int), int(array(qdq[f"{x}.zero_point"]))
        codes = codes.reshape(len(codes), -1)
        worst = [np.where(codes > 0, high, low) for low, high in ((0, 2**bits - 1), (2**bits - 1, 0))]
        sums = [((w - zero) * codes).sum(axis=1) + array(qdq[f"{bias}.codes"]) for w in worst]
        assert rows[name]["accumulator_max"] == np.abs(sums).max()
        assert 2 ** (rows[name]["accumulator_bits"] - 2) <= np.abs(sums).max()
        assert np.abs(sums).max() < 2 ** (rows[name]["accumulator_bits"] - 1)


@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_accumulators_are_the_same_for_every_target(
    tmp_path: pathlib.Path, paths: dict[str, pathlib.Path], target: str
) -> None:
    ir.save(lower(ir.load(paths["qdq"]), target=target), tmp_path / "other.onnx")
    wanted, found = (inspect(path)["bits"]["layers"] for path in (paths["int"], tmp_path / "other.onnx"))

    assert [row["accumulator_max"] for row in found] == [row["accumulator_max"] for row in wanted]
    assert [row["saturates_without_vnni"] for row in found] == [False] * 4


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("QLinearMul", "int"), ("QLinearSigmoid", "int"), ("QGemm", "int"), ("MatMulInteger", "int"),
        ("DequantizeLinear", "qdq"), ("Mul", "float"),
    ],
)  # fmt: skip
def test_a_file_of_another_tool_is_known_by_its_operators(op: str, kind: str) -> None:
    node = ir.node(op, [], domain="com.microsoft")
    graph = ir.Graph([], [], nodes=[node], opset_imports={"": 21, "com.microsoft": 1})

    assert _kind(ir.Model(graph, ir_version=10)) == kind


@pytest.mark.parametrize(
    ("weight_bits", "vnni", "saturates"), [(8, True, True), (8, False, False), (6, True, False)]
)
def test_what_can_saturate_is_said(
    tmp_path: pathlib.Path, rng: np.random.Generator, weight_bits: int, vnni: bool, saturates: bool
) -> None:
    model = residual_cnn(rng)
    plan = calibrated(model, {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}, weight_bits=weight_bits)
    ir.save(lower(quantize(model, plan), vnni=vnni), tmp_path / "int.onnx")

    rows = inspect(tmp_path / "int.onnx")["bits"]["layers"]

    assert [row["saturates_without_vnni"] for row in rows] == [saturates] * 4


def test_removed_kernels_cost_nothing(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    model = residual_cnn(rng, width=6)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=4)
    w0 = plan.weights[0].model_copy(update={"bits": (4, 0, 4, 4, 0, 4)})
    set_array(model.graph.initializers["b0"], -np.ones(6, np.float32))  # behind a Relu: real 0
    qdq = quantize(model, plan.replaced(weights=[w0, *plan.weights[1:]]))
    ir.save(lower(qdq), tmp_path / "int.onnx")

    facts = inspect(tmp_path / "int.onnx")

    before = {"w0": 6 * 2 * 9, "w1": 12 * 6 * 9, "w2": 12 * 6, "w3": 5 * 12}
    left = {name: count if name == "w3" else count * 4 // 6 for name, count in before.items()}
    places = {"w0": 64, "w1": 4, "w2": 4, "w3": 1}
    rows = {row["name"]: row for row in facts["bits"]["layers"]}
    assert {name: row["weights"] for name, row in rows.items()} == left
    assert rows["w0"]["weight_bits"] == {"4": 4}
    assert {n: row["weights_removed"] for n, row in rows.items()} == {n: before[n] - left[n] for n in left}
    assert facts["cost"]["macs"] == sum(left[name] * places[name] for name in left)
    assert facts["bytes"]["weights_owed"] == sum(left.values()) / 2
    assert facts["bits"]["weights_eff"] == pytest.approx(4 * sum(left.values()) / sum(before.values()))


def test_a_float_file_has_32_bits(paths: dict[str, pathlib.Path]) -> None:
    facts = inspect(paths["float"])

    assert facts["bits"]["weights_eff"] == facts["bits"]["activations_eff"] == 32
    assert facts["bytes"]["weights_stored"] == facts["bytes"]["weights_owed"] == 4 * sum(WEIGHTS.values())
    assert facts["nodes"]["integer"] == 0
    assert facts["nodes"]["mac_share_integer"] == 0


def test_islands_are_listed_and_their_macs_are_not_integer(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
        c = Conv (x, w)
        s = Exp (c)
        y = Conv (s, v)
    }
    """
    weights = {"w": rng.normal(size=(2, 2, 1, 1)), "v": rng.normal(size=(2, 2, 1, 1))}
    qdq = quantized(text, weights, {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)})
    conv = next(node for node in qdq.graph if node.outputs[0].name == "c")
    conv.replace_input_with(0, qdq.graph.inputs[0])  # now its input is float
    ir.save(lower(qdq), tmp_path / "int.onnx")

    nodes = inspect(tmp_path / "int.onnx")["nodes"]

    assert nodes["mac_share_integer"] == 0.5
    assert [(island["op"], island["reason"]) for island in nodes["islands"]] == [
        ("Conv", "its input is not quantized"),
        ("Exp", "it has no integer form"),
    ]


def _facts(
    folder: pathlib.Path, text: str, weights: dict[str, np.ndarray], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Facts of the integer file of a text with input ``x``."""
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    ir.save(lower(quantized(text, weights, feeds)), folder / "int.onnx")
    return inspect(folder / "int.onnx")


@pytest.mark.parametrize(
    ("body", "islands"),
    [
        pytest.param(
            "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, "
            "count_include_pad = 1> (c)",
            [],
            id="average-with-ceil-mode",
        ),
        pytest.param(
            "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c)",
            [],
            id="average-with-uncounted-padding",
        ),
        pytest.param(
            "y = Softmax <axis = 1> (c)",
            [("Softmax", "its result is an output of the model before it is quantized")],
            id="behind-the-codes",
        ),
        pytest.param(
            "s = Softmax <axis = 1> (c) y = Transpose (s)",
            [("Softmax", "its result goes to Transpose before it is quantized")],
            id="moves",
        ),
        pytest.param(
            "s = Sigmoid (c) y = Add (s, k)",
            [
                ("Sigmoid", "its result goes to Add before it is quantized"),
                ("Add", "its result is an output of the model before it is quantized"),
            ],
            id="constant-operand",
        ),
        pytest.param("y = AveragePool <kernel_shape = [3, 3]> (c)", [], id="none"),
        pytest.param(
            'y = Resize <mode = "linear"> (c, , up)',
            [("Resize", "its result holds other numbers than its input")],
            id="resize",
        ),
    ],
)
def test_float_operators_are_islands_with_a_reason(
    tmp_path: pathlib.Path, body: str, islands: list[tuple[str, str]]
) -> None:
    text = f"net (float[N, 2, 8, 8] x) => (float[A, B, C, D] y) {{ c = Conv (x, w) {body} }}"
    constants = {"k)": np.ones((1, 2, 1, 1)), "up)": np.array([1.0, 1, 2, 2], np.float32)}
    used = {name[:-1]: numbers for name, numbers in constants.items() if name in body}
    weights = {"w": np.ones((2, 2, 1, 1)), **used}

    nodes = _facts(tmp_path, text, weights, (3, 2, 8, 8))["nodes"]

    assert [(island["op"], island["reason"]) for island in nodes["islands"]] == islands


def test_what_is_computed_at_load_is_no_node(paths: dict[str, pathlib.Path]) -> None:
    model = ir.load(paths["int"])
    graph, before = model.graph, inspect(paths["int"])["nodes"]
    factor = add_initializer(graph, "k", np.ones(5, np.float32))
    nodes = [ir.node("Exp", [factor], name="exp")]
    nodes.append(ir.node("Neg", nodes[0].outputs, name="neg"))
    nodes.append(ir.node("Mul", [graph.outputs[0], nodes[1].outputs[0]], name="mul"))
    for node in nodes:
        out = node.outputs[0]
        out.name, out.type, out.shape = f"{node.name}.out", ir.TensorType(ir.DataType.FLOAT), ir.Shape([5])
    nodes[-1].outputs[0].shape = graph.outputs[0].shape
    graph.extend(nodes)
    graph.outputs[0] = nodes[-1].outputs[0]
    ir.save(model, paths["int"])

    nodes_now = inspect(paths["int"])["nodes"]

    assert nodes_now["islands"] == [{"name": "mul", "op": "Mul", "reason": "it has no integer form"}]
    assert (nodes_now["integer"], nodes_now["float"]) == (before["integer"], before["float"] + 1)


def test_a_product_in_float_counts_at_every_position(tmp_path: pathlib.Path) -> None:
    """The integer file and the float one agree about it."""
    text = "net (float[1, 7, 4] x) => (float[1, 7, 5] y) { y = MatMul (x, w) }"
    body = "c = Conv (x, v) s = Squeeze (c, k) y = MatMul (s, w)"
    conv = f"net (float[1, 7, 4, 1] x) => (float[1, 7, 5] y) {{ {body} }}"
    weights = {"w": np.ones((4, 5)), "v": np.ones((7, 7, 1, 1)), "k": np.array([3])}
    ir.save(normal(text, {"w": weights["w"]}), tmp_path / "float.onnx")

    facts = _facts(tmp_path, conv, weights, (1, 7, 4, 1))

    macs = {row["name"]: row["macs"] for row in facts["bits"]["layers"]}
    assert facts["kind"] == "int"
    assert macs == {"v": 7 * 7 * 4, "w": 7 * 4 * 5}
    assert inspect(tmp_path / "float.onnx")["cost"]["macs"] == macs["w"]


def test_weights_that_are_not_read_do_no_harm(paths: dict[str, pathlib.Path]) -> None:
    qdq = ir.load(paths["qdq"])
    node = next(node for node in qdq.graph if node.outputs[0].name == "w1")
    node.attributes["axis"] = ir.AttrInt64("axis", 1)
    ir.save(qdq, paths["qdq"])

    facts = inspect(paths["qdq"])

    assert facts["kind"] == "qdq"
    assert facts["bits"]["layers"] == []


@pytest.mark.parametrize("content", [None, b"", b"not a model"], ids=["missing", "empty", "text"])
def test_what_is_no_model_is_a_fault(tmp_path: pathlib.Path, content: bytes | None) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ModelError, match=r"Cannot read '.*a\.onnx': "):
        inspect(path)


def test_torch_is_not_imported(paths: dict[str, pathlib.Path]) -> None:
    code = (
        "import sys\nfrom mpqtool.runtime.inspect import inspect\n"
        f"inspect({str(paths['int'])!r})\nassert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-P", "-c", code], check=True)
