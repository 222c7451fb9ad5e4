"""What LSTM, GRU and RNN have in common: activation functions, and the loop over time."""

from __future__ import annotations

__all__ = ["Activation", "Cell", "activation", "initial_state", "recur", "resolve_activations"]

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import unsupported

Activation = tuple[str, float, float]
"""Name, alpha and beta of an activation function."""

_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "elu": lambda x, alpha, beta: F.elu(x, alpha),
    "hardsigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "leakyrelu": lambda x, alpha, beta: F.leaky_relu(x, alpha),
    "relu": lambda x, alpha, beta: torch.relu(x),
    "scaledtanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid": lambda x, alpha, beta: torch.sigmoid(x),
    "softplus": lambda x, alpha, beta: F.softplus(x),
    "softsign": lambda x, alpha, beta: F.softsign(x),
    "tanh": lambda x, alpha, beta: torch.tanh(x),
    "thresholdedrelu": lambda x, alpha, beta: torch.where(x >= alpha, x, 0),
}
_ALPHA = {
    "affine": 1.0,
    "elu": 1.0,
    "hardsigmoid": 0.2,
    "leakyrelu": 0.01,
    "scaledtanh": 1.0,
    "thresholdedrelu": 1.0,
}
_BETA = {"affine": 0.0, "hardsigmoid": 0.5, "scaledtanh": 1.0}


def resolve_activations(
    node: ir.Node,
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    count: int,
) -> tuple[Activation, ...]:
    """Give every activation function its numbers.

    The numbers given are used up in order, by the functions that have such a number; those that are
    left over get the number of the ONNX operator of that name.

    Args:
        node: The node, for the message.
        names: Functions of the first direction, and of the second one if there is one.
        alphas: First numbers.
        betas: Second numbers.
        count: How many functions the node needs.

    Raises:
        UnsupportedOpError: A function is unknown, or there are too few or too many.
    """
    unknown = sorted({name for name in names if name.lower() not in _FUNCTIONS})
    if unknown:
        raise unsupported(node, f"activation {unknown[0]!r} is unknown, known are {', '.join(_FUNCTIONS)}")
    if len(names) != count:
        raise unsupported(node, f"{len(names)} activations are given where {count} are needed")
    alpha, beta = iter(alphas or ()), iter(betas or ())
    result = []
    for name in map(str.lower, names):
        first = next(alpha, _ALPHA[name]) if name in _ALPHA else 0.0
        second = next(beta, _BETA[name]) if name in _BETA else 0.0
        result.append((name, first, second))
    return tuple(result)


def activation(which: Activation, clip: float | None) -> Callable[[Tensor], Tensor]:
    """The function itself, of inputs that are clipped to ``[-clip, clip]`` first."""
    name, alpha, beta = which
    function = _FUNCTIONS[name]
    if clip is None:
        return lambda x: function(x, alpha, beta)
    return lambda x: function(x.clamp(-clip, clip), alpha, beta)


Cell = tuple[Tensor, Tensor | None, Callable[..., tuple[Tensor, ...]]]
"""One direction: weight and bias of what the input adds to the gates, and ``step(gates, *state)``.

A step gives the state after it, which begins with what the operator gives for this time.
"""


def initial_state(given: Tensor | None, x: Tensor, recurrence: Tensor, layout: int) -> Tensor:
    """The given part of the state, or zeros: ``(directions, batch, hidden)``."""
    if given is None:
        return x.new_zeros(recurrence.shape[0], x.shape[1 - layout], recurrence.shape[2])
    return given.transpose(0, 1) if layout else given


def recur(
    x: Tensor,
    cells: Sequence[Cell],
    initial: Sequence[Tensor],
    lengths: Tensor | None,
    reverse: bool,
    layout: int,
) -> tuple[Tensor, ...]:
    """Run one cell forward or in reverse, or one in each direction.

    Args:
        x: ``(time, batch, inputs)``; with ``layout`` 1 ``(batch, time, inputs)``.
        cells: One for each direction.
        initial: The parts of the state, ``(directions, batch, hidden)``.
        lengths: How many steps each sequence of the batch has, or None for all.
        reverse: Whether the first cell runs from the end.
        layout: 0 or 1.

    Returns:
        The output of every time, ``(time, directions, batch, hidden)``, zero after the end of a
        sequence, and the parts of the last state, ``(directions, batch, hidden)``. With ``layout`` 1
        ``(batch, time, directions, hidden)`` and ``(batch, directions, hidden)``.
    """
    x = x.transpose(0, 1) if layout else x
    outputs, finals = [], []
    for index, (weight, bias, step) in enumerate(cells):
        backward = reverse or index == 1
        gates = F.linear(_turned(x, lengths) if backward else x, weight, bias)
        y, final = _scan(gates, step, tuple(part[index] for part in initial), lengths)
        outputs.append(_turned(y, lengths) if backward else y)
        finals.append(final)
    every, last = torch.stack(outputs, 1), [torch.stack(parts) for parts in zip(*finals, strict=True)]
    if layout:
        return every.permute(2, 0, 1, 3), *(part.transpose(0, 1) for part in last)
    return every, *last


def _scan(
    gates: Tensor, step: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...], lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output of every time, and the last state; a sequence that has ended keeps its state."""
    outputs = []
    for time, now in enumerate(gates.unbind(0)):
        after = step(now, *state)
        if lengths is None:
            state = after
            outputs.append(after[0])
        else:
            runs = (time < lengths).unsqueeze(1)
            state = tuple(torch.where(runs, new, old) for new, old in zip(after, state, strict=True))
            outputs.append(torch.where(runs, after[0], 0))
    return torch.stack(outputs), state


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The sequences from their end to their start; what is behind the end stays there."""
    if lengths is None:
        return x.flip(0)
    time, end = torch.arange(x.shape[0], device=x.device).unsqueeze(1), lengths.long()
    return torch.take_along_dim(x, torch.where(time < end, end - 1 - time, time).unsqueeze(2), 0)
