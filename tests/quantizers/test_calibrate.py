from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import normal

from mpqtool.errors import TrainingError
from mpqtool.importer import import_graph
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.quantizers import ActivationQuantizer, PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate, collect, observe, passing_unset
from mpqtool.quantizers.ranges import RANGES, fit_codes


def test_what_has_no_scale_passes_through_and_the_rest_is_quantized(rng: np.random.Generator) -> None:
    model = normal(
        """net (float[N, 3] x) => (float[N, 4] y) {
            h = Gemm <transB = 1> (x, w)
            r = Relu (h)
            y = Gemm <transB = 1> (r, v)
        }""",
        {"w": rng.normal(size=(5, 3)), "v": rng.normal(size=(4, 5))},
    )
    plan = Plan(
        weights=(WeightQuant(name="w", bits=(3,) * 5, grid=Grid.ODD, scale=(0.3,) * 5),),
        activations=(
            ActivationQuant(name="x", bits=8, scale=0.5, zero_point=128), ActivationQuant(name="r", bits=2),
        ),
    )  # fmt: skip
    network = attach(
        import_graph(model), plan,
        make_activation=lambda entry, _: _activation(entry),
    ).eval()  # fmt: skip
    x = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32))
    w, v = (dict(network.named_parameters())[name] for name in "wv")
    (weight,) = weight_quantizers(network)
    given = torch.round(x / 0.5) * 0.5
    hidden = torch.relu(given @ weight(w).T)

    (found,) = passing_unset(network)(x)

    torch.testing.assert_close(found, hidden @ v.T)
    _, second = activation_quantizers(network)
    assert second.elements == 5
    np.testing.assert_allclose(collect(network, [(x,)], [second])["r"], hidden.detach().flatten(), rtol=1e-6)
    assert isinstance(second, PactQuantizer)
    second.set_numbers(alpha=0.5, share=0.0)
    (clipped,) = passing_unset(network)(x)
    torch.testing.assert_close(clipped, network(x)[0])
    assert not torch.allclose(clipped, found)


def _activation(entry: ActivationQuant) -> torch.nn.Module:
    if entry.scale is None or entry.zero_point is None:
        return PactQuantizer(entry.name, entry.bits)
    made = ActivationQuantizer(entry.name, entry.bits, zero_point=entry.zero_point, nonnegative=False)
    made.set_numbers(scale=entry.scale, zero_point=entry.zero_point)
    return made


def _one(bits: int = 8) -> tuple[torch.fx.GraphModule, ActivationQuantizer]:
    model = normal(
        "net (float[N, 3] x) => (float[N, 4] y) { y = Gemm <transB = 1> (x, w) }", {"w": np.ones((4, 3))}
    )
    plan = Plan(weights=(), activations=(ActivationQuant(name="x", bits=bits),))
    network = attach(import_graph(model), plan)
    (quantizer,) = activation_quantizers(network)
    assert isinstance(quantizer, ActivationQuantizer)
    return network, quantizer


def test_the_rule_is_chosen_by_name_and_progress_is_told(rng: np.random.Generator) -> None:
    network, quantizer = _one()
    x = torch.from_numpy(rng.normal(size=(20_000, 3)).astype(np.float32))
    x[11_111:11_113] = 60  # 6 of 60,000 elements, of which 0.005 % are 3

    scales, told = {}, list[int]()
    for rule in RANGES:
        calibrate(network, zip(x.split(3000)), [quantizer], ranges=rule, on_samples=told.append)
        scales[rule] = quantizer.scale.item()

    assert told == [*[3000] * 6, 2000] * 4
    assert scales["minmax"] == pytest.approx((60 - float(x.min())) / 255, rel=0.01)
    assert scales["percentile"] == pytest.approx(scales["minmax"], rel=0.01)
    assert scales["entropy"] < 0.7 * scales["minmax"]
    sample = collect(network, [(x,)], [quantizer])["x"]
    assert scales["mse"] == pytest.approx(fit_codes(sample, 8, nonnegative=False)[0])
    assert network.training


def test_batches_of_any_size_give_the_same_numbers(rng: np.random.Generator) -> None:
    network, quantizer = _one(bits=4)
    x = torch.from_numpy(rng.normal(size=(20_000, 3)).astype(np.float32))
    found = []
    for size in (20_000, 777):
        calibrate(network, [(part,) for part in x.split(size)], [quantizer])
        found.append((quantizer.scale.item(), int(quantizer.zero_point)))
    assert found[0] == found[1]


def test_a_value_that_is_no_number_is_said_at_its_batch_and_the_mode_given_back() -> None:
    network, quantizer = _one()
    network.train()
    x = torch.zeros(20_000, 3)
    x[5, 1] = torch.inf  # one of 60,000 elements
    told = list[int]()

    with pytest.raises(TrainingError, match="'x' becomes infinite or NaN on the training inputs"):
        observe(network, [(x[:5],), (x[5:],), (x,)], [quantizer], on_samples=told.append)

    assert told == [5]
    assert network.training
