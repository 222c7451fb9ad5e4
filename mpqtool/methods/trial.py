"""A forward pass with fewer bits: what it measures, and how the widths that took part share it."""

from __future__ import annotations

__all__ = ["Trial"]

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .width_variables import Quantizer, Variable


class Trial:
    """The loss of a batch with one bit less in some variables.

    Of several, each takes its part of what that does to the loss, in proportion to what its own bit does in
    the Fisher approximation: g is the gradient of the loss by what a quantizer gives, delta what a bit less
    changes of that. For activations, the sum over samples of ``sum(g * delta)**2`` over each; for weights,
    whose gradients are sums over the samples of a process, ``sum((g * delta)**2)``, as if these did not go
    together. Both are of one pass, the one that is trained on.

    Source: of the approximation, Theis et al., Faster gaze prediction with dense networks and Fisher pruning.

    Args:
        asked: Variables of one kind, each between two numbers of bits; with more than one, each is a layer
            or a kernel, and the kernels of a layer follow one another.
    """

    def __init__(self, asked: Sequence[Variable]) -> None:
        self.asked = asked
        self.loss = torch.tensor(torch.nan)
        self._kernels: dict[Quantizer, list[int]] = {}
        for variable in asked:
            for member in variable.members:
                own = self._kernels.setdefault(member, [])
                own += [] if variable.kernel is None else [variable.kernel]
        self._blame: dict[Quantizer, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    @contextlib.contextmanager
    def one_bit_less(self) -> Iterator[None]:
        """A block in which the variables have a bit less."""
        with contextlib.ExitStack() as stack:
            for member in self._kernels:
                stack.enter_context(self._bit_less(member))
            yield

    def begin_watch(self) -> None:
        """Take in the gradients of the next pass; for one variable there is nothing to share out."""
        if len(self.asked) > 1:
            self._handles = [member.register_forward_hook(self._wait) for member in self._kernels]

    def end_watch(self) -> Tensor:
        """What each variable is to blame for, ``(variables,)``, not normalized."""
        for handle in self._handles:
            handle.remove()
        if len(self.asked) == 1:
            return torch.ones(1, device=self.loss.device)
        parts = []
        for member, kernels in self._kernels.items():
            found = self._blame.get(member, member.bits.new_zeros(member.bits.shape, dtype=torch.float64))
            parts.append(found[kernels] if kernels else found.sum().view(1))
        return torch.cat(parts)

    def observe(self, bracket: float, parts: Sequence[float]) -> None:
        """Share out ``L - L(one bit less)``.

        Args:
            bracket: The difference.
            parts: What ``end_watch`` gave, summed over all processes. What is no number says nothing: in half
                precision gradients overflow until their scale has settled.
        """
        total = sum(parts)
        if not math.isfinite(total):
            return
        for variable, part in zip(self.asked, parts, strict=True):
            variable.width.observe(bracket * (part / total if total else 1 / len(parts)))

    @contextlib.contextmanager
    def _bit_less(self, member: Quantizer) -> Iterator[None]:
        before, kernels = member.bits.clone(), self._kernels[member]
        try:
            if kernels:
                member.bits[kernels] -= 1
            else:
                member.bits -= (before > 0).to(before)  # kernels without bits stay so
            yield
        finally:
            member.bits.copy_(before)

    def _wait(self, member: Quantizer, inputs: tuple[Tensor], output: Tensor) -> None:
        if output.requires_grad:  # else nothing before it learns
            output.register_hook(lambda gradient: self._take(member, inputs, gradient))

    @torch.no_grad()
    def _take(self, member: Quantizer, inputs: tuple[Tensor], gradient: Tensor) -> None:
        with self._bit_less(member):
            less = member.forward(*inputs)
        change = gradient * (
            less - member.forward(*inputs)
        )  # in this order: its scale is the present one again
        if self.asked[0].kind == "weights":
            found = change.double().square().flatten(1).sum(1)
        else:
            found = change.flatten(1).sum(1).double().square().sum()
        self._blame[member] = self._blame.get(member, 0) + found
