"""Lower a QDQ model as the options say: for which CPUs, and what stays float as that is faster."""

from __future__ import annotations

__all__ = ["lowered"]

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mpqtool.passes import cost, metadata, pipelines
from mpqtool.passes.values import array
from mpqtool.runtime import integer_layers

from .errors import OptionError
from .health import has_vnni
from .options import LOWER
from .reporter import Reporter

if TYPE_CHECKING:
    from .fastest.choose import Choice


def lowered(
    qdq: ir.Model,
    *,
    path: str,
    reporter: Reporter,
    target: str = "cpu",
    lower: str = "full",
    vnni: bool | None = None,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int | None = None,
) -> ir.Model:
    """Lower, and say what the choices led to.

    Args:
        qdq: Left as it is.
        path: What it is called in messages.
        reporter: Where it is said.
        target: What the file is to run on.
        lower: ``full``, or ``fastest``: measured on this machine.
        vnni: Whether the file is for CPUs with VNNI only; None: whether this one has it.
        sizes: Shapes of inputs that leave more open than the batch, for ``fastest``.
        threads: Threads of one operator that ``fastest`` measures with; None: one per core.

    Raises:
        OptionError: There is no such ``lower``, or not for this target.
        RuntimeFault: ``fastest`` cannot run the model.
    """
    if lower not in LOWER:
        raise OptionError(f"There is no lower={lower!r}; allowed: {', '.join(LOWER)}")
    here = has_vnni()
    choice: Choice | None = None
    if lower == "fastest":
        if target != "cpu":
            raise OptionError(
                f"lower='fastest' measures files for target 'cpu', got {target!r}; leave one out"
            )
        from .fastest import fastest

        choice = fastest(
            qdq,
            path=path,
            sizes=sizes,
            threads=threads,
            vnni=here if vnni is None else vnni,
            reporter=reporter,
        )
    result = pipelines.lower(
        qdq, target=target, vnni=here if vnni is None else vnni,
        float_layers={} if choice is None else choice.float_layers,
    )  # fmt: skip
    if choice is not None:
        _say_fastest(result, choice, reporter)
    _say_vnni(result, here, reporter)
    return result


def _say_fastest(model: ir.Model, choice: Choice, reporter: Reporter) -> None:
    """Say what stays float, what that is worth, and when it was measured."""
    operators = len(choice.float_layers)
    rows = {row.name for row in integer_layers.rows(model)}
    real = [node for node in model.graph if metadata.FLOAT in node.metadata_props]
    layers = sum(node.op_type in cost.OPERATORS and _name(node.inputs[1]) in rows for node in real)
    of_before = (
        f"; measured on {choice.date}, from the cache: delete {str(choice.cached)!r} to measure again"
        if choice.cached is not None
        else ""
    )
    reporter.event("fastest", kept=operators, ratio=choice.ratio, full_ratio=choice.full_ratio)
    reporter.say(
        f"fastest: {layers} of {len(rows)} layers stay float, {_counted(operators, 'operator')} "
        f"in all; {choice.milliseconds:.3g} ms, {choice.ratio:.2f} of the time of the network without "
        f"quantization (all in integers: {choice.full_ratio:.2f}){of_before}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _say_vnni(model: ir.Model, here: bool, reporter: Reporter) -> None:
    """Say it where it matters whether CPUs add in 16 bits."""
    layers = [node for node in model.graph if metadata.WEIGHT in node.metadata_props and len(node.inputs) > 5]
    unsigned = sum(_is_shifted(node.inputs[5]) for node in layers)
    if unsigned:
        reporter.say(
            f"uint8 weights in {_counted(unsigned, 'layer')}, as int8 could saturate on CPUs without VNNI: "
            "exact everywhere, but slower (--vnni: int8, for CPUs with VNNI only)"
        )
    if metadata.VNNI in model.metadata_props:
        text = "sums of int8 weights could saturate on CPUs without VNNI, where the file gives other numbers"
        if here:
            reporter.say(f"{text} (--no-vnni: exact everywhere, but slower)")
        else:
            reporter.warn(f"{text}, and this CPU has none: use --no-vnni")


def _name(value: ir.Value | None) -> str | None:
    return None if value is None else value.name


def _is_shifted(zero: ir.Value | None) -> bool:
    numbers = array(zero)
    return numbers is not None and numbers.dtype == np.uint8 and bool(np.all(numbers == 128))
