"""How Upsample and the older versions of Resize are said at opset 21."""

from __future__ import annotations

__all__ = ["resize_10", "resize_11", "upsample_7", "upsample_9"]

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..values import array, text_attribute
from .build import constant_before, set_input


def upsample_7(node: ir.Node) -> None:
    """``scales`` is an input since opset 9."""
    scales = node.attributes.pop("scales").as_floats()
    set_input(node, 1, constant_before(node, scales, name="scales", dtype=np.float32))
    upsample_9(node)


def upsample_9(node: ir.Node) -> None:
    """It is Resize since opset 10: positions were ``x / scale``, and the nearest was the one below."""
    node.op_type = "Resize"
    _asymmetric(node, "floor")


def resize_10(node: ir.Node) -> None:
    """The nearest was the one below, but the one above along an axis that shrinks.

    The standard does not say which; this is how ONNX Runtime computes it. One node has one mode since.
    """
    nearest_mode = "floor"
    if text_attribute(node, "mode", "nearest") == "nearest":
        scales = array(node.inputs[1])
        if scales is None:
            raise ModelError("its scales are computed; those of mode='nearest' must be constant")
        if (scales < 1).any():
            nearest_mode = "ceil"
            if (scales > 1).any():
                raise ModelError(
                    f"its scales are {scales.tolist()}; those of mode='nearest' must be all at least 1 or "
                    "all at most 1"
                )
    _asymmetric(node, nearest_mode)


def resize_11(node: ir.Node) -> None:
    """``tf_half_pixel_for_nn`` is gone since opset 13: ``floor((x + 0.5) / scale)``, which is rounding up.

    An empty tensor of scales stands for none since opset 13; ``roi`` need not be there.
    """
    if text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn":
        mode = text_attribute(node, "mode", "nearest")
        nearest_mode = text_attribute(node, "nearest_mode", "round_prefer_floor")
        if mode != "nearest" or nearest_mode not in ("floor", "simple"):
            raise ModelError(
                f"it has coordinate_transformation_mode='tf_half_pixel_for_nn' beside mode={mode!r} and "
                f"nearest_mode={nearest_mode!r}; 'nearest' and 'floor' are allowed"
            )
        _set_text(node, "coordinate_transformation_mode", "half_pixel")
        _set_text(node, "nearest_mode", "round_prefer_ceil")
    for index in (1, 2):
        numbers = array(node.inputs[index]) if len(node.inputs) > index else None
        if numbers is not None and not numbers.size:
            node.replace_input_with(index, None)


def _asymmetric(node: ir.Node, nearest_mode: str) -> None:
    """Make the second input the third, as the scales are since opset 11."""
    scales = node.inputs[1]
    node.replace_input_with(1, None)
    set_input(node, 2, scales)
    _set_text(node, "coordinate_transformation_mode", "asymmetric")
    _set_text(node, "nearest_mode", nearest_mode)


def _set_text(node: ir.Node, name: str, text: str) -> None:
    node.attributes[name] = ir.AttrString(name, text)
