"""What the values of an activation are like: what the parametrization of its quantizer depends on."""

from __future__ import annotations

__all__ = ["Role", "foldable", "roles"]

import enum

import onnx_ir as ir

from .placement import GATES, PASS_THROUGH, POOLS, Placement, factor_of, is_table, moved_input
from .plan import Plan
from .quantize.offsets import snap
from .values import array, float_attribute, is_op

_SKEWED = ("Celu", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "Selu", "Silu")
_JOINING = ("Add", "Concat")
_MULTIPLYING = ("MatMul", "Mul")


class Role(enum.StrEnum):
    """How the values of an activation lie around 0.

    Source: Bhalgat et al., LSQ+, section 5.1, which gives each its configuration.

    ``NONNEGATIVE``: No value is negative: behind a ReLU or a sigmoid.
    ``SKEWED``: The negative side is the smaller one: behind Swish, and functions like it.
    ``SIGNED``: The rest: a linear bottleneck, which has no function behind its layer, a graph input, Tanh.
    """

    NONNEGATIVE = "nonnegative"
    SKEWED = "skewed"
    SIGNED = "signed"


def roles(model: ir.Model, plan: Plan) -> dict[str, Role]:
    """The role of each activation of a plan.

    - What moves, pools, clamps or averages values, or multiplies them by a positive number, keeps their role.
    - A sum or Concat is signed if one part is, else skewed if one is: where each part is bounded below by a
      small number, so is the sum, and its positive side still grows with both. One linear branch ends that.
    - A product, also of matrices, with values that are not negative has the role of the other factor, as
      behind a squeeze-and-excitation gate. A value times its own gate is skewed, as Swish is.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Of the model.
    """
    placement = Placement(model.graph)
    found: dict[ir.Value | None, Role] = {}
    for node in model.graph:
        for value in node.outputs:
            nonnegative = placement.is_nonnegative(value)
            found[value] = Role.NONNEGATIVE if nonnegative else _made(node, found, placement)
    by_name = {value.name: role for value, role in found.items() if value is not None}
    return {entry.name: by_name.get(entry.name, Role.SIGNED) for entry in plan.activations}


def _made(node: ir.Node, found: dict[ir.Value | None, Role], placement: Placement) -> Role:
    """The role of a result, from the roles of what it is made of."""
    if is_table(node):
        return Role.SKEWED if _is_skewed(node) else Role.SIGNED
    if factor_of(node) is not None:
        return found.get(moved_input(node), Role.SIGNED)
    parts = [_constant(value) or found.get(value, Role.SIGNED) for value in node.inputs]
    if is_op(node, *PASS_THROUGH, *POOLS):
        return parts[0]
    if is_op(node, *_JOINING):
        return max(parts, key=list(Role).index)
    if is_op(node, "Mul") and _gates_itself(node, placement):
        return Role.SKEWED
    if is_op(node, *_MULTIPLYING) and Role.NONNEGATIVE in parts:
        return parts[1 - parts.index(Role.NONNEGATIVE)]
    return Role.SIGNED


def _is_skewed(node: ir.Node) -> bool:
    """Whether a function makes the negative side smaller; a LeakyRelu may make it larger."""
    steep = is_op(node, "LeakyRelu") and float_attribute(node, "alpha", 0.01) >= 1
    return node.op_type in _SKEWED and not steep


def _gates_itself(node: ir.Node, placement: Placement) -> bool:
    """Whether one factor is a sigmoid of the other, perhaps scaled: ``x * sigmoid(1.702 * x)``."""
    for value, gate in (node.inputs, node.inputs[::-1]):
        made = gate.producer() if gate is not None else None
        owner = placement.owner(value)
        if made is not None and is_op(made, *GATES) and owner and placement.owner(made.inputs[0]) is owner:
            return True
    return False


def _constant(value: ir.Value | None) -> Role | None:
    numbers = array(value)
    if numbers is None:
        return None
    return Role.NONNEGATIVE if (numbers >= 0).all() else Role.SIGNED


def foldable(model: ir.Model, plan: Plan) -> frozenset[str]:
    """Names of the activations whose users can all fold an offset, each by itself and all at once.

    See ``quantize.offsets.check_offsets``. What goes into an average pool and what comes out are not among
    them, as they would have to share one offset.
    """
    trial = [
        entry.model_copy(update={"scale": 1.0, "zero_point": 0, "offset": float(number)})
        for number, entry in enumerate(plan.activations, start=1)
    ]
    return frozenset(a.name for a in snap(model, plan.replaced(activations=trial)).activations if a.offset)
