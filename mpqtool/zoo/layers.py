"""What several families share."""

from __future__ import annotations

__all__ = [
    "ConvNorm",
    "InvertedResidual",
    "SqueezeExcite",
    "check_counts",
    "check_factors",
    "divisible",
    "initialize",
]

import math
import numbers
from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class ConvNorm(nn.Sequential):
    """A convolution without bias that keeps the size where the stride is 1, BatchNorm, and an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=eps),
        ]
        super().__init__(*layers, *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Scale each channel by what the means of all channels say.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, equations 2 to 4.
    """

    def __init__(self, channels: int, squeezed: int, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """Widen with 1x1, filter each channel, squeeze and excite, narrow with 1x1; a shortcut where it fits.

    Args:
        in_channels: Channels that go in.
        expanded: Channels in between; without the first 1x1 if they are ``in_channels``.
        out_channels: Channels that come out.
        kernel: Of the filter of each channel.
        stride: Of the same.
        activation: After the first two convolutions; the last one has none.
        squeeze: Squeeze-and-excitation, None for none.
        eps: Of BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int,
        activation: Activation,
        squeeze: SqueezeExcite | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvNorm(in_channels, expanded, 1, activation=activation, eps=eps))
        layers.append(
            ConvNorm(
                expanded, expanded, kernel, stride=stride, groups=expanded, activation=activation, eps=eps
            )
        )
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(ConvNorm(expanded, out_channels, 1, activation=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y + x if self.residual else y


def check_counts(**counts: int) -> None:
    """Raise ValueError if one of the numbers of channels, blocks and so on is no positive integer."""
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer; got {value!r}")


def check_factors(**factors: float) -> None:
    """Raise ValueError if one of the factors is no positive number."""
    for name, value in factors.items():
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number; got {value!r}")


def divisible(channels: float) -> int:
    """The multiple of 8 next to a number of channels, not less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def initialize(module: nn.Module) -> None:
    """Draw the weights of the convolutions from a normal distribution of variance ``2 / (k^2 out / groups)``.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015, equation 14.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.weight[0, 0].numel() * part.out_channels / part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
