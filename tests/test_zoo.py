"""Zoo networks through export, normalize, import, one step of training, and back into the ONNX graph."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from torch import nn

from mpqtool.export import export_onnx
from mpqtool.importer import import_graph, write_parameters
from mpqtool.passes.load import load_model
from mpqtool.passes.pipelines import normalize
from mpqtool.zoo import resnet20


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-20 whose BatchNormalization has seen something, so that none of its numbers is trivial."""
    torch.manual_seed(0)
    module = resnet20(in_channels=1)
    with torch.no_grad():
        module(torch.randn(8, 1, 12, 12))
    return module.eval()


@pytest.fixture(scope="module")
def path(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("zoo") / "resnet20.onnx"
    export_onnx(network, path, input_shape=(1, 12, 12))
    return path


@pytest.fixture
def model(path: pathlib.Path) -> ir.Model:
    return normalize(load_model(path))


def _batch(rng: np.random.Generator, count: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(count, 1, 12, 12)).astype(np.float32))


def _output(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    (value,) = values.values()
    return {"logits": value}


def test_resnet20_is_the_network_of_the_paper() -> None:
    module = resnet20()
    first, classifier = 9 * 3 * 16, 64 * 10
    stages = 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    shortcuts = (
        16 * 32 + 32 * 64
    )  # 1x1 convolutions; the paper's own, without weights, give 0.27 M in table 6
    weights = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    assert weights == first + stages + shortcuts + classifier == 270_896
    assert module.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("in_channels", [3, 1])
def test_input_shape_is_one_that_the_network_takes(in_channels: int) -> None:
    module = resnet20(in_channels=in_channels).eval()
    assert module.input_shape == (in_channels, 32, 32)
    assert module(torch.zeros(1, *module.input_shape)).shape == (1, 10)


def test_names_are_those_of_the_torch_network_and_of_the_onnx_file(
    network: nn.Module, model: ir.Model
) -> None:
    module = import_graph(model)
    names = set(dict(module.named_parameters()))
    buffers = set(dict(module.named_buffers()))
    assert names == set(dict(network.named_parameters()))
    assert names | buffers == set(model.graph.initializers)


@pytest.mark.parametrize("batch", [1, 3])
def test_torch_network_imported_graph_and_onnx_runtime_agree(
    network: nn.Module, model: ir.Model, batch: int, rng: np.random.Generator
) -> None:
    x = _batch(rng, batch)
    with torch.no_grad():
        expected = {"logits": network(x).numpy()}
        made = {"logits": import_graph(model).eval()(x)[0].numpy()}
    # Twenty layers in three orders of summation; the logits are of size 1.
    assert_equivalent(expected, made, rtol=1e-4, atol=1e-4)
    assert_equivalent(expected, _output(run_onnx(model, {"x": x.numpy()})), rtol=1e-4, atol=1e-4)


def test_folding_batch_normalization_changes_no_output(path: pathlib.Path, rng: np.random.Generator) -> None:
    x = _batch(rng, 2)
    kept, folded = (
        import_graph(normalize(load_model(path), fold_batch_norm=fold)).eval() for fold in (False, True)
    )
    assert not dict(folded.named_buffers())
    with torch.no_grad():
        torch.testing.assert_close(folded(x)[0], kept(x)[0], rtol=1e-4, atol=1e-4)


def test_one_step_reaches_every_weight_lowers_the_loss_and_goes_back(
    model: ir.Model, rng: np.random.Generator
) -> None:
    module = import_graph(model)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x, label = _batch(rng, 16), torch.from_numpy(rng.integers(0, 10, 16))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)

    first = nn.functional.cross_entropy(module(x)[0], label)
    first.backward()
    silent = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    optimizer.step()
    assert nn.functional.cross_entropy(module(x)[0], label) < first

    after = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert unmoved == []  # weights by the optimizer, running statistics by the forward passes

    assert write_parameters(model, {name: t.numpy() for name, t in after.items()}) == len(after)
    with torch.no_grad():
        made = {"logits": module.eval()(x)[0].numpy()}
    assert_equivalent(made, _output(run_onnx(model, {"x": x.numpy()})), rtol=1e-4, atol=1e-4)
