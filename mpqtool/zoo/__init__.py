"""Networks to try things on, in plain torch; ``mpqtool export mpqtool.zoo:resnet20 -o model.onnx``.

Every function makes a network with random weights. ResNet-18, EfficientNet-B0 and MobileNet V3 name their
parameters as torchvision does, so ``--weights`` takes the files that torchvision offers for them.
"""

from __future__ import annotations

__all__ = [
    "efficientnet_b0",
    "mobilenet_v1",
    "mobilenet_v3_small",
    "resnet18",
    "resnet20",
    "transformer",
    "vgg_small",
]

from .efficientnet import efficientnet_b0
from .encoder import transformer
from .mobilenet import mobilenet_v1, mobilenet_v3_small
from .resnet import resnet18, resnet20
from .vgg import vgg_small
