"""Write an integer graph for GPUs, whose convolutions and products are in floating point alone."""

from __future__ import annotations

__all__ = ["CarryInFloatPass"]

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..placement import MOVES
from ..values import array, gathered_names, is_op, only_user, replace_value, unused_name
from . import contrib, cuda_layers, sums
from .build import CONTRIB
from .carriers import OF_CODES, Carrier, FloatCarrier, install, parameters, side

_FLOAT, _UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8
_MOVED = ("Concat", "GatherElements", "MaxPool", "ReduceMax", *MOVES)
"""Operators that do the same to integers in float32 as to uint8."""
_OF_ANY_TYPE = ("Cast", "Shape", "Size")


class CarryInFloatPass(ir.passes.InPlacePass):
    """Hold the codes of activations in float32 tensors, and compute on them there, with the same integers.

    A QLinearConv becomes ``Sub(z_x) -> Conv -> Round -> Mul -> Round -> Add(z_y) -> Clip``: exact, because
    its sums are split where they could leave the integers of float32 (``sums.accumulate``). So does QGemm
    with Gemm, and QLinearMatMul with MatMul. Other operators on codes are written out, one IEEE operation a
    step; those that only move codes stay. The codes of weights are int8, to be packed as ever, and cast.

    A graph input or output that is uint8 stays that, and codes are cast back for the graphs of If and Loop.
    An operator that has no such form, or of which one channel alone could leave the integers of float32,
    stays on uint8 between two Cast.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with gathered_names(model.graph):
            changed = _Conversion(model.graph).run()
        return ir.passes.PassResult(model, modified=changed)


class _Conversion:
    """One run over a graph.

    Attributes:
        carried: The codes that are float32 by now.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.carried: set[ir.Value | None] = set()

    def run(self) -> bool:
        outputs = [str(value.name) for value in self.graph.outputs if value.dtype is _UINT8]
        changed = [self._begin(value) for value in self.graph.inputs if value.dtype is _UINT8]
        changed += [self._convert(node) for node in list(self.graph)]
        changed += [self._captured(value) for node in list(self.graph) for value in node.outputs]
        changed += [self._finish(name) for name in outputs]
        return any(changed)

    def _convert(self, node: ir.Node) -> bool:
        form = _FORMS.get((node.domain, node.op_type))
        if form is not None and not (is_op(node, "DequantizeLinear") and node.inputs[0] not in self.carried):
            steps, codes = FloatCarrier(self.graph, node), node.outputs[0].dtype is _UINT8
            result = form(steps, node)
            if result is not None:
                if codes:
                    self.carried.add(result)
                return install(steps, result)
        if is_op(node, *_MOVED) and (_makes_codes(node) or not self.carried.isdisjoint(node.inputs)):
            return self._move(node)
        if is_op(node, "Cast"):
            return self._cast(node)
        if is_op(node, "Clip") and node.inputs[0] in self.carried:
            return self._clip(node)
        return self._keep(node)

    def _begin(self, value: ir.Value) -> bool:
        """Cast a graph input."""
        users = [use.node for use in value.uses()]
        if all(is_op(user, "Cast") for user in users):
            return False
        cast = self._new("Cast", value, f"{value.name}.float", _FLOAT)
        for use in tuple(value.uses()):
            if use.node is not cast:
                use.node.replace_input_with(use.idx, cast.outputs[0])
        self.graph.insert_before(next(iter(self.graph)), cast)
        self.carried.add(cast.outputs[0])
        return True

    def _captured(self, value: ir.Value) -> bool:
        """Cast codes back for the nodes of a branch or a loop, which are left as they are."""
        uses = [use for use in value.uses() if use.node.graph is not self.graph]
        if value not in self.carried or not uses:
            return False
        cast = self._new("Cast", value, unused_name(self.graph, f"{value.name}.uint8"), _UINT8)
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        maker = value.producer()
        assert maker is not None  # what is carried is made here
        self.graph.insert_after(maker, cast)
        return True

    def _finish(self, name: str) -> bool:
        """Cast a graph output back."""
        index = next(i for i, value in enumerate(self.graph.outputs) if value.name == name)
        value = self.graph.outputs[index]
        if value not in self.carried:
            return False
        _rename(value, unused_name(self.graph, f"{name}.float"))
        cast = self._new("Cast", value, name, _UINT8)
        self.graph.append(cast)
        self.graph.outputs[index] = cast.outputs[0]
        return True

    def _move(self, node: ir.Node) -> bool:
        for index, value in enumerate(node.inputs):
            numbers = array(value)
            if value is not None and numbers is not None and numbers.dtype == np.uint8:
                real = constant(self.graph, f"{value.name}.float", numbers.astype(np.float32))
                node.replace_input_with(index, real)
        for output in node.outputs:
            if output.dtype in (_UINT8, None):
                output.type = ir.TensorType(_FLOAT)
                self.carried.add(output)
        node.metadata_props[metadata.EXACT] = node.op_type
        return True

    def _cast(self, node: ir.Node) -> bool:
        x, out = node.inputs[0], node.outputs[0]
        if x in self.carried and out.dtype is _FLOAT:
            return False  # no step any more, and runtimes drop it; it tells real values from codes
        if out.dtype is not _UINT8 or x is None or (out.is_graph_output() and not out.uses()):
            return False
        maker = x.producer()
        if maker is None or metadata.EXACT not in maker.metadata_props:
            return self._keep(node)
        if x.dtype is _FLOAT and only_user(x) is node:  # integers in 0 to 255, or it could not be cast
            noted = dict(node.metadata_props)
            replace_value(out, x)
            self.graph.remove(node, safe=True)
            maker.name = x.name
            maker.metadata_props.update(noted)
            out = x
        else:
            node.attributes["to"] = ir.AttrInt64("to", _FLOAT.value)
        out.type = ir.TensorType(_FLOAT)
        self.carried.add(out)
        return True

    def _clip(self, node: ir.Node) -> bool:
        """Make the Clip before it the only one, if it has no other user."""
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None  # it is carried
        before = x.producer()
        bounds = sums.clip_bounds(node)
        if bounds is None:
            return self._keep(node)
        low, high = bounds
        target = node
        if before is not None and is_op(before, "Clip") and only_user(x) is node:
            first, last = sums.code_bounds(x)
            low, high = max(low, first), max(low, min(high, last))
            noted = dict(node.metadata_props)
            replace_value(out, x)
            self.graph.remove(node, safe=True)
            before.name = x.name
            before.metadata_props.update(noted)
            target, out = before, x
        for index, bound in ((1, low), (2, high)):
            target.replace_input_with(index, constant(self.graph, f"float{bound:g}", np.float32(bound)))
        target.metadata_props.setdefault(metadata.EXACT, "Clip")
        out.type = ir.TensorType(_FLOAT)
        self.carried.add(out)
        return True

    def _keep(self, node: ir.Node) -> bool:
        """Leave an operator on uint8: cast what goes in and what comes out."""
        if is_op(node, *_OF_ANY_TYPE) and node.outputs[0].dtype is not _UINT8:
            return False
        ins = [
            (i, value) for i, value in enumerate(node.inputs) if value is not None and value in self.carried
        ]
        for index, value in ins:
            name = unused_name(self.graph, f"{value.name}.uint8")
            cast = self._new("Cast", value, name, _UINT8)
            self.graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
        outs = [value for value in node.outputs if value.dtype is _UINT8]
        for value in outs:
            name = str(value.name)
            _rename(value, unused_name(self.graph, f"{name}.uint8"))
            cast = self._new("Cast", value, name, _FLOAT)
            for key in OF_CODES:
                if key in node.metadata_props:
                    cast.metadata_props[key] = node.metadata_props[key]
            made = cast.outputs[0]
            value.replace_all_uses_with(made, replace_graph_outputs=True)
            cast.replace_input_with(0, value)
            self.graph.insert_after(node, cast)
            self.carried.add(made)
        return bool(ins or outs)

    def _new(self, op: str, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Node:
        node = ir.node(op, [value], {"to": dtype.value}, name=name, metadata_props={metadata.EXACT: op})
        made = node.outputs[0]
        made.name, made.type, made.shape = name, ir.TensorType(dtype), value.shape
        return node


def _rename(value: ir.Value, name: str) -> None:
    """Give a value another name, and its node, if that is called after it."""
    node = value.producer()
    if node is not None and node.name == value.name:
        node.name = name
    value.name = name


def _makes_codes(node: ir.Node) -> bool:
    return any(value.dtype is _UINT8 for value in node.outputs)


def _quantize(steps: Carrier, node: ir.Node) -> ir.Value | None:
    y, x = parameters(node, 1), node.inputs[0]
    if y is None or x is None or node.outputs[0].dtype is not _UINT8:
        return None
    return steps.codes(x if y[0] == 1 else steps("Div", x, steps.scalar(y[0])), y[1])


def _dequantize(steps: Carrier, node: ir.Node) -> ir.Value | None:
    x = side(node, 0)
    if x is None:
        return None
    real = steps.real(x, x.scale)
    return real if steps.nodes else steps("Identity", real)


_FORMS: dict[tuple[str, str], contrib.Form] = {
    **{(CONTRIB, op): form for op, form in contrib.FORMS.items()},
    **cuda_layers.FORMS,
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
}
