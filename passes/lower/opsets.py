"""Declare the domains that a lowered graph uses."""

from __future__ import annotations

__all__ = ["ImportContribPass"]

import onnx_ir as ir

from .build import CONTRIB


class ImportContribPass(ir.passes.InPlacePass):
    """Import version 1 of ``com.microsoft`` if a node is of it; left alone if it is imported already."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        imports = model.graph.opset_imports
        if CONTRIB in imports or all(node.domain != CONTRIB for node in model.graph):
            return ir.passes.PassResult(model, modified=False)
        imports[CONTRIB] = 1
        return ir.passes.PassResult(model, modified=True)
