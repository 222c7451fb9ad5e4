"""LSTM, GRU and RNN step by step, in the forms of ONNX that torch's kernels do not have."""

from __future__ import annotations

__all__ = ["Activation", "Cell", "gru_cell", "lstm_cell", "recur", "resolve_activations", "rnn_cell"]

from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .activation import hard_sigmoid
from .registry import unsupported
from .selection import reverse_sequence

Activation = tuple[str, float, float]
"""Name, alpha and beta of an activation function."""

_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "elu": lambda x, alpha, beta: F.elu(x, alpha),
    "hardsigmoid": hard_sigmoid,
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
        known = ", ".join(_FUNCTIONS)
        raise unsupported(
            node, f"activation {unknown[0]!r} is unknown. Export the model with one of {known}, in any case"
        )
    if len(names) != count:
        raise unsupported(
            node,
            f"activations has {len(names)} names where {count} are needed. Give it {count}, or leave it out "
            "for the defaults",
        )
    alpha, beta = iter(alphas or ()), iter(betas or ())
    result = []
    for name in map(str.lower, names):
        first = next(alpha, _ALPHA[name]) if name in _ALPHA else 0.0
        second = next(beta, _BETA[name]) if name in _BETA else 0.0
        result.append((name, first, second))
    return tuple(result)


def _activation(which: Activation, clip: float | None) -> Callable[[Tensor], Tensor]:
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


def lstm_cell(
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    p: Tensor | None,
    functions: Sequence[Activation],
    clip: float | None,
    coupled: bool,
) -> Cell:
    """One direction of an LSTM; the state is ``H`` and ``C``.

    ``i, o, f, c = W x + R H + b`` are the gates, ``P`` the peepholes of the first three, and

        ``i = f(i + P_i C)``, ``f = f(f + P_f C)`` or, coupled, ``1 - i``,
        ``C' = f C + i g(c)``, ``o = f(o + P_o C')``, ``H' = o h(C')``.
    """
    f, g, h = functions
    # What is clipped are the gates; ONNX Runtime does not take the cell state for the input of h.
    gate, cell_in, cell_out = _activation(f, clip), _activation(g, clip), _activation(h, None)
    transposed = r.T
    peep = None if p is None else p.chunk(3)

    def step(gates: Tensor, hidden: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, o, f, new = torch.addmm(gates, hidden, transposed).chunk(4, 1)
        if peep is not None:
            i, f = i + peep[0] * c, f + peep[2] * c
        i = gate(i)
        c = (1 - i if coupled else gate(f)) * c + i * cell_in(new)
        o = gate(o if peep is None else o + peep[1] * c)
        return o * cell_out(c), c

    return w, None if b is None else torch.add(*b.chunk(2)), step


def gru_cell(
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    functions: Sequence[Activation],
    clip: float | None,
    linear_first: bool,
) -> Cell:
    """One direction of a GRU.

    ``z = f(W_z x + R_z H)`` and ``r = f(W_r x + R_r H)`` with their biases, and

        ``h = g(W_h x + R_h (r H) + b)`` or, linear first, ``g(W_h x + b_W + r (R_h H + b_R))``,
        ``H' = (1 - z) h + z H``.
    """
    gate, candidate = (_activation(which, clip) for which in functions)
    size = r.shape[1]
    of_gates, of_candidate = r.split((2 * size, size))
    bias, inner = None, None
    if b is not None:
        bias, of_r = b.chunk(2)
        if linear_first:  # the candidate's part of it is not added to the input, but further in
            of_r, inner = F.pad(of_r[: 2 * size], (0, size)), of_r[2 * size :]
        bias = bias + of_r

    def step(gates: Tensor, hidden: Tensor) -> tuple[Tensor]:
        x_gates, x_candidate = gates.split((2 * size, size), 1)
        z, reset = gate(x_gates + F.linear(hidden, of_gates)).chunk(2, 1)
        if linear_first:
            new = candidate(x_candidate + reset * F.linear(hidden, of_candidate, inner))
        else:
            new = candidate(x_candidate + F.linear(reset * hidden, of_candidate))
        return ((1 - z) * new + z * hidden,)

    return w, bias, step


def rnn_cell(
    w: Tensor, r: Tensor, b: Tensor | None, functions: Sequence[Activation], clip: float | None
) -> Cell:
    """One direction of an RNN, ``H' = f(W x + R H + b)``."""
    function = _activation(functions[0], clip)
    transposed = r.T

    def step(gates: Tensor, hidden: Tensor) -> tuple[Tensor]:
        return (function(torch.addmm(gates, hidden, transposed)),)

    return w, None if b is None else torch.add(*b.chunk(2)), step


def recur(
    x: Tensor, cells: Sequence[Cell], initial: Sequence[Tensor], lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, ...]:
    """Run one cell forward or in reverse, or one in each direction.

    Args:
        x: ``(time, batch, inputs)``.
        cells: One for each direction.
        initial: The parts of the state, ``(directions, batch, hidden)``.
        lengths: How many steps each sequence of the batch has, or None for all.
        reverse: Whether the first cell runs from the end.

    Returns:
        The output of every time, ``(time, directions, batch, hidden)``, zero after the end of a
        sequence, and the parts of the last state, ``(directions, batch, hidden)``.
    """
    outputs, finals = [], []
    for index, (weight, bias, step) in enumerate(cells):
        backward = reverse or index == 1
        gates = F.linear(_turned(x, lengths) if backward else x, weight, bias)
        y, final = _scan(gates, step, tuple(part[index] for part in initial), lengths)
        outputs.append(_turned(y, lengths) if backward else y)
        finals.append(final)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*finals, strict=True))


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
    return x.flip(0) if lengths is None else reverse_sequence(x, lengths, 1, 0)
