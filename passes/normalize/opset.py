"""Bring a model to the opset and IR version that the passes work on."""

from __future__ import annotations

__all__ = ["IR_VERSION", "OPSET", "AlignFunctionsPass", "ConvertOpsetPass"]

import logging

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import ModelError
from ..load import NEWEST_OPSET, OLDEST_OPSET
from ..values import gathered_names
from .adapters import ADAPTERS
from .expand import REWRITES, function_body

logger = logging.getLogger(__name__)

OPSET = 21
IR_VERSION = 10

_EXPANDED = "mpqtool.expanded"  # domain of functions that live only as long as the pass


class AlignFunctionsPass(ir.passes.InPlacePass):
    """Bring model and functions to opset 21 where a function is of another opset than the model.

    Before: ``<opset 17> y = F(x)``, ``<opset 11> F (a) => (b) { b = Softmax(a) }``
    After:  both of opset 21, ``F`` with the nodes that Softmax of opset 11 is said with

    InlinePass asks for one opset. Left alone: a model whose functions all have its own.

    Raises:
        ModelError: A function cannot be converted.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        _shorten_domains(model)
        opset = model.graph.opset_imports.get("")
        others = [f for f in model.functions.values() if f.opset_imports.get("", opset) != opset]
        if not others:
            return ir.passes.PassResult(model, modified=False)
        found = ", ".join(f"{function.name!r} of opset {function.opset_imports['']}" for function in others)
        try:
            return ConvertOpsetPass()(model)
        except ModelError as error:
            raise ModelError(f"Cannot inline {found} in a model of opset {opset}: {error}") from None


class ConvertOpsetPass(ir.passes.InPlacePass):
    """Convert the standard operators from opset 7 ... 26 to 21, and the file format to IR 10.

    Before: ``<opset 11> y = Squeeze<axes=[1]>(x)``
    After:  ``<opset 21> y.axes = Constant<value={1}>()  y = Squeeze(x, y.axes)``

    1. Where a schema version between differs in meaning, the node is rewritten; see ``adapters``.
    2. An operator that opset 21 does not have is replaced by the function that ONNX defines it as, or by
       a rewrite of ``expand``.
    3. Every other node stays as it is: it means the same at both opsets.

    Subgraphs included. Exact, but for the order of sums in the bodies of functions. The names of values
    stay. Uses
    none of the converters of onnx and onnxscript: they need types and shapes everywhere, stop at custom
    domains, and give wrong results without a word where they have no adapter.

    Model-local functions are converted too, each from its own opset; but a node that has to be rewritten
    and takes an attribute from the caller cannot be. InlinePass first avoids that.

    Left alone: nodes of custom domains, and a model of opset 21 and IR 10.

    Raises:
        ModelError: A node has no form at opset 21: an operator, an attribute or an element type that came
            later, or one that is gone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        imports = model.graph.opset_imports
        _shorten_domains(model)
        opset = imports.get("")
        if opset is None or not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise ModelError(
                f"Cannot convert the model to opset {OPSET}: it declares opset {opset}; "
                f"{OLDEST_OPSET} to {NEWEST_OPSET} can be read. Export it again at opset {OPSET}."
            )
        modified = opset != OPSET or model.ir_version != IR_VERSION
        model.ir_version = IR_VERSION
        parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for part in parts:
            opset = part.opset_imports.get("", OPSET)
            if opset != OPSET:
                part.opset_imports[""] = OPSET
                with gathered_names(part if isinstance(part, ir.Graph) else part.graph):
                    _convert_all(model, part, opset)
                logger.info("Converted %s from opset %d to %d", part.name, opset, OPSET)
                modified = True
        if any(domain == _EXPANDED for domain, _, _ in model.functions):
            common.InlinePass(lambda function: function.domain == _EXPANDED)(model)
            imports.pop(_EXPANDED, None)
        return ir.passes.PassResult(model, modified=modified)


def _shorten_domains(model: ir.Model) -> None:
    """Call the standard domain by its short name."""
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for part in parts:
        if "ai.onnx" in part.opset_imports:
            part.opset_imports.setdefault("", part.opset_imports.pop("ai.onnx"))


def _convert_all(model: ir.Model, owner: ir.Graph | ir.Function, opset: int) -> None:
    """Convert the nodes of a graph or function, and report all that cannot be converted at once."""
    faults = []
    for node in list(ir.traversal.RecursiveGraphIterator(owner)):
        if node.domain not in ("", "ai.onnx"):
            continue
        node.domain = ""
        op_type = node.op_type
        try:
            _convert(model, node, opset)
        except ModelError as error:
            faults.append(f"{op_type} {node.name!r} {error}")
    if faults:
        named = "the model" if isinstance(owner, ir.Graph) else f"function {owner.name!r}"
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelError(
            f"Cannot convert {named} from opset {opset} to {OPSET}: {faults[0]}{more}. "
            f"Export it again at opset {OPSET}."
        )


def _convert(model: ir.Model, node: ir.Node, opset: int) -> None:
    schema = _schema(node.op_type, opset)
    if schema is None:
        raise ModelError(f"is no operator of opset {opset}")
    version = schema.since_version
    adapter = ADAPTERS.get((node.op_type, version))
    try:
        if adapter is not None:
            _check_attributes(node)
            adapter(node)
        target = _schema(node.op_type, OPSET)
        if target is None:
            _replace(model, node, schema)
        elif target.since_version < version:
            _check_types(node, target)
    except ModelError as error:
        raise ModelError(f"(version {version}) has no form at opset {OPSET}: {error}") from None


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return None
    return schema


def _replace(model: ir.Model, node: ir.Node, schema: onnx.defs.OpSchema) -> None:
    """Replace an operator that opset 21 does not have."""
    if node.op_type in REWRITES:
        REWRITES[node.op_type](node)
        return
    function = function_body(node, schema)
    if function is None:
        raise ModelError("it came later, and ONNX does not define it by other operators")
    opset = function.opset_imports[""]
    function.opset_imports[""] = OPSET
    function.domain, function.name = _EXPANDED, f"{node.op_type}_{len(model.functions)}"
    model.functions[function.identifier()] = function
    _convert_all(model, function, opset)
    node.domain, node.op_type = _EXPANDED, function.name
    node.resize_outputs(len(function.outputs))
    for output in node.outputs:
        output.name = output.name or None  # the inliner would pass an empty name on


def _check_attributes(node: ir.Node) -> None:
    """Refuse attributes whose value only the caller of a function knows."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            raise ModelError(f"its attribute {name!r} is a parameter of a function")


def _check_types(node: ir.Node, target: onnx.defs.OpSchema) -> None:
    """Refuse element types that the operator takes since a later opset only."""
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs for constraint in target.type_constraints
    }
    values = [
        *zip(node.inputs, target.inputs, strict=False),
        *zip(node.outputs, target.outputs, strict=False),
    ]
    for value, formal in values:
        if value is None or value.dtype is None or formal.type_str not in allowed:
            continue
        found = f"tensor({value.dtype.name.lower()})"
        takes_tensors = any(name.startswith("tensor(") for name in allowed[formal.type_str])
        if takes_tensors and found not in allowed[formal.type_str]:
            raise ModelError(f"{value.name!r} is {value.dtype.name}")
