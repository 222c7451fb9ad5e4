from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from swish_network import swish_network, swish_split
from torch import fx

from mpqtool.finish import _fold, _keep_sizes, _rescaled, _short
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


@given(scale=st.floats(1e-6, 1e3), codes=st.tuples(st.integers(-255, 255), st.integers(-255, 255)))
def test_a_short_scale_makes_sums_of_codes_exact(scale: float, codes: tuple[int, int]) -> None:
    short = _short(scale)
    assert short == pytest.approx(scale, rel=2**-12)
    s = np.float32(short)
    assert float(s) == short
    a, b = (np.float32(code) * s for code in codes)
    assert float(a + b) == (codes[0] + codes[1]) * short  # float32 on the left, float64 on the right


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


def test_kernels_are_trained_on_in_the_size_they_had(
    tmp_path: pathlib.Path, rng: np.random.Generator
) -> None:
    job, network = _adaqat_network(tmp_path, rng)
    model, plan = _fold(job, network)
    folded = attach(import_graph(model), plan)
    inputs = torch.from_numpy(job.tuning.inputs["x"][:8])
    expected = folded.eval()(inputs)

    _keep_sizes(folded, network)

    trained = dict(network.named_parameters())
    for quantizer in weight_quantizers(folded):
        assert not torch.equal(quantizer.factor, torch.ones_like(quantizer.factor))
        found = folded.get_parameter(quantizer.name).detach().flatten(1).norm(dim=1)
        wanted = trained[quantizer.name].detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(folded(inputs), expected)
