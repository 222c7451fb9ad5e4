from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from swish_network import swish_network, swish_split
from torch import Tensor, fx

from mpqtool.finish import _fold, _keep_sizes, _rescaled, finish
from mpqtool.finished import freeze, short
from mpqtool.importer import import_graph
from mpqtool.job import Job, prepare
from mpqtool.options import QuantizeOptions
from mpqtool.passes.arithmetic import quantize_weight
from mpqtool.passes.plan import Grid, WeightQuant
from mpqtool.quantizers import ActivationQuantizer, DorefaWeightQuantizer, PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers
from mpqtool.reporter import Reporter
from mpqtool.run_adaqat import adaqat
from mpqtool.run_trainer import make_trainer
from mpqtool.simulate import IntegerSimulation
from mpqtool.training import Trainer


@given(scale=st.floats(1e-6, 1e3), codes=st.tuples(st.integers(-255, 255), st.integers(-255, 255)))
def test_a_short_scale_makes_sums_of_codes_exact(scale: float, codes: tuple[int, int]) -> None:
    rounded = short(scale)
    assert rounded == pytest.approx(scale, rel=2**-12)
    s = np.float32(rounded)
    assert float(s) == rounded
    a, b = (np.float32(code) * s for code in codes)
    assert float(a + b) == (codes[0] + codes[1]) * rounded  # float32 on the left, float64 on the right


@pytest.mark.parametrize("grid", list(Grid))
def test_folding_keeps_the_codes_up_to_the_sign(rng: np.random.Generator, grid: Grid) -> None:
    weight = rng.normal(size=(4, 50)).astype(np.float32)
    entry = WeightQuant(name="w", bits=(2, 4, 8, 3), grid=grid, scale=(0.5, 0.2, 0.01, 0.3))
    factor = np.array([2.0, -0.5, -4.0, 0.0], np.float32)  # powers of two: no rounding in the way
    if grid is Grid.FULL:  # its lowest code has no negative
        factor = np.abs(factor)

    folded = _rescaled(entry, factor)

    before = quantize_weight(weight, entry.scale, entry.bits, grid)
    after = quantize_weight(weight * factor[:, None], folded.scale, folded.bits, grid)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1:3], np.sign(factor[1:3, None]) * before[1:3])
    assert folded.bits == (2, 4, 8, 0)  # times 0: no bits, all codes 0
    assert not after[3].any()


def _adaqat_network(folder: pathlib.Path, rng: np.random.Generator) -> tuple[Job, fx.GraphModule]:
    """A small network, with quantizers at 8 bits that have numbers."""
    ir.save(swish_network(rng), folder / "m.onnx")
    split = swish_split(rng, 60)
    np.savez(folder / "m.npz", x=split.inputs["x"], label=split.labels)
    options = QuantizeOptions(method="adaqat", out=str(folder / "out"))
    job = prepare(folder / "m.onnx", options, Reporter(silent=True))
    network = adaqat(job, make_trainer(job, job.tuning)).network
    for quantizer in activation_quantizers(network):
        if isinstance(quantizer, PactQuantizer):
            quantizer.set_numbers(alpha=3.0, share=0.0)
        elif isinstance(quantizer, ActivationQuantizer):
            quantizer.set_numbers(scale=0.05, zero_point=0 if quantizer.nonnegative else 128)
    return job, network


def test_folding_keeps_the_codes_of_dorefa(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    """They are of tanh(w), and of w without it in the last layer: the folded file has neither."""
    job, network = _adaqat_network(tmp_path, rng)
    trained, parameters = {}, dict(network.named_parameters())
    for width, quantizer in enumerate(weight_quantizers(network), start=1):
        assert isinstance(quantizer, DorefaWeightQuantizer)
        quantizer.bits.fill_(width)
        trained[quantizer.name] = quantizer.codes(quantizer.real(parameters[quantizer.name])).detach()

    model, plan = _fold(job, network)

    folded = attach(import_graph(model), plan)
    parameters = dict(folded.named_parameters())
    assert [max(entry.bits) for entry in plan.weights] == [1, 2, 3, 4, 5]
    for quantizer in weight_quantizers(folded):
        codes = quantizer.codes(parameters[quantizer.name]).detach()
        # No BatchNormalization of this network turns a sign.
        assert torch.equal(codes, trained[quantizer.name])
        assert bool((codes % 2 == 1).all())


@torch.no_grad()
def _shrink(network: fx.GraphModule) -> None:
    """Let BatchNormalization make every second channel smaller when it is folded."""
    for name, parameter in network.named_parameters():
        if name.startswith("g"):
            parameter[::2] *= 0.01


def _folded(job: Job, network: fx.GraphModule) -> tuple[ir.Model, fx.GraphModule]:
    model, plan = _fold(job, network)
    return model, attach(import_graph(model), plan)


def test_smaller_kernels_keep_the_size_they_were_trained_in(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    job, network = _adaqat_network(tmp_path, rng)
    _shrink(network)
    trained = dict(network.named_parameters())
    with torch.no_grad():
        trained["w1"][2] = 0  # as pruning leaves it
    _, folded = _folded(job, network)
    before = {name: p.detach().flatten(1).norm(dim=1) for name, p in folded.named_parameters() if p.ndim > 1}
    inputs = torch.from_numpy(job.tuning.inputs["x"][:8])
    codes, _ = IntegerSimulation(folded.eval()).codes(inputs)

    _keep_sizes(folded, network)

    factors = {quantizer.name: quantizer.factor for quantizer in weight_quantizers(folded)}
    for name, factor in factors.items():
        old, new = (
            p[name].detach().flatten(1).norm(dim=1) for p in (trained, dict(folded.named_parameters()))
        )
        # Norms of some dozen float32.
        torch.testing.assert_close(new, torch.where(before[name] < old, old, before[name]), rtol=1e-5, atol=0)
        torch.testing.assert_close(new * factor, before[name], rtol=1e-5, atol=0)
    assert factors["w1"][2] == 1
    assert any(bool((factor < 1).any()) for factor in factors.values())
    after, _ = IntegerSimulation(folded).codes(inputs)
    assert all(torch.equal(after[name], code) for name, code in codes.items())


def test_what_is_written_is_of_the_folded_size(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    job, network = _adaqat_network(tmp_path, rng)
    _shrink(network)
    model, folded = _folded(job, network)
    _keep_sizes(folded, network)
    expected = {q.name: q(folded.get_parameter(q.name)).detach() for q in weight_quantizers(folded)}

    finished = freeze(folded, IntegerSimulation(folded), model, [])

    for quantizer in weight_quantizers(finished.network):
        weight = finished.network.get_parameter(quantizer.name)
        assert torch.equal(weight, expected[quantizer.name])
        assert torch.equal(quantizer.factor, torch.ones_like(quantizer.factor))
        assert torch.equal(quantizer(weight), weight)


def test_the_last_epochs_see_kernels_in_that_size(
    tmp_path: pathlib.Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, network = _adaqat_network(tmp_path, rng)
    _shrink(network)
    monkeypatch.setattr("mpqtool.finish.search", lambda _: (network, [{"epoch": 1, "held_out": 0.0}]))
    seen: list[Tensor] = []

    def fit(_: Trainer, module: IntegerSimulation, **__: object) -> None:
        seen.extend(quantizer.factor.clone() for quantizer in weight_quantizers(module))

    monkeypatch.setattr(Trainer, "fit", fit)
    finish(job)
    assert any(bool((factor < 1).any()) for factor in seen)
