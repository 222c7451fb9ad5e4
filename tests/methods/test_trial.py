"""What one forward pass with fewer bits says of many widths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mpqtool.methods.trial import Trial
from mpqtool.methods.width_variables import Quantizer, Variable, grouped
from mpqtool.methods.widths import Width
from mpqtool.quantizers import DorefaWeightQuantizer, Gain, PactQuantizer


def _weight(name: str, bits: tuple[int, ...]) -> DorefaWeightQuantizer:
    return DorefaWeightQuantizer(name, bits, elements=5, gain=Gain.ONE)


def _activation(name: str, bits: int = 5) -> PactQuantizer:
    quantizer = PactQuantizer(name, bits)
    quantizer.set_numbers(alpha=2.0, share=0.0)
    return quantizer


def _begun(variables: list[Variable]) -> list[Variable]:
    for variable in variables:
        variable.width = Width(value=variable.bits - 0.5, least=1, most=8, rate=1e-3)
    return variables


def _kernels(bits: tuple[int, ...]) -> tuple[DorefaWeightQuantizer, list[Variable]]:
    quantizer = _weight("w", bits)
    return quantizer, _begun(grouped("weights", [quantizer], "kernel"))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _pass(quantizer: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """Send a tensor through, and a gradient back."""
    quantizer(x.clone().requires_grad_()).backward(gradient)


def _shared(asked: list[Variable], bracket: float, *passes: tuple[Quantizer, Tensor, Tensor]) -> list[float]:
    """The brackets of variables after a watched pass."""
    trial = Trial(asked)
    trial.begin_watch()
    for quantizer, x, gradient in passes:
        _pass(quantizer, x, gradient)
    trial.observe(bracket, trial.end_watch().tolist())
    return [variable.width.bracket for variable in asked]


def test_bits_are_one_less_within_the_block() -> None:
    quantizer, (one, _, three) = _kernels((5, 4, 3))
    trial = Trial([one, three])
    with trial.one_bit_less():
        assert quantizer.bits.tolist() == [4, 4, 2]
    assert quantizer.bits.tolist() == [5, 4, 3]


def test_one_variable_takes_all_the_blame() -> None:
    (variable,) = _begun(grouped("activations", [_activation("a"), _activation("b")], "network"))
    assert _shared([variable], -0.75) == [-0.75]
    assert variable.width.measured == 1


def test_kernels_are_blamed_by_the_diagonal_fisher_approximation() -> None:
    quantizer, variables = _kernels((5, 5, 5, 0))
    weight, gradient = _random(4, 5), _random(4, 5, seed=1)
    found = _shared(variables, -2.0, (quantizer, weight, gradient))

    expected = []
    for kernel in range(3):
        bits = [5, 5, 5, 0]
        before = _weight("w", tuple(bits))(weight)[kernel]
        bits[kernel] = 4
        after = _weight("w", tuple(bits))(weight)[kernel]
        expected.append(float((gradient[kernel] * (after - before)).square().sum()))
    assert found == pytest.approx([-2 * part / sum(expected) for part in expected], rel=1e-5)
    assert quantizer.bits.tolist() == [5, 5, 5, 0]


def test_layers_are_blamed_for_all_their_kernels() -> None:
    def blamed(granularity: str) -> list[float]:
        members = [_weight("v", (5, 5)), _weight("w", (3, 3, 3))]
        passes = [(q, _random(len(q.bits), 5, seed=i), _random(len(q.bits), 5, seed=7 + i))
                  for i, q in enumerate(members)]  # fmt: skip
        return _shared(_begun(grouped("weights", members, granularity)), -1.0, *passes)

    kernels = blamed("kernel")
    assert blamed("layer") == pytest.approx([sum(kernels[:2]), sum(kernels[2:])], rel=1e-6)
    assert min(map(abs, kernels)) > 0


def test_activations_are_blamed_by_what_they_do_to_each_sample() -> None:
    members = [_activation("a"), _activation("b", bits=3)]
    passes = [(q, 3 * _random(6, 2, 4, seed=i).abs(), _random(6, 2, 4, seed=7 + i))
              for i, q in enumerate(members)]  # fmt: skip
    found = _shared(_begun(grouped("activations", members, "layer")), -1.0, *passes)

    expected = []
    for quantizer, x, gradient in passes:
        less = _activation("less", int(quantizer.bits) - 1)
        delta = (less(x) - quantizer(x)).detach()
        samples = zip(gradient.flatten(1), delta.flatten(1), strict=True)
        expected.append(sum(float(torch.dot(g, d)) ** 2 for g, d in samples))
    assert found == pytest.approx([-part / sum(expected) for part in expected], rel=1e-5)


def test_what_is_used_twice_is_blamed_for_both() -> None:
    twice, once = _activation("a"), _activation("b")
    x, gradient = _random(6, 4).abs(), _random(6, 4, seed=1)
    asked = _begun(grouped("activations", [twice, once], "layer"))
    assert _shared(asked, -3.0, *[(twice, x, gradient)] * 2, (once, x, gradient)) == pytest.approx([-2, -1])


def test_watching_changes_nothing() -> None:
    quantizer, variables = _kernels((3, 3))
    weight = _random(2, 5)
    expected = quantizer(weight)
    scale = quantizer.scale.clone()
    trial = Trial(variables)
    trial.begin_watch()
    x = weight.clone().requires_grad_()
    found = quantizer(x)
    assert torch.equal(found, expected)
    assert torch.equal(quantizer.scale, scale)
    found.sum().backward()
    watched = x.grad
    before = trial.end_watch()
    x = weight.clone().requires_grad_()
    quantizer(x).sum().backward()
    assert watched is not None
    assert x.grad is not None
    assert torch.equal(watched, x.grad)
    assert torch.equal(trial.end_watch(), before)  # the watch is over


def test_where_nothing_has_a_gradient_all_take_the_same() -> None:
    quantizer, variables = _kernels((5, 5, 5, 5))
    assert _shared(variables, -2.0, (quantizer, _random(4, 5), torch.zeros(4, 5))) == [-0.5] * 4


@pytest.mark.parametrize("gradient", [float("inf"), float("nan")])
def test_gradients_that_are_no_numbers_say_nothing(gradient: float) -> None:
    """In half precision they overflow until their scale has settled."""
    quantizer, variables = _kernels((5, 5, 5, 5))
    gradients = torch.zeros(4, 5)
    gradients[0] = gradient
    assert _shared(variables, -2.0, (quantizer, _random(4, 5), gradients)) == [0] * 4
    assert not any(variable.width.measured for variable in variables)


def test_where_nothing_learns_there_is_no_gradient() -> None:
    quantizer, variables = _kernels((5, 5))
    trial = Trial(variables)
    trial.begin_watch()
    quantizer(_random(2, 5))
    assert trial.end_watch().tolist() == [0, 0]


def test_blame_of_small_gradients_is_not_lost() -> None:
    shares = []
    for size in (1.0, 1e-25):
        quantizer, variables = _kernels((5, 5))
        shares.append(_shared(variables, -1.0, (quantizer, _random(2, 5), torch.full((2, 5), size))))
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    assert shares[0][0] != pytest.approx(-0.5, abs=0.01)
