"""Tensor -> fake-quantized tensor. Arithmetic only: no graph, no data, no optimizer."""

from __future__ import annotations

__all__ = [
    "ActivationQuantizer",
    "DorefaWeightQuantizer",
    "Gain",
    "LsqWeightQuantizer",
    "OffsetQuantizer",
    "PactQuantizer",
    "WeightQuantizer",
    "round_ste",
]

from .activation import ActivationQuantizer
from .dorefa import DorefaWeightQuantizer, Gain
from .learned_offset import OffsetQuantizer
from .learned_weight import LsqWeightQuantizer
from .pact import PactQuantizer
from .rounding import round_ste
from .weight import WeightQuantizer
