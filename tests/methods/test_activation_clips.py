from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_text import parse
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.methods.activation_clips import six_sigma_clips
from mpqtool.passes import pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach

_TEXT = """
    net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
        low = Constant <value = float {0}> ()
        high = Constant <value = float {2.5}> ()
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        b = BatchNormalization (a, gamma, beta, mean, variance)
        c = Relu (b)
        d = Conv <pads = [1, 1, 1, 1]> (c, w1)
        e = Relu (d)
        f = Conv <pads = [1, 1, 1, 1]> (e, w2)
        g = Clip (f, low, high)
        h = Conv <pads = [1, 1, 1, 1]> (g, w2)
        i = Sigmoid (h)
        y = Conv <pads = [1, 1, 1, 1]> (i, w3)
    }
"""


@pytest.fixture
def network(rng: np.random.Generator) -> fx.GraphModule:
    weights = {f"w{i}": rng.normal(size=(4, 2 if i == 0 else 4, 3, 3)) for i in range(3)}
    weights |= {"w3": rng.normal(size=(2, 4, 3, 3)), "gamma": [1, 2, 3, -4], "beta": [0, 1, 2, 3]}
    weights |= {"mean": [0] * 4, "variance": [1] * 4}
    model = pipelines.normalize(parse(_TEXT, weights))
    plan = place(pipelines.fold_batch_norm(model), weight_bits=8, activation_bits=8, grid=Grid.ODD)
    # Weights stay as they are, so that the test can compute them.
    made = attach(import_graph(model), plan.replaced(weights=[]))
    for quantizer in _quantizers(made):
        quantizer.set_numbers(
            scale=1e-3 if quantizer.name == "x" else 1.0, zero_point=128 if quantizer.name == "x" else 0
        )
    return made


def _quantizers(network: fx.GraphModule) -> list[ActivationQuantizer]:
    return [q for q in activation_quantizers(network) if isinstance(q, ActivationQuantizer)]


def test_clips(network: fx.GraphModule) -> None:
    x = torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    class _Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.meta.get("onnx_name") == "d":
                seen.append(result)
            return result

    with torch.no_grad():
        _Watch(network.eval()).run(x)
    variance, mean = torch.var_mean(seen[0].double(), (0, 2, 3), correction=0)

    clips = six_sigma_clips(network, [(x[:20],), (x[20:],)], _quantizers(network))

    assert clips.keys() == {"c", "e", "g"}  # not the input, nor what no ReLU makes
    assert clips["c"] == 3 + 6 * 4  # beta + 6 |gamma| of the last channel
    assert clips["e"] == pytest.approx(float((mean + 6 * variance.sqrt()).max()), rel=1e-6)
    assert clips["g"] == 2.5  # Clip ends there


def test_only_what_is_wanted(network: fx.GraphModule) -> None:
    wanted = [quantizer for quantizer in _quantizers(network) if quantizer.name == "c"]
    assert six_sigma_clips(network, [], wanted) == {"c": 27.0}  # from BatchNormalization: needs no data
