"""MobileNets: depthwise convolutions, plain (V1) and in inverted residuals (V3)."""

from __future__ import annotations

__all__ = ["MobileNetV1", "MobileNetV3Small", "mobilenet_v1", "mobilenet_v3_small"]

import torch
from torch import Tensor, nn

from .layers import (
    ConvNorm,
    InvertedResidual,
    SqueezeExcite,
    check_counts,
    check_factors,
    divisible,
    initialize,
)

_V1_STAGES = (  # channels at width 1, stride: Howard et al., table 1
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip

_V3_SMALL_STAGES = (  # kernel, expanded, channels, squeeze, hard swish, stride: Howard et al., table 2
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class MobileNetV1(nn.Module):
    """A 3x3 convolution, then thirteen pairs of a depthwise and a 1x1 convolution.

    Source: Howard et al., MobileNets, 2017, table 1.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: What all channels are multiplied with, then rounded to multiples of 8.
        small: For images of 32 pixels: the first convolution keeps the size.

    Attributes:
        input_shape: ``(in_channels, 224, 224)``, or 32 pixels if ``small``; any other size works too.

    Shape:
        Input ``(batch, in_channels, height, width)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, *, in_channels: int, classes: int, width: float, small: bool) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes)
        check_factors(width=width)
        self.input_shape = (in_channels, 32, 32) if small else (in_channels, 224, 224)
        channels = divisible(32 * width)
        layers: list[nn.Module] = [ConvNorm(in_channels, channels, 3, stride=1 if small else 2)]
        for full, stride in _V1_STAGES:
            layers.append(ConvNorm(channels, channels, 3, stride=stride, groups=channels))
            layers.append(ConvNorm(channels, divisible(full * width), 1))
            channels = divisible(full * width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class MobileNetV3Small(nn.Module):
    """Inverted residuals with HardSwish, HardSigmoid gates; parameters are named as torchvision's.

    Source: Howard et al., Searching for MobileNetV3, ICCV 2019, table 2.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: What all channels are multiplied with, then rounded to multiples of 8.
        small: For images of 32 pixels: the first convolution keeps the size.

    Attributes:
        input_shape: ``(in_channels, 224, 224)``, or 32 pixels if ``small``; any other size works too.

    Shape:
        Input ``(batch, in_channels, height, width)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, *, in_channels: int, classes: int, width: float, small: bool) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes)
        check_factors(width=width)
        self.input_shape = (in_channels, 32, 32) if small else (in_channels, 224, 224)
        eps = 1e-3
        channels = divisible(16 * width)
        stem = ConvNorm(in_channels, channels, 3, stride=1 if small else 2, activation=nn.Hardswish, eps=eps)
        layers: list[nn.Module] = [stem]
        for kernel, expanded, full, squeeze, hard, stride in _V3_SMALL_STAGES:
            inner, out = divisible(expanded * width), divisible(full * width)
            layers.append(
                InvertedResidual(
                    channels,
                    inner,
                    out,
                    kernel=kernel,
                    stride=stride,
                    activation=nn.Hardswish if hard else nn.ReLU,
                    squeeze=SqueezeExcite(inner, divisible(inner / 4), nn.ReLU, nn.Hardsigmoid)
                    if squeeze
                    else None,
                    eps=eps,
                )
            )
            channels = out
        layers.append(ConvNorm(channels, 6 * channels, 1, activation=nn.Hardswish, eps=eps))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = divisible(1024 * width)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def mobilenet_v1(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, small: bool = False
) -> MobileNetV1:
    """MobileNet V1: 569 million MACs at 3x224x224, 4.23 million parameters at 1000 classes and width 1."""
    return MobileNetV1(in_channels=in_channels, classes=classes, width=width, small=small)


def mobilenet_v3_small(
    width: float = 1.0, *, in_channels: int = 3, classes: int = 1000, small: bool = False
) -> MobileNetV3Small:
    """MobileNet V3 small: 56.5 million MACs at 3x224x224, 2.54 million parameters at 1000 classes."""
    return MobileNetV3Small(in_channels=in_channels, classes=classes, width=width, small=small)
