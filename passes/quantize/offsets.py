"""Real offsets of activations: who can fold them, and what to do about the rest."""

from __future__ import annotations

__all__ = ["check_offsets", "folds", "is_carried", "pads_with_zero", "snap"]

import onnx_ir as ir

from ..errors import PlanError
from ..place import owners
from ..placement import CLAMPS, POOLS, chain_end, is_pass_through, is_weighted
from ..plan import ActivationQuant, Plan
from ..values import all_values, array, is_op, text_attribute

_OF_WHOLE_CODES = ("Add", "Concat", "MatMul", "Mul", "Sub")


def check_offsets(model: ir.Model, plan: Plan) -> None:
    """Check that whatever uses an activation with an offset can fold it.

    Conv and Gemm do, into their biases. Operators that only move codes and average pools hand it on, for
    constants add: then the result of the pool has the same offset. All else would have to know the real
    value: a product, a function, a bound, a sum of two values, an output of the model.

    The result of a sum or product of two activations has none, nor that of a Concat: ONNX Runtime's operators
    for these add whole codes alone.

    Raises:
        PlanError: Something else uses it, or makes it.
    """
    for name, reason in _faults(model, plan).items():
        offset = next(a.offset for a in plan.activations if a.name == name)
        raise PlanError(
            f"Plan does not fit the model: activation {name!r} has the offset {offset:.6g}, but {reason}; "
            "users allowed are Conv and Gemm, also behind moves and average pools of the same offset. "
            "Snap it: write the offset 0, or use quantize.snap."
        )


def snap(model: ir.Model, plan: Plan) -> Plan:
    """The plan with every offset that ``check_offsets`` refuses rounded to whole codes.

    Args:
        model: Normal graph with BatchNormalization folded; not changed.
        plan: Any.
    """
    while faults := _faults(model, plan):
        plan = plan.replaced(activations=[a.snapped() if a.name in faults else a for a in plan.activations])
    return plan


def folds(node: ir.Node, activation: ActivationQuant) -> bool:
    """Whether the bias of a Conv or Gemm can hold the offset of its input: every tap reads a code."""
    return activation.padding == "offset" or not _is_padded(node)


def is_carried(value: ir.Value) -> bool:
    """Whether the operator before a quantizer gives a value whose offset is taken off already."""
    return is_op(value.producer(), *POOLS)


def pads_with_zero(node: ir.Node, activation: ActivationQuant) -> bool:
    """Whether a Conv has real zeros around an input with an offset."""
    return bool(activation.offset) and not folds(node, activation)


def _is_padded(node: ir.Node) -> bool:
    pads = node.attributes.get_ints("pads", []) if node.op_type in ("Conv", "AveragePool") else []
    return any(pads) or text_attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _faults(model: ir.Model, plan: Plan) -> dict[str, str]:
    """By name of an activation with an offset: why that cannot be folded."""
    found: dict[str, str] = {}
    if not any(a.offset for a in plan.activations):
        return found
    for node in model.graph:
        made = plan.activation(str(chain_end(node).name))
        if made is not None and made.offset and is_op(node, *_OF_WHOLE_CODES) and _has_no_constant(node):
            found[made.name] = f"{_called(node)} makes it, of whole codes alone"
    owner = owners(model, plan)
    for value in all_values(model.graph):
        entry = plan.activation(owner.get(str(value.name), ""))
        if entry is None:
            continue
        if entry.offset and value.is_graph_output():
            found.setdefault(entry.name, f"{value.name!r} is an output of the model")
        for use in value.uses():
            called = _called(use.node)
            result = plan.activation(owner.get(str(use.node.outputs[0].name), ""))
            if is_op(use.node, *POOLS) and result is not None and result.offset != entry.offset:
                one, other = (entry, result) if entry.offset else (result, entry)
                found.setdefault(
                    one.name, f"{called} joins it to {other.name!r}, with the offset {other.offset:.6g}"
                )
            reason = _refusal(use.node, use.idx, entry) if entry.offset else None
            if reason is not None:
                found.setdefault(entry.name, f"{called} {reason}")
    return found


def _called(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"


def _has_no_constant(node: ir.Node) -> bool:
    return all(array(value) is None for value in node.inputs)


def _refusal(node: ir.Node, index: int, entry: ActivationQuant) -> str | None:
    """Why what uses an activation, as input ``index``, cannot fold its offset or hand it on."""
    if is_op(node, "Shape", "Size"):
        return None
    if is_weighted(node) and index == 0:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return None if bias is None or array(bias) is not None else "computes its bias"
    moves = is_pass_through(node) and not is_op(node, *CLAMPS) and index == 0
    if not moves and not is_op(node, *POOLS):
        return "uses it"
    pads = is_op(node, "Pad") or (is_op(node, *POOLS) and _is_padded(node))
    return "pads it with zeros" if pads and entry.padding == "zero" else None
