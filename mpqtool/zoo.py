"""Networks to try things on, in plain torch; ``mpqtool export mpqtool.zoo:resnet20 -o model.onnx``."""

from __future__ import annotations

__all__ = ["resnet20"]

import torch
from torch import Tensor, nn


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
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(torch.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(torch.flatten(self.pool(y), 1))
        return logits


def resnet20(*, in_channels: int = 3, classes: int = 10) -> CifarResNet:
    """ResNet-20 with 1x1 shortcuts: 40.8 million MACs at 3x32x32, 271 thousand weights at 10 classes."""
    return CifarResNet(3, in_channels=in_channels, classes=classes)
