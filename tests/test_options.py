"""Options: bit-widths and ranges."""

from __future__ import annotations

from typing import Any

import pytest

from mpqtool.errors import OptionError
from mpqtool.options import QuantizeOptions, parse_bits


@pytest.mark.parametrize(
    ("text", "bits"),
    [("W4A8", (4, 8)), ("w3a6", (3, 6)), ("W2.5A6.25", (2.5, 6.25)), (" W1A1 ", (1, 1))],
)
def test_parse_bits(text: str, bits: tuple[float, float]) -> None:
    assert parse_bits(text) == bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/8", "'4/8' is not a pair of bit-widths; write W3A6"),
        ("W4", "is not a pair"),
        ("A8W4", "is not a pair"),
        ("W-1A8", "is not a pair"),
        ("W0A8", "weight bits must be 1 to 8, got 0"),
        ("W4A8.5", "activation bits must be 1 to 8, got 8.5"),
    ],
)
def test_parse_bits_refuses(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_bits(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "no method 'magic'; methods: impq"),
        ({"start_bits": "W3.5A8"}, "start_bits are uniform, so whole numbers, got 'W3.5A8'"),
        ({"target_bits": "W5A6"}, "'W5A6' must not exceed start_bits 'W4A8'"),
        ({"target_bits": "W3A8", "start_bits": "W4A7"}, "must not exceed"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"epoch_samples": 0}, "epoch_samples must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_drop": -0.5}, "max_drop must be at least 0"),
        ({"max_drop": float("nan")}, "max_drop must be at least 0"),
        ({"lr": 0.0}, "lr must be positive and finite"),
        ({"lr": float("inf")}, "lr must be positive and finite"),
        ({"resize": (0, 4)}, "resize must be a height and a width"),
        ({"mean": (float("nan"),)}, "mean must be finite"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"lower": "fastest", "target": "cuda"}, "measures files for target 'cpu', got 'cuda'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        QuantizeOptions(**options)
    assert "\n" not in str(caught.value)
