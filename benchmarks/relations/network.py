"""A small network for Fashion-MNIST in the style of EfficientNet.

Inverted residual blocks: a 1x1 convolution that widens, a depthwise one, and a 1x1 convolution back with no
activation function behind it, a linear bottleneck. 14 thousand weights, 0.7 million multiply-accumulates.
"""

from __future__ import annotations

from torch import Tensor, nn

ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}

_WIDTHS = ((12, 16, 2), (16, 24, 1), (24, 24, 1))
"""Channels in, channels out and stride of each block."""
_WIDER, _HEAD, _CLASSES = 4, 96, 10
_EPSILON = 1e-3
"""That of EfficientNet. With 1e-5, kernels that 2 bits make all zeros get gradients 300 times as large."""


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = _WIDER * inputs
        self.residual = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            *_layer(inputs, wide, 1), activation(),
            *_layer(wide, wide, 3, stride=stride, groups=wide), activation(),
            *_layer(wide, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def _layer(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=_EPSILON)]


def network(activation: str) -> nn.Module:
    """The untrained network; ``activation`` is one of ``ACTIVATIONS``."""
    make = ACTIVATIONS[activation]
    module = nn.Sequential(
        *_layer(1, _WIDTHS[0][0], 3, stride=2), make(),
        *(_Block(*widths, make) for widths in _WIDTHS),
        *_layer(_WIDTHS[-1][1], _HEAD, 1), make(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_HEAD, _CLASSES),
    )  # fmt: skip
    module.input_shape = (1, 28, 28)
    return module
