from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from importing import BATCHES, imported

from mpqtool.passes.errors import UnsupportedOpError

CHANNELS, SIZE = 4, 3


def _model(attributes: str = 'activation = "none"') -> onnx.ModelProto:
    """One node, ``w`` and ``b`` initializers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 27]> net (float[N, {CHANNELS}, L] x, '
        f"float[N, {CHANNELS}, {SIZE - 1}] past) => (float[] y, float[] present) "
        f"{{ y, present = CausalConvWithState <{attributes}> (x, w, b, past) }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (CHANNELS, 1, SIZE)), ("b", (CHANNELS,))):
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
@pytest.mark.parametrize("length", [1, 6])
def test_as_the_reference(activation: str, length: int) -> None:
    model = _model(f'activation = "{activation}"')
    module, rng = imported(model), np.random.default_rng(1)
    for batch in BATCHES:
        feeds = {
            "x": rng.normal(size=(batch, CHANNELS, length)).astype(np.float32),
            "past": rng.normal(size=(batch, CHANNELS, SIZE - 1)).astype(np.float32),
        }
        expected = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
        for made, wanted in zip(module(*map(torch.from_numpy, feeds.values())), expected, strict=True):
            np.testing.assert_allclose(made.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_two_calls_are_one() -> None:
    """The state of the first half is what the second half needs."""
    module = imported(_model())
    x, past = torch.rand(2, CHANNELS, 8), torch.zeros(2, CHANNELS, SIZE - 1)
    whole, _ = module(x, past)
    first, state = module(x[:, :, :5], past)
    second, _ = module(x[:, :, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), 2), whole, rtol=1e-6, atol=1e-6)


def test_weights_learn() -> None:
    module = imported(_model())
    module(torch.rand(2, CHANNELS, 6), torch.rand(2, CHANNELS, SIZE - 1))[0].square().sum().backward()
    assert {name for name, _ in module.named_parameters()} == {"w", "b"}
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="activation='relu', allowed are none, silu, swish"):
        imported(_model('activation = "relu"'))
