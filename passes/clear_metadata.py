"""Remove what exporters write about their sources."""

from __future__ import annotations

__all__ = ["ClearForeignMetadataPass"]

from collections.abc import Iterator

import onnx_ir as ir


class ClearForeignMetadataPass(ir.passes.InPlacePass):
    """Remove doc strings, and metadata entries whose key does not begin with ``mpqtool.``.

    Exporters put stack traces there, with the paths of the machine the model was made on. Covers the
    model, its functions, all graphs, nodes and values. Names, and our own entries, stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for thing in _things(model):
            if thing.doc_string:
                thing.doc_string = None
                modified = True
            for key in [key for key in thing.metadata_props if not key.startswith("mpqtool.")]:
                del thing.metadata_props[key]
                modified = True
        return ir.passes.PassResult(model, modified=modified)


_Thing = ir.Model | ir.Graph | ir.Function | ir.Node | ir.Value


def _things(model: ir.Model) -> Iterator[_Thing]:
    yield model
    for graph in model.graphs():
        yield graph
        yield from graph.inputs
        yield from graph.initializers.values()
    yield from model.functions.values()
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        for node in ir.traversal.RecursiveGraphIterator(root):
            yield node
            yield from node.outputs
