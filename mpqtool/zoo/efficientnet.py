"""EfficientNet-B0: inverted residuals with Swish and squeeze-and-excitation."""

from __future__ import annotations

__all__ = ["EfficientNet", "efficientnet_b0"]

import math

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

_STAGES = (  # expansion, kernel, stride, channels, blocks: Tan and Le, table 1
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(nn.Module):
    """EfficientNet without stochastic depth; parameters are named as torchvision's.

    Source: Tan and Le, EfficientNet, ICML 2019, table 1 and equation 3.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: What all channels are multiplied with, then rounded to multiples of 8; B0 has 1.
        depth: What the number of blocks in a stage is multiplied with, then rounded up; B0 has 1.
        small: For images of 32 pixels: the first convolution keeps the size.

    Attributes:
        input_shape: ``(in_channels, 224, 224)``, or 32 pixels if ``small``; any other size works too.

    Shape:
        Input ``(batch, in_channels, height, width)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, *, in_channels: int, classes: int, width: float, depth: float, small: bool) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes)
        check_factors(width=width, depth=depth)
        self.input_shape = (in_channels, 32, 32) if small else (in_channels, 224, 224)
        channels = divisible(32 * width)
        stages: list[nn.Module] = [
            ConvNorm(in_channels, channels, 3, stride=1 if small else 2, activation=nn.SiLU)
        ]
        for expansion, kernel, stride, full, count in _STAGES:
            blocks: list[nn.Module] = []
            for block in range(math.ceil(depth * count)):
                inner, out = expansion * channels, divisible(full * width)
                blocks.append(
                    InvertedResidual(
                        channels,
                        inner,
                        out,
                        kernel=kernel,
                        stride=stride if block == 0 else 1,
                        activation=nn.SiLU,
                        squeeze=SqueezeExcite(inner, channels // 4, nn.SiLU, nn.Sigmoid),
                    )
                )
                channels = out
            stages.append(nn.Sequential(*blocks))
        last = divisible(1280 * width)
        stages.append(ConvNorm(channels, last, 1, activation=nn.SiLU))
        self.features = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def efficientnet_b0(
    *, in_channels: int = 3, classes: int = 1000, width: float = 1.0, depth: float = 1.0, small: bool = False
) -> EfficientNet:
    """EfficientNet-B0: 0.39 billion MACs at 3x224x224, 5.29 million parameters at 1000 classes."""
    return EfficientNet(in_channels=in_channels, classes=classes, width=width, depth=depth, small=small)
