"""Folded float ONNX -> the same function with weights that are easier to quantize."""

from __future__ import annotations

__all__ = [
    "AbsorbBiasPass",
    "ChannelStatistics",
    "EqualizeLayersPass",
    "Maxima",
    "RescaleDepthwisePass",
    "Rescaling",
    "absorbable_values",
    "clipped_values",
    "depthwise_rescaling",
]

from .absorb_bias import AbsorbBiasPass, ChannelStatistics, absorbable_values
from .cross_layer import EqualizeLayersPass
from .depthwise import RescaleDepthwisePass, Rescaling, depthwise_rescaling
from .lock import Maxima, clipped_values
