from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import assert_equivalent, run_onnx
from importing import assert_imports, imported, parse
from torch import fx
from torch.nn import functional as F

from mpqtool.importer.conv import any_conv_transpose, conv_transpose
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
        "strides = [2, 2], pads = [0, 1, 2, 1], output_padding = [1, 1]",
        "output_shape = [5, 6]",
        "strides = [2, 2], output_shape = [10, 11]",
        "strides = [2, 2], output_shape = [12, 14]",  # one more than there is: the bias alone
        'strides = [2, 2], output_shape = [10, 12], auto_pad = "SAME_UPPER"',
        'strides = [2, 3], output_padding = [1, 0], auto_pad = "SAME_UPPER"',
        'strides = [2, 3], auto_pad = "SAME_LOWER"',
        'strides = [4, 5], auto_pad = "SAME_LOWER"',  # strides above the kernel
        'strides = [2, 2], auto_pad = "VALID"',
    ],
)
def test_conv_transpose_attributes(attributes: str, rng: np.random.Generator) -> None:
    outputs = 6 if "group" in attributes else 3
    assert_imports(
        f"y = ConvTranspose <{attributes}> (x, w, b)",
        opset=21,
        inputs={"x": (4, 5, 6)},
        initializers={
            "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
            "b": rng.normal(size=outputs).astype(np.float32),
        },
        **CLOSE,
    )


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
def test_auto_pad_goes_by_the_size_at_hand(
    op: str, auto_pad: str, strides: tuple[int, int], rng: np.random.Generator
) -> None:
    proto = parse(
        f'y = {op} <auto_pad = "{auto_pad}", strides = {list(strides)}> (x, w)',
        inputs={"x": (4, "H", "W")},
        initializers={"w": rng.normal(size=(4, 4, 4, 3)).astype(np.float32)},
    )
    module = imported(proto)
    for size in ((9, 8), (10, 13)):
        x = rng.normal(size=(2, 4, *size)).astype(np.float32)
        (y,) = module(torch.from_numpy(x))
        assert_equivalent(run_onnx(proto, {"x": x}), {"y": y.detach().numpy()}, **CLOSE)


def test_same_padding_reaches_over_a_dilated_kernel(rng: np.random.Generator) -> None:
    # ONNX Runtime refuses dilations with auto_pad. 9 rows, 5 under the kernel, stride 2: 2 + 2 of padding.
    weight, x = (
        torch.from_numpy(rng.normal(size=size).astype(np.float32)) for size in ((6, 4, 3, 3), (2, 4, 9, 8))
    )
    proto = parse(
        'y = Conv <auto_pad = "SAME_UPPER", dilations = [2, 1], strides = [2, 1]> (x, w)',
        inputs={"x": (4, 9, 8)},
        initializers={"w": weight.numpy()},
    )
    (y,) = imported(proto)(x)
    torch.testing.assert_close(
        y, F.conv2d(x, weight, padding=(2, 1), dilation=(2, 1), stride=(2, 1)), rtol=1e-5, atol=1e-5
    )


def test_conv_in_half_precision(rng: np.random.Generator) -> None:
    # Some float32 values are rounded to 8 bits behind the point on the way: 0.02 of numbers around 5.
    nodes = " ".join(f"{name}16 = Cast <to = 10> ({name})" for name in "xwb")
    assert_imports(
        f"{nodes} z = Conv <pads = [1, 0, 0, 1]> (x16, w16, b16)  y = Cast <to = 1> (z)",
        opset=22,
        inputs={"x": (4, 9, 8)},
        initializers=_weights(rng, 6, 4, 3, 3),
        rtol=1e-2,
        atol=2e-2,
    )


def test_plain_convolutions_are_one_call_of_torch() -> None:
    weights = {"w": np.zeros((4, 4, 3, 3), "f")}
    for op, function in (("Conv", F.conv2d), ("ConvTranspose", F.conv_transpose2d)):
        module = imported(
            parse(f"y = {op} <pads = [1, 1, 1, 1]> (x, w)", inputs={"x": (4, 9, 8)}, initializers=weights)
        )
        assert [node.target for node in _calls(module)] == [function]


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


def test_gradients_of_a_transposed_convolution_with_uneven_pads(rng: np.random.Generator) -> None:
    x, weight, bias = (
        torch.from_numpy(rng.normal(size=size)).requires_grad_()
        for size in ((2, 2, 3, 4), (2, 3, 3, 2), (3,))
    )
    assert torch.autograd.gradcheck(
        lambda x, w, b: conv_transpose(x, w, b, (2, 1), (0, 1, 2, 0), (1, 0), 1, (1, 1)), (x, weight, bias)
    )
    assert torch.autograd.gradcheck(
        lambda x, w, b: any_conv_transpose(x, w, b, (2, 2), None, None, 1, None, (8, 9), "NOTSET"),
        (x, weight, bias),
    )


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_refused(op: str) -> None:
    weight = np.zeros((4, 4, 3, 3, 3, 3), "f")
    proto = parse(f"y = {op} (x, w)", inputs={"x": (4, 9, 8)}, initializers={"w": weight})
    with pytest.raises(UnsupportedOpError, match="its kernel has 4 dimensions, allowed are 1, 2 and 3"):
        imported(proto)


@pytest.mark.parametrize(
    "attributes", ["", "<kernel_shape = [3, 3]>", "<strides = [2, 2], pads = [1, 0, 0, 1]>"]
)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_computed_weight_is_used(op: str, attributes: str) -> None:
    assert_imports(
        f"a = Abs (w)  y = {op} {attributes} (x, a)",
        opset=21,
        inputs={"x": (4, 9, 8)},
        initializers={"w": np.full((4, 4, 3, 3), -0.1, "f")},
        **CLOSE,
    )


def test_the_rank_may_be_unknown_until_it_runs(rng: np.random.Generator) -> None:
    proto = parse(
        "a = Abs (w)  x2 = Squeeze (x, axis)  y = Conv <strides = [2]> (x2, a)",
        inputs={"x": (4, 9, 1)},
        initializers={"w": rng.normal(size=(6, 4, 3)).astype(np.float32), "axis": np.array([3])},
    )
    x = rng.normal(size=(2, 4, 9, 1)).astype(np.float32)
    (y,) = imported(proto)(torch.from_numpy(x))
    assert_equivalent(run_onnx(proto, {"x": x}), {"y": y.detach().numpy()}, **CLOSE)
