"""Resize and Upsample."""

from __future__ import annotations

__all__ = ["import_resize", "import_resize_10", "import_upsample", "import_upsample_7", "resize"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of
from .interpolation import Rule, resample
from .registry import integers, leaf, register

_MODES = ("nearest", "linear", "cubic")
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_POLICIES = ("stretch", "not_larger", "not_smaller")
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}  # torch's names, by rank of the tensor
_HALF_PIXEL = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")


@register("Resize", 11, 13, 18, 19, known=("roi", "scales", "sizes"))
def import_resize(
    node: ir.Node,
    x: Tensor,
    roi: Any | None = None,
    scales: Any | None = None,
    sizes: Any | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Import Resize; ``scales`` and ``sizes`` may be computed, one of them is absent or empty."""
    rule = Rule(
        one_of(node, "mode", mode, _MODES),
        one_of(node, "coordinate_transformation_mode", coordinate_transformation_mode, _COORDINATES),
        one_of(node, "nearest_mode", nearest_mode, _NEAREST),
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
        bool(antialias),
    )
    one_of(node, "keep_aspect_ratio_policy", keep_aspect_ratio_policy, _POLICIES)
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    return resize(x, scales, sizes, rule, roi if crops else None, axes, keep_aspect_ratio_policy)


@register("Resize", 10, known=("scales",))
def import_resize_10(node: ir.Node, x: Tensor, scales: Any, *, mode: str = "nearest") -> Tensor:
    """Import Resize of opset 10."""
    return resize(x, scales, None, _first(node, mode))


@register("Upsample", 9, known=("scales",))
def import_upsample(node: ir.Node, x: Tensor, scales: Any, *, mode: str = "nearest") -> Tensor:
    """Import Upsample of opset 9."""
    return resize(x, scales, None, _first(node, mode))


@register("Upsample", 7)
def import_upsample_7(
    node: ir.Node, x: Tensor, *, mode: str = "nearest", scales: tuple[float, ...]
) -> Tensor:
    """Import Upsample of opsets 7 and 8."""
    return resize(x, scales, None, _first(node, mode))


def _first(node: ir.Node, mode: str) -> Rule:
    """What Upsample is, and Resize before its attributes: ONNX Runtime's, for the standard was silent."""
    mode = one_of(node, "mode", mode, ("nearest", "linear"))
    return Rule(mode, coordinate_transformation_mode="asymmetric", nearest_mode="simple")


@leaf
def resize(
    x: Tensor,
    scales: Tensor | tuple[float, ...] | None,
    sizes: Tensor | tuple[int, ...] | None,
    rule: Rule,
    roi: Tensor | tuple[float, ...] | None = None,
    axes: tuple[int, ...] | None = None,
    policy: str = "stretch",
) -> Tensor:
    """Resize one axis after the other: interpolation along several axes is a product.

    What the standard leaves open is as in ONNX Runtime: integers lose their fractions (if antialiased, they
    are rounded after each axis), and a tensor that keeps its size stays as it is. Where a sum is within a
    rounding of a whole number, or if antialiased of a half, an integer can still differ by 1. ONNX Runtime
    has no plain cubic of integers, and clips antialiased int8 to 0 and 255, as if it were unsigned.

    Args:
        x: Any shape and type.
        scales: A factor for each axis; empty or None if ``sizes`` count.
        sizes: A new size for each axis.
        rule: How to resample.
        roi: All starts and then all ends.
        axes: What ``scales``, ``sizes`` and ``roi`` are about; all axes if None.
        policy: ``stretch``, or one factor for all axes, ``not_larger`` or ``not_smaller`` than ``sizes``.
    """
    axes = tuple(range(x.ndim)) if axes is None else tuple(axis % x.ndim for axis in axes)
    old = [x.shape[axis] for axis in axes]
    if sizes is not None and len(sizes):
        new, factors = _sizes(old, integers(sizes), policy)
        exact = policy == "stretch"
    else:
        assert scales is not None, "the standard asks for one of both"
        factors = scales.tolist() if isinstance(scales, Tensor) else list(scales)
        # In float32, as the standard's shape inference: float64 makes 10 * 0.7 a 6.
        new = (torch.tensor(factors) * torch.tensor(old, dtype=torch.float32)).int().tolist()
        exact = all(was * factor == size for was, factor, size in zip(old, factors, new, strict=True))
    whole = list(x.shape)
    for axis, size in zip(axes, new, strict=True):
        whole[axis] = size
    if whole == list(x.shape) and roi is None:  # whatever the scales are
        return x
    options = _torch_mode(x, whole, rule) if exact else None
    if options is not None:
        return F.interpolate(x, whole[2:], **options)
    spans = [(0.0, 1.0)] * len(axes)
    if roi is not None:
        ends = roi.tolist() if isinstance(roi, Tensor) else roi
        spans = list(zip(ends[: len(axes)], ends[len(axes) :], strict=True))
    y = x.float() if rule.mode != "nearest" and not (x.is_floating_point() or x.is_complex()) else x
    for axis, size, factor, span in sorted(zip(axes, new, factors, spans, strict=True), reverse=True):
        if size != x.shape[axis] or factor != 1 or span != (0.0, 1.0):
            y = resample(y, axis, size, factor, rule, span)
            if rule.antialias and y.dtype != x.dtype:
                y = _cast((y + 0.5).floor(), x.dtype).float()
    return _cast(y, x.dtype)


def _sizes(old: Sequence[int], wanted: Sequence[int], policy: str) -> tuple[list[int], list[float]]:
    """New sizes, and the factors to them, which with a policy other than ``stretch`` are one."""
    factors = [size / was if was else 1.0 for was, size in zip(old, wanted, strict=True)]
    if policy == "stretch":
        return list(wanted), factors
    factor = np.float32(min(factors) if policy == "not_larger" else max(factors))
    return [math.floor(float(was * factor) + 0.5) for was in old], [float(factor)] * len(old)


def _torch_mode(x: Tensor, new: list[int], rule: Rule) -> dict[str, Any] | None:
    """The arguments by which ``F.interpolate`` computes the same, much faster; None if there are none."""
    coordinates = rule.coordinate_transformation_mode
    if not x.is_floating_point() or x.ndim not in _LINEAR or list(x.shape[:2]) != new[:2]:
        return None
    if rule.mode == "nearest":
        whole = all(size and after % size == 0 for size, after in zip(x.shape[2:], new[2:], strict=True))
        floors = coordinates == "asymmetric" and rule.nearest_mode in ("floor", "simple")
        rounds = coordinates in _HALF_PIXEL and rule.nearest_mode.startswith("round")
        return {"mode": "nearest"} if whole and (floors or rounds) else None
    if rule.exclude_outside or rule.antialias:
        return None
    if coordinates not in (*_HALF_PIXEL, "align_corners"):
        return None
    if coordinates == "pytorch_half_pixel" and 1 in new[2:]:
        return None
    corners = {"align_corners": coordinates == "align_corners"}
    if rule.mode == "linear":
        return {"mode": _LINEAR[x.ndim], **corners}
    return {"mode": "bicubic", **corners} if x.ndim == 4 and rule.cubic_coeff_a == -0.75 else None


def _cast(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Cut fractions off where an integer type is left, and to what that has."""
    if y.dtype != dtype and not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool):
        y = y.trunc().clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return y.to(dtype)
