from __future__ import annotations

import numpy as np
import pytest
import torch
from gains import CLASSES, KINDS, Kind, brute_force, network, samples
from torch.utils._python_dispatch import TorchDispatchMode

from mpqtool.errors import OptionError, UnsupportedOpError
from mpqtool.methods import noise_gain, outputs, per_sample
from mpqtool.methods.noise_gain import noise_gains, sample_gains
from mpqtool.quantizers.attach import weight_quantizers

PADDED = "Conv <pads = [1, 1, 1, 1]>"
EVERY = range(1, CLASSES)
CLOSE = {"rtol": 1e-4, "atol": 1e-9}  # the same float32 sums in another order


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_those_of_one_backward_pass_per_sample_and_class(kind: str) -> None:
    module, x = network(kind), samples(7, kind=kind)
    found = sample_gains(module, [(x[:3],), (x[3:],)], sums="ranks", floored=False)
    expected = brute_force(module, x, ranks=EVERY)
    assert len(expected) == 2
    for name, gains in expected.items():
        torch.testing.assert_close(found.of[name], gains, **CLOSE)


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        pytest.param({"sums": "runner-up"}, [1], id="runner-up"),
        pytest.param({"sums": "ranks", "ranks": 2}, [1, 2], id="first-two"),
        pytest.param({"sums": "ranks", "ranks": 99}, EVERY, id="more-than-there-are"),
    ],
)
def test_margins_count_as_the_5th_percentile_of_the_smallest_at_least(given, ranks) -> None:  # type: ignore[no-untyped-def]
    module, x = network(), samples(30)
    with torch.no_grad():
        top = module(x)[0].sort(descending=True).values
    floor = float(np.quantile((top[:, 0] - top[:, 1]).numpy(), 0.05))
    expected = brute_force(module, x, ranks=ranks, floor=floor)
    found = noise_gains(module, [(x,)], **given)
    assert found.from_classes
    for name, gains in expected.items():
        torch.testing.assert_close(found.weights[name], gains.double().mean(0), **CLOSE)


def test_random_signs_give_the_exact_sum_on_average() -> None:
    module, x = network(), samples(20)
    exact = noise_gains(module, [(x,)], sums="ranks")
    found = noise_gains(module, [(x,)], probes=400)
    for name, gains in exact.weights.items():
        # one vector of signs is off by about 20 %, so 400 by 1 %
        torch.testing.assert_close(found.weights[name], gains, rtol=0.05, atol=0)
    assert found.activations == pytest.approx(exact.activations, rel=0.05)


def test_with_two_classes_all_ways_are_one() -> None:
    module, x = network(classes=2), samples(9)
    signs, ranks, second = (noise_gains(module, [(x,)], sums=s) for s in ("signs", "ranks", "runner-up"))
    for other in (ranks, second):
        assert other.activations == pytest.approx(signs.activations, rel=1e-5)
        for name, gains in signs.weights.items():
            torch.testing.assert_close(other.weights[name], gains, **CLOSE)


@pytest.mark.parametrize("kind", ["groups", "pair", "sequence"])
@pytest.mark.parametrize("sums", ["signs", "ranks", "runner-up"])
def test_division_into_batches_and_chunks_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, sums: str, kind: str
) -> None:
    module, x = network(kind), samples(13, kind=kind)
    whole = sample_gains(module, [(x,)], sums=sums)
    monkeypatch.setattr(outputs, "_CHUNK", 4)
    monkeypatch.setattr(noise_gain, "_TOGETHER", 1)
    monkeypatch.setattr(per_sample, "_HELD", 1)  # a sample at a time
    parts = sample_gains(module, [(x[:6],), (x[6:],)], sums=sums)
    assert {"w", "v"} < set(parts.of)
    for name, gains in whole.of.items():
        torch.testing.assert_close(parts.of[name], gains, **CLOSE)


def test_signs_are_reproducible_and_seeded() -> None:
    module, x = network(), samples(16)
    first, again, other = (noise_gains(module, [(x,)], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.weights["w"], again.weights["w"])
    assert first.activations == again.activations
    assert not torch.equal(first.weights["w"], other.weights["w"])


def test_activation_gain_is_the_squared_gradient_at_the_quantizer() -> None:
    module, x = network(classes=2), samples(1)
    logits = module(x)[0][0]
    # Two classes: d(Z_1 - Z_0)/dr is the difference of the two rows of the last matrix.
    (quantizer,) = (q for q in weight_quantizers(module) if q.name == "v")
    v = quantizer(dict(module.named_parameters())["v"])
    expected = (v[0] - v[1]).square().sum() / (24 * (logits[0] - logits[1]) ** 2)
    assert noise_gains(module, [(x,)]).activations["r"] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_of_the_float_network_quantizers_only_name_tensors() -> None:
    module, x = network(), samples(6)
    plain = network()
    for quantizer in weight_quantizers(module):
        quantizer.bits.fill_(1)
        quantizer.scale.fill_(torch.nan)
    for node in list(plain.graph.nodes):
        if node.op == "call_module":
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    plain.recompile()
    found = sample_gains(module, [(x,)], sums="ranks", floored=False, quantized=False)
    for name, gains in brute_force(plain, x, ranks=EVERY).items():
        torch.testing.assert_close(found.of[name], gains, **CLOSE)
    assert found.of["x"].shape == found.of["r"].shape == (6,)


def test_exact_ties_are_skipped_without_a_floor() -> None:
    module, x = network(), samples(5)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name in ("v", "b"):  # every class has a twin
            parameters[name][2:] = parameters[name][:2]
    (quantizer,) = (q for q in weight_quantizers(module) if q.name == "v")
    quantizer.fit(parameters["v"])
    found = sample_gains(module, [(x,)], sums="ranks", floored=False)
    expected = brute_force(module, x, ranks=[2, 3])  # the twin of the answer comes second
    torch.testing.assert_close(found.of["w"], expected["w"], **CLOSE)


@pytest.mark.parametrize("tail", ["y = Softmax (z)", "y = Softmax <axis = 1> (z)"])
def test_a_last_softmax_is_left_out(tail: str) -> None:
    x = samples(8)
    plain, with_softmax = network(), network(tail=tail, output="y")
    found = noise_gains(with_softmax, [(x,)])
    with torch.no_grad():
        assert float(with_softmax(x)[0].sum(1).mean()) == pytest.approx(1)
    assert torch.equal(found.weights["w"], noise_gains(plain, [(x,)]).weights["w"])


def test_outputs_that_are_not_classes_use_the_fisher_form() -> None:
    module, x = network(classes=1), samples(70)
    found = noise_gains(module, [(x,)])
    assert not found.from_classes
    output, w = module(x)[0], dict(module.named_parameters())["w"]
    squares = [
        torch.autograd.grad(y, w, retain_graph=True)[0].square().flatten(1).sum(1) for y in output[:, 0]
    ]
    expected = torch.stack(squares).mean(0) / (24 * output.square().mean())
    torch.testing.assert_close(found.weights["w"].float(), expected.detach(), **CLOSE)


def test_signs_of_several_outputs_do_not_depend_on_batches() -> None:
    module, x = network(classes=1), samples(12)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    relu = next(node for node in module.graph.nodes if node.meta.get("onnx_name") == "r")
    output.args = ((*output.args[0], relu),)
    module.recompile()
    whole, parts = (sample_gains(module, batches) for batches in ([(x,)], [(x[:5],), (x[5:],)]))
    torch.testing.assert_close(whole.of["w"], parts.of["w"], **CLOSE)


@pytest.mark.parametrize("sums", ["ranks", "runner-up"])
def test_sums_over_classes_need_classes(sums: str) -> None:
    with pytest.raises(OptionError, match=r"needs class logits.* \(3, 1\)\. Choose sums 'signs'"):
        noise_gains(network(classes=1), [(samples(3),)], sums=sums)


def test_statistics_and_mode_are_left_alone() -> None:
    module = network().train()
    noise_gains(module, [(samples(8),)])
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_mode_is_restored_when_it_fails() -> None:
    module = network(classes=1).train()
    with pytest.raises(OptionError):
        sample_gains(module, [(samples(3),)], sums="ranks")
    assert module.training


def test_other_sums_are_refused() -> None:
    with pytest.raises(ValueError, match="one of signs, ranks, runner-up, got 'sings'"):
        sample_gains(network(), [(samples(3),)], sums="sings")


@pytest.mark.parametrize("kind", ["tokens", "sequence", "between", "strided"])
def test_gains_of_values_are_those_of_each_sample_alone(kind: str) -> None:
    module, x = network(kind), samples(6, kind=kind)
    found = sample_gains(module, [(x,)], sums="ranks", floored=False).of
    alone = sample_gains(module, [(sample,) for sample in x.split(1)], sums="ranks", floored=False).of
    assert len(found) == 4  # also one between the two Transpose
    for name, gains in found.items():
        torch.testing.assert_close(gains, alone[name], **CLOSE)


def test_samples_that_are_mixed_are_refused() -> None:
    module = network()
    relu = next(node for node in module.graph.nodes if node.meta.get("onnx_name") == "r")
    with module.graph.inserting_after(relu):
        mixed = module.graph.call_function(torch.cumsum, (relu, 0))
    relu.replace_all_uses_with(mixed, delete_user_cb=lambda user: user is not mixed)
    module.recompile()
    with pytest.raises(UnsupportedOpError, match=r"at 'r', of shape .*no axis tells the samples apart"):
        noise_gains(module, [(samples(4),)])


def test_what_no_output_depends_on_has_no_gain() -> None:
    module = network()
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    relu = next(node for node in module.graph.nodes if node.meta.get("onnx_name") == "r")
    with module.graph.inserting_before(output):
        first = module.graph.call_function(torch.narrow, (next(iter(relu.users)), 1, 0, 3))
        flat = module.graph.call_function(torch.amax, (first, (2, 3)))
    output.args = ((flat,),)  # the Gemm is left over
    module.recompile()
    found = sample_gains(module, [(samples(5),)])
    assert found.of["v"].shape == (5, CLASSES)
    assert not found.of["v"].any()
    assert found.of["w"].any()


class _Largest(TorchDispatchMode):
    """The most numbers in a result of an operator."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize(
    "wide",
    [
        pytest.param(Kind((64, 2, 2), (64, 64, 3, 3), f"c = {PADDED} (x, w)", 256), id="convolution"),
        pytest.param(Kind((4, 256), (256, 160), "c = MatMul (x, w)", 640), id="matrix"),
    ],
)
def test_memory_is_bounded_where_positions_are_few(monkeypatch: pytest.MonkeyPatch, wide: Kind) -> None:
    monkeypatch.setitem(KINDS, "wide", wide)
    module, x = network("wide"), samples(32, kind="wide")
    with _Largest() as largest:
        noise_gains(module, [(x,)])
    # A gradient of the weight is at least 36 864 numbers, for 32 samples and two sets of signs 2.4 million.
    assert largest.numbers <= 2**20
