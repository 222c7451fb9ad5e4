"""Resampling along one axis: which elements make up an element of the result, and how much of each."""

from __future__ import annotations

__all__ = ["Rule", "cubic_kernel", "resample"]

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .broadcast import along

_TIE = 1e-6
"""How far from the middle between two elements a place still is a tie: ONNX Runtime's."""


class Rule(NamedTuple):
    """How to resample; names, values and defaults are the attributes of ONNX Resize.

    ``nearest_mode`` has one value more: ``simple``, the rule of the versions that had no such attribute,
    rounds down, and up where the size shrinks. (It is ONNX Runtime's; the standard said nothing.)
    """

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False


def resample(
    x: Tensor, axis: int, new_size: int, scale: float, rule: Rule, roi: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Resample one axis; differentiable in ``x``.

    Args:
        x: Any shape; of floats unless the mode is ``nearest``.
        axis: The axis.
        new_size: Its size in the result.
        scale: New size over size, before it was rounded to a whole number.
        rule: How.
        roi: Start and end of what ``tf_crop_and_resize`` takes, as parts of ``size - 1``.
    """
    size = x.shape[axis]
    # In float32, as ONNX Runtime: which element is nearest can hang on that.
    fine = x.dtype == torch.float64 and rule.mode != "nearest"
    at = torch.arange(new_size, dtype=torch.float64 if fine else torch.float32, device=x.device)
    at = _coordinates(at, size, scale, rule.coordinate_transformation_mode, roi)
    if rule.mode == "nearest":
        result = x.index_select(axis, _nearest(at, scale, rule.nearest_mode).clamp(0, size - 1))
    else:
        result = _interpolate(x, axis, at, scale, rule)
    if rule.coordinate_transformation_mode != "tf_crop_and_resize":
        return result
    outside = along((at < 0) | (at > size - 1), axis, x.ndim)
    return torch.where(outside, rule.extrapolation_value, result)


def _coordinates(at: Tensor, size: int, scale: float, mode: str, roi: tuple[float, float]) -> Tensor:
    """The place in the input of each place ``at`` in the result, in the order of ONNX Runtime's operations.

    Source: ONNX operator Resize, attribute ``coordinate_transformation_mode``.
    """
    new_size = len(at)
    scales = torch.full_like(at, scale)  # by a number, a GPU multiplies with its reciprocal
    if mode == "asymmetric":
        return at / scales
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / scales
    if mode == "align_corners":
        return at * (size - 1) / torch.full_like(at, max(new_size - 1, 1))
    if mode == "tf_crop_and_resize":
        start, end = map(np.float32, roi)
        if new_size == 1:
            return at + 0.5 * float(start + end) * (size - 1)
        steps = at * float(end - start) * (size - 1) / torch.full_like(at, new_size - 1)
        return float(start * (size - 1)) + steps
    if mode == "pytorch_half_pixel" and new_size == 1:
        return at
    if mode == "half_pixel_symmetric":  # partly in float64
        offset = size / 2 * (1 - new_size / (np.float32(scale) * size))
        return (float(offset) + (at.double() + 0.5) / scales - 0.5).to(at.dtype)
    return (at + 0.5) / scales - 0.5


def _nearest(at: Tensor, scale: float, mode: str) -> Tensor:
    below = at.floor()
    if mode == "ceil" or (mode == "simple" and scale < 1):
        below = at.ceil()
    elif mode == "round_prefer_floor":
        below = below + (at - below > 0.5 + _TIE)
    elif mode == "round_prefer_ceil":
        below = below + (at - below >= 0.5 - _TIE)
    return below.long()


def _interpolate(x: Tensor, axis: int, at: Tensor, scale: float, rule: Rule) -> Tensor:
    """Weighted sums of neighbours; beyond an end stands the element at the end."""
    size = x.shape[axis]
    squeeze = min(scale, 1.0) if rule.antialias else 1.0  # widens the kernel where the size shrinks
    reach = math.ceil((1 if rule.mode == "linear" else 2) / squeeze)
    if rule.mode == "linear" and not (rule.exclude_outside or rule.antialias):
        at = at.clamp(0, size - 1)  # the same, and exact: where integers are cut off, a rounding can count
    below = at.floor()
    neighbours = below + torch.arange(1 - reach, reach + 1, device=x.device).unsqueeze(1)
    distance = (neighbours - at).abs() * squeeze
    weights = (
        (1 - distance).clamp(min=0) if rule.mode == "linear" else cubic_kernel(distance, rule.cubic_coeff_a)
    )
    if rule.exclude_outside:
        weights = weights * ((neighbours >= 0) & (neighbours < size))
    if rule.exclude_outside or rule.antialias:
        weights = weights / weights.sum(0)
    result = torch.zeros((), device=x.device)
    for index, weight in zip(neighbours.clamp(0, size - 1).long(), weights, strict=True):
        result = result + x.index_select(axis, index) * along(weight, axis, x.ndim)
    return result


def cubic_kernel(distance: Tensor, a: float) -> Tensor:
    """The weight of an element at a distance of 0 or more; ``a`` is the slope at 1.

    Source: R. G. Keys, Cubic convolution interpolation for digital image processing, IEEE Transactions on
    Acoustics, Speech, and Signal Processing 29(6), 1981, equation 4 before ``a`` is fixed.
    """
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * a * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
