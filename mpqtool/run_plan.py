"""A plan, applied as it is."""

from __future__ import annotations

__all__ = ["apply_plan"]

import torch

from mpqtool.importer import import_graph
from mpqtool.passes.quantize import with_room_for_shifts

from .finished import Finished, freeze
from .job import Job
from .methods.impq import SAMPLES
from .quantizers.attach import attach, plain_activations, plain_weights
from .quantizers.calibrate import calibrate
from .simulate import IntegerSimulation


def apply_plan(job: Job) -> Finished:
    """Use the widths and scales of ``--plan`` on the weights of the model; fit what the plan leaves open."""
    plan = with_room_for_shifts(job.plan)
    if plan != job.plan:
        job.reporter.say("shifts of the plan are lowered to what the widths leave room for in int8")
    network = attach(import_graph(job.folded), plan)
    parameters = dict(network.named_parameters())
    for quantizer in plain_weights(network):
        if bool(quantizer.scale.isnan().any()):
            quantizer.fit(parameters[quantizer.name])
    unset = [q for q in plain_activations(network) if not q.is_set]
    if unset:
        columns = [torch.from_numpy(a[:SAMPLES]) for a in job.tuning.inputs.values()]
        calibrate(network, [columns], unset)
    return freeze(network, IntegerSimulation(network), job.folded, [])
