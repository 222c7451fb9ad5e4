"""Tensor -> fake-quantized tensor. Arithmetic only: no graph, no data, no optimizer."""

from __future__ import annotations

__all__ = ["ActivationQuantizer", "WeightQuantizer", "round_ste"]

from .activation import ActivationQuantizer
from .rounding import round_ste
from .weight import WeightQuantizer
