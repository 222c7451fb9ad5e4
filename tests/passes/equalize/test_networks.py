"""The passes one after the other on real architectures: the same function, and fewer errors per tensor."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from channels import feeds_of, maxima_of, quantized_per_tensor, sqnr, statistics_of
from compare import run_onnx
from numpy.typing import NDArray
from torch import nn

from mpqtool import zoo
from mpqtool.export import export_onnx
from mpqtool.passes import pipelines
from mpqtool.passes.constants import constant
from mpqtool.passes.load import load_model
from mpqtool.passes.values import replace_value

RELATIVE = 1e-4
"""Float32 up to fifty layers deep, every weight rounded once more, as a part of the largest logit."""


def _model(network: nn.Module, folder: pathlib.Path) -> ir.Model:
    """Folded, with channels of very different sizes: what BatchNormalization of a trained network leaves."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.bias, -0.5, 1.5)
            with torch.no_grad():
                part.weight.copy_(torch.exp2(torch.empty_like(part.weight).uniform_(-4, 2)))
    export_onnx(network.eval(), folder / "float.onnx", input_shape=network.input_shape)
    return pipelines.normalize(load_model(folder / "float.onnx"), fold_batch_norm=True)


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    torch.manual_seed(0)
    return _model(zoo.mobilenet_v1(0.25, small=True, classes=10), tmp_path_factory.mktemp("v1"))


@pytest.fixture(scope="module")
def v1_relu6(v1: ir.Model) -> ir.Model:
    """With ReLU6 for every ReLU."""
    model = v1.clone()
    bounds = [constant(model.graph, name, np.float32(number)) for name, number in (("low", 0), ("high", 6))]
    for node in model.graph:
        if node.op_type == "Relu":
            clip = ir.node("Clip", [node.inputs[0], *bounds])
            model.graph.insert_before(node, clip)
            replace_value(node.outputs[0], clip.outputs[0])
            model.graph.remove(node, safe=True)
    return model


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    torch.manual_seed(0)
    return _model(zoo.mobilenet_v3_small(0.5, small=True, classes=10), tmp_path_factory.mktemp("v3"))


def _logits(model: ir.Model) -> NDArray[Any]:
    (logits,) = run_onnx(model, feeds_of(model)).values()
    return np.asarray(logits)


def _assert_same(before: ir.Model, after: ir.Model) -> None:
    wanted, found = _logits(before), _logits(after)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=RELATIVE * float(np.abs(wanted).max()))


def _changed(before: ir.Model, after: ir.Model) -> int:
    """How many initializers hold other numbers."""
    pairs = zip(before.graph.initializers.values(), after.graph.initializers.values(), strict=True)
    return sum(not np.array_equal(a.const_value.numpy(), b.const_value.numpy()) for a, b in pairs)


@pytest.mark.parametrize("name", ["v1", "v1_relu6", "v3"])
def test_every_pass_keeps_the_function(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)

    rescaled = pipelines.rescale_depthwise(model, maxima_of(model, feeds_of(model)))
    equalized = pipelines.equalize(rescaled, maxima_of(rescaled, feeds_of(model)))
    absorbed = pipelines.absorb_bias(equalized, statistics_of(equalized, feeds_of(model)))

    assert _changed(model, rescaled)
    assert _changed(rescaled, equalized)
    assert _changed(equalized, absorbed) or name == "v1_relu6"  # a ceiling does not keep a shift
    for after in (rescaled, equalized, absorbed):
        _assert_same(model, after)


def test_mobilenet_v1_is_one_row_of_layers(v1: ir.Model) -> None:
    assert _changed(v1, pipelines.equalize(v1)) == 2 * 28 - 1  # all but the bias of the last layer


def test_equalizing_mobilenet_v1_helps_8_bits_per_tensor(v1: ir.Model) -> None:
    wanted = _logits(v1)

    before, after = (
        sqnr(wanted, _logits(quantized_per_tensor(model))) for model in (v1, pipelines.equalize(v1))
    )

    assert after > before + 6  # a bit
