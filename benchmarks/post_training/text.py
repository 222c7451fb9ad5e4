"""Words, fonts and what a camera does to them."""

from __future__ import annotations

__all__ = ["blurred_with_noise", "colors", "draw_line", "fonts", "words"]

import functools
import pathlib
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Color = tuple[int, int, int]

_VOWELS, _CONSONANTS = "aeiou", "bcdfghklmnprstvwyz"
_UNREADABLE = ("DejaVuMathTeXGyre",)  # no letters to write words with
_CONTRAST = 90  # least difference of brightness between text and paper, of 255


def fonts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The TrueType fonts below a folder, in order of their names."""
    found = sorted(path for path in folder.rglob("*.ttf") if path.stem not in _UNREADABLE)
    if not found:
        raise SystemExit(f"{folder} holds no .ttf file; give another one with --fonts (Debian: fonts-dejavu)")
    return found


def words(rng: np.random.Generator, count: int) -> str:
    """So many words that can be spoken, numbers and codes, as on signs and bills."""
    return " ".join(_word(rng) for _ in range(count))


def _word(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.2:
        return f"{rng.integers(10_000) / rng.choice([1, 10, 100]):g}{rng.choice(['', '%', ' kg', '.-'])}"
    if kind < 0.3:
        symbols = string.ascii_uppercase + string.digits
        return "".join(rng.choice(list(symbols), rng.integers(3, 8)))
    syllables = [
        f"{rng.choice(list(_CONSONANTS))}{rng.choice(list(_VOWELS))}" for _ in range(rng.integers(1, 5))
    ]
    word = "".join(syllables) + str(rng.choice(["", "", "n", "r", "s", "t"]))
    return str(rng.choice([word, word, word.capitalize(), word.upper()]))


def colors(rng: np.random.Generator) -> tuple[Color, Color]:
    """Colors of text and paper that can be told apart."""
    while True:
        ink, paper = rng.integers(0, 256, (2, 3))
        if abs(float(ink.mean()) - float(paper.mean())) >= _CONTRAST:
            return tuple(map(int, ink)), tuple(map(int, paper))


def draw_line(text: str, font: pathlib.Path, size: int, ink: Color, paper: Color, margin: int) -> Image.Image:
    """A line of text on a strip of paper, ``margin`` pixels wider on all sides."""
    face = _face(font, size)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=face)
    return image


@functools.cache
def _face(font: pathlib.Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font, size)


def blurred_with_noise(
    image: Image.Image, rng: np.random.Generator, *, radius: float, noise: float
) -> Image.Image:
    """Gaussian blur of up to so many pixels, then noise of up to such a deviation, of 255."""
    image = image.filter(ImageFilter.GaussianBlur(radius * rng.random()))
    pixels = np.asarray(image, np.float32)
    pixels = pixels + noise * rng.random() * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
