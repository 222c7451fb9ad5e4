from __future__ import annotations

import numpy as np
import pytest
from importing import assert_imports, imported, parse

from mpqtool.passes.errors import UnsupportedOpError

SPATIAL = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}
# The sums have up to 4 * 27 terms of size 2: 1e-5 is about ten float32 roundings of the largest.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _weights(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    return {
        "w": rng.normal(size=shape).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32),
    }


@pytest.mark.parametrize("opset", [1, 11, 22])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv(opset: int, rank: int, rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = Conv (x, w, b)",
        opset=opset,
        inputs={"x": (4, *SPATIAL[rank])},
        initializers=_weights(rng, 6, 4, *[3] * rank),
        **CLOSE,
    )
    assert list(dict(module.named_parameters())) == ["w", "b"]


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [2, 1]",
        "pads = [1, 1, 1, 1]",
        "pads = [0, 1, 2, 1]",
        "pads = [0, 0, 1, 1], strides = [2, 2]",
        "dilations = [2, 2], pads = [2, 2, 2, 2]",
        'auto_pad = "VALID"',
        "kernel_shape = [3, 3]",
    ],
)
def test_conv_attributes(attributes: str, rng: np.random.Generator) -> None:
    assert_imports(
        f"y = Conv <{attributes}> (x, w)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        initializers={"w": rng.normal(size=(6, 4, 3, 3)).astype(np.float32)},
        **CLOSE,
    )


@pytest.mark.parametrize("group", [2, 4])
def test_conv_in_groups(group: int, rng: np.random.Generator) -> None:
    assert_imports(
        f"y = Conv <group = {group}> (x, w)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        initializers={"w": rng.normal(size=(8, 4 // group, 3, 3)).astype(np.float32)},
        **CLOSE,
    )


@pytest.mark.parametrize("opset", [1, 11, 22])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_transpose(opset: int, rank: int, rng: np.random.Generator) -> None:
    assert_imports(
        "y = ConvTranspose (x, w, b)",
        opset=opset,
        inputs={"x": (4, *SPATIAL[rank])},
        initializers=_weights(rng, 4, 6, *[3] * rank),
        **CLOSE,
    )


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [2, 3]",
        "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]",
        "strides = [2, 2], pads = [0, 1, 2, 1]",
        "pads = [2, 0, 0, 1]",
        "dilations = [2, 1], group = 2",
    ],
)
def test_conv_transpose_attributes(attributes: str, rng: np.random.Generator) -> None:
    assert_imports(
        f"y = ConvTranspose <{attributes}> (x, w)",
        opset=21,
        inputs={"x": (4, 5, 6)},
        initializers={"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)},
        **CLOSE,
    )


@pytest.mark.parametrize(
    ("node", "weight", "message"),
    [
        ('Conv <auto_pad = "SAME_UPPER">', (6, 4, 3, 3), "auto_pad='SAME_UPPER' needs sizes"),
        ('ConvTranspose <auto_pad = "SAME_LOWER">', (4, 6, 3, 3), "auto_pad='SAME_LOWER' needs sizes"),
        ("ConvTranspose <output_shape = [12, 12]>", (4, 6, 3, 3), r"output_shape=\[12, 12\]"),
        ("Conv", (6, 4, 3, 3, 3, 3), "its kernel has 4 dimensions, and 1, 2 and 3 are handled"),
    ],
)
def test_refused(node: str, weight: tuple[int, ...], message: str) -> None:
    proto = parse(f"y = {node} (x, w)", inputs={"x": (4, 9, 8)}, initializers={"w": np.zeros(weight, "f")})
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)


def test_a_computed_weight_is_used() -> None:
    assert_imports(
        "a = Abs (w)  y = Conv <kernel_shape = [3, 3]> (x, a)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        initializers={"w": np.full((6, 4, 3, 3), -0.1, "f")},
        **CLOSE,
    )
