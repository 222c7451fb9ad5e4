"""What is compared, on which networks, and how much is trained."""

from __future__ import annotations

__all__ = [
    "BASELINE",
    "BOTH",
    "NETWORKS",
    "SEED",
    "UNIFORM",
    "Arm",
    "Budget",
    "arms",
    "searched",
]

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from mpqtool.zoo import mobilenet_v1, resnet20, vgg_small

BASELINE = 16
"""Bits that the compression ratios of the paper are against."""
SEED = 0
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-20": functools.partial(resnet20, in_channels=1),
    "VGG-small/8": functools.partial(vgg_small, in_channels=1, width=16, size=28),
    "MobileNet-V1/4": functools.partial(mobilenet_v1, in_channels=1, classes=10, width=0.25, small=True),
}
"""An eighth of the channels of VGG-small, a quarter of MobileNet-V1's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to come to widths.

    Attributes:
        name: Of the way, as tables have it.
        folder: Of its runs.
        length: Epochs: of an iteration, with IMPQ, of the whole training otherwise.
        options: The others of ``mpqtool.quantize``.
    """

    name: str
    folder: str
    length: int
    options: Mapping[str, Any] = dataclasses.field(hash=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is trained.

    Attributes:
        float_epochs: Epochs of the float networks.
        samples: Images of one epoch of a run.
        batch: Images of a step of a run.
        images: Images that there are for training and for testing; None: all of the data set.
    """

    float_epochs: int
    samples: int
    batch: int
    images: tuple[int, int] | None = None


def _impq(name: str, *, length: int = 1, start: str, target: str, max_drop: float, **more: str) -> Arm:
    words = {"method": "impq", "start_bits": start, "target_bits": target, "max_drop": max_drop}
    folder = f"impq_{more['granularity']}_{start}_{target}_drop{max_drop:g}"
    return Arm(name=name, folder=folder, length=length, options=MappingProxyType(words | more))


def _lsq(bits: str) -> Arm:
    options = MappingProxyType({"method": "lsq", "bits": bits})
    return Arm(name=f"LSQ {bits}", folder=f"lsq_{bits}", length=_LSQ_EPOCHS, options=options)


_LSQ_EPOCHS = 10
_EPOCHS = {"network": 3, "layer": 2, "kernel": 2}
"""Of an iteration: about three epochs for the first bits that go, however they are divided."""
_EASY = "ResNet-20"
"""It loses next to nothing down to one bit: it gets less training, and may lose less."""
UNIFORM = {bits: _lsq(f"W{bits}A8") for bits in (3, 2)}
BOTH = (
    _impq("kernel-wise", granularity="kernel", start="W4A6", target="W2A4", max_drop=1.0),
    _lsq("W2A4"),
)
"""Weights, then activations."""


def searched(network: str) -> dict[str, Arm]:
    """Searches for the widths of weights alone, as far down as the accuracy allows, by granularity."""
    drop = 0.5 if network == _EASY else 1.0
    return {
        name: _impq(
            f"{name}-wise", granularity=name, start="W4A8", target="W1A8", max_drop=drop,
            length=1 if network == _EASY and name == "kernel" else length,
        )
        for name, length in _EPOCHS.items()
    }  # fmt: skip


def arms(network: str) -> list[Arm]:
    """All that is run on a network."""
    return [*searched(network).values(), *UNIFORM.values(), *BOTH]
