"""Begin a training anew: weights drawn at random, in the structure of a trained network."""

from __future__ import annotations

__all__ = ["draw_anew"]

import math

import torch
from torch import Tensor, fx

from mpqtool.importer.normalization import BatchNorm


@torch.no_grad()
def draw_anew(network: fx.GraphModule, *, seed: int) -> list[str]:
    """Forget what a network has learned, in place.

    Kernels and matrices get normal numbers of variance ``2 / inputs`` of one sum, their biases 0, and
    BatchNormalization the scale 1 and the shift 0.

    Source: He et al., Delving deep into rectifiers, equation 10.

    Args:
        network: An imported graph, without quantizers.
        seed: Of the numbers.

    Returns:
        Names of the parameters that are none of these, which stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    left = dict(network.named_parameters())

    def taken(node: fx.Node, place: int) -> Tensor:
        """A parameter that a node reads, if nothing was done to it yet; else an empty tensor."""
        source = node.args[place] if len(node.args) > place else None
        name = source.meta.get("onnx_name") if isinstance(source, fx.Node) else None
        return left.pop(str(name), torch.empty(0))

    def draw(parameter: Tensor, inputs: int) -> None:
        fresh = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(fresh * math.sqrt(2 / max(inputs, 1)))

    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), BatchNorm):
            taken(node, 1).fill_(1.0)
            taken(node, 2).fill_(0.0)
        elif node.meta.get("onnx_op") in ("Conv", "Gemm"):  # ``(outputs, ...)`` in the normal form
            weight = taken(node, 1)
            draw(weight, weight[:1].numel())
            taken(node, 2).fill_(0.0)
        elif node.meta.get("onnx_op") == "MatMul":
            weight = taken(node, 1)
            draw(weight, weight.shape[-2] if weight.ndim > 1 else len(weight))
    for name in [name for name, parameter in left.items() if _is_matrix(parameter)]:
        matrix = left.pop(name)
        draw(matrix, matrix.shape[-1])
    return list(left)


def _is_matrix(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1
