"""Batch statistics: those that match the weights as they are now, and those of values without any."""

from __future__ import annotations

__all__ = ["held_statistics", "output_statistics", "reestimate"]

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.errors import DataError
from mpqtool.importer.normalization import BatchNorm


@torch.no_grad()
def reestimate(
    network: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    forward: Callable[..., object] | None = None,
) -> None:
    """Replace running statistics by their average over the batches, weighted by their samples.

    Quantized weights jump between levels, so the moving averages of training are of several networks.
    A batch of one sample behind others is left out: values ``(batch, channels)`` have no variance there.

    Args:
        network: Its BatchNormalization modules are updated in place; nothing else changes.
        batches: Inputs, positional in graph order.
        forward: Runs the network; None: as it is.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    if not norms:
        return
    momenta, training = [norm.momentum for norm in norms], network.training
    network.eval()
    for norm in norms:
        norm.train()
    seen = 0
    for numbers in _statistics(network):
        numbers.zero_()  # what is no number would stay so, whatever it is averaged with
    try:
        for batch in batches:
            if seen and len(batch[0]) == 1:
                continue
            seen += len(batch[0])
            for norm in norms:
                norm.momentum = len(batch[0]) / seen  # the running average becomes that of all samples so far
            (forward or network)(*batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(training)


@contextlib.contextmanager
def held_statistics(network: fx.GraphModule) -> Iterator[None]:
    """A block in which training mode normalizes by the batch, and leaves running statistics alone."""
    statistics = _statistics(network)
    former = [numbers.clone() for numbers in statistics]  # a momentum of 0 would let infinity through
    try:
        yield
    finally:
        with torch.no_grad():
            for numbers, before in zip(statistics, former, strict=True):
                numbers.copy_(before)


def _statistics(network: fx.GraphModule) -> list[Tensor]:
    """The running means and variances of a network; not one that is computed, or a parameter as well."""
    nodes = [node for node in network.graph.nodes if node.op == "call_module"]
    norms = [node for node in nodes if isinstance(network.get_submodule(node.target), BatchNorm)]
    buffers = dict(network.named_buffers(remove_duplicate=False))
    names = [source.meta.get("onnx_name") for node in norms for source in node.args[3:5]]
    return [buffers[name] for name in names if name in buffers]


class _Moments:
    """Mean and variance per channel of all values so far, merged batch by batch.

    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979, equation 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = np.zeros(1)

    def add(self, x: Tensor) -> None:
        """Take in values ``(batch, channels, *)``."""
        wide = x.double().transpose(0, 1).flatten(1)
        count = wide.shape[1]
        if not count:
            return
        squares, mean = torch.var_mean(wide, 1, correction=0)
        step = mean.cpu().numpy() - self.mean
        total = self.count + count
        self.mean = self.mean + step * (count / total)
        self.squares = self.squares + squares.cpu().numpy() * count + step**2 * (self.count * count / total)
        self.count = total


class _Watcher(fx.Interpreter):
    """Take the moments of the wanted values."""

    def __init__(self, module: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(module)
        self.moments = {name: _Moments() for name in wanted}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        moments = self.moments.get(n.meta.get("onnx_name", ""))
        if moments is not None:
            moments.add(result)
        return result


@torch.no_grad()
def output_statistics(
    network: fx.GraphModule, names: Collection[str], batches: Iterable[Sequence[Tensor]]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean and variance per channel, over all samples and positions, of some values of a network.

    Of a constant channel the variance is 0: what normalizes it adds an epsilon.

    Args:
        network: An imported graph; ``node.meta["onnx_name"]`` is the join key. It runs in evaluation mode.
        names: Values ``(batch, channels, *)``.
        batches: Inputs, positional in graph order; at least one sample.

    Returns:
        By name: mean and variance of the population, each ``(channels,)``.

    Raises:
        DataError: A value is not finite.
    """
    watcher, training = _Watcher(network, names), network.training
    network.eval()
    try:
        for batch in batches:
            watcher.run(*batch)
    finally:
        network.train(training)
    statistics = {}
    for name, moments in watcher.moments.items():
        if not moments.count:
            raise ValueError(
                f"{name!r} has no statistics: it is no value of the network, or there are no samples"
            )
        mean, variance = moments.mean, moments.squares / moments.count
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise DataError(
                f"The value {name!r} becomes infinite or NaN on the training inputs, before any training. "
                "Scale the inputs to what the model was trained on."
            )
        statistics[name] = (mean, variance)
    return statistics
