"""What a run goes on from: the last checkpoint of its directory, or an iteration that was kept in it."""

from __future__ import annotations

__all__ = ["TAKEN", "find_checkpoint"]

from typing import TYPE_CHECKING

from . import rundir
from .checkpoint import Checkpoint, load_checkpoint, saved_names
from .errors import CheckpointError

if TYPE_CHECKING:
    from .job import Job

TAKEN = "taken"
"""The stage of an iteration that was kept."""


def find_checkpoint(job: Job) -> Checkpoint | None:
    """What ``--resume`` or ``--take`` asks for; None: neither does, or there is nothing to resume.

    Raises:
        CheckpointError: The run was begun with other options, or the iteration was not kept.
    """
    if job.options.take is not None:
        return _checked(job, _iteration(job, job.options.take), "--take")
    if not job.options.resume:
        return None
    checkpoint = load_checkpoint(job.out / rundir.CHECKPOINT)
    if checkpoint is None:
        job.reporter.warn(f"nothing to resume in {str(job.out)!r}: starting anew")
        return None
    return _checked(job, checkpoint, "--resume")


def _iteration(job: Job, number: int) -> Checkpoint:
    folder = job.out / rundir.ITERATIONS
    checkpoint = load_checkpoint(folder, str(number), option="--take")
    if checkpoint is None:
        kept = sorted(map(int, saved_names(folder)))
        there = ", ".join(map(str, kept)) if kept else "none; run the search first, with the same -o"
        raise CheckpointError(
            f"Cannot take iteration {number} of {str(job.out)!r}: it was not reached, or rolled back. "
            f"Iterations that were kept: {there}."
        )
    return checkpoint


def _checked(job: Job, checkpoint: Checkpoint, option: str) -> Checkpoint:
    then, now = checkpoint.state["identity"], job.identity
    changed = [
        f"--{name.replace('_', '-')}"
        for name, value in now["options"].items()
        if then["options"].get(name, value) != value  # what another method has not, --method stands for
    ]
    if then["model"] != now["model"]:
        changed.insert(0, "the model")
    if changed:
        raise CheckpointError(
            f"Cannot {option.removeprefix('--')} from {str(job.out)!r}: {', '.join(changed)} changed since "
            f"it was begun. Give what it was begun with, or leave {option} out and give another -o."
        )
    return checkpoint
