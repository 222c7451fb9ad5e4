from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import imported, parse

from mpqtool.importer import registry, supported
from mpqtool.passes.errors import UnsupportedOpError

NAMES = [
    "conv.weight", "conv.weight.bias", 'a"b', "0..x", "for",
    "training", "graph", "_graph", "_code", "meta", "_parameters",
]  # fmt: skip
TOTAL = sum(range(len(NAMES))) + len(NAMES) / 4


def _chain(names: list[str]) -> onnx.ModelProto:
    """Adds one vector after the other, i + 1/4; the text form of ONNX cannot spell such names."""
    body = "  ".join(f"v{i + 1} = Add (v{i}, w{i})" for i in range(len(names)))
    proto = parse(
        body,
        inputs={"v0": (3,)},
        initializers={f"w{i}": np.full(3, i + 0.25, np.float32) for i in range(len(names))},
        outputs=(f"v{len(names)}",),
    )
    for i, name in enumerate(names):
        proto.graph.initializer[i].name = proto.graph.node[i].input[1] = name
    return proto


def test_parameters_are_named_as_initializers_whatever_these_are() -> None:
    module = imported(_chain(NAMES))
    assert list(dict(module.named_parameters())) == NAMES
    assert list(module.state_dict()) == NAMES
    assert module.training is True
    assert module.get_parameter("conv.weight.bias").tolist() == [1.25] * 3
    assert module(torch.zeros(2, 3))[0].tolist() == [[TOTAL] * 3] * 2


def test_such_a_module_trains_and_changes_its_mode() -> None:
    module = imported(_chain(NAMES)).eval()
    assert module.training is False
    module.train()(torch.zeros(2, 3))[0].sum().backward()
    torch.optim.SGD(module.parameters(), lr=1).step()
    assert module(torch.zeros(1, 3))[0].tolist() == [[TOTAL - 2 * len(NAMES)] * 3]


def test_state_survives_loading_and_copying() -> None:
    module = imported(_chain(NAMES))
    copied = copy.deepcopy(module)
    with torch.no_grad():
        module.get_parameter("training").fill_(7)
    assert copied(torch.zeros(1, 3))[0].tolist() == [[TOTAL] * 3]

    copied.load_state_dict(module.state_dict())
    assert copied(torch.zeros(1, 3))[0].tolist() == [[TOTAL + 7 - NAMES.index("training") - 0.25] * 3]
    assert list(dict(copied.named_parameters())) == NAMES
    copied.graph.lint()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other\.name"):
        copied.load_state_dict({**module.state_dict(), "other.name": torch.zeros(3)})


def test_a_submodule_can_be_added_and_is_copied() -> None:
    module = imported(_chain(["w"]))
    module.add_submodule("quantizers.w0", torch.nn.ReLU())
    with module.graph.inserting_after(next(iter(module.graph.nodes))) as _:
        source = next(iter(module.graph.nodes))
        node = module.graph.call_module("quantizers.w0", (source,))
        source.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    module.recompile()
    for version in (module, copy.deepcopy(module)):
        assert version(torch.full((1, 3), -1.0))[0].tolist() == [[0.25] * 3]


def test_every_value_can_be_found_by_its_name(rng: np.random.Generator) -> None:
    proto = parse(
        "a = Conv <pads = [0, 1, 1, 1]> (x, w)  b = HardSigmoid (a)"
        "  p, q = Split <axis = 1, num_outputs = 2> (b)  y = Max (p, q)",
        inputs={"x": (2, 5, 5)},
        initializers={"w": rng.normal(size=(4, 2, 3, 3)).astype(np.float32)},
    )
    nodes = imported(proto).graph.nodes
    found = {node.meta["onnx_name"]: node.meta["onnx_op"] for node in nodes if "onnx_name" in node.meta}
    assert found == {
        "x": "Input",
        "w": "Initializer",
        "a": "Conv",
        "b": "HardSigmoid",
        "p": "Split",
        "q": "Split",
        "y": "Max",
    }
    conv = next(node for node in nodes if node.meta.get("onnx_name") == "a")
    assert [node.meta["onnx_name"] for node in conv.args[:2]] == ["x", "w"]


def test_inputs_and_outputs_are_in_graph_order() -> None:
    proto = parse("s = Sub (p, q)  t = Neg (s)", inputs={"q": (2,), "p": (2,)}, outputs=("t", "q", "s"))
    t, q, s = imported(proto)(torch.ones(1, 2), torch.full((1, 2), 3.0))
    assert (t[0, 0].item(), q[0, 0].item(), s[0, 0].item()) == (-2, 1, 2)


def test_an_initializer_can_be_an_output_and_an_input_can_be_an_initializer() -> None:
    proto = parse(
        "y = Add (x, w)",
        inputs={"x": (2,), "w": ()},
        initializers={"w": np.ones(2, np.float32)},
        outputs=("y",),
    )
    del proto.graph.input[1].type.tensor_type.shape.dim[:]
    proto.graph.input[1].type.tensor_type.shape.dim.add(dim_value=2)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [2]))
    y, w = imported(proto)(torch.zeros(1, 2))
    assert (y.tolist(), w.tolist()) == ([[1, 1]], [1, 1])


def test_a_shared_weight_is_one_parameter(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(3, 3)).astype(np.float32)
    proto = parse("a = MatMul (x, w)  y = MatMul (a, w)", inputs={"x": (3,)}, initializers={"w": weight})
    module = imported(proto)
    x = rng.normal(size=(2, 3)).astype(np.float32)
    (made,) = module(torch.from_numpy(x))
    assert len(list(module.parameters())) == 1
    np.testing.assert_allclose(made.detach().numpy(), run_onnx(proto, {"x": x})["y"], rtol=1e-5, atol=1e-6)


def _custom(op_type: str = "Relu") -> onnx.ModelProto:
    proto = parse(f"y = {op_type} (x)", inputs={"x": (3,)})
    proto.graph.node[0].domain, proto.graph.node[0].name = "my.own", "mine"
    proto.opset_import.append(onnx.helper.make_opsetid("my.own", 3))
    return proto


def test_what_cannot_be_imported_is_listed_all_at_once() -> None:
    proto = parse(
        "a = RandomUniformLike (x)  b = Relu (a)  c = Bernoulli (b)  y = Cast <to = 8> (c)",
        inputs={"x": (3,)},
    )
    for node, name in zip(proto.graph.node, ["one", "two", "three", "four"], strict=True):
        node.name = name
    with pytest.raises(UnsupportedOpError) as caught:
        imported(proto)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Cannot import 3 parts of the model:"
    assert lines[1] == (
        "  RandomUniformLike 'one' (domain 'ai.onnx', version 1): it is not handled in any version. "
        "Export the model with other operators in its place, or cut it off."
    )
    assert lines[2].startswith("  Bernoulli 'three' (domain 'ai.onnx', version 15): it is not handled")
    assert lines[3].startswith("  Cast 'four' (domain 'ai.onnx'): ")
    assert len(lines) == 4


def test_one_fault_is_one_line() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        imported(_custom())
    assert str(caught.value) == (
        "Cannot import Relu 'mine' (domain 'my.own', version 3): it is not handled, nor is anything "
        "of the domain 'my.own'. Export the model with operators of ai.onnx in its place, or cut this part "
        "off."
    )


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry._HANDLERS, ("", "Relu", 14))
    with pytest.raises(UnsupportedOpError, match=r"version 14\): it is not handled, versions 6, 13 are"):
        imported(parse("y = Relu (x)", inputs={"x": (3,)}))


def test_control_flow_says_so() -> None:
    proto = parse("y = Identity (x)", inputs={"x": (3,)})
    branch = onnx.parser.parse_graph("branch () => (float[N, 3] z) { z = Relu (x) }")
    proto.graph.node[0].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    with pytest.raises(UnsupportedOpError, match=r"^Cannot import If 'if' .*branches by the data"):
        imported(proto)


@pytest.mark.parametrize(
    ("dtype", "body", "message"),
    [
        ("string", "y = StringNormalizer (x)", "input 'x': it is text"),
        ("seq(float)", "y = SequenceAt (x, zero)", "input 'x': it is a sequence"),
        ("optional(float)", "y = OptionalGetElement (x)", "input 'x': it is an optional"),
    ],
)
def test_what_is_no_tensor_of_numbers_says_so(dtype: str, body: str, message: str) -> None:
    text = f'<ir_version: 10, opset_import: ["": 21]> net ({dtype}[N] x) => (float[N] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text.replace("(float)[N]", "(float[N])"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(0), "zero"))
    with pytest.raises(UnsupportedOpError, match=message) as caught:
        imported(proto)
    assert "only tensors of numbers are handled. Cut this part off the model" in str(caught.value)


def test_an_attribute_that_is_not_handled_is_refused() -> None:
    proto = parse("y = Relu (x)", inputs={"x": (3,)})
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("slope", 1))
    with pytest.raises(UnsupportedOpError, match=r"attribute 'slope' \(found 1\) is not handled"):
        imported(proto)


@pytest.mark.parametrize(
    ("body", "missing"),
    [("y = Concat (x, x)", "missing a required argument: 'axis'"), ("y = Conv (x)", "'weight'")],
)
def test_a_node_that_lacks_something_is_refused(body: str, missing: str) -> None:
    with pytest.raises(UnsupportedOpError, match=f"it breaks its schema: .*{missing}"):
        imported(parse(body, inputs={"x": (3,)}))


def test_what_a_constant_makes_is_no_part_of_the_state() -> None:
    proto = parse("z = ConstantOfShape (s)  y = Add (x, z)", inputs={"x": (3,)})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3], np.int64), "s"))
    module = imported(proto)
    assert (dict(module.named_parameters()), dict(module.state_dict())) == ({}, {})


def test_every_registered_version_is_one_of_the_schema() -> None:
    history = {(s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    standard = {(op, v) for op, versions in supported().items() if "::" not in op for v in versions}
    assert standard <= history


def test_the_importer_does_not_load_onnx_runtime() -> None:
    program = "import sys, mpqtool.importer; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0
