"""Begin a training anew: weights drawn at random, in the structure of a trained network."""

from __future__ import annotations

__all__ = ["draw_anew"]

import torch
from torch import Tensor, fx, nn

from mpqtool.importer.normalization import BatchNorm

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@torch.no_grad()
def draw_anew(network: fx.GraphModule, *, seed: int) -> list[str]:
    """Forget what a network has learned, in place.

    Kernels and matrices get normal numbers of variance ``2 / inputs`` of one sum, biases 0, and
    BatchNormalization the scale 1 and the shift 0.

    Source: He et al., Delving deep into rectifiers, equation 10.

    Args:
        network: An imported graph, without quantizers.
        seed: Of the numbers.

    Returns:
        Names of the parameters that are none of these, which stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters, done = dict(network.named_parameters()), set[str]()

    def fill(node: object, value: float) -> None:
        if isinstance(node, fx.Node) and node.op == "get_attr" and node.target in parameters:
            parameters[str(node.target)].fill_(value)
            done.add(str(node.target))

    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), BatchNorm):
            fill(node.args[1], 1.0)
            fill(node.args[2], 0.0)
        elif node.meta.get("onnx_op") in _LAYERS:
            fill(node.args[2] if len(node.args) > 2 else None, 0.0)
    for name, parameter in parameters.items():
        if name not in done and _is_matrix(parameter):
            fresh = nn.init.kaiming_normal_(
                torch.empty(parameter.shape), nonlinearity="relu", generator=generator
            )
            parameter.copy_(fresh)
            done.add(name)
    return [name for name in parameters if name not in done]


def _is_matrix(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1
