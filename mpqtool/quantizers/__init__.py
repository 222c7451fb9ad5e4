"""Tensor -> fake-quantized tensor. Arithmetic only: no graph, no data, no optimizer."""

from __future__ import annotations

__all__ = ["ActivationQuantizer", "LsqWeightQuantizer", "OffsetQuantizer", "WeightQuantizer", "round_ste"]

from .activation import ActivationQuantizer
from .learned_offset import OffsetQuantizer
from .learned_weight import LsqWeightQuantizer
from .rounding import round_ste
from .weight import WeightQuantizer
