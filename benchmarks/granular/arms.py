"""What is compared, on which networks, and how much is trained."""

from __future__ import annotations

__all__ = ["ARMS", "BASELINE", "BOTH", "NETWORKS", "SEARCHED", "SEED", "UNIFORM", "Arm", "Budget"]

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


_LSQ_EPOCHS = 14
"""As much training in all as the search kernel by kernel has, in about as many iterations."""
_NETWORK_EPOCHS = 3
"""The network as a whole has four widths to go through only."""
SEARCHED = {
    "network": _impq("network-wise", granularity="network", start="W4A8", target="W1A8", max_drop=0.5,
                     length=_NETWORK_EPOCHS),
    "layer": _impq("layer-wise", granularity="layer", start="W4A8", target="W1A8", max_drop=0.5),
    "kernel": _impq("kernel-wise", granularity="kernel", start="W4A8", target="W1A8", max_drop=0.5),
}  # fmt: skip
"""Weights alone, as far down as half a point of accuracy on held-out images allows."""
UNIFORM = {bits: _lsq(f"W{bits}A8") for bits in (3, 2)}
BOTH = (
    _impq("kernel-wise", granularity="kernel", start="W4A6", target="W2A4", max_drop=1.0),
    _lsq("W2A4"),
)
"""Weights, then activations."""
ARMS = (*SEARCHED.values(), *UNIFORM.values(), *BOTH)
