"""FAT in a run: rescale depthwise layers, measure where thresholds start, learn them."""

from __future__ import annotations

__all__ = ["fat"]

import dataclasses
import math

import onnx_ir as ir
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.equalize import clipped_values, depthwise_rescaling
from mpqtool.passes.plan import Plan

from .channel_statistics import channel_maxima
from .data import Split
from .equalizing import ROUNDING, check_same, moved
from .finished import Finished, freeze, settled
from .job import Job
from .methods.fat import Fat, FatSettings
from .methods.impq import SAMPLES
from .quantizers.attach import attach, plain_activations, plain_weights, read_plan
from .quantizers.calibrate import calibrate
from .quantizers.threshold import attach_thresholds
from .run_data import drawn
from .run_trainer import held_out_metric, make_trainer, tuning_batches
from .simulate import IntegerSimulation
from .training import Trainer


def fat(job: Job) -> Finished:
    """Learn thresholds; the weights stay as they are in the file, with BatchNormalization folded."""
    if job.data.train.labels is not None:
        chosen = "" if job.options.metric else " or to choose"
        job.reporter.say(f"labels are not used to learn{chosen}: the float model is the teacher")
    held_out = job.held_out if job.options.metric else Split(job.held_out.inputs)
    job = dataclasses.replace(job, tuning=Split(job.tuning.inputs), held_out=held_out)
    model, trainer = _rescaled(job), make_trainer(job, job.tuning)
    method = _method(job, trainer, model)
    checkpoint = job.resumed("fat")
    if checkpoint is not None:
        method.resume(checkpoint)
    history = method.run()
    network = _quantized(model, method.plan)
    return freeze(network, IntegerSimulation(network), model, history)


def _method(job: Job, trainer: Trainer, model: ir.Model) -> Fat:
    measure, float_metric = held_out_metric(job, trainer)
    if math.isfinite(float_metric):
        job.reporter.say(f"float     held-out {float_metric:.2f}")
    return Fat(
        attach_thresholds(import_graph(model), _covering(job, trainer, model)),
        trainer,
        held_out=lambda plan: measure(IntegerSimulation(_quantized(model, plan))),
        batches=tuning_batches(job, trainer),
        settings=FatSettings(epochs=job.options.epochs, lr=job.options.lr, float_metric=float_metric),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("fat", checkpoint),
    )


def _quantized(model: ir.Model, plan: Plan) -> fx.GraphModule:
    """The network as it would be shipped, on its way to integers."""
    return attach(import_graph(model), settled(model, plan))


def _covering(job: Job, trainer: Trainer, model: ir.Model) -> Plan:
    """The plan with the smallest thresholds that clip nothing: neither weights, nor a few hundred samples."""
    network = attach(import_graph(model), job.plan).to(trainer.accelerator.device)
    parameters = dict(network.named_parameters())
    for quantizer in plain_weights(network):
        quantizer.fit(parameters[quantizer.name], "max")
    samples = drawn(job.tuning, SAMPLES, job.options.seed)
    batches = trainer.batches_of(Split(samples))
    calibrate(network, batches, plain_activations(network), ranges="minmax")
    return read_plan(network)


def _rescaled(job: Job) -> ir.Model:
    """The folded model with depthwise kernels of one size, if it has such layers.

    Raises:
        ModelError: It would compute something else.
    """
    model = job.folded
    samples, held_out = (drawn(split, SAMPLES, job.options.seed) for split in (job.tuning, job.held_out))
    maxima = channel_maxima(model, clipped_values(model), samples)
    found = depthwise_rescaling(model, maxima)
    if not found.layers:
        return model
    rescaled = pipelines.rescale_depthwise(model, maxima)
    if moved(model, rescaled, held_out) > ROUNDING:  # a Clip cuts more there than in the samples
        job.reporter.say("depthwise layers with a Clip behind are not rescaled: it cuts held-out samples")
        found = depthwise_rescaling(model, {})
        rescaled = pipelines.rescale_depthwise(model)
    change = check_same(model, rescaled, held_out, "Rescaling depthwise layers")
    job.reporter.say(
        f"depthwise layers: {found.layers} rescaled, {found.rescaled} of {found.channels} channels; "
        f"{found.locked} locked, as a Clip cuts them, or would; float outputs moved by {change:.1g} of the "
        "largest number at most"
    )
    return rescaled
