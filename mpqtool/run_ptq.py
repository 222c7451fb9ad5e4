"""Post-training quantization in a run: calibrate, round, correct biases; nothing is trained."""

from __future__ import annotations

__all__ = ["post_training"]

import dataclasses

import torch

from .equalizing import equalized
from .finished import Finished
from .job import Job
from .method_options import MIXED
from .plan_maker import PlanMaker
from .run_data import drawn
from .run_mixed import descend, repair
from .trials import Trial, Trials

_BATCH = 32
"""Samples that operators take at once."""


def post_training(job: Job) -> Finished:
    """Fit ranges, then round weights and correct biases layer by layer; at other widths, if asked or needed.

    Raises:
        ModelError: No plan holds the floor under the accuracy.
        OptionError: BitOPs are limited, and those of a layer are not known.
    """
    samples = drawn(job.tuning, job.options.calibration_samples, job.options.seed)
    reference = job.folded
    if job.options.equalize:
        job = dataclasses.replace(job, folded=equalized(job, samples))
    chunks = list(zip(*(torch.from_numpy(array).split(_BATCH) for array in samples.values()), strict=True))
    maker = PlanMaker(job, chunks)
    trials = Trials(job, maker, reference)
    found = trials(job.plan)
    if not trials.holds(found) and job.options.ranges == "auto":
        job.reporter.say(f"accuracy: {trials.said(found)}; ranges are fitted to what the outputs hang on")
        maker.ranges = "fisher"
        better = trials(job.plan)
        if better.held_out > found.held_out:
            found = better
        else:
            maker.ranges = "mse"
    if not trials.holds(found) and not trials.limits:
        found = repair(trials, found, maker)
    if trials.limits or job.options.bits == MIXED:
        found = descend(trials, found, maker)
    _say_what_no_scale_holds(job, found)
    return trials.told(found)


def _say_what_no_scale_holds(job: Job, found: Trial) -> None:
    left = {n: why for n, why in found.finished.plan.left_float.items() if n not in found.plan.left_float}
    if left:
        name, reason = next(iter(left.items()))
        job.reporter.say(f"float, as no scale holds them: {len(left)} tensors, of which {name}: {reason}")
