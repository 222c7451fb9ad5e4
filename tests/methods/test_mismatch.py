from __future__ import annotations

import pytest
import torch
from gains import network, samples

from mpqtool.methods.mismatch import answers, mismatch_bound, without_floor
from mpqtool.methods.noise_gain import SampleGains, sample_gains
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

LOGITS = torch.tensor([[3.0, 1.0], [0.0, 0.5]])


def test_bound_is_the_mean_over_samples_of_which_each_counts_as_one_at_most() -> None:
    gains = SampleGains(
        {"w": torch.tensor([[0.25, 4.0], [0.5, 90.0]]), "a": torch.tensor([0.5, 0.0])}, LOGITS, floor=0.0
    )
    steps = {"w": torch.tensor([1.0, 0.25]), "a": torch.tensor(0.5)}
    # 0.25 * 1 + 4 / 16 + 0.5 / 4 of the first sample, 0.5 + 90 / 16 of the second
    assert mismatch_bound(gains, steps) == pytest.approx((0.625 + 1) / 2)
    assert mismatch_bound(gains, {"a": torch.tensor(0.5)}) == pytest.approx(0.125 / 2)


def test_a_sample_between_two_classes_counts_as_one() -> None:
    logits = torch.tensor([[3.0, 3.0, 1.0], [0.0, 0.5, 0.0]])  # in the second the answer has no equal
    gains = SampleGains({"w": torch.tensor([[0.25], [0.5]])}, logits, floor=0.0)
    assert mismatch_bound(gains, {"w": torch.tensor([1.0])}) == pytest.approx((1 + 0.5) / 2)


def test_samples_below_the_floor_get_their_own_margin_back() -> None:
    module, x = network(), samples(50)
    given = {"sums": "ranks", "ranks": None, "seed": 0}
    floored = sample_gains(module, [(x,)], sums="ranks", quantized=False)
    expected = sample_gains(module, [(x,)], sums="ranks", quantized=False, floored=False)
    found = without_floor(floored, module, [x], **given)  # type: ignore[arg-type]
    changed = (floored.of["w"] != expected.of["w"]).any(1)
    assert 1 <= changed.sum() <= 3  # 5 %
    assert found.floor == 0
    for name, gains in expected.of.items():
        torch.testing.assert_close(found.of[name], gains, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["conv", "groups", "depthwise", "line"])
@pytest.mark.parametrize("with_activations", [False, True])
def test_no_more_answers_change_than_the_bound_says(kind: str, with_activations: bool) -> None:
    module, x = network(kind), samples(400, kind=kind)
    gains = sample_gains(module, [(x,)], sums="ranks", floored=False, quantized=False)
    assert gains.logits is not None
    parameters, seen = dict(module.named_parameters()), []
    for quantizer in activation_quantizers(module):
        if not with_activations:
            quantizer.forward = quantizer.pass_through  # type: ignore[method-assign, assignment]
    for bits in range(3, 9):
        steps = {q.name: q.scale for q in activation_quantizers(module)} if with_activations else {}
        for quantizer in weight_quantizers(module):
            quantizer.bits.fill_(bits)
            quantizer.fit(parameters[quantizer.name])
            steps[quantizer.name] = quantizer.step
        measured = float((answers(module, [x]) != gains.logits.argmax(1)).double().mean())
        seen.append(measured)
        assert measured <= mismatch_bound(gains, steps)
    assert seen[0] > 0  # else there was nothing to bound


def test_answers_are_those_of_the_whole() -> None:
    module, x = network(), samples(70)
    with torch.no_grad():
        assert torch.equal(answers(module, [x]), module(x)[0].argmax(1))
