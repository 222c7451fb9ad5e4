"""Run a float network and its quantized copy on the same samples, node by node."""

from __future__ import annotations

__all__ = ["Lane", "WeightedNode", "live_bytes", "weighted_nodes"]

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer

from .weight_use import WeightUse, weight_use


@dataclasses.dataclass(frozen=True)
class WeightedNode:
    """A node that multiplies its first argument by a quantized weight.

    Attributes:
        node: It.
        weight: The node that quantizes the weight.
        quantizer: What that calls.
    """

    node: fx.Node
    weight: fx.Node
    quantizer: WeightQuantizer


class Lane(fx.Interpreter):
    """Some samples on their way through a network.

    Args:
        network: With attached quantizers.
        inputs: Of these samples, in graph order.
        quantized: Whether quantizers quantize; else values pass them as they are.
    """

    def __init__(self, network: fx.GraphModule, inputs: Sequence[Tensor], *, quantized: bool) -> None:
        super().__init__(network)
        self.quantized = quantized
        self.args_iter = iter(inputs)

    def advance(self, node: fx.Node) -> None:
        """Compute one node; all before it must have been."""
        self.env[node] = self.run_node(node)

    def forget(self, node: fx.Node) -> None:
        """Drop what no node behind this one uses."""
        for done in self.user_to_last_uses.get(node, []):
            del self.env[done]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module; in a lane that is not quantized, quantizers do nothing."""
        if not self.quantized and isinstance(self.fetch_attr(target), WeightQuantizer | ActivationQuantizer):
            return args[0]
        return super().call_module(target, args, kwargs)

    def use(self, weighted: WeightedNode) -> WeightUse:
        """What a node that is computed next makes of a weight.

        Raises:
            UnsupportedOpError: It is no Conv or Gemm.
        """
        node = weighted.node
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        return weight_use(weighted.quantizer.name, node.target, args, dict(kwargs))


def weighted_nodes(network: fx.GraphModule) -> list[WeightedNode]:
    """Every node that multiplies by a quantized weight, in graph order."""
    modules = dict(network.named_modules())
    found = []
    for node in network.graph.nodes:
        weight = node.args[1] if len(node.args) > 1 else None
        if isinstance(weight, fx.Node) and weight.op == "call_module":
            quantizer = modules[str(weight.target)]
            if isinstance(quantizer, WeightQuantizer):
                found.append(WeightedNode(node, weight, quantizer))
    return found


@torch.no_grad()
def live_bytes(network: fx.GraphModule, inputs: Sequence[Tensor]) -> int:
    """The most bytes of values that are alive at one time while these inputs run."""
    lane, most = Lane(network, inputs, quantized=False), 0
    constants = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    for node in network.graph.nodes:
        lane.advance(node)
        values = {id(value): value for value in lane.env.values() if isinstance(value, Tensor)}
        alive = (value.nbytes for key, value in values.items() if key not in constants)
        most = max(most, sum(alive))
        lane.forget(node)
    return most
