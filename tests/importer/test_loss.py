from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import BATCHES, imported

CLASSES = 5
VERSIONS = [
    *(("NegativeLogLikelihoodLoss", opset) for opset in (12, 13, 22)),
    *(("SoftmaxCrossEntropyLoss", opset) for opset in (12, 13)),
]


def _model(
    op: str,
    attributes: str,
    *,
    opset: int,
    spatial: str = "",
    weighted: bool = False,
    labels: str = "int64",
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"net (float[N, {CLASSES}{spatial}] x, {labels}[N{spatial}] labels) "
        f"=> ({', '.join(f'float[] {name}' for name in outputs)}) "
        f"{{ {', '.join(outputs)} = {op} <{attributes}> (x, labels{', w' if weighted else ''}) }}"
    )
    if weighted:
        weights = np.array([0.5, 1, 2, 0.1, 3], np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return proto


def _feeds(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    x, labels = ([d.dim_value or batch for d in i.type.tensor_type.shape.dim] for i in model.graph.input)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[1].type.tensor_type.elem_type)
    return {
        "x": rng.normal(size=x).astype(np.float32),
        "labels": rng.integers(0, CLASSES, labels).astype(dtype),
    }


def _assert_matches(model: onnx.ModelProto) -> None:
    module = imported(model)
    for batch in BATCHES:
        feeds = _feeds(model, batch)
        expected = run_onnx(model, feeds).values()
        for made, wanted in zip(module(*map(torch.from_numpy, feeds.values())), expected, strict=True):
            np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spatial", ["", ", 4", ", 3, 2"])
def test_loss(op: str, opset: int, reduction: str, weighted: bool, spatial: str) -> None:
    _assert_matches(_model(op, f'reduction = "{reduction}"', opset=opset, weighted=weighted, spatial=spatial))


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_to_ignore(op: str, opset: int, reduction: str, weighted: bool) -> None:
    attributes = f'reduction = "{reduction}", ignore_index = 1'
    _assert_matches(_model(op, attributes, opset=opset, weighted=weighted, spatial=", 7"))


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
def test_small_labels(op: str, opset: int) -> None:
    _assert_matches(_model(op, 'reduction = "mean"', opset=opset, labels="int32"))


@pytest.mark.parametrize("opset", [12, 13])
def test_the_logarithm_of_the_softmax(opset: int) -> None:
    outputs = ("y", "logarithm")
    _assert_matches(_model("SoftmaxCrossEntropyLoss", 'reduction = "mean"', opset=opset, outputs=outputs))


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_gradients(op: str) -> None:
    module = imported(_model(op, "ignore_index = 0", opset=13))
    x = torch.rand(4, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 4, 2])
    assert torch.autograd.gradcheck(lambda x: module(x, labels), x.requires_grad_())
