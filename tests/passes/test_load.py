from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_text import parse

from mpqtool.passes.errors import ModelError
from mpqtool.passes.load import load_model, save_model, stored_bytes


def _model(weight: Any = None, **options: Any) -> ir.Model:
    numbers = np.arange(12.0).reshape(3, 4) if weight is None else weight
    return parse(
        "net (float[n,4] x) => (float[n,3] y) { y = Gemm<transB=1>(x, w) }", {"w": numbers}, **options
    )


_FEEDS: dict[str, NDArray[Any]] = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "model.onnx"


def _write(path: pathlib.Path, model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    path.write_bytes(data)
    return data


def test_what_is_saved_is_loaded(path: pathlib.Path) -> None:
    model = _model()
    save_model(model, path)
    assert_equivalent(run_onnx(model, _FEEDS), run_onnx(load_model(path), _FEEDS), rtol=0, atol=0)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_saving_drops_paths_of_the_exporter_but_not_from_the_model(path: pathlib.Path) -> None:
    model = _model()
    node = model.graph[0]
    node.metadata_props.update({"pkg.torch.onnx.stack_trace": "/home/someone/train.py", "mpqtool.bits": "4"})
    model.graph.doc_string = "/home/someone/train.py"
    save_model(model, path)
    assert b"/home/someone" not in path.read_bytes()
    assert load_model(path).graph[0].metadata_props == {"mpqtool.bits": "4"}
    assert "pkg.torch.onnx.stack_trace" in node.metadata_props


def test_equal_models_give_equal_bytes(tmp_path: pathlib.Path) -> None:
    for name, keys in (("a", "pq"), ("b", "qp")):
        model = _model()
        for key in keys:
            model.graph[0].metadata_props[f"mpqtool.{key}"] = key
        save_model(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot write '.*no/model.onnx': No such file or directory\."):
        save_model(_model(), tmp_path / "no" / "model.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(
            b"PK\x03\x04 a torch checkpoint", r"it is not an ONNX file\. Give one; `mpqtool export`", id="zip"
        ),
        pytest.param(b"<html>404</html>", "it is not an ONNX file", id="html"),
        pytest.param(b"ply\nformat ascii 1.0\n", "it is not an ONNX file", id="text"),
    ],
)
def test_a_file_of_another_kind(path: pathlib.Path, data: bytes | None, message: str) -> None:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match=r"it is a folder\. Give an ONNX file\."):
        load_model(tmp_path)


def test_every_truncation_is_noticed(path: pathlib.Path) -> None:
    model = _model()
    del model.graph.opset_imports["com.microsoft"]  # without it, the file would be whole
    whole = _write(path, model)
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
        if length > 1:
            assert f"truncated or damaged, {length} bytes are there" in str(caught.value)


@pytest.mark.parametrize("opset", [6, 27])
def test_an_opset_out_of_range(path: pathlib.Path, opset: int) -> None:
    model = _model()
    model.graph.opset_imports[""] = opset
    _write(path, model)
    with pytest.raises(ModelError, match=rf"its opset is {opset}, 7 to 26 are supported"):
        load_model(path)


def test_an_ir_version_of_the_future(path: pathlib.Path) -> None:
    model = _model()
    model.ir_version = onnx.IR_VERSION + 1
    _write(path, model)
    with pytest.raises(ModelError, match=rf"its IR version is {onnx.IR_VERSION + 1}, the newest"):
        load_model(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf], ids=str)
def test_a_weight_that_is_not_finite_is_named(path: pathlib.Path, number: float) -> None:
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = number
    _write(path, _model(weight))
    with pytest.raises(ModelError, match=r"tensor 'w' holds 1 numbers that are NaN or infinite"):
        load_model(path)


def test_nan_in_a_constant_node_is_named(path: pathlib.Path) -> None:
    model = parse(
        "net (float[n,1] x) => (float[n,1] y) { c = Constant<value = float[2] {1.0, 2.0}>() y = Mul(x, c) }"
    )
    model.graph[0].attributes["value"] = ir.AttrTensor("value", ir.tensor(np.float32([np.nan, 1])))
    _write(path, model)
    with pytest.raises(ModelError, match=r"tensor 'c' holds 1 numbers"):
        load_model(path)


@pytest.mark.parametrize(("bound", "accepted"), [(np.inf, True), (np.nan, False)], ids=["inf", "nan"])
def test_an_infinite_scalar_is_a_bound(path: pathlib.Path, bound: float, accepted: bool) -> None:
    _write(
        path,
        parse(
            "net (float[n] x) => (float[n] y) { y = Clip(x, low, high) }",
            {"low": np.float64(0), "high": np.float64(bound)},
        ),
    )
    if accepted:
        load_model(path)
    else:
        with pytest.raises(ModelError, match="'high'"):
            load_model(path)


def _changed(path: pathlib.Path, change: Callable[[ir.Node], None]) -> None:
    model = _model()
    model.graph[0].name = "last layer"
    change(model.graph[0])
    _write(path, model)


def _rename(node: ir.Node) -> None:
    node.op_type = "Gelu"


def _attribute(node: ir.Node) -> None:
    node.attributes["slope"] = ir.AttrFloat32("slope", 1.0)


def _unnamed(node: ir.Node) -> None:
    _attribute(node)
    node.name = None


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (
            _rename,
            "Node(last layer) with schema(::Gelu:20) has input size 2 not in range [min=1, max=1].",
        ),
        (_attribute, "Unrecognized attribute: slope for operator Gemm, in node 'last layer'."),
        (_unnamed, "Unrecognized attribute: slope for operator Gemm."),
    ],
)
def test_a_graph_that_breaks_the_rules(
    path: pathlib.Path, change: Callable[[ir.Node], None], sentences: str
) -> None:
    _changed(path, change)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value) == f"Cannot use {str(path)!r}: {sentences} Export the model again."


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "branch"])
def test_an_operator_unknown_to_onnx_is_left_for_the_importer(path: pathlib.Path, inside: bool) -> None:
    text = "net (float[n] x) => (float[n] y) { y = Relu(x) }"
    if inside:
        text = """net (float[n] x, bool c) => (float[n] y) {
            y = If(c) <then_branch = t () => (float[n] a) { a = Relu(x) },
                       else_branch = e () => (float[n] b) { b = Neg(x) }>
        }"""
    model = parse(text)
    relu = next(n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.op_type == "Relu")
    relu.op_type = "Reluu"
    _write(path, model)
    found = load_model(path)
    assert [(n.domain, n.op_type) for n in ir.traversal.RecursiveGraphIterator(found.graph)][
        -2 if inside else -1
    ] == ("", "Reluu")


def test_a_rule_broken_beside_an_unknown_operator_is_found(path: pathlib.Path) -> None:
    model = parse("net (float[n] x) => (float[n] y) { a = Relu(x) y = Neg(a) }")
    model.graph[0].op_type = "Reluu"
    _attribute(model.graph[1])
    _write(path, model)
    with pytest.raises(ModelError, match="Unrecognized attribute: slope for operator Neg"):
        load_model(path)


def test_initializers_of_ir_version_3_need_not_be_inputs(path: pathlib.Path) -> None:
    model = parse(
        "net (float[n,4] x) => (float[n,3] y) { y = MatMul(x, w) }", {"w": np.ones((4, 3))}, opset=8
    )
    model.ir_version = 3
    _write(path, model)
    found = load_model(path)
    assert [value.name for value in found.graph.inputs] == ["x"]
    assert_equivalent(run_onnx(model, _FEEDS), run_onnx(found, _FEEDS), rtol=0, atol=0)


def test_a_file_of_another_domain_alone(path: pathlib.Path) -> None:
    proto = ir.to_proto(_model())
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(
        ModelError, match=r"it holds no operators of ai\.onnx, only of ai\.onnx\.ml\. Give a "
    ):
        load_model(path)


@pytest.mark.parametrize("leave", ["type", "shape"])
@pytest.mark.parametrize("op", ["Relu", "com.microsoft.Else"])
def test_an_output_without_a_shape(path: pathlib.Path, leave: str, op: str) -> None:
    text = f"net (float[n,3] x) => (float[n,3] y) {{ y = {op}(x) }}"
    proto = ir.to_proto(parse(text))
    if leave == "shape":
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    elif op == "Relu":
        proto.graph.output[0].ClearField("type")
    path.write_bytes(proto.SerializeToString())
    (y,) = load_model(path).graph.outputs
    known = op == "Relu" or leave == "type"
    assert y.dtype is ir.DataType.FLOAT
    assert [str(size) for size in y.shape] == ["n", "3"] if known else y.shape is None
    save_model(load_model(path), path)
    load_model(path)


def test_an_output_whose_type_nobody_knows(path: pathlib.Path) -> None:
    proto = ir.to_proto(parse("net (float[n,3] x) => (float[n,3] y) { y = com.microsoft.Else(x) }"))
    proto.graph.output[0].ClearField("type")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="Export the model again"):
        load_model(path)


def test_an_output_without_a_shape_beside_external_data(path: pathlib.Path, external: pathlib.Path) -> None:
    proto = onnx.load(path, load_external_data=False)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    path.write_bytes(proto.SerializeToString())
    assert [str(size) for size in load_model(path).graph.outputs[0].shape] == ["n", "3"]


def test_symbolic_names_stay(path: pathlib.Path) -> None:
    _write(path, parse("net (float[rows,cols] x) => (float[rows,cols] y) { y = Relu(x) }"))
    assert [str(size) for size in load_model(path).graph.outputs[0].shape] == ["rows", "cols"]


@pytest.fixture
def external(path: pathlib.Path) -> pathlib.Path:
    """The data file of a model that keeps its weight there."""
    ir.save(
        _model(np.arange(400.0).reshape(100, 4)[:3]), path, external_data="model.data", size_threshold_bytes=0
    )
    return path.with_name("model.data")


def test_external_data_is_read_whole(
    path: pathlib.Path, external: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = load_model(path)
    external.unlink()
    save_model(model, tmp_path / "copy.onnx")
    copy = load_model(tmp_path / "copy.onnx").graph.initializers["w"].const_value
    np.testing.assert_array_equal(copy.numpy(), np.arange(12.0).reshape(3, 4))


def test_external_data_that_is_missing(path: pathlib.Path, external: pathlib.Path) -> None:
    external.unlink()
    with pytest.raises(ModelError, match=r"tensor 'w' lies in 'model.data', but there is no such file"):
        load_model(path)


def test_external_data_that_is_truncated(path: pathlib.Path, external: pathlib.Path) -> None:
    external.write_bytes(external.read_bytes()[:40])
    with pytest.raises(ModelError, match=r"'model.data', but it has 40 bytes, 48 are needed"):
        load_model(path)


def test_external_data_outside_the_folder(path: pathlib.Path, external: pathlib.Path) -> None:
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret.data"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"lies in '../secret.data', outside the folder of the model"):
        load_model(path)


def test_stored_bytes_counts_external_data(tmp_path: pathlib.Path) -> None:
    tensor = numpy_helper.from_array(np.zeros((40, 10), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("x", 1, ["n", 40])], [info("y", 1, ["n", 10])], [tensor]
    )
    model = onnx.helper.make_model(graph)
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert stored_bytes(tmp_path / "inside.onnx") == (tmp_path / "inside.onnx").stat().st_size
    assert stored_bytes(tmp_path / "m.onnx") == (tmp_path / "m.onnx").stat().st_size + 1600
