from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from mpqtool.importer.conv import any_conv
from mpqtool.methods.noise_gain import noise_gains
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.quantizers.attach import attach, weight_quantizers


def _network(*, groups: int = 1, classes: int = 4, auto_pad: str | None = None) -> fx.GraphModule:
    """conv -> relu -> linear over the flattened map, quantized at 8 bits."""
    root = nn.Module()
    generator = torch.Generator().manual_seed(0)
    root.w0 = nn.Parameter(torch.randn(4, 2 // groups, 3, 3, generator=generator))
    root.w1 = nn.Parameter(torch.randn(classes, 4 * 9, generator=generator) / 6)
    graph = fx.Graph()
    nodes = {"x": graph.placeholder("x"), "w0": graph.get_attr("w0"), "w1": graph.get_attr("w1")}
    inputs = (nodes["x"], nodes["w0"], None, (2, 2))
    if auto_pad is None:
        conv = graph.call_function(F.conv2d, (*inputs, (1, 1), (1, 1), groups))
    else:
        conv = graph.call_function(any_conv, (*inputs, None, None, groups, auto_pad))
    nodes["a"] = graph.call_function(F.relu, (conv,))
    flat = graph.call_function(torch.flatten, (nodes["a"], 1))
    nodes["y"] = graph.call_function(F.linear, (flat, nodes["w1"]))
    graph.output((nodes["y"],))
    for name, node in nodes.items():
        node.meta["onnx_name"] = name
    module = fx.GraphModule(root, graph)
    plan = Plan(
        weights=[
            WeightQuant(name="w0", bits=(8,) * 4, grid=Grid.ODD),
            WeightQuant(name="w1", bits=(8,) * classes, grid=Grid.ODD),
        ],
        activations=[ActivationQuant(name="a", bits=8, scale=0.05, zero_point=0)],
    )  # fmt: skip
    attach(module, plan)
    parameters = dict(module.named_parameters())
    for quantizer in weight_quantizers(module):
        quantizer.fit(parameters[quantizer.name])
    return module


def _brute_force(module: fx.GraphModule, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Equations 2 and 3, one backward pass per sample and class, margins not floored."""
    parameters = [dict(module.named_parameters())[name] for name in ("w0", "w1")]
    total = {"w0": torch.zeros(4), "w1": torch.zeros(len(parameters[1]))}
    for sample in x.split(1):
        logits = module(sample)[0][0]
        answer = int(logits.argmax())
        for other in range(len(logits)):
            if other == answer:
                continue
            difference = logits[other] - logits[answer]
            grads = torch.autograd.grad(difference, parameters, retain_graph=True)
            for name, grad in zip(total, grads, strict=True):
                total[name] += grad.square().flatten(1).sum(1) / (24 * difference.detach() ** 2) / len(x)
    return total


@pytest.mark.parametrize(("groups", "auto_pad"), [(1, None), (2, None), (1, "SAME_LOWER")])
def test_matches_one_backward_pass_per_sample_and_class(groups: int, auto_pad: str | None) -> None:
    module = _network(groups=groups, auto_pad=auto_pad).eval()
    x = torch.randn(60, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # keep samples whose margins the floor would not touch
        top = module(x)[0].topk(2).values
    margins = top[:, 0] - top[:, 1]
    x = x[margins > margins.quantile(0.5)]
    expected = _brute_force(module, x)
    gains = noise_gains(module, [(x[:10],), (x[10:],)], probes=400)
    # 400 random sign vectors estimate each squared norm within a few percent; the floor is the 5th
    # percentile of the margins, so two of the 30 samples count a little less than they should.
    for name, gain in gains.weights.items():
        torch.testing.assert_close(gain.float(), expected[name], rtol=0.15, atol=0)
    assert gains.from_classes


def test_probes_are_reproducible_and_seeded() -> None:
    module = _network()
    x = torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    first, again, other = (noise_gains(module, [(x,)], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.weights["w0"], again.weights["w0"])
    assert first.activations == again.activations
    assert not torch.equal(first.weights["w0"], other.weights["w0"])


def test_activation_gain_is_the_squared_gradient_at_the_quantizer() -> None:
    module = _network(classes=2).eval()
    x = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    logits = module(x)[0][0]
    # Two classes: d(Z_1 - Z_0)/da is the difference of the two rows of the last matrix.
    quantizer = weight_quantizers(module)[1]
    w1 = quantizer(dict(module.named_parameters())["w1"])
    expected = (w1[0] - w1[1]).square().sum() / (24 * (logits[0] - logits[1]) ** 2)
    gains = noise_gains(module, [(x,)], probes=1)
    assert gains.activations["a"] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_outputs_that_are_not_classes_use_the_fisher_form() -> None:
    module = _network(classes=1)
    x = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    gains = noise_gains(module, [(x,)])
    assert not gains.from_classes
    assert all(bool((gain > 0).any()) for gain in gains.weights.values())


def test_running_statistics_and_mode_are_left_alone() -> None:
    module = _network().train()
    noise_gains(module, [(torch.randn(8, 2, 6, 6),)])
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
