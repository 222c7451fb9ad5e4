"""Check that a plan fits a model, and fill in the weight scales it leaves open."""

from __future__ import annotations

__all__ = ["WeightUser", "check_fits", "complete", "raise_dead_scales", "weight_users"]

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .. import arithmetic
from ..errors import PlanError
from ..place import entries, place
from ..placement import chain_end
from ..plan import ActivationQuant, Grid, Plan, WeightQuant
from ..values import array
from .offsets import check_offsets, pads_with_zero

_LARGEST_BIAS = 2.0**30
_BIAS_OF_NOTHING = 2.0**15
"""Codes that the bias of a kernel of 0 bits gets: as exact as any, and sums stay exact in float32."""
_LARGEST_ACCUMULATOR = 2**31 - 1


class WeightUser(NamedTuple):
    """An operator that uses a weight.

    ``low`` and ``high`` bound ``code - zero_point`` of its input, ``offset`` is that of the input. The offset
    of the result is taken off ``bias`` already.
    """

    name: str
    bias: np.ndarray
    x_scale: float
    low: int
    high: int
    offset: float
    in_border: bool

    def bias_codes(self, scale: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What is added to the products, before it is held in int32."""
        units = np.clip(self.bias / (np.float64(self.x_scale) * scale), -(2.0**40), 2.0**40)
        if self.in_border:  # any part of a kernel may be on the input
            magnitudes = np.abs(codes.astype(np.int16))  # int8 has no 128
            units = np.abs(units) + abs(self.offset) / self.x_scale * arithmetic.kernel_sums(magnitudes)
        elif self.offset:
            units = units + self.offset / self.x_scale * arithmetic.kernel_sums(codes)
        rounded: np.ndarray = np.rint(units).astype(np.int64)
        return rounded


def complete(model: ir.Model, plan: Plan) -> Plan:
    """The plan with every scale, or an error that names the first tensor that does not fit.

    Args:
        model: Normal graph with BatchNormalization folded; not changed.
        plan: Activations complete; a weight scale of None is fitted to the weights.

    Raises:
        PlanError: A tensor is unknown or missing, a weight has another number of kernels, an activation
            has no scale, or an offset that cannot be folded, or an accumulator could leave int32.
    """
    check_fits(model, plan)
    for activation in plan.activations:
        for field in ("scale", "zero_point"):
            if getattr(activation, field) is None:
                raise PlanError(
                    f"Plan does not fit the model: activation {activation.name!r} has no {field}, "
                    "found null, allowed a number. Calibrate it, or write the number into the plan."
                )
    found = entries(model, plan)
    return plan.replaced(weights=[_complete_weight(model, plan, found, w) for w in plan.weights])


def check_fits(model: ir.Model, plan: Plan) -> None:
    """Check that the plan names the tensors of the model, all of them, with their numbers of kernels.

    Raises:
        PlanError: It does not, or an offset cannot be folded; the first tensor that does not fit is named.
    """
    expected = place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    left, weights, activations = (
        list(plan.left_float),
        [w.name for w in expected.weights],
        [a.name for a in expected.activations],
    )
    _check_names("tensor left in float", left, [*weights, *activations], complete=False)
    for kind, quantized in (("weight", plan.weights), ("activation", plan.activations)):
        if left and not quantized:
            raise PlanError(
                f"Plan does not fit the model: found every {kind} in left_float, allowed all but one, as "
                "nothing is integer else. Take some out of it, or use the float model as it is."
            )
    _check_names("weight", [w.name for w in plan.weights], [w for w in weights if w not in left])
    _check_names("activation", [a.name for a in plan.activations], [a for a in activations if a not in left])
    for planned in plan.weights:
        of_model = expected.weight(planned.name)
        if of_model is not None and len(planned.bits) != len(of_model.bits):
            raise PlanError(
                f"Plan does not fit the model: weight {planned.name!r} has bits for "
                f"{len(planned.bits)} kernels, allowed {len(of_model.bits)}. Give one width per kernel."
            )
    check_offsets(model, plan)


def _check_names(kind: str, found: list[str], allowed: list[str], *, complete: bool = True) -> None:
    for name in found:
        if name not in allowed:
            raise PlanError(
                f"Plan does not fit the model: found {kind} {name!r}, allowed {_shown(allowed)}. "
                "Remove it, or make the plan anew from this model."
            )
    for name in allowed if complete else ():
        if name not in found:
            raise PlanError(
                f"Plan does not fit the model: {kind} {name!r} is missing, found {_shown(found)}. "
                "Add it, to left_float if it is to stay float, or make the plan anew from this model."
            )


def _shown(names: list[str]) -> str:
    """The names, at most six of them."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(repr(name) for name in names[:6]) or "none") + more


def _complete_weight(
    model: ir.Model, plan: Plan, found: dict[str, ActivationQuant], planned: WeightQuant
) -> WeightQuant:
    weight = model.graph.initializers[planned.name]
    numbers = array(weight)
    assert numbers is not None  # place() only names initializers
    users = list(weight_users(plan, found, weight))
    scale = np.asarray(planned.scale, np.float32) if planned.scale is not None else None
    if scale is None:
        scale = arithmetic.fit_weight_scale(numbers, planned.bits, planned.grid)
        scale = np.maximum(scale, _least_scale(users, len(scale)) * 2**planned.shift)
    codes, unit = arithmetic.quantize_shifted(numbers, scale, planned.bits, planned.grid, planned.shift)
    if np.any(codes != codes.astype(np.int8)):
        raise PlanError(
            f"Plan does not fit the model: weight {planned.name!r} has codes up to {np.abs(codes).max()} "
            f"with shift {planned.shift}, allowed -128 to 127. Lower its shift."
        )
    for user in users:
        bound = arithmetic.accumulator_bound(codes, user.bias_codes(unit, codes), user.low, user.high)
        if bound > _LARGEST_ACCUMULATOR:
            needed = float(_least_scale(users, len(scale)).max()) * 2**planned.shift
            raise PlanError(
                f"Plan does not fit the model: the accumulator of {user.name!r} can reach {bound}, "
                f"allowed {_LARGEST_ACCUMULATOR}. Raise the scales of weight {planned.name!r} "
                f"to {needed:.3g} or more."
            )
    return planned.model_copy(update={"scale": tuple(float(s) for s in scale)})


def raise_dead_scales(model: ir.Model, plan: Plan) -> Plan:
    """The plan with scales that fit the biases of kernels that are dead, or nearly so.

    - A scale that is too small for its bias is raised to ``|b| / (s_x * 2**30)``. Only a nearly dead kernel
      has one, as when BatchNormalization nearly multiplied it by 0: its bias would not fit int32. Its weights
      are far below the raised scale, and so is what they add.
    - The scale of a kernel of 0 bits, which has no weights, is ``|b| / (s_x * 2**15)``, as its bias, all that
      it gives, is rounded to whole ``s_x * scale``.

    Args:
        model: Normal graph with BatchNormalization folded; not changed.
        plan: Complete.
    """
    found = entries(model, plan)
    weights = []
    for planned in plan.weights:
        users = list(weight_users(plan, found, model.graph.initializers[planned.name]))
        least = _least_scale(users, len(planned.bits))
        scale = np.maximum(np.asarray(planned.scale, np.float32), least)
        empty = (np.asarray(planned.bits) == 0) & (least > 0)
        scale = np.where(empty, least * np.float32(_LARGEST_BIAS / _BIAS_OF_NOTHING), scale)
        weights.append(planned.model_copy(update={"scale": tuple(float(s) for s in scale)}))
    return plan.replaced(weights=weights)


def _least_scale(users: Iterable[WeightUser], kernels: int) -> np.ndarray:
    """The smallest scale of each kernel at which its biases fit, with half of int32 to spare."""
    least = np.zeros(kernels, np.float32)
    for user in users:
        least = np.maximum(least, (np.abs(user.bias) / (user.x_scale * _LARGEST_BIAS)).astype(np.float32))
    return least


def weight_users(plan: Plan, found: dict[str, ActivationQuant], weight: ir.Value) -> Iterable[WeightUser]:
    """Every operator that multiplies quantized values by a weight."""
    for use in weight.uses():
        node = use.node
        source = node.inputs[0]
        activation = found.get(str(source.name)) if source is not None else None
        if use.idx != 1 or activation is None:
            continue
        assert activation.scale is not None
        assert activation.zero_point is not None
        numbers = array(node.inputs[2]) if len(node.inputs) > 2 else None
        bias = np.zeros(1) if numbers is None else numbers.astype(np.float64)
        result = plan.activation(str(chain_end(node).name))
        yield WeightUser(
            name=str(node.name),
            bias=bias - (0.0 if result is None else result.offset),
            x_scale=activation.scale,
            low=-activation.zero_point,
            high=2**activation.bits - 1 - activation.zero_point,
            offset=activation.offset,
            in_border=pads_with_zero(node, activation),
        )
