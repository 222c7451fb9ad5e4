"""Float training of what is quantized afterwards."""

from __future__ import annotations

__all__ = ["trained"]

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mpqtool.data import Split
from mpqtool.reporter import Reporter
from mpqtool.training import Recipe, Trainer

_LR, _BATCH, _WEIGHT_DECAY = 0.1, 128, 5e-4


def trained(
    make: Callable[[], nn.Module], split: Split, *, epochs: int, samples: int, reporter: Reporter, label: str
) -> nn.Module:
    """A network trained in float, for some epochs of so many images."""
    torch.manual_seed(0)
    module = make()
    trainer = Trainer(
        split, teacher=None, batch_size=_BATCH, epoch_samples=samples, seed=0, reporter=reporter,
        recipe=Recipe(weight_decay=_WEIGHT_DECAY),
    )  # fmt: skip
    trainer.fit(_Tuple(module), epochs=epochs, lr=_LR, label=f"{label} in float")
    return module


class _Tuple(nn.Module):
    """Outputs as the training loop takes them: a tuple, as of imported graphs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)
