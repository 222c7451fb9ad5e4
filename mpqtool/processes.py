"""Which of several training processes this is; one alone is the main one."""

from __future__ import annotations

__all__ = ["is_main", "make_accelerator", "wait_for_all"]

import torch
from accelerate import Accelerator, PartialState


def _on_cpu() -> bool:
    # Said outright: without a GPU, Accelerate joins launched processes only when told to use the CPU.
    return not torch.accelerator.is_available()


def make_accelerator() -> Accelerator:
    """Accelerate's view of the devices and processes there are."""
    return Accelerator(cpu=_on_cpu())


def is_main() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return bool(PartialState(cpu=_on_cpu()).is_main_process)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    PartialState(cpu=_on_cpu()).wait_for_everyone()
