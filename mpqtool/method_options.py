"""Which options a method has, and what it takes where none is given."""

from __future__ import annotations

__all__ = ["EPOCHS", "INTEGER_SHARE", "LR", "METHODS", "METHODS_OF", "why_without_effect"]

METHODS = ("impq", "lsq", "lsq+")
_LEARNED_SCALES = ("lsq", "lsq+")

METHODS_OF = {
    **dict.fromkeys(("start_bits", "target_bits", "max_drop"), ("impq",)),
    **dict.fromkeys(
        ("bits", "config", "weight_scales", "weight_grid", "all_layers", "init", "patience"), _LEARNED_SCALES
    ),
    **dict.fromkeys(
        ("epochs", "epoch_samples", "batch_size", "accumulate", "optimizer", "lr", "weight_decay",
         "mixed_precision", "distill", "resume"), METHODS,
    ),
}  # fmt: skip
"""The methods that an option steers. Every other option is one of all runs, those with a plan too."""

EPOCHS = {"impq": 2, "lsq": 5, "lsq+": 5}
"""Epochs by method: of every iteration with impq, of the whole training with the others."""

INTEGER_SHARE = 0.2
"""Share of the steps of LSQ and LSQ+ that the network is trained in integers for, at the end."""

LR = {"sgd": 0.01, "adamw": 0.001}
"""Peak learning rate by optimizer."""


def why_without_effect(option: str, method: str, *, with_plan: bool) -> str | None:
    """Say why an option would do nothing; None: it does something."""
    methods = METHODS_OF.get(option)
    if methods is None:
        return None
    if with_plan:
        return f"{option} has no effect with a plan, which is applied without training; leave one out"
    if method in methods:
        return None
    return (
        f"{option} has no effect with method {method!r}, only with {' and '.join(methods)}; "
        f"choose another method, or leave {option} out"
    )
