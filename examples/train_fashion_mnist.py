"""Train a float network on Fashion-MNIST and write it as ``<network>_fashion_mnist.onnx``.

    python examples/train_fashion_mnist.py --data DIR [--network efficientnet] [--epochs 6] [--out DIR]

DIR holds the four IDX files (Debian: ``dpkg -L dataset-fashion-mnist`` says where). Kill it and start
it again: it goes on from the last whole epoch. About 3 minutes an epoch on two cores.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mpqtool.data import load_data
from mpqtool.export import export_onnx
from mpqtool.zoo import efficientnet_b0, resnet20

NETWORKS = {
    "resnet20": functools.partial(resnet20, in_channels=1),
    # A quarter of the channels, one or two blocks in each stage: 0.2 million weights.
    "efficientnet": functools.partial(
        efficientnet_b0, in_channels=1, classes=10, width=0.25, depth=0.34, small=True
    ),
}
MOMENTUM, WEIGHT_DECAY, PEAK_LR, BATCH = 0.9, 5e-4, 0.2, 128


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to 2 pixels and mirror half of them."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    rows, columns = torch.randint(0, 5, (2, n), generator=generator)
    out = torch.empty_like(x)
    for i in range(n):
        out[i] = padded[i, :, rows[i] : rows[i] + height, columns[i] : columns[i] + width]
    mirror = torch.rand(n, generator=generator) < 0.5
    out[mirror] = out[mirror].flip(-1)
    return out


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, label: torch.Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(xs).argmax(1) == ys).sum()) for xs, ys in zip(x.split(500), label.split(500), strict=True)
    )
    model.train()
    return 100 * hits / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/fashion"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    network = NETWORKS[arguments.network]
    weights = arguments.out / f"{arguments.network}.safetensors"
    state = arguments.out / f"{arguments.network}.json"

    data = load_data(f"idx:{arguments.data}")
    (train_x,), (test_x,) = data.train.inputs.values(), data.test.inputs.values()
    x, label = torch.from_numpy(train_x), torch.from_numpy(np.asarray(data.train.labels))
    test_x, test_label = torch.from_numpy(test_x), torch.from_numpy(np.asarray(data.test.labels))

    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    steps = len(x) // BATCH
    start = 0
    if state.exists():
        start = json.loads(state.read_text())["epoch"]
        tensors = load_file(weights)
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("momentum/")})
        for name, parameter in model.named_parameters():
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum/{name}"]

    for epoch in range(start, arguments.epochs):
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(x), generator=generator)
        for step in range(steps):
            done = (epoch + step / steps) / arguments.epochs  # triangular schedule, peak at a quarter
            rate = PEAK_LR * min(4 * done + 0.02, (1 - done) / 0.75)
            for group in optimizer.param_groups:
                group["lr"] = rate
            picked = order[step * BATCH : (step + 1) * BATCH]
            loss = nn.functional.cross_entropy(model(augment(x[picked], generator)), label[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tensors = dict(model.state_dict())
        for name, parameter in model.named_parameters():
            tensors[f"momentum/{name}"] = optimizer.state[parameter]["momentum_buffer"]
        save_file(tensors, f"{weights}.new")
        os.replace(f"{weights}.new", weights)
        state.write_text(json.dumps({"epoch": epoch + 1}))
        print(
            f"epoch {epoch + 1}/{arguments.epochs}  loss {loss.item():.3f}  "
            f"test {accuracy(model, test_x, test_label):.2f} %  {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    path = export_onnx(
        network(),
        arguments.out / f"{arguments.network}_fashion_mnist.onnx",
        input_shape=(1, 28, 28),
        weights=weights,
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
