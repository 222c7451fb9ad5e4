"""Tell what an ONNX file is made of: operators, widths, cost, bytes."""

from __future__ import annotations

__all__ = ["inspect"]

import collections
import os
import re
from typing import Any

import onnx_ir as ir

from mpqtool.passes import cost, metadata
from mpqtool.passes.errors import PassError
from mpqtool.passes.load import load_model, stored_bytes
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.placement import MOVES, is_pass_through
from mpqtool.passes.planned_cost import layers_at
from mpqtool.passes.quantize import extract
from mpqtool.passes.values import is_op

from . import integer_layers
from .held import require_our_form

_INTEGER = re.compile(r"QLinear|QGemm$|(Conv|MatMul)Integer")
"""Operators that compute with codes."""


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a float, a QDQ or an integer file.

    Returns:
        A dict that JSON can hold:

        - ``kind``: ``float``, ``qdq`` or ``int``
        - ``target``: what an integer file was made for, else None
        - ``operators``: how many nodes of each
        - ``bits``: ``weights_eff``, ``activations_eff``, and ``layers``, one row per Conv, Gemm or MatMul:
          ``name`` (its weight), ``op``, ``macs``, ``weights``, ``weight_bits`` (width -> kernels) and
          ``activation_bits`` (of its input); of a layer in integers also ``weights_removed`` (with kernels of
          0 bits), ``accumulator_max`` (the largest magnitude any input can lead to, by the codes),
          ``accumulator_bits`` (signed, to hold that) and ``saturates_without_vnni`` (whether sums of two
          products could leave int16)
        - ``cost``: ``macs``, ``bitops``, ``c_c``, ``wcr``, ``wcr_true`` (``passes/cost.py``)
        - ``bytes``: the file under ``float``, ``qdq`` or ``integer``; ``weights_owed`` by the widths;
          ``weights_stored``, of every initializer that holds or describes weights
        - ``nodes``: ``integer``, ``float``, ``mac_share_integer``, ``islands``: float operators, each with
          ``name``, ``op`` and ``reason``

        What is not known is None.

    Raises:
        ModelError: The file cannot be read.
        RuntimeFault: Another version of mpqtool packed its weights.
    """
    model = load_model(path)
    require_our_form(model, path)
    kind = _kind(model)
    rows, stored = _layers(model, kind)
    in_integers = {row.name for row in rows if kind == "int" and row.activation_bits != cost.FLOAT_BITS}
    macs = cost.macs(rows)
    share = cost.macs([row for row in rows if row.name in in_integers])
    return {
        "kind": kind,
        "target": model.metadata_props.get(metadata.TARGET),
        "operators": dict(sorted(collections.Counter(node.op_type for node in model.graph).items())),
        "bits": {
            "weights_eff": cost.weights_eff(rows),
            "activations_eff": cost.activations_eff(rows),
            "layers": [_shown(row) for row in rows],
        },
        "cost": {
            "macs": macs,
            "bitops": cost.bitops(rows),
            "c_c": cost.c_c(rows),
            "wcr": cost.wcr(rows),
            "wcr_true": cost.wcr_true(rows),
        },
        "bytes": {
            "integer" if kind == "int" else kind: stored_bytes(path),
            "weights_owed": cost.weights_owed(rows),
            "weights_stored": stored,
        },
        "nodes": {
            **_nodes(model, kind),
            "mac_share_integer": share / macs if macs and share is not None else None,
        },
    }


def _kind(model: ir.Model) -> str:
    if metadata.TARGET in model.metadata_props:
        return "int"
    operators = {node.op_type for node in model.graph}
    if any(_INTEGER.match(op) for op in operators):
        return "int"
    return "qdq" if "DequantizeLinear" in operators else "float"


def _layers(model: ir.Model, kind: str) -> tuple[list[cost.Layer], int]:
    """The layers, and the bytes of their weights in the file."""
    if kind == "int":
        return integer_layers.rows(model), integer_layers.stored(model)
    if kind == "qdq":
        try:
            real, plan = extract(model)
        except PassError:
            return [], 0  # made by another tool, in a way we do not read: the rest is still true
        found = layers_at(real, plan)(plan)
        return found, sum({row.name: row.weights for row in found}.values())
    found = cost.layers(model)
    return found, sum({row.name: row.weights * cost.FLOAT_BITS // 8 for row in found}.values())


def _shown(row: cost.Layer) -> dict[str, Any]:
    widths = row.weight_bits if len(row.weight_bits) > 1 else row.weight_bits * row.kernels
    counted = collections.Counter(f"{width:g}" for width in widths)
    shown = {
        "name": row.name,
        "op": row.op,
        "macs": row.macs,
        "weights": row.weights,
        "weight_bits": dict(sorted(counted.items(), key=lambda item: float(item[0]))),
        "activation_bits": int(row.activation_bits),
    }
    if row.accumulator is not None:
        shown |= {
            "weights_removed": row.removed,
            "accumulator_max": row.accumulator,
            "accumulator_bits": row.accumulator_bits,
            "saturates_without_vnni": row.saturates,
        }
    return shown


def _nodes(model: ir.Model, kind: str) -> dict[str, Any]:
    """Nodes that compute on codes, and nodes that compute in float; what is computed at load is neither."""
    constant: set[ir.Value | None] = {None, *model.graph.initializers.values()}
    integer, real = 0, []
    for node in model.graph:
        if constant.issuperset(node.inputs):
            constant.update(node.outputs)
        elif kind == "int" and _on_codes(node):
            integer += 1
        else:
            real.append(node)
    return {
        "integer": integer,
        "float": len(real),
        "islands": [_island(node) for node in real if kind == "int" and _computes(node)],
    }


def _on_codes(node: ir.Node) -> bool:
    """Whether a node of an integer file computes with codes, or exactly what an operator on codes would."""
    if metadata.ISLAND in node.metadata_props:
        return False
    codes = node.domain == CONTRIB or node.op_type.startswith("QLinear")
    codes = codes or node.op_type in ("QuantizeLinear", "DequantizeLinear")
    codes = codes or node.outputs[0].dtype in (ir.DataType.UINT8, ir.DataType.INT8)
    return codes or metadata.EXACT in node.metadata_props


def _computes(node: ir.Node) -> bool:
    """Whether a float node is a real operator, and none that moves values or makes shapes or codes."""
    if node.metadata_props.get(metadata.ISLAND) == "":  # it ends one, with codes held in float
        return False
    known_float = node.outputs[0].dtype in (None, ir.DataType.FLOAT)
    moves = is_op(node, *MOVES) and is_pass_through(node)
    return known_float and not moves and not is_op(node, "Dropout")


def _island(node: ir.Node) -> dict[str, str]:
    reason = node.metadata_props.get(metadata.ISLAND) or "it has no integer form"
    return {"name": str(node.name), "op": node.op_type, "reason": reason}
