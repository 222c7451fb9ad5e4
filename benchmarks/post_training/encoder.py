"""A small encoder of tokens: two integer inputs, two outputs, no class logits."""

from __future__ import annotations

__all__ = ["export", "samples", "trained"]

import logging
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

VOCABULARY, TOKENS, WIDTH, HEADS, DEPTH = 128, 24, 64, 4, 2
_PAD, _MASKED = 0, 1
_FIRST = 2  # token that is none of these
_AWAY = -1e4  # added to the scores of what is not to be looked at, as encoders in half precision have it
_STEPS, _BATCH, _LR = 400, 64, 2e-3


class Encoder(nn.Module):
    """BERT in small: embeddings of tokens and positions, blocks with LayerNorm behind the sums.

    Source: Devlin et al., BERT, 2018, section 3; Vaswani et al., Attention Is All You Need, 2017.

    Shape:
        ``input_ids`` and ``attention_mask`` ``(batch, TOKENS)``, int64; of the outputs, the tokens are
        ``(batch, TOKENS, WIDTH)`` and their mean ``(batch, WIDTH)``, padding left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(DEPTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = attention_mask.to(torch.float32)
        bias = ((1 - mask) * _AWAY)[:, None, None, :]
        x = self.norm(self.tokens(input_ids) + self.positions)
        for block in self.blocks:
            x = block(x, bias)
        weight = mask[:, :, None]
        return x, (x * weight).sum(1) / weight.sum(1)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            part(x).reshape(x.shape[0], TOKENS, HEADS, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + bias
        mixed = (torch.softmax(scores, 3) @ v).transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + self.out(mixed))
        y: Tensor = self.norm2(x + self.narrow(F.gelu(self.wide(x))))
        return y


def samples(count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Steps along a circle of tokens, of some length; one token in six is masked, the rest is padding."""
    hidden, _ = _sequences(count, np.random.default_rng(seed))
    return hidden


def _sequences(
    count: int, rng: np.random.Generator
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """What the encoder sees, and what there was before some was masked."""
    start, step = rng.integers(0, VOCABULARY - _FIRST, (count, 1)), rng.integers(1, 6, (count, 1))
    whole = _FIRST + (start + step * np.arange(TOKENS)) % (VOCABULARY - _FIRST)
    mask = np.arange(TOKENS) < rng.integers(TOKENS // 3, TOKENS + 1, (count, 1))
    seen = np.where(rng.random(whole.shape) < 1 / 6, _MASKED, whole)
    return {"input_ids": np.where(mask, seen, _PAD), "attention_mask": mask.astype(np.int64)}, whole


def trained(seed: int = 0) -> Encoder:
    """An encoder that has learned to fill in what is masked; some seconds."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder, head = Encoder(), nn.Linear(WIDTH, VOCABULARY)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=_LR)
    for _ in range(_STEPS):
        seen, whole = _sequences(_BATCH, rng)
        ids, mask = (torch.from_numpy(array) for array in seen.values())
        logits = head(encoder(ids, mask)[0])
        loss = F.cross_entropy(logits[mask == 1], torch.from_numpy(whole)[mask == 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"encoder: cross entropy {loss.detach():.3f} in the end, {np.log(VOCABULARY):.3f} by chance")
    return encoder.eval()


def export(encoder: Encoder, path: pathlib.Path) -> None:
    """Write it as torch does: ``mpqtool export`` is for one input of float32."""
    example = tuple(torch.from_numpy(array) for array in samples(2, 0).values())
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that are not needed
    program = torch.onnx.export(
        encoder, example, dynamo=True, opset_version=20, verbose=False,
        input_names=["input_ids", "attention_mask"], output_names=["tokens", "mean"],
        dynamic_shapes=({0: batch}, {0: batch}),
    )  # fmt: skip
    assert program is not None  # it is None without dynamo
    program.save(path)
