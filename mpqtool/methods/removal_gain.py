"""What it would cost to do without a kernel."""

from __future__ import annotations

__all__ = ["removal_gains"]

from collections.abc import Iterable, Sequence

from torch import Tensor, fx

from .class_sums import ClassSums, OutputSums, generators
from .outputs import chunked, evaluating, look
from .per_sample import Tape


def removal_gains(
    network: fx.GraphModule, batches: Iterable[Sequence[Tensor]], *, seed: int = 0
) -> dict[str, Tensor]:
    """``M_k0 = mean_n <d(Z_j - Z_y)/dw_k, w_k>**2 / (2 (Z_j - Z_y)**2)`` of every kernel ``w_k``.

    In place of a noise, all of the kernel goes: the first-order change of the margin to the runner-up ``j``,
    squared, in units of the margin. The other classes add 5 % to it. As for noise gains, margins count as the
    5th percentile of all at least and are those before a last Softmax, and outputs that are not class logits
    have the Fisher form: all of them, by random signs, in units of their power.

    No gradient of a weight is needed: what a kernel adds to a result is the result less the bias.

    Args:
        network: With quantizers at work. Statistics are frozen meanwhile.
        batches: Inputs, positional in graph order.
        seed: Seed of the signs. How samples are divided into batches does not change them.

    Returns:
        By weight name, ``(kernels,)``, float64, on the CPU.

    Raises:
        UnsupportedOpError: See ``Tape``.
    """
    chunks = chunked(batches)
    samples = sum(len(chunk[0]) for chunk in chunks)
    total: dict[str, Tensor] = {}
    with evaluating(network):
        tape = Tape(network, quantized=True)
        answers = look(tape, chunks)
        sums: ClassSums | OutputSums
        if answers.logits is not None:
            sums = ClassSums("runner-up", None, answers.floor, ())
        else:
            sums = OutputSums(answers.powers, [generators(len(answers.powers), seed)])
        for chunk in chunks:
            (scalar,) = sums.scalars(tape.record(chunk))
            for name, change in tape.changes(scalar).items():
                total[name] = total.get(name, 0) + change.double().square().sum(0).cpu() / (2 * samples)
    return total
