"""Give every BatchNormalization running statistics of its own."""

from __future__ import annotations

__all__ = ["SeparateStatisticsPass"]

import logging

import onnx_ir as ir

from ..values import add_initializer, array, gathered_names, is_op

logger = logging.getLogger(__name__)

_STATISTICS = {3: "mean", 4: "var"}  # by input


class SeparateStatisticsPass(ir.passes.InPlacePass):
    """Copy a mean or variance of a BatchNormalization that is used elsewhere too.

    Before: ``y = BatchNormalization(x, one, zero, zero, one)``, called ``bn``
    After:  ``y = BatchNormalization(x, one, zero, bn.mean, bn.var)``

    They are state and not weights: in training each layer writes its own, so two layers must not write
    into one, nor into a scale or bias. Exporters share them where they were equal. Left alone:
    statistics that are used once or are not constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with gathered_names(model.graph):
            copied = sum(_separate(node) for node in model.graph if is_op(node, "BatchNormalization"))
        if copied:
            logger.info("Copied %d statistics that BatchNormalization shared", copied)
        return ir.passes.PassResult(model, modified=bool(copied))


def _separate(node: ir.Node) -> int:
    graph, copied = node.graph, 0
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    for index, name in _STATISTICS.items():
        value, numbers = node.inputs[index], array(node.inputs[index])
        if value is None or numbers is None or (len(value.uses()) == 1 and not value.is_graph_output()):
            continue
        label = node.name or node.outputs[0].name
        node.replace_input_with(index, add_initializer(graph, f"{label}.{name}", numbers.copy()))
        copied += 1
    return copied
