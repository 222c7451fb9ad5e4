"""Lines of text, upright or upside down, as a direction classifier of PP-OCR gets them."""

from __future__ import annotations

__all__ = ["lines"]

import pathlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .text import blurred_with_noise, colors, draw_line, words

HEIGHT, WIDTH = 48, 192


def lines(
    count: int, fonts: list[pathlib.Path], seed: int, *, blur: float, noise: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures, ``(count, 3, 48, 192)``, and for each whether it is upside down, 0 or 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2)
    x = np.stack([prepared(_line(rng, fonts, bool(label), blur, noise)) for label in labels])
    return x, labels.astype(np.int64)


def _line(
    rng: np.random.Generator, fonts: list[pathlib.Path], turned: bool, blur: float, noise: float
) -> Image.Image:
    ink, paper = colors(rng)
    text = words(rng, int(rng.integers(1, 4)))
    size = int(rng.integers(10, 40))
    font = fonts[rng.integers(len(fonts))]
    image = draw_line(text, font, size, ink, paper, margin=int(rng.integers(0, 1 + size // 4)))
    image = image.rotate(3 * rng.uniform(-1, 1), resample=Image.Resampling.BILINEAR, fillcolor=paper)
    image = blurred_with_noise(image, rng, radius=blur * size / 20, noise=noise)
    return image.transpose(Image.Transpose.ROTATE_180) if turned else image


def prepared(image: Image.Image) -> NDArray[np.float32]:
    """What rapidocr gives to the classifier: 48 high, at most 192 wide, -1 to 1, BGR, 0 beside it."""
    width = min(WIDTH, -(-HEIGHT * image.width // image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    x = np.zeros((3, HEIGHT, WIDTH), np.float32)
    x[:, :, :width] = pixels.transpose(2, 0, 1)[::-1] / 127.5 - 1
    return x
