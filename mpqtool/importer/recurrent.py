"""LSTM, GRU and RNN: torch's own kernels, and for the forms these do not have a loop in plain torch."""

from __future__ import annotations

__all__ = ["import_recurrent", "recurrent"]

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from .attributes import one_of
from .recurrence import Activation, gru_cell, lstm_cell, recur, resolve_activations, rnn_cell
from .registry import leaf, parts, register

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# Torch's kernel, and which of ONNX's gates are its gates: i, o, f, c there are i, f, c, o here, and
# z, r, h there are r, z, h here.
_KERNELS: dict[str, tuple[Callable[..., tuple[Tensor, ...]], tuple[int, ...]]] = {
    "LSTM": (torch.lstm, (0, 2, 3, 1)),
    "GRU": (torch.gru, (1, 0, 2)),
    "RNN": (torch.rnn_tanh, (0,)),
}
_LEARNED = ("w", "r", "b", "p")


@register("LSTM", 7, 14, 22, learned=_LEARNED)
@register("GRU", 7, 14, 22, learned=_LEARNED)
@register("RNN", 7, 14, 22, learned=_LEARNED)
def import_recurrent(
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
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Import LSTM, GRU or RNN; some inputs and attributes are only of one of them.

    ``hidden_size`` is the last size of ``r``.

    Raises:
        UnsupportedOpError: The direction is unknown, or see ``resolve_activations``.
    """
    one_of(node, "direction", direction, _DIRECTIONS)
    defaults = _FUNCTIONS[node.op_type] * _DIRECTIONS[direction]
    if activations is None:
        activations = defaults
    elif node.op_type == "RNN" and direction != "bidirectional":
        activations = activations[:1]  # the schema's own default has two functions in any case
    functions = resolve_activations(node, activations, activation_alpha, activation_beta, len(defaults))
    special = bool(linear_before_reset if node.op_type == "GRU" else input_forget)
    initial = (initial_h, initial_c) if node.op_type == "LSTM" else (initial_h,)
    results = recurrent(
        node.op_type, x, w, r, b, lengths, initial, p, functions, clip, direction, special, layout
    )
    return parts(results, node)


@leaf
def recurrent(
    op: str,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial: tuple[Tensor | None, ...],
    p: Tensor | None,
    functions: tuple[Activation, ...],
    clip: float | None,
    direction: str,
    special: bool,
    layout: int,
) -> tuple[Tensor, ...]:
    """Run an ONNX LSTM, GRU or RNN over a sequence.

    Args:
        op: Which one.
        x: ``(time, batch, inputs)``; with ``layout`` 1 ``(batch, time, inputs)``.
        w: ``(directions, gates * hidden, inputs)``, of 4 gates for LSTM, 3 for GRU, 1 for RNN.
        r: ``(directions, gates * hidden, hidden)``.
        b: ``(directions, 2 * gates * hidden)``, of ``w`` and then of ``r``.
        lengths: How many steps each sequence of the batch has, or None for all.
        initial: The parts of the state, ``(directions, batch, hidden)``, None for zeros; with ``layout`` 1
            ``(batch, directions, hidden)``.
        p: Peepholes of an LSTM, ``(directions, 3 * hidden)``.
        functions: Activation functions of all directions.
        clip: Bound of what goes into these.
        direction: ``forward``, ``reverse`` or ``bidirectional``.
        special: ``input_forget`` of LSTM and ``linear_before_reset`` of GRU.
        layout: 0 or 1.

    Returns:
        The output of every time, ``(time, directions, batch, hidden)``, zero after the end of a
        sequence, and the parts of the last state, ``(directions, batch, hidden)``. With ``layout`` 1
        ``(batch, time, directions, hidden)`` and ``(batch, directions, hidden)``.
    """
    x = x.transpose(0, 1) if layout else x
    zeros = x.new_zeros(len(r), x.shape[1], r.shape[2])
    state = [zeros if part is None else part.transpose(0, 1) if layout else part for part in initial]
    usual = tuple((name.lower(), 0.0, 0.0) for name in _FUNCTIONS[op]) * len(r)
    has_form = special if op == "GRU" else not special  # a torch.nn.GRU is linear before the reset
    if has_form and functions == usual and p is None and clip is None and lengths is None:
        y, *last = _fused(op, x, w, r, b, state, direction == "reverse")
    else:
        each = len(functions) // len(r)
        cells = []
        for i in range(len(r)):
            weights, own = (w[i], r[i], None if b is None else b[i]), functions[i * each : (i + 1) * each]
            match op:
                case "LSTM":
                    cells.append(lstm_cell(*weights, None if p is None else p[i], own, clip, special))
                case "GRU":
                    cells.append(gru_cell(*weights, own, clip, special))
                case _:
                    cells.append(rnn_cell(*weights, own, clip))
        y, *last = recur(x, cells, state, lengths, direction == "reverse")
    if layout:
        return y.permute(2, 0, 1, 3), *(part.transpose(0, 1) for part in last)
    return y, *last


def _fused(
    op: str, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, state: list[Tensor], reverse: bool
) -> tuple[Tensor, ...]:
    """Run torch's own kernel, which is several times as fast as the loop."""
    kernel, gates = _KERNELS[op]
    matrices = [part for pair in zip(w, r, strict=True) for part in pair]
    vectors = [] if b is None else [part for both in b for part in both.chunk(2)]
    given = [*matrices, *vectors]
    chunks = [part.chunk(len(gates)) for part in given]
    # One behind the other in memory, as cuDNN wants its weights: it would copy them once more.
    flat = torch.cat([of_part[gate].flatten() for of_part in chunks for gate in gates])
    pieces = flat.split([part.numel() for part in given])
    ready = [piece.view_as(part) for piece, part in zip(pieces, given, strict=True)]
    matrices, vectors = ready[: len(matrices)], ready[len(matrices) :]
    state = [part.contiguous() for part in state]  # another demand of cuDNN
    results = kernel(
        x.flip(0) if reverse else x,
        state if op == "LSTM" else state[0],
        [part for i in range(0, 2 * len(r), 2) for part in (*matrices[i : i + 2], *vectors[i : i + 2])],
        b is not None,
        1,  # layer
        0.0,  # dropout
        torch.is_grad_enabled(),
        len(r) == 2,
        False,  # the batch is not first
    )
    y = results[0].unflatten(2, (len(r), -1)).transpose(1, 2)
    return y.flip(0) if reverse else y, *results[1:]
