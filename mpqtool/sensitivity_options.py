"""The options of ``mpqtool sensitivity``: names, defaults and what they may be."""

from __future__ import annotations

__all__ = ["SUMS", "SensitivityOptions"]

import dataclasses

from .errors import OptionError
from .option_values import check_types
from .options import QuantizeOptions

SUMS = ("signs", "ranks", "runner-up")
"""Ways to sum noise gains over the classes; see ``methods.noise_gain.sample_gains``."""
_LEAST_BITS, _MOST_BITS = 2, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """What ``mpqtool sensitivity`` can be told; see ``mpqtool sensitivity --help``.

    Attributes:
        data: Where inputs come from; None: ``model.npz`` beside ``model.onnx`` if it is there; ``none``: they
            are made from the model. Labels are not needed.
        resize: Height and width that the pictures of an image folder are brought to.
        mean: Subtracted from pixels in 0 to 1, one value per channel or one for all.
        std: What pixels are divided by after that, one value per channel or one for all.
        samples: Inputs of the training split, drawn at random.
        sums: How classes are summed over: all at once with random ``signs``, exactly by class ``ranks``, or
            of the ``runner-up`` alone.
        ranks: Classes of ``sums="ranks"``, those with the smallest margins; None: all.
        activation_bits: Uniform width of activations beside the uniform weights, 2 to 8; None: float.
        seed: Of the samples and the signs.
        csv: File for all groups; the uniform widths go to ``STEM.uniform.csv`` beside it.
        plot: SVG file for a picture of both.

    Raises:
        OptionError: A value is not allowed, or an option has no effect.
    """

    data: str | None = None
    resize: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    samples: int = 512
    sums: str = "signs"
    ranks: int | None = None
    activation_bits: int | None = None
    seed: int = 0
    csv: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        _ = self.of_data  # checks those that both have
        if self.sums not in SUMS:
            raise OptionError(f"sums must be one of {', '.join(SUMS)}, got {self.sums!r}")
        if self.ranks is not None and self.sums != "ranks":
            raise OptionError(
                f"ranks has no effect with sums {self.sums!r}, only with 'ranks'; leave one out"
            )
        for name in ("samples", "ranks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}")
        bits = self.activation_bits
        if bits is not None and not _LEAST_BITS <= bits <= _MOST_BITS:
            raise OptionError(
                f"activation_bits must be {_LEAST_BITS} to {_MOST_BITS}, got {bits}; leave it out for float"
            )
        if self.plot is not None and not self.plot.endswith(".svg"):
            raise OptionError(f"plot must be the name of an .svg file, got {self.plot!r}")

    @property
    def of_data(self) -> QuantizeOptions:
        """The same, as far as samples are concerned."""
        return QuantizeOptions(
            data=self.data, resize=self.resize, mean=self.mean, std=self.std, seed=self.seed
        )
