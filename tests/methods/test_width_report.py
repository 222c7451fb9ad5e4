"""What a search for widths says."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import torch

from mpqtool.methods.width_report import say_ended
from mpqtool.methods.width_variables import Variable
from mpqtool.methods.widths import Width
from mpqtool.reporter import Reporter


def _settled(name: str, kind: Any, bits: int, reason: str, kernel: int | None = None) -> Variable:
    members: Any = [SimpleNamespace(elements=10, bits=torch.ones(()))]
    variable = Variable(name, kind, members, kernel)
    variable.width = Width(float(bits), 1, 8, 0.1, reason=reason)
    return variable


def test_each_kind_is_told_by_what_has_a_width_of_it() -> None:
    """Kernels, layers and the network may have their own in one stage."""
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    kernels = [_settled(f"w[{i}]", "weights", 2 + i, "stall", kernel=i) for i in range(2)]
    say_ended(reporter, 640, "kernel", [*kernels, _settled("relu", "activations", 4, "bound")])
    shared = _settled("activations", "activations", 5, "oscillation")
    say_ended(reporter, 936, "kernel", [*kernels, shared])
    assert stream.getvalue().splitlines() == [
        "step 640  kernel-wise  weights at 2.50 bits: stall 2",
        "step 640  layer-wise  activations at 4.00 bits: bound",
        "step 936  kernel-wise  weights at 2.50 bits: stall 2",
        "step 936  network-wise  activations at 5.00 bits: oscillation",
    ]
