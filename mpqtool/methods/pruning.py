"""What it would cost to do without a kernel."""

from __future__ import annotations

__all__ = ["removal_gains"]

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mpqtool.quantizers import WeightQuantizer

from .class_sums import signs
from .noise_gain import chunked, is_logits, margin_floor, smallest_margins


def removal_gains(
    network: fx.GraphModule, batches: Iterable[Sequence[Tensor]], *, seed: int = 0
) -> dict[str, Tensor]:
    """``M_k0 = mean_n <d(Z_j - Z_y)/dw_k, w_k>**2 / (2 (Z_j - Z_y)**2)`` of every kernel ``w_k``.

    In place of a noise, all of the kernel goes: the first-order change of the margin to the runner-up ``j``,
    squared, in units of the margin. The other classes add 5 % to it. As for noise gains, margins count as the
    5th percentile of all at least, and outputs that are not class logits have the Fisher form: all of
    them, by random signs, in units of their power.

    No gradient of a weight is needed: what a kernel adds to a result is the result less the bias.

    Args:
        network: With quantizers at work. Statistics are frozen meanwhile.
        batches: Inputs, positional in graph order.
        seed: Seed of the signs.

    Returns:
        By weight name, ``(kernels,)``, float64, on the CPU.
    """
    chunks = chunked(batches)
    training, samples = network.training, sum(len(chunk[0]) for chunk in chunks)
    network.eval()
    with torch.no_grad():
        outputs = [network(*chunk) for chunk in chunks]
    units, generator = _units(outputs), torch.Generator().manual_seed(seed)
    total: dict[str, Tensor] = {}
    for chunk in chunks:
        tape = _Tape(network)
        scalar = _scalar(tape.run(*chunk), units, generator)
        grads = torch.autograd.grad(scalar, [use.result for use in tape.uses], allow_unused=True)
        changes: dict[str, Tensor] = {}
        for use, grad in zip(tape.uses, grads, strict=True):
            if grad is not None:  # one kernel may be used by several operators
                changes[use.name] = changes.get(use.name, 0) + use.by_kernel(grad * use.added)
        for name, change in changes.items():
            total[name] = total.get(name, 0) + change.double().square().sum(0).cpu() / (2 * samples)
    network.train(training)
    return total


def _units(outputs: Sequence[Sequence[Tensor]]) -> list[float]:
    """The least margin that counts; or what each output is divided by."""
    if is_logits(outputs[0]):
        return [margin_floor(torch.cat([out[0] for out in outputs]))]
    wholes = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return [max(float(whole.square().mean()), 1e-12) ** 0.5 for whole in wholes]


def _scalar(outputs: Sequence[Tensor], units: Sequence[float], generator: torch.Generator) -> Tensor:
    """The sum over samples of what has to stay as it is, each in its unit."""
    if is_logits(outputs):
        margin = smallest_margins(outputs[0])
        return (margin / margin.detach().clamp(min=units[0])).sum()
    parts = [
        (signs(out, generator) * out).sum() / unit
        for out, unit in zip(outputs, units, strict=True)
        if out.requires_grad
    ]
    return torch.stack(parts).sum()


@dataclasses.dataclass(frozen=True)
class _Use:
    """One use of a weight: its name, the result, what the weight adds to it, and the axis of its kernels."""

    name: str
    result: Tensor
    added: Tensor
    axis: int

    def by_kernel(self, values: Tensor) -> Tensor:
        """The sum over positions, ``(samples, kernels)``."""
        moved = values.movedim(self.axis, 1)
        return moved.reshape(*moved.shape[:2], -1).sum(2)


class _Tape(fx.Interpreter):
    """Run the graph and keep every use of a weight."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.uses: list[_Use] = []
        self._weights: list[tuple[Tensor, str]] = []  # recognised by identity

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module, result = self.fetch_attr(target), super().call_module(target, args, kwargs)
        if isinstance(module, WeightQuantizer):
            self._weights.append((result, module.name))
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        weight = args[1] if len(args) > 1 else None
        for name in (name for tensor, name in self._weights if tensor is weight):
            bias, axis = args[2] if len(args) > 2 else kwargs.get("bias"), -1 if target is F.linear else 1
            added = result.detach()
            if bias is not None:
                added = (added.movedim(axis, -1) - bias.detach()).movedim(-1, axis)
            self.uses.append(_Use(name, result, added, axis))
        return result
