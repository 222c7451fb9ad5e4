"""Inputs for a model without data: noise, shaped until it looks like the data to BatchNormalization."""

from __future__ import annotations

__all__ = ["has_statistics", "synthesize"]

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from .errors import DataError
from .importer.normalization import BatchNorm

_BATCH = 32
"""Samples that have the statistics of the data together, where the model fixes no batch."""
_STEPS, _LR = 200, 0.1
"""Steps of Adam for a batch, and the length of the first one; the noise has a deviation of 1."""


def has_statistics(network: fx.GraphModule) -> bool:
    """Whether a network has BatchNormalization; without it, inputs are plain noise."""
    return any(isinstance(module, BatchNorm) for module in network.modules())


def synthesize(
    network: fx.GraphModule,
    inputs: Sequence[ir.Value],
    samples: int,
    *,
    seed: int = 0,
    on_samples: Callable[[int], object] = lambda count: None,
) -> dict[str, NDArray[np.float32]]:
    """Make inputs from nothing but a network.

    They begin as Gaussian noise. Adam then changes them until the mean and the standard deviation of each
    channel in front of every BatchNormalization, over a batch and its positions, are close to the stored
    ones. What becomes less is, averaged over layers i and their channels c,

    ``((mu'_ic - mu_ic)**2 + (sigma'_ic - sigma_ic)**2) / (sigma_ic**2 + eps)``

    Source: Cai et al., ZeroQ: A novel zero shot quantization framework, CVPR 2020, equation 3. There, the
    terms are not in units of what BatchNormalization divides by, so layers with large numbers count more; and
    the inputs themselves are held to mean 0 and deviation 1, which nobody knows here.

    Args:
        network: An imported graph, BatchNormalization not folded. It is left as it was.
        inputs: Those of the model that are fed, in its order.
        samples: How many to make.
        seed: Of the noise; the same seed gives the same inputs.
        on_samples: Is told the number of samples of every batch that is done.

    Returns:
        By name, ``(samples, ...)``.

    Raises:
        DataError: An input is not float32, or a size of it is not fixed; or values become infinite.
    """
    shapes = [_shape(value) for value in inputs]
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    size = first if isinstance(first, int) else _BATCH
    generator, made = torch.Generator().manual_seed(seed), list[list[Tensor]]()
    shaped, training = has_statistics(network), network.training
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    network.eval()
    try:
        for start in range(0, samples, size):
            noise = [torch.randn((size, *shape), generator=generator).to(device) for shape in shapes]
            made.append(_matched(network, noise) if shaped else noise)
            on_samples(min(size, samples - start))
    finally:
        network.train(training)
    columns = [torch.cat(parts)[:samples].cpu().numpy() for parts in zip(*made, strict=True)]
    return {str(value.name): column for value, column in zip(inputs, columns, strict=True)}


def _shape(value: ir.Value) -> tuple[int, ...]:
    """Of one sample.

    Raises:
        DataError: No noise is like what the model takes, or the shape is not known.
    """
    if value.dtype is not ir.DataType.FLOAT:
        kind = value.dtype.name.lower() if value.dtype is not None else "of no known type"
        raise DataError(
            f"Input {value.name!r} is {kind}, and without data only float32 inputs can be made: nobody knows "
            "which numbers are in range. Give samples with --data."
        )
    sizes = list(value.shape)[1:] if value.shape else []
    fixed = tuple(size for size in sizes if isinstance(size, int))
    if not value.shape or len(fixed) < len(sizes):
        found = " x ".join(map(str, value.shape)) if value.shape else "not known"
        raise DataError(
            f"Input {value.name!r} has the shape {found}, and without data every size but the first must be "
            "a number. Export the model with fixed sizes, or give samples with --data."
        )
    return fixed


def _matched(network: fx.GraphModule, noise: list[Tensor]) -> list[Tensor]:
    """A batch, changed until its statistics are those of the network; as it is, if none depends on it."""
    batch = [x.requires_grad_() for x in noise]
    optimizer = torch.optim.Adam(batch, lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        watcher = _Statistics(network)
        watcher.run(*batch)
        loss = torch.stack(watcher.distances).mean()
        if not torch.isfinite(loss):
            raise DataError(
                "Without data, no inputs can be made for the model: its values become infinite or NaN on "
                "noise. Give samples with --data."
            )
        if not loss.requires_grad:
            break
        gradients = torch.autograd.grad(loss, batch, allow_unused=True)
        for x, gradient in zip(batch, gradients, strict=True):
            x.grad = gradient
        optimizer.step()
        schedule.step()
    return [x.detach() for x in batch]


class _Statistics(fx.Interpreter):
    """How far values in front of each BatchNormalization are from what it has stored, in graph order."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.distances: list[Tensor] = []

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module = self.fetch_attr(target)
        if isinstance(module, BatchNorm):
            x, _, _, mean, variance = args
            axes = [axis for axis in range(x.ndim) if axis != 1]
            found, middle = torch.var_mean(x, axes, correction=0)
            # The root of 0 has no gradient, so epsilon, which BatchNormalization adds as well, is in both.
            spread, stored = (found + module.eps).sqrt(), (variance + module.eps).sqrt()
            self.distances.append((((middle - mean) ** 2 + (spread - stored) ** 2) / stored**2).mean())
        return super().call_module(target, args, kwargs)
