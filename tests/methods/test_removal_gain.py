from __future__ import annotations

import numpy as np
import pytest
import torch
from gains import KINDS, network, samples
from graphs import residual_cnn
from onnx_text import parse
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.methods.removal_gain import removal_gains
from mpqtool.passes import pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers

_TWICE = """
    net (float[N, 6] x) => (float[N, 3] y) {
        a = Gemm <transB = 1> (x, w0, b0)
        b = Relu (a)
        c = Gemm <transB = 1> (b, w0)
        d = Relu (c)
        y = Gemm <transB = 1> (d, w1)
    }
"""
_ROWS = """
    net (float[N, 3, 4] x) => (float[N, 3] y) {
        p = Reshape (x, rows)
        a = Gemm <transB = 1> (p, w0, b0)
        f = Reshape (a, whole)
        s = Slice (f, zero, four, one)
        c = Gemm <transB = 1> (s, w0)
        d = Concat <axis = 1> (c, f)
        y = Gemm <transB = 1> (d, w1)
    }
"""


def _network(rng: np.random.Generator, text: str = "") -> fx.GraphModule:
    """A residual network, or one that uses a matrix twice; of 8 bits."""
    if text:
        size, last = (6, 6) if text == _TWICE else (4, 16)
        weights: dict[str, np.ndarray] = {
            "w0": rng.normal(size=(size, size)), "b0": rng.normal(size=size),
            "w1": rng.normal(size=(3, last)),
        }  # fmt: skip
        if text == _ROWS:
            numbers = {"rows": [-1, 4], "whole": [-1, 12], "zero": [0], "four": [4], "one": [1]}
            weights |= {name: np.array(values) for name, values in numbers.items()}
        model = pipelines.normalize(parse(text, weights))
    else:
        model = residual_cnn(rng)
    network = attach(import_graph(model), place(model, weight_bits=8, activation_bits=8, grid=Grid.ODD))
    parameters = dict(network.named_parameters())
    for weight in weight_quantizers(network):
        weight.fit(parameters[weight.name])  # type: ignore[union-attr]
    for value in activation_quantizers(network):
        assert isinstance(value, ActivationQuantizer)
        # Fine enough for gradients not to stop at a clip.
        value.set_numbers(scale=0.2, zero_point=0 if value.nonnegative else 128)
    return network.eval()


def _by_hand(network: fx.GraphModule, x: Tensor, floor: float) -> dict[str, Tensor]:
    """One backward pass for each sample, gradients of the weights themselves."""
    parameters = dict(network.named_parameters())
    quantizers = weight_quantizers(network)
    found = {quantizer.name: torch.zeros(len(quantizer.bits)) for quantizer in quantizers}
    for sample in x.split(1):
        logits = network(sample)[0][0]
        second, first = logits.argsort()[-2:]
        margin = logits[first] - logits[second]
        grads = torch.autograd.grad(margin, [parameters[q.name] for q in quantizers])
        for quantizer, grad in zip(quantizers, grads, strict=True):
            weight = quantizer(parameters[quantizer.name]).detach()
            change = (grad * weight).flatten(1).sum(1)
            found[quantizer.name] += change**2 / (2 * max(float(margin.detach()), floor) ** 2) / len(x)
    return found


def _check(network: fx.GraphModule, x: Tensor) -> None:
    with torch.no_grad():
        top = network(x)[0].topk(2).values
    floor = float((top[:, 0] - top[:, 1]).quantile(0.05))

    found = removal_gains(network, [(x[:33],), (x[33:],)])

    # Float32 sums over up to 64 positions, of both signs.
    for name, expected in _by_hand(network, x, floor).items():
        assert (expected > 0).any()
        torch.testing.assert_close(found[name].float(), expected, rtol=1e-3, atol=1e-6)


def _batch(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def test_matches_one_backward_pass_per_sample(rng: np.random.Generator) -> None:
    _check(_network(rng), _batch(40, 2, 8, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_matches_for_every_kind_of_layer(kind: str) -> None:
    _check(network(kind), samples(40, kind=kind))


@pytest.mark.parametrize(
    ("text", "shape"), [pytest.param(_TWICE, (6,), id="samples"), pytest.param(_ROWS, (3, 4), id="and-rows")]
)
def test_one_weight_of_several_operators(rng: np.random.Generator, text: str, shape: tuple[int, ...]) -> None:
    _check(_network(rng, text), _batch(40, *shape))


def test_a_last_softmax_is_left_out() -> None:
    x = samples(8)
    plain, with_softmax = network(), network(tail="y = Softmax (z)", output="y")
    expected = removal_gains(plain, [(x,)])
    for name, gains in removal_gains(with_softmax, [(x,)]).items():
        assert torch.equal(gains, expected[name])


def test_a_kernel_of_zeros_costs_nothing(rng: np.random.Generator) -> None:
    network = _network(rng)
    weight_quantizers(network)[0].bits[1] = 0
    found = removal_gains(network, [(torch.randn(8, 2, 8, 8),)])["w0"]
    assert float(found[1]) == 0
    assert bool((found[[0, 2, 3]] > 0).any())


def test_outputs_that_are_no_classes_have_signs(rng: np.random.Generator) -> None:
    text = "net (float[N, 6] x) => (float[N, 2, 3] y) { a = Gemm <transB = 1> (x, w)  y = Reshape (a, s) }"
    model = pipelines.normalize(parse(text, {"w": rng.normal(size=(6, 6)), "s": np.array([0, 2, 3])}))
    network = attach(import_graph(model), place(model, weight_bits=8, activation_bits=8, grid=Grid.ODD))
    parameters = dict(network.named_parameters())
    for weight in weight_quantizers(network):
        weight.fit(parameters[weight.name])  # type: ignore[union-attr]
    for value in activation_quantizers(network):
        value.set_numbers(scale=0.05, zero_point=128)  # type: ignore[union-attr, call-arg]
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network.eval()(x)[0].flatten(1)
    first, again = (removal_gains(network, [(x,)], seed=3)["w"] for _ in range(2))
    # One output for each kernel, whose sign is squared away: its power by that of all, times a half.
    expected = y.square().mean(0) / y.square().mean() / 2
    torch.testing.assert_close(first.float(), expected, rtol=0.02, atol=0)  # the output is rounded to codes
    assert torch.equal(first, again)


def test_signs_of_several_outputs_do_not_depend_on_batches() -> None:
    module, x = network(classes=1), samples(12)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    relu = next(node for node in module.graph.nodes if node.meta.get("onnx_name") == "r")
    output.args = ((*output.args[0], relu),)
    module.recompile()
    whole, parts = (removal_gains(module, batches) for batches in ([(x,)], [(x[:5],), (x[5:],)]))
    torch.testing.assert_close(whole["w"], parts["w"], rtol=1e-4, atol=1e-9)  # the same sums in another order


def test_mode_is_restored_when_it_fails() -> None:
    module = network().train()
    with pytest.raises(RuntimeError):
        removal_gains(module, [(torch.randn(8, 3, 8, 8),)])
    assert module.training


def test_mode_and_gradients_are_left_alone(rng: np.random.Generator) -> None:
    network = _network(rng).train()
    removal_gains(network, [(torch.randn(8, 2, 8, 8),)])
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
