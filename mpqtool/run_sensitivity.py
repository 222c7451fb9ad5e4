"""Which kernels and activations quantization hurts most, and what uniform widths do; nothing is trained."""

from __future__ import annotations

__all__ = ["RANKED_BITS", "UNIFORM_BITS", "sensitivity"]

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from accelerate import Accelerator
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.runtime.predict import predict

from .crosscheck import check_import, check_learnable, check_normal_form
from .data import Split
from .errors import ModelError
from .files import write_text
from .job import nothing_to_quantize
from .methods.mismatch import answers, mismatch_bound, without_floor
from .methods.noise_gain import SampleGains, sample_gains
from .quantizers.attach import (
    activation_quantizers,
    attach,
    plain_activations,
    plain_weights,
    weight_quantizers,
)
from .quantizers.calibrate import calibrate
from .report.sensitivity import plot, write_csv
from .reporter import Reporter
from .run_data import read_data
from .sensitivity_options import SensitivityOptions

UNIFORM_BITS = range(3, 9)
RANKED_BITS = 8
"""Width at which groups are compared: the same for all."""
_BATCH = 64
_CHECKED = 16
"""Samples that the import is held against ONNX Runtime on."""


def sensitivity(path: pathlib.Path, options: SensitivityOptions, reporter: Reporter) -> dict[str, Any]:
    """See ``mpqtool.api.sensitivity``."""
    model, folded = _load(path)
    network = import_graph(model)
    data = read_data(path, model, network, options.of_data, reporter)
    split = _drawn(data.train, options, reporter)
    check_normal_form(path, model, data.test)
    first = {name: array[:_CHECKED] for name, array in split.inputs.items()}
    check_import(network, Split(first), predict(model, first))
    device = Accelerator().device
    inputs = [torch.from_numpy(array).to(device) for array in split.inputs.values()]
    network = attach(network, _plan(folded, RANKED_BITS)).to(device)
    with reporter.progress(len(split), "noise gains") as progress:
        gains = sample_gains(
            network, [inputs], sums=options.sums, ranks=options.ranks, seed=options.seed, quantized=False,
            on_samples=progress.advance,
        )  # fmt: skip
    uniform: list[dict[str, Any]] = [{"bits": b, "bound": None, "measured": None} for b in UNIFORM_BITS]
    if not gains.from_classes:
        reporter.warn(
            "the model has no class logits, one output of shape (batch, classes): noise gains are of the "
            "Fisher form, the divergence of the outputs in units of their power, and no answers are compared"
        )
    with reporter.progress(1 + len(uniform), "uniform widths") as progress:
        steps = _fit(network, RANKED_BITS, inputs)
        progress.advance()
        if gains.from_classes:
            exact = without_floor(
                gains, network, inputs, sums=options.sums, ranks=options.ranks, seed=options.seed
            )
            quantized = attach(import_graph(model), _plan(folded, options.activation_bits)).to(device)
            for row in uniform:
                row |= _mismatch(quantized, exact, _fit(quantized, row["bits"], inputs), inputs)
                if data.synthetic:
                    row["measured"] = None  # on inputs that nobody has, it says nothing
                progress.advance()
    spec = None if data.synthetic else data.spec
    given = dataclasses.asdict(options) | {"data": spec, "samples": len(split)}
    found = {
        "model": str(path), "form": "classes" if gains.from_classes else "fisher", **given,
        "uniform": uniform, "groups": _groups(network, gains, steps),
    }  # fmt: skip
    if options.csv is not None:
        write_csv(pathlib.Path(options.csv), found)
    if options.plot is not None:
        write_text(options.plot, plot(found))
    return found


def _load(path: pathlib.Path) -> tuple[ir.Model, ir.Model]:
    """The normal form, with BatchNormalization kept and folded."""
    loaded = load_model(path)
    if any(node.op_type == "DequantizeLinear" for node in loaded.graph):
        raise ModelError(f"{str(path)!r} is quantized already. Give the float model.")
    model = pipelines.normalize(loaded)
    network = import_graph(model)  # first of all: it names everything that cannot be imported, at once
    folded = pipelines.fold_batch_norm(model)
    weights = _plan(folded, RANKED_BITS).weights
    if not weights:
        raise ModelError(nothing_to_quantize(path, folded))
    check_learnable(path, network, (weight.name for weight in weights))
    return model, folded


def _plan(folded: ir.Model, activation_bits: int | None) -> Plan:
    """Where quantizers go, those of IMPQ; without a width of activations, only to weights."""
    plan = place(folded, weight_bits=RANKED_BITS, activation_bits=activation_bits or 8, grid=Grid.ODD)
    return plan if activation_bits else plan.replaced(activations=())


def _drawn(split: Split, options: SensitivityOptions, reporter: Reporter) -> Split:
    """Some samples, always the same ones."""
    count = options.samples
    if count > len(split):
        reporter.say(
            f"data: the training split has {len(split)} samples, {count} were asked for: all are used"
        )
    if count >= len(split):
        return split
    rows = np.sort(np.random.default_rng(options.seed).permutation(len(split))[:count])
    return Split({name: array[rows] for name, array in split.inputs.items()})


def _fit(network: fx.GraphModule, bits: int, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Quantize all weights at one width, activations at the one they have: all steps fitted, by name."""
    parameters = dict(network.named_parameters())
    weights = plain_weights(network)
    for weight in weights:
        weight.bits.fill_(bits)
        weight.fit(parameters[weight.name])
    values = plain_activations(network)
    if values:  # each width leaves others
        calibrate(network, zip(*(x.split(_BATCH) for x in inputs), strict=True), values)
    return {q.name: q.step for q in weights} | {q.name: q.scale.detach() for q in values}


def _mismatch(
    network: fx.GraphModule, gains: SampleGains, steps: dict[str, Tensor], inputs: Sequence[Tensor]
) -> dict[str, float]:
    """The bound on the share of answers that change, and that share."""
    assert gains.logits is not None  # there are classes
    changed = answers(network, inputs) != gains.logits.argmax(1)
    return {"bound": mismatch_bound(gains, steps), "measured": float(changed.double().mean())}


def _groups(network: fx.GraphModule, gains: SampleGains, steps: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Every kernel and activation, the most sensitive first."""
    means = gains.mean()
    rows: list[dict[str, Any]] = []
    for quantizer in weight_quantizers(network):
        of_kernels, step_of = means.weights[quantizer.name].tolist(), steps[quantizer.name].tolist()
        for kernel, (gain, step) in enumerate(zip(of_kernels, step_of, strict=True)):
            rows.append(_group(quantizer.name, kernel, gain, quantizer.elements, step))
    rows += [
        _group(value.name, None, means.activations[value.name], 0, float(steps[value.name]))
        for value in activation_quantizers(network)
    ]
    return sorted(rows, key=lambda row: -row["sensitivity"])


def _group(name: str, kernel: int | None, gain: float, weights: int, step: float) -> dict[str, Any]:
    return {
        "name": name, "kernel": kernel, "noise_gain": gain, "weights": weights, "sensitivity": step**2 * gain,
    }  # fmt: skip
