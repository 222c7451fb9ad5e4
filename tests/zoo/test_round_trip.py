"""Zoo networks through export, normalize, import, one step of training, and back into the ONNX graph."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from learning import assert_learns, assert_written_back, run_torch
from torch import Tensor, nn

from mpqtool import zoo
from mpqtool.export import export_onnx
from mpqtool.importer import import_graph
from mpqtool.passes.load import load_model
from mpqtool.passes.pipelines import normalize

# Float32 in three orders of summation, up to fifty layers deep, as a part of the largest logit.
RELATIVE = 1e-4
NARROW: dict[str, dict[str, Any]] = {
    "resnet20": {"in_channels": 1},
    "vgg_small": {"width": 8, "size": 16},
    "mobilenet_v1": {"width": 0.25, "small": True},
    "resnet18": {"width": 8, "small": True},
    "efficientnet_b0": {"width": 0.25, "depth": 0.25, "small": True},
    "mobilenet_v3_small": {"width": 0.5, "small": True},
    "transformer": {"size": 16, "width": 16, "depth": 2, "heads": 2},
}

CNN = {"Conv", "BatchNormalization", "Relu", "Flatten", "Gemm"}
OPERATORS = {
    "resnet20": CNN | {"Add", "GlobalAveragePool"},
    "vgg_small": CNN | {"MaxPool"},
    "mobilenet_v1": CNN | {"GlobalAveragePool"},
    "resnet18": CNN | {"Add", "GlobalAveragePool"},
    "efficientnet_b0": CNN - {"Relu"} | {"Add", "GlobalAveragePool", "Silu", "Sigmoid", "Mul"},
    "mobilenet_v3_small": CNN | {"Add", "GlobalAveragePool", "HardSwish", "HardSigmoid", "Mul"},
    "transformer": {
        "Conv", "Reshape", "Transpose", "Add", "LayerNormalization", "MatMul", "Div", "Softmax", "Gelu",
        "GlobalAveragePool", "Flatten", "Gemm",
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the file it was exported to."""

    name: str
    network: nn.Module
    shape: tuple[int, ...]
    path: pathlib.Path

    def batch(self, count: int) -> Tensor:
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(count))

    def model(self) -> ir.Model:
        return normalize(load_model(self.path))


@pytest.fixture(scope="module", params=NARROW)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A network whose BatchNormalization has seen something, so that none of its numbers is trivial."""
    name: str = request.param
    torch.manual_seed(0)
    network = getattr(zoo, name)(**NARROW[name], classes=10)
    shape = tuple(network.input_shape)
    if name not in ("vgg_small", "transformer"):
        shape = (shape[0], 16, 16)
    with torch.no_grad():
        network.train()(torch.randn(16, *shape))
    path = tmp_path_factory.mktemp("zoo") / f"{name}.onnx"
    export_onnx(network.eval(), path, input_shape=shape)
    return Case(name, network, shape, path)


def test_every_network_is_tried() -> None:
    assert set(NARROW) == set(OPERATORS) == set(zoo.__all__)


def test_names_are_those_of_the_torch_network_and_of_the_onnx_file(case: Case) -> None:
    model = case.model()
    module = import_graph(model)
    assert set(dict(module.named_parameters())) == set(dict(case.network.named_parameters()))
    weights = {name for name in case.network.state_dict() if not name.endswith("num_batches_tracked")}
    assert weights <= set(load_model(case.path).graph.initializers)


def test_the_file_has_operators_of_the_standard_alone_a_node_for_each_layer(case: Case) -> None:
    proto = onnx.load(case.path)
    onnx.checker.check_model(proto, full_check=True)
    found = Counter(node.op_type for node in proto.graph.node)
    assert set(found) == OPERATORS[case.name] - {"Silu"}  # it is written out
    assert not proto.functions
    modules = Counter(type(module) for module in case.network.modules())
    assert found["Conv"] == modules[nn.Conv2d]
    assert found["BatchNormalization"] == modules[nn.BatchNorm2d]
    assert found["LayerNormalization"] == modules[nn.LayerNorm]
    (value,) = proto.graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["batch", *case.shape]
    assert (proto.opset_import[0].version, proto.ir_version) == (21, 10)
    assert b".py" not in case.path.read_bytes()


@pytest.mark.parametrize("batch", [1, 3])
def test_torch_network_imported_graph_and_onnx_runtime_agree(case: Case, batch: int) -> None:
    x, model = case.batch(batch), case.model()
    with torch.no_grad():
        expected = {"output": case.network(x).numpy()}
    atol = RELATIVE * float(np.abs(expected["output"]).max())
    made = run_torch(import_graph(model), model, x)
    found = run_onnx(load_model(case.path), {"x": x.numpy()})
    assert_equivalent(expected, made, rtol=0, atol=atol)
    assert_equivalent(expected, found, rtol=0, atol=atol)


def test_folding_batch_normalization_changes_no_output(case: Case) -> None:
    x, kept, folded = case.batch(2), case.model(), normalize(load_model(case.path), fold_batch_norm=True)
    assert "BatchNormalization" not in {node.op_type for node in folded.graph}
    before = run_torch(import_graph(kept), kept, x)
    after = run_torch(import_graph(folded), folded, x)
    assert_equivalent(before, after, rtol=0, atol=RELATIVE * float(np.abs(before["output"]).max()))


def test_one_step_reaches_every_weight_lowers_the_loss_and_goes_back(case: Case) -> None:
    model, x = case.model(), case.batch(16)
    label = torch.arange(16) % 10
    module = import_graph(model)
    assert_learns(module, lambda: nn.functional.cross_entropy(module(x)[0], label), lr=1e-4)
    assert_written_back(module, model, x, relative=RELATIVE)


@pytest.mark.parametrize("opset", [7, 11, 17, 20])
def test_files_of_the_older_exporter(case: Case, opset: int, tmp_path: pathlib.Path) -> None:
    """Scripted, activations in pieces, BatchNormalization folded by torch itself from opset 9 on."""
    if case.name == "transformer":
        opset = max(opset, 9)  # Erf
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        torch.onnx.export(
            case.network,
            (case.batch(2),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["output"],
            dynamic_axes={"x": {0: "batch"}},
        )
    model = normalize(load_model(path))
    found = {node.op_type for node in model.graph}
    assert found == OPERATORS[case.name] - (set() if opset < 9 else {"BatchNormalization"})
    for batch in (1, 3):
        x = case.batch(batch)
        expected = run_onnx(load_model(path), {"x": x.numpy()})
        atol = RELATIVE * float(np.abs(expected["output"]).max())
        assert_equivalent(expected, run_torch(import_graph(model), model, x), rtol=0, atol=atol)
