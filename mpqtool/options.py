"""The options of a run: names and defaults live here, for the command line and the Python API alike."""

from __future__ import annotations

__all__ = ["LOWER", "METHODS", "QuantizeOptions", "parse_bits"]

import dataclasses
import math
import re

from mpqtool.passes.targets import TARGETS

from .errors import OptionError

METHODS = ("impq",)
LOWER = ("full", "fastest")

_OF_THE_SEARCH = (
    "start_bits", "target_bits", "max_drop", "epochs", "epoch_samples", "batch_size", "lr", "distill",
    "resume",
)  # fmt: skip

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
        epochs: Epochs of fine-tuning after every change of widths; 0: no training at all.
        epoch_samples: Samples drawn for one epoch; None: the whole training split.
        batch_size: Samples per step.
        lr: Peak learning rate of the fine-tuning.
        distill: Learn from the float model's outputs even where there are labels.
        resume: Go on from the checkpoint in the run directory.
        target: What the integer file is to run on, of ``passes.targets.TARGETS``.
        lower: ``full``: all that can be is integer; ``fastest``: what is slower in integers on this machine
            stays float.
        vnni: Whether the integer file is for CPUs with VNNI only; None: whether this one has it.

    Raises:
        OptionError: A value is not allowed.
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
    epochs: int = 2
    epoch_samples: int | None = None
    batch_size: int = 64
    lr: float = 0.01
    distill: bool = False
    resume: bool = False
    target: str = "cpu"
    lower: str = "full"
    vnni: bool | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_plan()
        if self.method not in METHODS:
            raise OptionError(f"There is no method {self.method!r}; methods: {', '.join(METHODS)}")
        if self.target not in TARGETS:
            raise OptionError(f"There is no target {self.target!r}; targets: {', '.join(TARGETS)}")
        if self.lower not in LOWER:
            raise OptionError(f"There is no lower={self.lower!r}; allowed: {', '.join(LOWER)}")
        if self.lower == "fastest" and self.target != "cpu":
            raise OptionError(
                f"lower='fastest' measures files for target 'cpu', got {self.target!r}; leave one out"
            )
        start, target = parse_bits(self.start_bits), parse_bits(self.target_bits)
        if any(bits != int(bits) for bits in start):
            raise OptionError(f"start_bits are uniform, so whole numbers, got {self.start_bits!r}")
        if any(low > high for low, high in zip(target, start, strict=True)):
            raise OptionError(
                f"target_bits {self.target_bits!r} must not exceed start_bits {self.start_bits!r}; "
                "the search only takes bits away"
            )
        self._at_least("seed", 0)
        if self.seed > _LARGEST_SEED:
            raise OptionError(f"seed must be at most {_LARGEST_SEED}, got {self.seed}")
        self._at_least("epochs", 0)
        self._at_least("epoch_samples", 1)
        self._at_least("batch_size", 1)
        self._at_least("max_drop", 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise OptionError(f"lr must be positive and finite, got {self.lr!r}")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise OptionError(f"resize must be a height and a width of at least 1, got {self.resize!r}")
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be finite, got {self.mean!r}")
        if self.std is not None and not all(math.isfinite(s) and s > 0 for s in self.std):
            raise OptionError(f"std must be positive and finite, got {self.std!r}")

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            allowed = (int, float) if kind is float else kind
            wrong_bool = isinstance(value, bool) and kind is not bool
            if field.default is not None and (wrong_bool or not isinstance(value, allowed)):
                raise OptionError(f"{field.name} must be of type {kind.__name__}, got {value!r}")

    def _check_plan(self) -> None:
        """A plan is applied as it is: what steers the search would do nothing."""
        if self.plan is None:
            return
        for field in dataclasses.fields(self):
            if field.name in _OF_THE_SEARCH and getattr(self, field.name) != field.default:
                raise OptionError(
                    f"{field.name} has no effect with a plan, which is applied without training; "
                    "leave one out"
                )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise OptionError(f"{name} must be at least {least}, got {value!r}")
