"""LSTM, GRU and RNN, written out in plain torch: ONNX has forms that torch's own do not have."""

from __future__ import annotations

__all__ = ["gru", "import_gru", "import_lstm", "import_rnn", "lstm", "rnn"]

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .recurrence import Activation, Cell, activation, initial_state, recur, resolve_activations
from .registry import leaf, parts, register, unsupported

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


@register("LSTM", 7, 14, 22, learned=("w", "r", "b", "p"))
def import_lstm(
    node: ir.Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Sigmoid", "Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Import LSTM; ``hidden_size`` is the last size of ``r``."""
    functions = _activations(node, activations, activation_alpha, activation_beta, direction, 3)
    results = lstm(
        x, w, r, b, lengths, initial_h, initial_c, p, functions, clip, direction, bool(input_forget), layout
    )
    return parts(results, node)


@leaf
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial_h: Tensor | None,
    initial_c: Tensor | None,
    p: Tensor | None,
    functions: tuple[Activation, ...],
    clip: float | None,
    direction: str,
    coupled: bool,
    layout: int,
) -> tuple[Tensor, ...]:
    """ONNX LSTM: all outputs, the last output and the last cell state.

    ``i, o, f, c = W x + R H + b`` are the gates, ``P`` the peepholes of the first three, and

        ``i = f(i + P_i C)``, ``f = f(f + P_f C)`` or, coupled, ``1 - i``,
        ``C' = f C + i g(c)``, ``o = f(o + P_o C')``, ``H' = o h(C')``.

    Shape:
        w: ``(directions, 4 * hidden, inputs)``.
        r: ``(directions, 4 * hidden, hidden)``.
        b: ``(directions, 8 * hidden)``, of W and then of R.
        p: ``(directions, 3 * hidden)``.
    """

    def cell(index: int) -> Cell:
        f, g, h = functions[3 * index : 3 * index + 3]
        # What is clipped are the gates; ONNX Runtime does not take the cell state for the input of h.
        gate, cell_in, cell_out = activation(f, clip), activation(g, clip), activation(h, None)
        transposed = r[index].T
        peep = None if p is None else p[index].chunk(3)

        def step(gates: Tensor, hidden: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            i, o, f, new = torch.addmm(gates, hidden, transposed).chunk(4, 1)
            if peep is not None:
                i, f = i + peep[0] * c, f + peep[2] * c
            i = gate(i)
            c = (1 - i if coupled else gate(f)) * c + i * cell_in(new)
            o = gate(o if peep is None else o + peep[1] * c)
            return o * cell_out(c), c

        return w[index], None if b is None else torch.add(*b[index].chunk(2)), step

    initial = [initial_state(part, x, r, layout) for part in (initial_h, initial_c)]
    return recur(x, [cell(i) for i in range(len(r))], initial, lengths, direction == "reverse", layout)


@register("GRU", 7, 14, 22, learned=("w", "r", "b"))
def import_gru(
    node: ir.Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Sigmoid", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Import GRU; ``hidden_size`` is the last size of ``r``."""
    functions = _activations(node, activations, activation_alpha, activation_beta, direction, 2)
    results = gru(
        x, w, r, b, lengths, initial_h, functions, clip, direction, bool(linear_before_reset), layout
    )
    return parts(results, node)


@leaf
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial_h: Tensor | None,
    functions: tuple[Activation, ...],
    clip: float | None,
    direction: str,
    linear_first: bool,
    layout: int,
) -> tuple[Tensor, ...]:
    """ONNX GRU: all outputs and the last one.

    ``z = f(W_z x + R_z H)`` and ``r = f(W_r x + R_r H)`` with their biases, and

        ``h = g(W_h x + R_h (r H) + b)`` or, linear first, ``g(W_h x + b_W + r (R_h H + b_R))``,
        ``H' = (1 - z) h + z H``.

    Shape:
        w: ``(directions, 3 * hidden, inputs)``.
        r: ``(directions, 3 * hidden, hidden)``.
        b: ``(directions, 6 * hidden)``, of W and then of R.
    """
    size = r.shape[-1]

    def cell(index: int) -> Cell:
        gate, candidate = (activation(which, clip) for which in functions[2 * index : 2 * index + 2])
        of_gates, of_candidate = r[index].split((2 * size, size))
        bias, inner = None, None
        if b is not None:
            bias, of_r = b[index].chunk(2)
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

        return w[index], bias, step

    initial = [initial_state(initial_h, x, r, layout)]
    return recur(x, [cell(i) for i in range(len(r))], initial, lengths, direction == "reverse", layout)


@register("RNN", 7, 14, 22, learned=("w", "r", "b"))
def import_rnn(
    node: ir.Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Tanh",),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Import RNN; ``hidden_size`` is the last size of ``r``."""
    if direction != "bidirectional":  # the schema's default has two functions in any case
        activations = activations[:1]
    functions = _activations(node, activations, activation_alpha, activation_beta, direction, 1)
    return parts(rnn(x, w, r, b, lengths, initial_h, functions, clip, direction, layout), node)


@leaf
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial_h: Tensor | None,
    functions: tuple[Activation, ...],
    clip: float | None,
    direction: str,
    layout: int,
) -> tuple[Tensor, ...]:
    """ONNX RNN, ``H' = f(W x + R H + b)``: all outputs and the last one.

    Shape:
        w: ``(directions, hidden, inputs)``.
        r: ``(directions, hidden, hidden)``.
        b: ``(directions, 2 * hidden)``, of W and then of R.
    """

    def cell(index: int) -> Cell:
        function = activation(functions[index], clip)
        transposed = r[index].T

        def step(gates: Tensor, hidden: Tensor) -> tuple[Tensor]:
            return (function(torch.addmm(gates, hidden, transposed)),)

        return w[index], None if b is None else torch.add(*b[index].chunk(2)), step

    initial = [initial_state(initial_h, x, r, layout)]
    return recur(x, [cell(i) for i in range(len(r))], initial, lengths, direction == "reverse", layout)


def _activations(
    node: ir.Node,
    names: tuple[str, ...],
    alphas: tuple[float, ...] | None,
    betas: tuple[float, ...] | None,
    direction: str,
    each: int,
) -> tuple[Activation, ...]:
    """The functions of all directions; those of the schema's default are the same in both.

    Raises:
        UnsupportedOpError: The direction is unknown, or see ``resolve_activations``.
    """
    if direction not in _DIRECTIONS:
        raise unsupported(node, f"direction={direction!r} is unknown, known are {', '.join(_DIRECTIONS)}")
    if "activations" not in node.attributes:
        names = names * _DIRECTIONS[direction]
    return resolve_activations(node, names, alphas, betas, each * _DIRECTIONS[direction])
