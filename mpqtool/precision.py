"""Narrow floats while training: autocast, and the gradient scaler that float16 needs.

Accelerate would do both, but it keeps one precision for a whole process, the first that anyone asked for,
and leaves its autocast in the modules that it prepares. So each ``Trainer`` has its own.
"""

from __future__ import annotations

__all__ = ["autocast", "check_precision", "make_scaler"]

import contextlib

import torch

from .errors import OptionError
from .reporter import Reporter

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device, reporter: Reporter) -> None:
    """See that a device can train in a precision; warn where that is slow.

    Raises:
        OptionError: It cannot.
    """
    if device.type != "cpu":
        return
    if precision == "fp16":
        raise OptionError(
            "mixed_precision is 'fp16', which needs a GPU, and none is found; 'bf16' and 'no' are allowed on "
            "a CPU. Leave it out to train in float32."
        )
    if precision == "bf16":
        reporter.warn("mixed precision 'bf16' on a CPU: most are slower in it than in float32")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A block whose products are computed in narrow floats; weights and sums over them stay float32."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """What keeps small gradients above the least float16, and does nothing in another precision."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
