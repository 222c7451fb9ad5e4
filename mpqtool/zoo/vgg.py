"""VGG-small, the plain network that papers on quantization measure on CIFAR-10."""

from __future__ import annotations

__all__ = ["VggSmall", "vgg_small"]

import torch
from torch import Tensor, nn

from .layers import ConvNorm, check_counts, initialize


class VggSmall(nn.Module):
    """Three times two 3x3 convolutions and a pooling, then one linear layer.

    Source: Zhang et al., LQ-Nets, ECCV 2018, section 4.2, after Cai et al., HWGQ-Net, CVPR 2017: the
    network of BinaryConnect with one linear layer in place of three.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: Channels of the first two convolutions; the next have twice and four times as many.
        size: Pixels on a side of the image, at least 8; the linear layer depends on it.

    Attributes:
        input_shape: ``(in_channels, size, size)``.

    Shape:
        Input ``(batch, in_channels, size, size)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, *, in_channels: int, classes: int, width: int, size: int) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes, width=width, size=size)
        if size < 8:
            raise ValueError(f"size must be at least 8, as the image is halved three times; got {size}")
        self.input_shape = (in_channels, size, size)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in (width, 2 * width, 4 * width):
            layers += [ConvNorm(channels, stage, 3), ConvNorm(stage, stage, 3), nn.MaxPool2d(2)]
            channels = stage
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * (size // 8) ** 2, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.features(x), 1))
        return logits


def vgg_small(*, in_channels: int = 3, classes: int = 10, width: int = 128, size: int = 32) -> VggSmall:
    """VGG-small: 608 million MACs at 3x32x32, 4.66 million weights at 10 classes."""
    return VggSmall(in_channels=in_channels, classes=classes, width=width, size=size)
