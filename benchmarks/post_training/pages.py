"""Pages with several lines of text, as a text detector of PP-OCR gets them."""

from __future__ import annotations

__all__ = ["pages"]

import pathlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .text import blurred_with_noise, colors, draw_line, words

_SIDE = 320


def pages(count: int, fonts: list[pathlib.Path], seed: int) -> NDArray[np.float32]:
    """Pictures, ``(count, 3, 320, 320)``, -1 to 1, BGR, as rapidocr gives them to the detector."""
    rng = np.random.default_rng(seed)
    x = [np.asarray(_page(rng, fonts), np.float32).transpose(2, 0, 1)[::-1] / 127.5 - 1 for _ in range(count)]
    return np.stack(x)


def _page(rng: np.random.Generator, fonts: list[pathlib.Path]) -> Image.Image:
    """Lines below each other, each of its own font and size, some tilted, with space between them."""
    ink, paper = colors(rng)
    page = Image.new("RGB", (_SIDE, _SIDE), paper)
    y = int(rng.integers(5, 30))
    while y < _SIDE - 30:
        size = int(rng.integers(10, 34))
        font = fonts[rng.integers(len(fonts))]
        line = draw_line(words(rng, int(rng.integers(1, 5))), font, size, ink, paper, margin=2)
        line = line.rotate(4 * rng.uniform(-1, 1), Image.Resampling.BILINEAR, expand=True, fillcolor=paper)
        page.paste(line, (int(rng.integers(4, 100)), y))
        y += line.height + int(rng.integers(2, 30))
    return blurred_with_noise(page, rng, radius=1.0, noise=15)
