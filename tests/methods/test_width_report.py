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


def _settled(name: str, granularity: str, bits: int, reason: str, *, kind: Any = "weights") -> Variable:
    members: Any = [SimpleNamespace(elements=10, bits=torch.ones(()))]
    variable = Variable(name, kind, members, granularity)
    variable.width = Width(float(bits), 1, 8, 0.1, reason=reason)
    return variable


def test_each_kind_is_told_by_what_has_a_width_of_it() -> None:
    """Kernels, layers and the network may have their own in one search."""
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    kernels = [_settled(f"w[{i}]", "kernel", 2 + i, "stall") for i in range(2)]
    say_ended(reporter, 640, [*kernels, _settled("relu", "layer", 4, "bound", kind="activations")])
    shared = _settled("activations", "network", 5, "oscillation", kind="activations")
    say_ended(reporter, 936, [*kernels, shared])
    assert stream.getvalue().splitlines() == [
        "step 640  kernel-wise  weights at 2.50 bits: stall 2",
        "step 640  layer-wise  activations at 4.00 bits: bound",
        "step 936  kernel-wise  weights at 2.50 bits: stall 2",
        "step 936  network-wise  activations at 5.00 bits: oscillation",
    ]
