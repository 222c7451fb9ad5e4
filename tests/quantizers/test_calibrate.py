from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graphs import normal

from mpqtool.importer import import_graph
from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.quantizers import ActivationQuantizer, PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers
from mpqtool.quantizers.calibrate import collect, drawn, fit_codes, passing_unset


def _error(x: np.ndarray, scale: float, zero_point: int, bits: int) -> float:
    back = dequantize(
        quantize(x, np.float32(scale), zero_point, 0, 2**bits - 1), np.float32(scale), zero_point
    )
    return float(np.square(back - x).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_beats_covering_the_whole_range(bits: int, rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=4000)).astype(np.float32)
    scale, _ = fit_codes(x, bits, nonnegative=True)
    widest = float(x.max()) / (2**bits - 1)
    # The grid of 24 scales an octave can miss the exact maximum by 3 %: allow that much.
    assert _error(x, scale, 0, bits) <= 1.06 * _error(x, widest, 0, bits)
    if bits == 2:
        assert _error(x, scale, 0, bits) < 0.7 * _error(x, widest, 0, bits)


def test_two_bit_scale_of_a_half_gaussian_is_near_the_best_of_a_fine_search(rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=4000)).astype(np.float32)
    scale, _ = fit_codes(x, 2, nonnegative=True)
    best = min(_error(x, s, 0, 2) for s in np.linspace(0.05, 2, 800))
    assert _error(x, scale, 0, 2) <= 1.02 * best


def test_signed_values_get_a_zero_point_that_is_a_code(rng: np.random.Generator) -> None:
    x = rng.normal(loc=-1, size=2000).astype(np.float32)
    scale, zero_point = fit_codes(x, 4, nonnegative=False)
    assert 8 < zero_point <= 15
    assert _error(x, scale, zero_point, 4) < 0.02


def test_a_value_that_is_always_zero_gets_a_usable_scale() -> None:
    scale, zero_point = fit_codes(np.zeros(10, np.float32), 4, nonnegative=True)
    assert math.isfinite(scale)
    assert zero_point == 0


def test_channels_of_few_values_are_not_missed() -> None:
    values = torch.arange(8.0).repeat(2**15)  # every 16th is the same channel

    assert set(drawn(values).tolist()) == set(range(8))
    assert torch.equal(drawn(values), drawn(values))
    assert len(drawn(values, 100)) == 100


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
