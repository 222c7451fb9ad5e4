"""The options of a run: names and defaults live here, for the command line and the Python API alike."""

from __future__ import annotations

__all__ = ["CHOICES", "LOWER", "METHODS", "QuantizeOptions", "parse_bits"]

import dataclasses
import math
import re
import types
from typing import Any, get_args, get_origin, get_type_hints

from mpqtool.passes.targets import TARGETS

from .errors import OptionError
from .method_options import EPOCHS, INTEGER_SHARE, LR, METHODS, why_without_effect

LOWER = ("full", "fastest")
CHOICES = {
    "method": METHODS,
    "config": ("auto", "1", "2", "3", "4"),
    "weight_scales": ("kernel", "layer"),
    "weight_grid": ("full", "odd"),
    "init": ("lsq+", "mse", "lsq", "minmax"),
    "optimizer": tuple(LR),
    "mixed_precision": ("no", "bf16", "fp16"),
    "target": tuple(TARGETS),
    "lower": LOWER,
}
"""The values of the options that are one of a few words."""

_LARGEST_SEED = 2**32 - 1  # numpy takes no more

_BITS = re.compile(r"W(\d+(?:\.\d+)?)A(\d+(?:\.\d+)?)", re.IGNORECASE)
_LEAST_BITS, _MOST_BITS = 1.0, 8.0


def parse_bits(text: str) -> tuple[float, float]:
    """Read ``W3A6`` or ``W2.5A6``: bits of weights and of activations.

    Raises:
        OptionError: The text has another form, or a width is not 1 to 8.
    """
    match = _BITS.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{text!r} is not a pair of bit-widths; write W3A6 for weights 3, activations 6")
    weights, activations = (float(part) for part in match.groups())
    for what, bits in (("weight", weights), ("activation", activations)):
        if not _LEAST_BITS <= bits <= _MOST_BITS:
            raise OptionError(f"{text!r}: {what} bits must be 1 to 8, got {bits:g}")
    return weights, activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What ``mpqtool quantize`` can be told; see ``mpqtool quantize --help``.

    ``epochs`` and ``lr`` may be None: they are numbers once this is built, those of the method and optimizer.

    Attributes:
        method: How bit-widths and scales are found.
        data: Where inputs come from; None: ``model.npz`` beside ``model.onnx``.
        resize: Height and width that the pictures of an image folder are brought to.
        mean: Subtracted from pixels in 0 to 1, one value per channel or one for all.
        std: What pixels are divided by after that, one value per channel or one for all.
        out: Run directory; None: ``MODEL_STEM.mpq`` in the working directory.
        plan: Plan file to apply as it is, without training.
        seed: Seed of every random choice.
        start_bits: Uniform widths the search starts from, ``W4A8``: weights 4, activations 8.
        target_bits: Effective widths at which the search stops, ``W3A6``; fractions are allowed.
        max_drop: Largest loss of the metric on held-out data, in points, that an iteration may leave,
            against the network at ``start_bits``.
        bits: Uniform widths of lsq and lsq+, ``W4A4``.
        config: Codes and offsets of activations, LSQ+ table 1 (Bhalgat et al., 2020). 1: unsigned, 2: signed,
            3: signed with a learned offset, 4: unsigned with one. ``auto``: 4 (lsq: 1) behind functions that
            go below zero as Swish does, 1 behind ReLU and sigmoid; from 4 bits on, a fitted whole zero point
            where an offset could not be folded. Values without an activation function have 2 whatever is
            given.
        weight_scales: One learned scale per ``kernel`` or per ``layer``.
        weight_grid: ``full``: all 2^b signed integers; ``odd``: the odd ones around 0, which 1 bit needs.
        all_layers: Give the first and the last layer ``bits`` too; else they have 8.
        init: What scales and offsets start from. ``lsq+``: 3 sigma of the weights, least squared error of the
            activations; ``mse``: least squared error of both; ``lsq``: mean magnitude; ``minmax``: range.
        epochs: Epochs of fine-tuning: impq after every change of widths, 2; lsq and lsq+ in all, 5.
            0: no training at all.
        epoch_samples: Samples drawn for one epoch; None: the whole training split.
        batch_size: Samples per batch.
        accumulate: Batches whose mean gradient makes one step.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        lr: Peak learning rate: 0.01 with sgd, 0.001 with adamw.
        weight_decay: Weight decay of kernels and matrices; scales, offsets, biases, normalization have none.
        mixed_precision: What layers multiply in while training, but for the last epochs, in integers: ``no``
            (float32), ``bf16`` or ``fp16``.
        patience: Epochs without a better metric on held-out data after which training goes on to the last
            ones, in integers; None: never. Less than the epochs before those.
        distill: Learn from the float model's outputs even where there are labels.
        resume: Go on from the checkpoint in the run directory.
        target: What the integer file is to run on, of ``passes.targets.TARGETS``.
        lower: ``full``: all that can be is integer; ``fastest``: what is slower in integers on this machine
            stays float.
        vnni: Whether the integer file is for CPUs with VNNI only; None: whether this one has it.

    Raises:
        OptionError: A value is not allowed, or an option has no effect with the method or a plan.
    """

    method: str = "impq"
    data: str | None = None
    resize: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    out: str | None = None
    plan: str | None = None
    seed: int = 0
    start_bits: str = "W4A8"
    target_bits: str = "W3A6"
    max_drop: float = 1.0
    bits: str = "W4A4"
    config: str = "auto"
    weight_scales: str = "kernel"
    weight_grid: str = "full"
    all_layers: bool = False
    init: str = "lsq+"
    epochs: int = None  # type: ignore[assignment]  # __post_init__ puts a number here
    epoch_samples: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = None  # type: ignore[assignment]  # __post_init__ puts a number here
    weight_decay: float = 5e-4
    mixed_precision: str = "no"
    patience: int | None = None
    distill: bool = False
    resume: bool = False
    target: str = "cpu"
    lower: str = "full"
    vnni: bool | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_choices()
        for name in ("epochs", "lr"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self._default(name))
        self._check_effects()
        self._check_widths()
        self._check_numbers()

    @property
    def settings(self) -> dict[str, Any]:
        """The options that have an effect in this run, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if not self._idle(name)}

    def _default(self, name: str) -> Any:
        fitting = {"epochs": EPOCHS[self.method], "lr": LR[self.optimizer]}
        return fitting.get(name, type(self).__dataclass_fields__[name].default)

    def _idle(self, name: str) -> str | None:
        return why_without_effect(name, self.method, with_plan=self.plan is not None)

    def _check_types(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), hints[field.name]
            if isinstance(kind, types.UnionType):  # ``int | None``
                kind = get_args(kind)[0]
            if value is None and field.default is None:
                continue
            if get_origin(kind) is tuple:
                kind = get_args(kind)[0]
                if not isinstance(value, tuple | list) or not all(_is_a(kind, entry) for entry in value):
                    raise OptionError(f"{field.name} must be a tuple of {kind.__name__}, got {value!r}")
            elif not _is_a(kind, value):
                raise OptionError(f"{field.name} must be of type {kind.__name__}, got {value!r}")

    def _check_choices(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.lower == "fastest" and self.target != "cpu":
            raise OptionError(
                f"lower='fastest' measures files for target 'cpu', got {self.target!r}; leave one out"
            )

    def _check_effects(self) -> None:
        for field in dataclasses.fields(self):
            idle = self._idle(field.name)
            if idle is not None and getattr(self, field.name) != self._default(field.name):
                raise OptionError(idle)
        if self.method == "lsq" and self.config in ("3", "4"):
            raise OptionError(
                f"config {self.config!r} learns offsets, which method 'lsq' has not; choose method 'lsq+', "
                "or config auto, 1 or 2"
            )

    def _check_widths(self) -> None:
        start, target = parse_bits(self.start_bits), parse_bits(self.target_bits)
        uniform = parse_bits(self.bits)
        for name, widths in (("start_bits", start), ("bits", uniform)):
            if any(width != int(width) for width in widths):
                raise OptionError(f"{name} are uniform, so whole numbers, got {getattr(self, name)!r}")
        if any(low > high for low, high in zip(target, start, strict=True)):
            raise OptionError(
                f"target_bits {self.target_bits!r} must not exceed start_bits {self.start_bits!r}; "
                "the search only takes bits away"
            )
        if uniform[1] < 2:  # signed codes of 1 bit would have no positive one
            raise OptionError(f"bits {self.bits!r}: activation bits of lsq and lsq+ must be 2 to 8")
        if uniform[0] < 2 and self.weight_grid == "full":
            raise OptionError(
                f"bits {self.bits!r}: on the full grid weight bits must be 2 to 8; weight_grid 'odd' takes 1"
            )

    def _check_numbers(self) -> None:
        for name in ("seed", "epochs", "max_drop", "weight_decay"):
            self._at_least(name, 0)
        for name in ("epoch_samples", "batch_size", "accumulate", "patience"):
            self._at_least(name, 1)
        begun = math.ceil(round((1 - INTEGER_SHARE) * self.epochs, 6))  # the rest is in integers, to the end
        if self.patience is not None and self.patience >= begun:
            raise OptionError(
                f"patience must be less than the {begun} epochs that can end early of epochs {self.epochs}, "
                f"got {self.patience}; give more epochs, or leave patience out"
            )
        if self.seed > _LARGEST_SEED:
            raise OptionError(f"seed must be at most {_LARGEST_SEED}, got {self.seed}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise OptionError(f"lr must be positive and finite, got {self.lr!r}")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise OptionError(f"resize must be a height and a width of at least 1, got {self.resize!r}")
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be finite, got {self.mean!r}")
        if self.std is not None and not all(math.isfinite(s) and s > 0 for s in self.std):
            raise OptionError(f"std must be positive and finite, got {self.std!r}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise OptionError(f"{name} must be at least {least}, got {value!r}")


def _is_a(kind: type, value: object) -> bool:
    """Whether a value is of a type; an int is a float, and True is no number."""
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
