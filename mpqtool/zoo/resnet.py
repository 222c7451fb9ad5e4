"""Residual networks: ResNet-20 for small images, ResNet-18 for ImageNet."""

from __future__ import annotations

__all__ = ["CifarResNet", "ResNet18", "resnet18", "resnet20"]

import torch
from torch import Tensor, nn

from .layers import check_counts, initialize


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.downsample(x))


class CifarResNet(nn.Module):
    """The ResNet for small images of He et al., Deep Residual Learning, section 4.2.

    Args:
        blocks: Residual blocks in each of the three stages; 3 gives ResNet-20.
        width: Channels of the first stage; the next two have twice and four times as many.
        in_channels: Channels of the image.
        classes: Number of logits.

    Attributes:
        input_shape: Of one CIFAR image, ``(in_channels, 32, 32)``; any other size works too.

    Shape:
        Input ``(batch, in_channels, height, width)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, blocks: int = 3, *, width: int = 16, in_channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        check_counts(blocks=blocks, width=width, in_channels=in_channels, classes=classes)
        self.input_shape = (in_channels, 32, 32)
        self.conv = _conv3x3(in_channels, width)
        self.bn = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_BasicBlock(channels, width << stage, stride))
                channels = width << stage
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(torch.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(torch.flatten(self.pool(y), 1))
        return logits


class ResNet18(nn.Module):
    """ResNet-18 of He et al., Deep Residual Learning, table 1; parameters are named as torchvision's.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        width: Channels of the first stage; the next three have 2, 4 and 8 times as many.
        small: For images of 32 pixels: a 3x3 convolution of stride 1 at the front, and no pooling there.

    Attributes:
        input_shape: ``(in_channels, 224, 224)``, or 32 pixels if ``small``; any other size works too.

    Shape:
        Input ``(batch, in_channels, height, width)``, output ``(batch, classes)``, float32.
    """

    def __init__(self, *, in_channels: int, classes: int, width: int, small: bool) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes, width=width)
        self.input_shape = (in_channels, 32, 32) if small else (in_channels, 224, 224)
        self.conv1 = (
            _conv3x3(in_channels, width)
            if small
            else nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)
        initialize(self)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
        return nn.Sequential(
            _BasicBlock(in_channels, out_channels, stride), _BasicBlock(out_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(y), 1))
        return logits


def resnet20(*, in_channels: int = 3, classes: int = 10) -> CifarResNet:
    """ResNet-20 with 1x1 shortcuts: 40.8 million MACs at 3x32x32, 271 thousand weights at 10 classes."""
    return CifarResNet(3, in_channels=in_channels, classes=classes)


def resnet18(*, in_channels: int = 3, classes: int = 1000, width: int = 64, small: bool = False) -> ResNet18:
    """ResNet-18: 1.81 billion MACs at 3x224x224, 11.69 million parameters at 1000 classes."""
    return ResNet18(in_channels=in_channels, classes=classes, width=width, small=small)
