"""Which options go together, and which values they may have."""

from __future__ import annotations

__all__ = ["METRICS", "STEPS", "check_choices", "check_numbers", "check_together", "check_widths"]

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import OptionError
from .locate import is_object_spec
from .method_options import INTEGER_SHARE, MIXED
from .option_values import parse_bits

if TYPE_CHECKING:
    from .options import QuantizeOptions

METRICS = ("top1", "agreement", "sqnr_db")
"""Metrics that need no function."""
STEPS = ("step_groups", "step_sensitivity", "step_mismatch")
"""Rules for how far an iteration of IMPQ goes; one of them at most."""
_LARGEST_SQNR = 200
"""dB that are as good as no noise; see ``metrics``."""
_LARGEST_SEED = 2**32 - 1  # numpy takes no more


def check_choices(options: QuantizeOptions, choices: Mapping[str, Sequence[str]]) -> None:
    """See that options of a few words have one of them.

    Raises:
        OptionError: It is not so.
    """
    for name, allowed in choices.items():
        if getattr(options, name) not in (None, *allowed):
            raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {getattr(options, name)!r}")
    for name, words in (("metric", METRICS), ("loss", ())):
        value = getattr(options, name)
        if value is not None and value not in words and not is_object_spec(value):
            allowed = ", ".join([*words, "package.module:callable or path/to/file.py:callable"])
            raise OptionError(f"{name} must be {allowed}, got {value!r}")
    if options.lower == "fastest" and options.target != "cpu":
        raise OptionError(
            f"lower='fastest' measures files for target 'cpu', got {options.target!r}; leave one out"
        )


def check_together(options: QuantizeOptions) -> None:
    """See that no option contradicts another, or leaves it without effect.

    Raises:
        OptionError: It is not so.
    """
    if options.method == "lsq" and options.config in ("3", "4"):
        raise OptionError(
            f"config {options.config!r} learns offsets, which method 'lsq' has not; choose method 'lsq+', "
            "or config auto, 1 or 2"
        )
    if options.plan is not None and options.method not in (None, "impq"):
        raise OptionError(
            f"plan is for no method, which applies it as it is, or for 'impq', which goes on from it; got "
            f"{options.method!r}; leave one out"
        )
    if options.plan is not None and options.start_bits is not None:
        raise OptionError("a plan has the widths to start from, as start_bits has; leave one out")
    if options.take is not None and options.resume:
        raise OptionError("take makes files of an iteration that is there, resume goes on; leave one out")
    given = [name for name in STEPS if getattr(options, name) is not None]
    if len(given) > 1:
        raise OptionError(f"{given[0]} and {given[1]} are two rules for one thing; leave one out")
    if options.step_mismatch is not None and options.sensitivity != "bound":
        raise OptionError(
            f"step_mismatch counts in the bound on the mismatch probability, got sensitivity "
            f"{options.sensitivity!r}; choose sensitivity 'bound', or step_sensitivity"
        )
    targets = ("target_bits", "target_size", "target_bitops")
    limits = [name for name in targets if getattr(options, name) is not None]
    if options.method == "ptq" and limits and options.bits != MIXED:
        raise OptionError(
            f"{limits[0]} has no effect on uniform bits {options.bits!r}; leave bits out, or give "
            f"bits {MIXED!r}"
        )
    if options.method != "ptq" and options.bits == MIXED:
        raise OptionError(f"bits {MIXED!r} is for method 'ptq', got {options.method!r}; write W4A4")
    if options.prune and (options.granularity, options.sensitivity) != ("kernel", "bound"):
        raise OptionError(
            f"prune needs granularity 'kernel' and sensitivity 'bound', got {options.granularity!r} and "
            f"{options.sensitivity!r}; leave prune out, or these"
        )
    if options.hardware == "size" and options.activation_granularity != "auto":
        raise OptionError(
            "activation_granularity has no effect with hardware 'size', which leaves the widths of "
            "activations as they are; leave it out, or choose hardware 'bitops' or 'latency'"
        )


def check_widths(options: QuantizeOptions) -> None:
    """See that bit-widths are those that the method can start from, and get to.

    Raises:
        OptionError: It is not so.
    """
    uniform = (8.0, 8.0) if options.bits == MIXED else parse_bits(options.bits)
    start = (8.0, 8.0) if options.start_bits is None else parse_bits(options.start_bits)
    target = start
    if options.target_bits is not None:
        target = parse_bits(options.target_bits, least_weights=0 if options.prune else 1)
    for name, widths in (("start_bits", start), ("bits", uniform)):
        if any(width != int(width) for width in widths):
            raise OptionError(f"{name} are uniform, so whole numbers, got {getattr(options, name)!r}")
    if start[1] < 2:
        raise OptionError(f"start_bits {options.start_bits!r}: activation bits must be 2 to 8")
    if target[1] < 2:
        raise OptionError(f"target_bits {options.target_bits!r}: activation bits must be 2 to 8")
    if options.method == "impq" and any(low > high for low, high in zip(target, start, strict=True)):
        raise OptionError(
            f"target_bits {options.target_bits!r} must not exceed start_bits {options.start_bits!r}; "
            "the search only takes bits away"
        )
    if uniform[1] < 2:  # signed codes of 1 bit would have no positive one
        raise OptionError(f"bits {options.bits!r}: activation bits must be 2 to 8")
    if uniform[0] < 2 and options.weight_grid == "full":
        odd = "; weight_grid 'odd' takes 1" if "weight_grid" in options.settings else ""
        raise OptionError(f"bits {options.bits!r}: on the full grid weight bits must be 2 to 8{odd}")


def check_numbers(options: QuantizeOptions) -> None:
    """See that numbers are in their ranges.

    Raises:
        OptionError: It is not so.
    """
    for name in ("seed", "take", "epochs", "max_drop", "weight_decay"):
        _at_least(options, name, 0)
    for name in (
        "epoch_samples",
        "batch_size",
        "accumulate",
        "patience",
        "step_groups",
        "target_size",
        "calibration_samples",
    ):
        _at_least(options, name, 1)
    if options.patience is not None:
        begun = math.ceil(round((1 - INTEGER_SHARE) * options.epochs, 6))  # the rest is in integers
        if options.patience >= begun:
            raise OptionError(
                f"patience must be less than the {begun} epochs that can end early of epochs "
                f"{options.epochs}, got {options.patience}; give more epochs, or leave patience out"
            )
    if options.from_scratch and not options.epochs:
        raise OptionError("epochs must be at least 1 with from_scratch, got 0; leave one out")
    if not 0 <= options.min_sqnr <= _LARGEST_SQNR:
        raise OptionError(f"min_sqnr must be 0 to {_LARGEST_SQNR} dB, got {options.min_sqnr!r}")
    if options.seed > _LARGEST_SEED:
        raise OptionError(f"seed must be at most {_LARGEST_SEED}, got {options.seed}")
    for name in ("lr", "lambda_", "step_sensitivity", "step_mismatch", "target_bitops"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name.rstrip('_')} must be positive and finite, got {value!r}")
    if options.resize is not None and (len(options.resize) != 2 or min(options.resize) < 1):
        raise OptionError(f"resize must be a height and a width of at least 1, got {options.resize!r}")
    if options.mean is not None and not all(map(math.isfinite, options.mean)):
        raise OptionError(f"mean must be finite, got {options.mean!r}")
    if options.std is not None and not all(math.isfinite(s) and s > 0 for s in options.std):
        raise OptionError(f"std must be positive and finite, got {options.std!r}")


def _at_least(options: QuantizeOptions, name: str, least: int) -> None:
    value = getattr(options, name)
    if value is not None and not (math.isfinite(value) and value >= least):
        raise OptionError(f"{name} must be at least {least}, got {value!r}")
