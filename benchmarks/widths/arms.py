"""What is compared: ways to learn widths, and how much is trained."""

from __future__ import annotations

__all__ = ["Arm", "Budget"]

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to learn widths; the attributes are options of ``mpqtool.quantize``."""

    lambda_: float = 0.15
    granularity: str = "network"
    hardware: str = "bitops"
    from_scratch: bool = False

    def __str__(self) -> str:
        words = [f"{self.granularity}-wise", f"lambda {self.lambda_:g}", self.hardware]
        return ", ".join([*words, "from scratch"] if self.from_scratch else words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is trained: the float network, and every run.

    Attributes:
        float_epochs: Epochs of the float network.
        epochs: Epochs of a run.
        longer: Times as many from scratch.
        samples: Images of one epoch of a run.
        batch: Images of a step of a run.
        images: Images that there are for training and for testing; None: all of the data set.
    """

    float_epochs: int
    epochs: int
    longer: int
    samples: int
    batch: int
    images: tuple[int, int] | None = None

    def epochs_of(self, arm: Arm) -> int:
        return self.epochs * (self.longer if arm.from_scratch else 1)
