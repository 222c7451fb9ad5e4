"""Networks of plans without training: ranges are fitted, weights rounded and biases corrected."""

from __future__ import annotations

__all__ = ["PlanMaker"]

import functools
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.importer.writeback import write_parameters
from mpqtool.passes.layers import bias_of, is_layer, set_bias
from mpqtool.passes.plan import Plan
from mpqtool.passes.quantize import lost_in_sums, raise_dead_scales, with_exact_sums, with_fine_biases
from mpqtool.passes.values import gathered_names

from .finished import Finished, freeze, parameter_arrays, short
from .job import Job
from .methods.gradients import Weighted, few_samples, weighted_values
from .methods.ptq import reconstruct, samples_that_fit
from .quantizers import ActivationQuantizer
from .quantizers.attach import attach, plain_activations, plain_weights, read_plan
from .quantizers.calibrate import observe
from .quantizers.observer import Observer
from .quantizers.ranges import OF_HISTOGRAM, RANGES, fit_codes, mse
from .simulate import IntegerSimulation


class PlanMaker:
    """Makes networks of plans: fits ranges, then rounds weights and corrects biases.

    Attributes:
        ranges: The rule for activations: one of ``quantizers.ranges.RANGES``, or ``fisher``: least squared
            error weighted by what the outputs hang on.
        chunks: As given.

    Args:
        job: The run.
        chunks: Inputs to calibrate on, in parts that operators take at once.
    """

    def __init__(self, job: Job, chunks: list[tuple[Tensor, ...]]) -> None:
        self._job, self.chunks = job, chunks
        self.ranges = "mse" if job.options.ranges == "auto" else job.options.ranges

    def __call__(self, plan: Plan) -> Finished:
        """The network of a plan without numbers."""
        return self._rounded(self._fitted(plan))

    def range_of(self, quantizer: ActivationQuantizer, seen: Observer, bits: int) -> tuple[float, int]:
        """Scale and zero point of a value at a width."""
        if self.ranges != "fisher":
            return RANGES[self.ranges](seen, bits, nonnegative=quantizer.nonnegative)  # type: ignore[index]  # options check it
        found = self._weighted.get(quantizer.name)
        if found is None:  # no output hangs on it
            return mse(seen, bits, nonnegative=quantizer.nonnegative)
        return fit_codes(found.values, bits, nonnegative=quantizer.nonnegative, weights=found.weights)

    @functools.cached_property
    def _weighted(self) -> dict[str, Weighted]:
        """All values by what the outputs hang on, whatever is quantized."""
        network = attach(import_graph(self._job.folded), self._job.plan).eval()
        return weighted_values(network, few_samples(network, self.chunks), seed=self._job.options.seed)

    def _fitted(self, plan: Plan) -> Plan:
        """The plan with the scale of every weight and activation, as the files can hold them.

        Scales of weights are those of the least squared error. Values that become infinite on the data are
        left in float.
        """
        job, chunks = self._job, self.chunks
        network = attach(import_graph(job.folded), plan)
        parameters = dict(network.named_parameters())
        for weight in plain_weights(network):
            weight.fit(parameters[weight.name])
        values = plain_activations(network)
        with job.reporter.progress(sum(len(chunk[0]) for chunk in chunks), "calibrating") as progress:
            seen = observe(
                network, chunks, values, histogram=self.ranges in OF_HISTOGRAM, refuse_infinite=False,
                on_samples=progress.advance,
            )  # fmt: skip
        infinite = {
            name: "it becomes infinite or NaN" for name, observer in seen.items() if not observer.is_finite
        }
        if infinite:
            return self._fitted(plan.without(infinite))
        for value in values:
            scale, zero_point = self.range_of(value, seen[value.name], int(value.bits))
            value.set_numbers(scale=scale, zero_point=zero_point)
        fitted = read_plan(network)
        lost = lost_in_sums(job.folded, fitted)
        if lost:
            return self._fitted(plan.without(lost))
        activations = [entry.model_copy(update={"scale": short(entry.scale)}) for entry in fitted.activations]
        return with_exact_sums(job.folded, fitted.replaced(activations=activations))

    def _rounded(self, plan: Plan) -> Finished:
        """The network of a complete plan: its weights as codes, its biases made to fit."""
        job, options, model = self._job, self._job.options, self._job.folded
        network = attach(import_graph(model), plan)
        if options.rounding != "nearest" or options.bias_correction:
            fitting = _that_fit(network, self.chunks)
            with job.reporter.progress(len(plan.weights), "rounding") as progress:
                found = reconstruct(
                    network, fitting, rounding=options.rounding, correct_bias=options.bias_correction,  # type: ignore[arg-type]  # options check it
                    on_layer=progress.advance,
                )  # fmt: skip
            _say_left_alone(job, found.left_alone)
            model = _with_biases(model, found.biases)
            write_parameters(model, _weights(network))
        plan = with_fine_biases(model, raise_dead_scales(model, plan))
        network = attach(import_graph(model), plan)
        return freeze(network, IntegerSimulation(network), model, [])


def _that_fit(network: fx.GraphModule, chunks: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """So many chunks that their values fit in memory, one sample at least."""
    most = samples_that_fit(network, chunks[0])
    if most < len(chunks[0][0]):
        return [tuple(column[:most] for column in chunks[0])]
    return chunks[: max(1, most // len(chunks[0][0]))]


def _weights(network: fx.GraphModule) -> dict[str, np.ndarray]:
    names = {quantizer.name for quantizer in plain_weights(network)}
    return {name: array for name, array in parameter_arrays(network).items() if name in names}


def _with_biases(model: ir.Model, added: Mapping[str, Tensor]) -> ir.Model:
    """The model with more on the biases of the layers with these weights."""
    model = model.clone()
    with gathered_names(model.graph):
        for node in model.graph:
            name = str(node.inputs[1].name) if is_layer(node) and node.inputs[1] is not None else ""
            if name in added:
                bias, more = bias_of(node), added[name].numpy()
                set_bias(node, more if bias is None else np.asarray(bias + more, np.float32))
    return model


def _say_left_alone(job: Job, left_alone: Mapping[str, str]) -> None:
    if left_alone:
        name, reason = next(iter(left_alone.items()))
        job.reporter.say(
            f"{len(left_alone)} weights are rounded to nearest: {name!r}, as {reason.rstrip('.')}"
        )
