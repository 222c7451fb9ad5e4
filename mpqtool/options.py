"""The options of a run: names and defaults live here, for the command line and the Python API alike."""

from __future__ import annotations

__all__ = ["CHOICES", "LOWER", "METHODS", "QuantizeOptions", "parse_bits"]

import dataclasses
from typing import Any

from mpqtool.passes.targets import TARGETS

from .errors import OptionError
from .method_options import (
    BITS,
    EPOCHS,
    EPOCHS_FROM_SCRATCH,
    GRANULARITY,
    HARDWARE,
    LR,
    LR_FROM_SCRATCH,
    LR_OF_THRESHOLDS,
    MAX_DROP,
    METHODS,
    MIXED,
    RANGES,
    ROUNDINGS,
    START_BITS,
    TARGET_BITS,
    method_of,
    why_without_effect,
)
from .option_checks import check_choices, check_numbers, check_together, check_widths
from .option_values import check_types, parse_bits

LOWER = ("full", "fastest")
CHOICES = {
    "method": METHODS,
    "config": ("auto", "1", "2", "3", "4"),
    "weight_scales": ("kernel", "layer"),
    "weight_grid": ("full", "odd"),
    "init": ("lsq+", "mse", "lsq", "minmax"),
    "ranges": RANGES,
    "rounding": ROUNDINGS,
    "granularity": ("network", "layer", "kernel"),
    "first": ("weights", "activations"),
    "sensitivity": ("bound", "paper", "repo"),
    "clip": ("mse", "paper4rms", "max"),
    "activation_clip": ("mse", "6sigma"),
    "rank": ("bits", "macs", "group"),
    "activation_granularity": ("auto", "network", "layer"),
    "hardware": HARDWARE,
    "optimizer": tuple(LR),
    "mixed_precision": ("no", "bf16", "fp16"),
    "target": tuple(TARGETS),
    "lower": LOWER,
}
"""The values of the options that are one of a few words."""


_FITTING = ("bits", "start_bits", "target_bits", "max_drop", "granularity", "epochs", "lr")
"""Options whose default depends on others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What ``mpqtool quantize`` can be told; see ``mpqtool quantize --help``.

    ``method``, ``bits``, ``start_bits``, ``target_bits``, ``granularity``, ``epochs`` and ``lr`` may be None:
    once this is built, they are what fits the plan, the method, the optimizer and the other targets; but for
    the epochs of fat, which the number of samples decides.

    Attributes:
        method: How bit-widths and scales are found: ``impq``; None: a plan is applied as it is.
        data: Where inputs come from; None: ``model.npz`` beside ``model.onnx`` if it is there; ``none``: they
            are made from the model alone, and no accuracy is measured.
        resize: Height and width that the pictures of an image folder are brought to.
        mean: Subtracted from pixels in 0 to 1, one value per channel or one for all.
        std: What pixels are divided by after that, one value per channel or one for all.
        metric: What decides and is reported: ``top1``, ``agreement``, ``sqnr_db``, or a function of the
            outputs, the float model's outputs and the labels, as ``package.module:callable`` or
            ``FILE.py:callable``. None: what fits the model and the data.
        out: Run directory; None: ``MODEL_STEM.mpq`` in the working directory.
        plan: Plan file. Without a method it is applied as it is, without training; with ``impq`` the search
            starts from its widths and scales, in place of uniform ``start_bits``. The model may be the QDQ
            file it belongs to, for its weights.
        take: Number of an iteration that an earlier run kept in ``out``: it is made into files, without
            another search. The other options are those of that run.
        seed: Seed of every random choice.
        start_bits: Uniform widths the search starts from: impq ``W4A8``, weights 4, activations 8; adaqat
            ``W8A8``.
        target_bits: Effective widths at which the search stops; fractions are allowed. None: ``W3A6``, or
            nothing where another target is given.
        target_size: Bytes of weights at which the search stops: ``weights_owed`` of ``result.json``.
        target_bitops: Operations on bits at which the search stops: ``bitops`` of ``result.json``. What comes
            ``first`` goes half of the way, as factors go.
        max_drop: Largest loss of the metric on held-out data, in points, that an iteration may leave,
            against the network at ``start_bits``.
        first: Whether bits are taken from the ``weights`` first, or from the ``activations``.
        sensitivity: What a bit less of a group costs (IMPQ). ``bound``: its term in the bound on the mismatch
            probability, ``D**2 * E`` (equation 1); ``paper``: ``2**-B * E`` (equations 4 and 5); ``repo``:
            that times mean magnitudes, the authors' code.
        rank: What the sensitivity is divided by. ``bits``: bits of storage that a bit less saves; ``macs``:
            multiply-accumulates, times the bits of the other operand; ``group``: nothing, as in the paper.
        step_groups: Groups that lose a bit in one iteration. None of this and the next two: half of the
            eligible groups three times, then a quarter, then 15 %, but no fewer than 5 % of those at first.
        step_sensitivity: Sensitivity up to which every group loses a bit in one iteration.
        step_mismatch: What the groups of one iteration may add to the bound on the mismatch probability.
        prune: Whether kernels may lose their last bit, and leave the file: with granularity ``kernel`` and
            sensitivity ``bound``.
        clip: Where weights are clipped, kernel by kernel (IMPQ, section 4.1). ``mse``: least squared error;
            ``paper4rms``: four root mean squares, as in the paper; ``max``: nowhere, as in the authors' code.
        activation_clip: Where the clip of an activation behind ReLU starts; training moves it. ``mse``: least
            squared error; ``6sigma``: six standard deviations above the mean of what goes into ReLU, of its
            largest channel: those of BatchNormalization, or measured where there is none.
        bits: Uniform widths: lsq and lsq+ ``W4A4``, ptq and fat ``W8A8``.
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
        ranges: Where activations are clipped after training. ``mse``: least squared error; ``fisher``: the
            same, of what the outputs hang on; ``percentile``: 99.99 % of the elements are inside;
            ``entropy``: least Kullback-Leibler divergence; ``minmax``: nowhere; ``auto``: ``mse``, and
            ``fisher`` where that loses too much.
        rounding: ``adaround``: weights are rounded up or down for the least squared error of what each
            layer gives; ``nearest``: each to its nearest code; ``auto``: ``adaround`` below 8 bits, where
            rounding matters.
        bias_correction: Whether biases take what rounding changes the mean of each channel by.
        calibration_samples: Training samples, at most, that ranges and roundings are fitted to.
        equalize: Whether channels are brought to weights of like size in layers that follow each other, and
            biases are absorbed, before anything is quantized: for activations that few channels reach far in.
        min_sqnr: What ``max_drop`` is where there are no classes: dB of signal to noise of the outputs that
            must be left.
        lambda_: Price of bits, in units of the loss, times weight bits times activation bits (AdaQAT,
            equation 2): the larger, the fewer bits.
        granularity: Whether the ``network``, each ``layer`` or each ``kernel`` has a width of its weights:
            impq ``kernel``, adaqat ``network``.
        activation_granularity: Whether the ``network`` or each ``layer`` has a width of its activations;
            ``auto``: ``network`` if ``granularity`` is, else ``layer``.
        hardware: What the widths are weighed by. ``bitops``: multiply-accumulates; ``size``: weights, the
            widths of activations stay; ``latency``: the time of each layer in ONNX Runtime, measured
            at 8 bits and taken to be in proportion below.
        from_scratch: Draw the weights anew (Kaiming initialization), instead of fine-tuning the file's.
        epochs: Epochs of fine-tuning: impq after every change of widths, 2; lsq and lsq+ in all, 5; adaqat in
            all, 10, from scratch 30; fat as many as come next to 800 batches. 0: no training at all.
        epoch_samples: Samples drawn for one epoch; None: the whole training split.
        batch_size: Samples per batch.
        accumulate: Batches whose mean gradient makes one step.
        optimizer: ``sgd`` (with momentum) or ``adamw``.
        lr: Peak learning rate: 0.01 with sgd, from scratch 0.1; 0.001 with adamw, and of fat.
        weight_decay: Weight decay of kernels, matrices and clips of PACT; nothing else has any.
        mixed_precision: What layers multiply in while training, but for the last epochs, in integers: ``no``
            (float32), ``bf16`` or ``fp16``.
        patience: Epochs without a better metric on held-out data after which training goes on to the last
            ones, in integers; None: never. Less than the epochs before those.
        loss: What training makes smaller, a function of the outputs, the teacher's outputs and the labels, as
            ``package.module:callable`` or ``FILE.py:callable``. None: cross entropy, or the distance to the
            float model.
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

    method: str | None = None
    data: str | None = None
    resize: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    metric: str | None = None
    out: str | None = None
    plan: str | None = None
    take: int | None = None
    seed: int = 0
    start_bits: str | None = None
    target_bits: str | None = None
    target_size: int | None = None
    target_bitops: float | None = None
    max_drop: float | None = None
    first: str = "weights"
    sensitivity: str = "bound"
    rank: str = "bits"
    step_groups: int | None = None
    step_sensitivity: float | None = None
    step_mismatch: float | None = None
    min_sqnr: float = 20.0
    prune: bool = False
    clip: str = "mse"
    activation_clip: str = "mse"
    bits: str = None  # type: ignore[assignment]  # __post_init__ puts one here
    config: str = "auto"
    weight_scales: str = "kernel"
    weight_grid: str = "full"
    all_layers: bool = False
    init: str = "lsq+"
    ranges: str = "auto"
    rounding: str = "auto"
    bias_correction: bool = True
    calibration_samples: int = 512
    equalize: bool = False
    lambda_: float = 0.15
    granularity: str = None  # type: ignore[assignment]  # __post_init__ puts one here
    activation_granularity: str = "auto"
    hardware: str = "bitops"
    from_scratch: bool = False
    epochs: int = None  # type: ignore[assignment]  # __post_init__ puts a number here, or fat when it has data
    epoch_samples: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = None  # type: ignore[assignment]  # __post_init__ puts a number here
    weight_decay: float = 5e-4
    mixed_precision: str = "no"
    patience: int | None = None
    loss: str | None = None
    distill: bool = False
    resume: bool = False
    tensorboard: bool = False
    target: str = "cpu"
    lower: str = "full"
    vnni: bool | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_choices(self, CHOICES)
        for name in ("method", *_FITTING):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.default_of(name))
        for field in dataclasses.fields(self):
            idle = self._idle(field.name)
            if idle is not None and getattr(self, field.name) != self.default_of(field.name):
                raise OptionError(idle)
        check_together(self)
        check_widths(self)
        check_numbers(self)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that have an effect in this run, by the name on the command line."""
        return {
            name.rstrip("_"): value
            for name, value in dataclasses.asdict(self).items()
            if not self._idle(name)
        }

    @property
    def start_widths(self) -> tuple[float, float]:
        """Uniform widths that a run starts from, of weights and of activations."""
        searched = self.method in START_BITS and self.start_bits is not None
        text = self.start_bits if searched else self.bits
        return parse_bits("W8A8" if text is None or text == MIXED else text)

    @property
    def limits(self) -> dict[str, float]:
        """What the network may cost, by what counts: ``weights``, ``activations``, ``size``, ``bitops``."""
        given = {"size": self.target_size, "bitops": self.target_bitops}
        limits = {name: float(limit) for name, limit in given.items() if limit is not None}
        if self.target_bits is None:
            return limits
        weights, activations = parse_bits(self.target_bits, least_weights=0)
        return {"weights": weights, "activations": activations, **limits}

    @property
    def _targets(self) -> bool:
        return any(limit is not None for limit in (self.target_bits, self.target_size, self.target_bitops))

    def default_of(self, name: str) -> Any:
        """What an option is where none is given, beside the others as they are."""
        if name == "method":
            return method_of(None, plan=self.plan)
        method = self.method or ""
        rates, epochs = (
            (LR_FROM_SCRATCH, EPOCHS_FROM_SCRATCH) if self.from_scratch else (LR, EPOCHS.get(method, 0))
        )
        learns_thresholds = method == "fat"
        others = (self.target_size, self.target_bitops)
        fitting = {
            "start_bits": START_BITS.get(method, "W8A8") if self.plan is None else None,
            "bits": MIXED if method == "ptq" and self._targets else BITS.get(method, "W8A8"),
            "epochs": None if learns_thresholds else epochs,
            "lr": LR_OF_THRESHOLDS if learns_thresholds else rates[self.optimizer],
            "target_bits": TARGET_BITS if method == "impq" and others == (None, None) else None,
            "max_drop": MAX_DROP.get(method), "granularity": GRANULARITY.get(method, "network"),
        }  # fmt: skip
        return fitting.get(name, type(self).__dataclass_fields__[name].default)

    def _idle(self, name: str) -> str | None:
        return why_without_effect(name, self.method)
