"""The options of a run: names and defaults live here, for the command line and the Python API alike."""

from __future__ import annotations

__all__ = ["CHOICES", "LOWER", "METHODS", "QuantizeOptions", "parse_bits"]

import dataclasses
import math
from typing import Any

from mpqtool.passes.targets import TARGETS

from .errors import OptionError
from .method_options import (
    EPOCHS,
    EPOCHS_FROM_SCRATCH,
    HARDWARE,
    INTEGER_SHARE,
    LR,
    LR_FROM_SCRATCH,
    METHODS,
    START_BITS,
    why_without_effect,
)
from .option_values import check_types, parse_bits

LOWER = ("full", "fastest")
CHOICES = {
    "method": METHODS,
    "config": ("auto", "1", "2", "3", "4"),
    "weight_scales": ("kernel", "layer"),
    "weight_grid": ("full", "odd"),
    "init": ("lsq+", "mse", "lsq", "minmax"),
    "granularity": ("network", "layer", "kernel"),
    "activation_granularity": ("auto", "network", "layer"),
    "hardware": HARDWARE,
    "optimizer": tuple(LR),
    "mixed_precision": ("no", "bf16", "fp16"),
    "target": tuple(TARGETS),
    "lower": LOWER,
}
"""The values of the options that are one of a few words."""

_LARGEST_SEED = 2**32 - 1  # numpy takes no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What ``mpqtool quantize`` can be told; see ``mpqtool quantize --help``.

    ``start_bits``, ``epochs`` and ``lr`` may be None: once this is built, they are what fits the method and
    the optimizer.

    Attributes:
        method: How bit-widths and scales are found.
        data: Where inputs come from; None: ``model.npz`` beside ``model.onnx``.
        resize: Height and width that the pictures of an image folder are brought to.
        mean: Subtracted from pixels in 0 to 1, one value per channel or one for all.
        std: What pixels are divided by after that, one value per channel or one for all.
        out: Run directory; None: ``MODEL_STEM.mpq`` in the working directory.
        plan: Plan file to apply as it is, without training.
        seed: Seed of every random choice.
        start_bits: Uniform widths the search starts from: impq ``W4A8``, weights 4, activations 8; adaqat
            ``W8A8``.
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
        all_layers: Treat the first and the last layer as the others; else they keep 8 bits.
        init: What scales and offsets start from. ``lsq+``: 3 sigma of the weights, least squared error of the
            activations; ``mse``: least squared error of both; ``lsq``: mean magnitude; ``minmax``: range.
        lambda_: Price of bits, in units of the loss, times weight bits times activation bits (AdaQAT,
            equation 2): the larger, the fewer bits.
        granularity: Whether the ``network``, each ``layer`` or each ``kernel`` has a width of its weights.
        activation_granularity: Whether the ``network`` or each ``layer`` has a width of its activations;
            ``auto``: ``network`` if ``granularity`` is, else ``layer``.
        hardware: What the widths are weighed by. ``bitops``: multiply-accumulates; ``size``: weights, the
            widths of activations stay; ``latency``: the time of each layer in ONNX Runtime, measured
            at 8 bits and taken to be in proportion below.
        from_scratch: Draw the weights anew (Kaiming initialization), instead of fine-tuning the file's.
        epochs: Epochs of fine-tuning: impq after every change of widths, 2; lsq and lsq+ in all, 5; adaqat in
            all, 10, from scratch 30. 0: no training at all.
        epoch_samples: Samples drawn for one epoch; None: the whole training split.
        batch_size: Samples per batch.
        accumulate: Batches whose mean gradient makes one step.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        lr: Peak learning rate: 0.01 with sgd, from scratch 0.1; 0.001 with adamw.
        weight_decay: Weight decay of kernels, matrices and clips of PACT; nothing else has any.
        mixed_precision: What layers multiply in while training, but for the last epochs, in integers: ``no``
            (float32), ``bf16`` or ``fp16``.
        patience: Epochs without a better metric on held-out data after which training goes on to the last
            ones, in integers; None: never. Less than the epochs before those.
        distill: Learn from the float model's outputs even where there are labels.
        resume: Go on from the checkpoint in the run directory.
        tensorboard: Write TensorBoard files, into ``tensorboard`` in the run directory.
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
    start_bits: str = None  # type: ignore[assignment]  # __post_init__ puts widths here
    target_bits: str = "W3A6"
    max_drop: float = 1.0
    bits: str = "W4A4"
    config: str = "auto"
    weight_scales: str = "kernel"
    weight_grid: str = "full"
    all_layers: bool = False
    init: str = "lsq+"
    lambda_: float = 0.15
    granularity: str = "network"
    activation_granularity: str = "auto"
    hardware: str = "bitops"
    from_scratch: bool = False
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
    tensorboard: bool = False
    target: str = "cpu"
    lower: str = "full"
    vnni: bool | None = None

    def __post_init__(self) -> None:
        check_types(self)
        self._check_choices()
        for name in ("start_bits", "epochs", "lr"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self._default(name))
        self._check_effects()
        self._check_widths()
        self._check_numbers()

    @property
    def settings(self) -> dict[str, Any]:
        """The options that have an effect in this run, by the name on the command line."""
        return {
            name.rstrip("_"): value
            for name, value in dataclasses.asdict(self).items()
            if not self._idle(name)
        }

    def _default(self, name: str) -> Any:
        rates, epochs = (
            (LR_FROM_SCRATCH, EPOCHS_FROM_SCRATCH) if self.from_scratch else (LR, EPOCHS[self.method])
        )
        fitting = {
            "start_bits": START_BITS.get(self.method, "W8A8"), "epochs": epochs, "lr": rates[self.optimizer],
        }  # fmt: skip
        return fitting.get(name, type(self).__dataclass_fields__[name].default)

    def _idle(self, name: str) -> str | None:
        return why_without_effect(name, self.method, with_plan=self.plan is not None)

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
        if self.hardware == "size" and self.activation_granularity != "auto":
            raise OptionError(
                "activation_granularity has no effect with hardware 'size', which leaves the widths of "
                "activations as they are; leave it out, or choose hardware 'bitops' or 'latency'"
            )

    def _check_widths(self) -> None:
        start, target = parse_bits(self.start_bits), parse_bits(self.target_bits)
        uniform = parse_bits(self.bits)
        for name, widths in (("start_bits", start), ("bits", uniform)):
            if any(width != int(width) for width in widths):
                raise OptionError(f"{name} are uniform, so whole numbers, got {getattr(self, name)!r}")
        if self.method == "impq" and any(low > high for low, high in zip(target, start, strict=True)):
            raise OptionError(
                f"target_bits {self.target_bits!r} must not exceed start_bits {self.start_bits!r}; "
                "the search only takes bits away"
            )
        if self.method == "adaqat" and start[1] < 2:
            raise OptionError(f"start_bits {self.start_bits!r}: activation bits of adaqat must be 2 to 8")
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
        if self.from_scratch and not self.epochs:
            raise OptionError("epochs must be at least 1 with from_scratch, got 0; leave one out")
        if self.seed > _LARGEST_SEED:
            raise OptionError(f"seed must be at most {_LARGEST_SEED}, got {self.seed}")
        for name in ("lr", "lambda_"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"{name.rstrip('_')} must be positive and finite, got {value!r}")
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
