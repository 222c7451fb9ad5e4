"""Make ``digits.onnx`` and ``digits.npz``: a small residual CNN on the 1,797 handwritten digits of UCI.

    python examples/train_digits.py [--out examples]

The images are those that scikit-learn ships. Seeded throughout; about half a minute on one core.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from mpqtool.export import export_onnx
from mpqtool.files import replacing
from mpqtool.runtime.session import make_session

TEST_IMAGES = 360
EPOCHS, BATCH = 60, 64
PEAK_LR, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.1, 0.9, 5e-4, 0.05
TURN, ZOOM, SHIFT = 0.15, 0.1, 0.75
"""Largest rotation in radians, largest change of scale, and largest shift in pixels while training."""


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """38 thousand weights: ``(batch, 1, 8, 8)`` to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = Block(16, 16)
        self.pool = nn.MaxPool2d(2)
        self.block2 = Block(16, 32)
        self.block3 = Block(32, 32)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        y = self.pool(self.block1(torch.relu(self.bn(self.conv(image)))))
        return self.fc(torch.flatten(self.average(self.block3(self.block2(y))), 1))


def split_digits() -> dict[str, np.ndarray]:
    """The arrays of ``digits.npz``: gray values 0 to 1, a fixed split with every digit in its share."""
    digits = load_digits()
    image = (digits.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(
        image, digits.target.astype(np.int64), test_size=TEST_IMAGES, random_state=0, stratify=digits.target
    )
    return dict(zip(("image", "image_test", "label", "label_test"), parts, strict=True))


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, zoom and shift each image a little."""
    turn, zoom, across, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    turn, zoom = TURN * turn, 1 + ZOOM * zoom
    across, down = across * 2 * SHIFT / x.shape[3], down * 2 * SHIFT / x.shape[2]
    rows = [zoom * turn.cos(), -zoom * turn.sin(), across, zoom * turn.sin(), zoom * turn.cos(), down]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def train(model: nn.Module, image: Tensor, label: Tensor) -> None:
    """SGD on a one-cycle schedule."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    steps = EPOCHS * (len(image) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(image), generator=generator)
        for picked in order[: len(order) // BATCH * BATCH].split(BATCH):
            logits = model(augment(image[picked], generator))
            loss = F.cross_entropy(logits, label[picked], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{EPOCHS}  loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = parser.parse_args().out
    began = time.perf_counter()
    torch.set_num_threads(1)  # the network is too small for more, and the result then depends on nothing else
    torch.manual_seed(0)

    arrays = split_digits()
    model = DigitsNet()
    train(model, torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["label"]))
    export_onnx(model, out / "digits.onnx", input_shape=(1, 8, 8))
    with replacing(out / "digits.npz") as path:
        np.savez_compressed(path, **arrays)

    (logits,) = make_session(out / "digits.onnx").run(None, {"image": arrays["image_test"]})
    accuracy = 100 * np.mean(logits.argmax(1) == arrays["label_test"])
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    print(
        f"{out / 'digits.onnx'}: {weights} weights, accuracy {accuracy:.2f} % on {TEST_IMAGES} images "
        f"by ONNX Runtime, {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
