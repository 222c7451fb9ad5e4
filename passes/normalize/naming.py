"""Give every node and value a name of its own."""

from __future__ import annotations

__all__ = ["name_pass"]

import onnx_ir as ir
from onnx_ir.passes import common


def name_pass() -> common.NameFixPass:
    """onnx_ir's pass, with names that say what the thing is: ``Conv_3``, ``Conv_3.output``."""
    return common.NameFixPass(_ByOperator())


class _ByOperator:
    """Base names; the pass makes them unique."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        if value.name:
            return value.name
        producer = value.producer()
        return "value" if producer is None else f"{producer.name or producer.op_type}.output"
