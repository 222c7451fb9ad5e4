"""Batch statistics that match the weights as they are now."""

from __future__ import annotations

__all__ = ["reestimate"]

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx

from mpqtool.importer.normalization import BatchNorm


@torch.no_grad()
def reestimate(network: fx.GraphModule, batches: Iterable[Sequence[Tensor]]) -> None:
    """Replace running statistics by their average over the batches, weighted by their samples.

    Quantized weights jump between levels, so the moving averages of training are of several networks.
    A batch of one sample behind others is left out: values ``(batch, channels)`` have no variance there.

    Args:
        network: Its BatchNormalization modules are updated in place; nothing else changes.
        batches: Inputs, positional in graph order.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not norms:
        return
    momenta, training = [norm.momentum for norm in norms], network.training
    network.eval()
    for norm in norms:
        norm.train()
    seen = 0
    try:
        for batch in batches:
            if seen and len(batch[0]) == 1:
                continue
            seen += len(batch[0])
            for norm in norms:
                norm.momentum = len(batch[0]) / seen  # the running average becomes that of all samples so far
            network(*batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(training)
