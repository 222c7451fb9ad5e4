"""Which of several training processes this is; one alone is the main one."""

from __future__ import annotations

__all__ = ["is_main", "main_first", "make_accelerator"]

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator, PartialState


def _on_cpu() -> bool:
    # Said outright: without a GPU, Accelerate joins launched processes only when told to use the CPU.
    return not torch.accelerator.is_available()


def make_accelerator() -> Accelerator:
    """Accelerate's view of the devices and processes there are.

    It computes in float32, whatever the environment or an earlier Accelerator of this process says:
    narrower floats are up to a ``Trainer``.
    """
    accelerator = Accelerator(cpu=_on_cpu())
    accelerator.native_amp = False
    return accelerator


def is_main() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return bool(PartialState(cpu=_on_cpu()).is_main_process)


@contextlib.contextmanager
def main_first() -> Iterator[bool]:
    """A block of which only the main process does the work; all go on when it is done, or has failed.

    Gives whether this is the main process.
    """
    try:
        yield is_main()
    finally:
        PartialState(cpu=_on_cpu()).wait_for_everyone()
