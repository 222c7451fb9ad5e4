"""Which options a method has, and what it takes where none is given."""

from __future__ import annotations

__all__ = [
    "BATCHES",
    "BITS",
    "EPOCHS",
    "EPOCHS_FROM_SCRATCH",
    "GRANULARITY",
    "HARDWARE",
    "INTEGER_SHARE",
    "LR",
    "LR_FROM_SCRATCH",
    "LR_OF_THRESHOLDS",
    "MAX_DROP",
    "METHODS",
    "METHODS_OF",
    "MIXED",
    "RANGES",
    "ROUNDINGS",
    "SEARCH_SHARE",
    "START_BITS",
    "TARGET_BITS",
    "UNLABELED",
    "epochs_for",
    "method_of",
    "why_without_effect",
]

METHODS = ("impq", "lsq", "lsq+", "adaqat", "ptq", "fat")
_LEARNED_SCALES = ("lsq", "lsq+")
_TRAINED = ("impq", *_LEARNED_SCALES, "adaqat")
UNLABELED = ("fat",)
"""Methods that never look at labels."""

METHODS_OF = {
    "start_bits": ("impq", "adaqat"),
    **dict.fromkeys(
        ("first", "sensitivity", "rank",
         "step_groups", "step_sensitivity", "step_mismatch", "prune", "clip", "activation_clip", "take"),
        ("impq",)
    ),
    "granularity": ("impq", "adaqat"),
    **dict.fromkeys(("config", "weight_scales", "weight_grid", "init", "patience"), _LEARNED_SCALES),
    "bits": (*_LEARNED_SCALES, "ptq", "fat"),
    "all_layers": (*_LEARNED_SCALES, "adaqat", "ptq", "fat"),
    **dict.fromkeys(
        ("ranges", "rounding", "bias_correction", "calibration_samples", "equalize", "min_sqnr"), ("ptq",)
    ),
    **dict.fromkeys(
        ("lambda_", "activation_granularity", "hardware", "from_scratch"), ("adaqat",)
    ),
    **dict.fromkeys(
        ("accumulate", "optimizer", "weight_decay", "mixed_precision", "loss", "distill"), _TRAINED
    ),
    **dict.fromkeys(
        ("epochs", "epoch_samples", "batch_size", "lr", "resume", "tensorboard"), (*_TRAINED, "fat")
    ),
}  # fmt: skip
"""The methods that an option steers. Every other option is one of all runs, those with a plan too."""

HARDWARE = ("bitops", "size", "latency")
"""What the hardware term of AdaQAT can stand for."""

RANGES = ("auto", "mse", "fisher", "percentile", "entropy", "minmax")
"""Rules of ``quantizers.ranges`` for activations."""

ROUNDINGS = ("auto", "adaround", "nearest")
"""How weights become codes after training."""

MIXED = "mixed"
"""In place of uniform widths: each layer its own, as few as the floor and the limits allow."""

BITS = {"lsq": "W4A4", "lsq+": "W4A4", "ptq": "W8A8", "fat": "W8A8"}
"""Uniform widths."""

MAX_DROP = {"impq": 1.0, "ptq": 1.0}
"""Points of the metric that may be lost; the other methods are held against it if it is given."""

TARGET_BITS = "W3A6"
"""Effective bits that IMPQ stops at, if no budget is given."""

GRANULARITY = {"impq": "kernel", "adaqat": "network"}
"""What has a width of its weights."""

START_BITS = {"impq": "W4A8", "adaqat": "W8A8"}
"""Uniform widths that a search begins with."""

EPOCHS = {"impq": 2, "lsq": 5, "lsq+": 5, "adaqat": 10}
"""Epochs by method: of every iteration with impq, of the whole training with the others."""

BATCHES = 800
"""What fat has in place of that, as it learns few numbers in many steps: batches, as near as epochs get."""

SEARCH_SHARE, INTEGER_SHARE = 0.6, 0.2
"""Share of the steps that AdaQAT searches for widths in, at the start; share that LSQ, LSQ+ and AdaQAT train
the network in integers for, at the end."""

LR = {"sgd": 0.01, "adamw": 0.001}
"""Peak learning rate by optimizer."""

LR_OF_THRESHOLDS = 0.001
"""That of fat, whose optimizer is Adam."""

EPOCHS_FROM_SCRATCH, LR_FROM_SCRATCH = 30, {"sgd": 0.1, "adamw": 0.001}
"""The same for a network that is trained from scratch."""


def method_of(method: str | None, *, plan: str | None) -> str | None:
    """The method of a run; None: a plan is applied as it is, and nothing is learned."""
    return method or ("impq" if plan is None else None)


def epochs_for(samples: int, batch_size: int) -> int:
    """How many epochs of so many samples come next to ``BATCHES``; at least one."""
    return max(1, round(BATCHES * batch_size / samples))


def why_without_effect(option: str, method: str | None) -> str | None:
    """Say why an option would do nothing; None: it does something."""
    methods = METHODS_OF.get(option)
    if methods is None:
        return None
    name = option.rstrip("_")
    if method in methods:
        return None
    if method is None:
        return (
            f"{name} has no effect with a plan and no method: it is applied without training; leave {name} "
            "out, or choose method 'impq', which goes on from a plan"
        )
    return (
        f"{name} has no effect with method {method!r}, only with {' and '.join(methods)}; "
        f"choose another method, or leave {name} out"
    )
