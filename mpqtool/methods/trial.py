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
    changes of that. For weights, ``sum((g * delta)**2)`` over them, the diagonal approximation; for
    activations, the squares of ``sum(g * delta)`` over each sample, the whole one. Both are of one pass, the
    one that is trained on.

    Source: of the approximation, Theis et al., Faster gaze prediction with dense networks and Fisher pruning,
    equation 7.

    Args:
        asked: Variables of one kind, each between two numbers of bits.
    """

    def __init__(self, asked: Sequence[Variable]) -> None:
        self.asked = asked
        self.loss = torch.tensor(torch.nan)
        # With more than one variable, each has one quantizer.
        self._own: dict[int, list[Variable]] = {}
        for variable in asked:
            self._own.setdefault(id(variable.members[0]), []).append(variable)
        self._found: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def one_bit_less(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the variables have a bit less."""
        return _one_bit_less(self.asked)

    def watch(self) -> None:
        """Take in the gradients of the next pass; for one variable there is nothing to share out."""
        if len(self.asked) > 1:
            members = [variables[0].members[0] for variables in self._own.values()]
            self._handles = [member.register_forward_hook(self._watch) for member in members]

    def parts(self) -> Tensor:
        """What each variable is to blame for, ``(variables,)``, not normalized. Ends the watch."""
        for handle in self._handles:
            handle.remove()
        parts = torch.zeros(len(self.asked), dtype=torch.float64, device=self.loss.device)
        for i, variable in enumerate(self.asked):
            found = self._found.get(id(variable.members[0]))
            if found is not None:
                parts[i] = found.sum() if variable.kernel is None else found[variable.kernel]
        return parts

    def observe(self, bracket: float, parts: Sequence[float]) -> None:
        """Share out ``L - L(one bit less)``.

        Args:
            bracket: The difference.
            parts: What ``parts`` gave, summed over all processes.
        """
        total = sum(parts)
        usable = 0 < total < math.inf  # in half precision gradients overflow until their scale has settled
        for variable, part in zip(self.asked, parts, strict=True):
            variable.width.observe(bracket * (part / total if usable else 1 / len(self.asked)))

    @torch.no_grad()
    def _watch(self, member: Quantizer, inputs: tuple[Tensor], output: Tensor) -> None:
        if not output.requires_grad:  # nothing before it learns
            return
        with _one_bit_less(self._own[id(member)]):
            less = member.forward(*inputs)
        delta = less - member.forward(*inputs)  # in this order: its scale is that of the present bits again
        output.register_hook(lambda gradient: self._blame(member, gradient.double() * delta))

    def _blame(self, member: Quantizer, change: Tensor) -> None:
        weights = self.asked[0].kind == "weights"
        found = change.square().flatten(1).sum(1) if weights else change.flatten(1).sum(1).square()
        self._found[id(member)] = self._found.get(id(member), 0) + found


@contextlib.contextmanager
def _one_bit_less(variables: Sequence[Variable]) -> Iterator[None]:
    try:
        for variable in variables:
            variable.use(variable.width.bits - 1)
        yield
    finally:
        for variable in variables:
            variable.use(variable.width.bits)
