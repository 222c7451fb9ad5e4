"""Modules people have, as torch writes them: normalized, imported, the same numbers at two sizes."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable

import onnx
import pytest
import torch
from compare import assert_equivalent, run_onnx
from learning import run_torch
from torch import Tensor, nn
from torch.nn import functional as F

from mpqtool.importer import import_graph
from mpqtool.passes.load import load_model
from mpqtool.passes.pipelines import normalize


class Recurrent(nn.Module):
    """A recurrent layer in both directions, the mean of its states classified."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(6, 5, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.cell(x)[0].mean(1))
        return logits


class Attention(nn.Module):
    """Torch's own multi-head attention on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class UNet(nn.Module):
    """Down, up by interpolation to the size of the skip connection, concatenated."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.up = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        deep = F.relu(self.down(x))
        corners = None if self.mode == "nearest" else False
        deep = F.interpolate(deep, size=x.shape[2:], mode=self.mode, align_corners=corners)
        y: Tensor = self.up(torch.cat([x, deep], dim=1))
        return y


class Views(nn.Module):
    """Shapes computed from the input: a view, a chunk, a split, and a stack of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.view(x.size(0), -1))
        a, b = y.chunk(2, dim=1)
        c, d, e = (a * torch.sigmoid(b)).split([1, 2, 3], dim=1)
        return torch.cat([e.mean(1, keepdim=True), c.expand(-1, 2), d.unsqueeze(0).squeeze(0)], dim=1)


class Bag(nn.Module):
    """The mean of the embeddings of the words of a sentence that are not padding, word 0."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = (x != 0).to(torch.float32).unsqueeze(-1)
        total = (self.words(x) * mask).sum(1)
        logits: Tensor = self.fc(total / mask.sum(1).clamp(min=1))
        return logits


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ELU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def _super_resolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 5, padding=2), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.PixelShuffle(2)
    )


def _normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding="same", bias=False), norm, nn.SiLU(), nn.Flatten(), nn.Linear(384, 3)
    )


IMAGE = (2, 8, 8)
# How the module is made, and the shape of one sample.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lstm": (lambda: Recurrent(nn.LSTM), (4, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (4, 6)),
    "rnn": (lambda: Recurrent(nn.RNN), (4, 6)),
    "attention": (Attention, (5, 8)),
    "encoder-layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
        (5, 8),
    ),
    "autoencoder": (_autoencoder, IMAGE),
    "unet-nearest": (lambda: UNet("nearest"), IMAGE),
    "unet-bilinear": (lambda: UNet("bilinear"), IMAGE),
    "unet-bicubic": (lambda: UNet("bicubic"), IMAGE),
    "super-resolution": (_super_resolution, IMAGE),
    "group-norm": (lambda: _normed(nn.GroupNorm(3, 6)), IMAGE),
    "instance-norm": (lambda: _normed(nn.InstanceNorm2d(6, affine=True)), IMAGE),
    "layer-norm": (lambda: _normed(nn.LayerNorm([6, 8, 8])), IMAGE),
    "views": (Views, (4, 6)),
    "bag": (Bag, (5,)),
}


FREE = {"autoencoder", "unet-nearest", "unet-bilinear", "unet-bicubic", "super-resolution"}
"""Those that take images of any size."""


def _sample(name: str, batch: int) -> Tensor:
    shape = CASES[name][1]
    if name in FREE:
        shape = (2, 4 * batch, 16)
    generator = torch.Generator().manual_seed(batch)
    if name == "bag":
        return torch.randint(0, 11, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


OLDER = dict.fromkeys(CASES, (9, 17)) | {
    "attention": (17,),  # torch cannot write its unflatten before opset 13,
    "encoder-layer": (),  # nor this one at all,
    "unet-bicubic": (11, 17),  # nor this before opset 11,
    "unet-bilinear": (11, 17),  # where Upsample became Resize and got the centres of the pixels
}
"""Opsets of the older, scripting exporter."""


@pytest.fixture(
    scope="module",
    params=[(name, None) for name in CASES] + [(name, opset) for name in CASES for opset in OLDER[name]],
    ids=lambda param: f"{param[0]}-{param[1] or 'new'}",
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, pathlib.Path]:
    """A module with its file, as one of torch's two exporters writes it, at this opset or its newest."""
    name, opset = request.param
    torch.manual_seed(0)
    module = CASES[name][0]().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # some start as ones or zeros, which may not matter
            parameter += 0.1 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("torch") / "model.onnx"
    x = _sample(name, 2)
    axes = (0, 2, 3) if name in FREE else (0,)
    with warnings.catch_warnings(action="ignore"):  # torch of its own parts
        if opset is None:
            free = dict.fromkeys(axes, torch.export.Dim.DYNAMIC) | {0: torch.export.Dim("batch", min=1)}
            torch.onnx.export(
                module, (x,), path, dynamo=True, external_data=False, dynamic_shapes=(free,), verbose=False
            )
        else:
            names = {axis: f"size_{axis}" for axis in axes}
            torch.onnx.export(
                module,
                (x,),
                path,
                dynamo=False,
                opset_version=opset,
                input_names=["x"],
                dynamic_axes={"x": names},
            )
    return name, module, path


@pytest.mark.parametrize("batch", [1, 4])
def test_torch_onnx_runtime_and_the_imported_graph_agree(
    exported: tuple[str, nn.Module, pathlib.Path], batch: int
) -> None:
    name, module, path = exported
    x = _sample(name, batch)
    model = normalize(load_model(path))
    (value,) = model.graph.inputs
    with torch.no_grad():
        wanted = module(x).numpy()
    found = run_onnx(onnx.load(path), {str(value.name): x.numpy()})
    # A few layers of float32, numbers of size 1.
    assert_equivalent({next(iter(found)): wanted}, found, rtol=1e-4, atol=1e-5)
    assert_equivalent(found, run_torch(import_graph(model), model, x), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight(exported: tuple[str, nn.Module, pathlib.Path]) -> None:
    name, module, path = exported
    imported = import_graph(normalize(load_model(path)))
    (y,) = imported(_sample(name, 4))
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    weights = dict(imported.named_parameters())
    own = sum(p.numel() for p in module.parameters())
    # GroupNorm is written as InstanceNormalization, with a scale and a bias for each group, and Mul and Add.
    # The second ConvTranspose becomes a Conv with 4 kernels, and biases, for each of its 2 channels.
    more = {"group-norm": 6, "autoencoder": 6}
    assert sum(p.numel() for p in weights.values()) == own + more.get(name, 0)
    assert [n for n, p in weights.items() if p.grad is None or not p.grad.abs().max() > 0] == []
