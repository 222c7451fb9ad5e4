from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mpqtool.importer.normalization import (
    batch_norm_of_batch,
    group_norm,
    instance_norm,
    layer_norm,
    layer_norm_with_statistics,
    lp_norm,
    mean_variance_norm,
    rms_norm,
)
from mpqtool.passes.errors import UnsupportedOpError


def _numbers(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    arrays = {
        "scale": rng.normal(size=4),
        "bias": rng.normal(size=4),
        "mean": rng.normal(size=4),
        "var": rng.uniform(0.5, 2, 4),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 6, 5)])
def test_inference(opset: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = BatchNormalization <epsilon = 0.001> (x, scale, bias, mean, var)",
        opset=opset,
        inputs={"x": shape},
        initializers=_numbers(rng),
        rtol=1e-5,  # the order of the four operations is the runtime's choice
        atol=1e-6,
    )
    assert list(dict(module.named_parameters())) == ["scale", "bias"]
    assert list(dict(module.named_buffers())) == ["mean", "var"]


def test_statistics_follow_the_batch_in_training_only(rng: np.random.Generator) -> None:
    numbers = _numbers(rng)
    proto = parse(
        "y = BatchNormalization <momentum = 0.75> (x, scale, bias, mean, var)",
        inputs={"x": (4, 6, 5)},
        initializers=numbers,
    )
    module = imported(proto)
    x = torch.from_numpy(rng.normal(size=(3, 4, 6, 5)).astype(np.float32))

    module.eval()(x)
    torch.testing.assert_close(module.get_buffer("mean"), torch.from_numpy(numbers["mean"]), rtol=0, atol=0)

    module.train()(x)
    mean = 0.75 * numbers["mean"] + 0.25 * x.numpy().mean((0, 2, 3))
    var = 0.75 * numbers["var"] + 0.25 * x.numpy().var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(module.get_buffer("mean").numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.get_buffer("var").numpy(), var, rtol=1e-5, atol=1e-6)


def _of_batch(numbers: dict[str, NDArray[np.float32]], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNormalization by its formula, and the mean and variance of the population."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    scale, bias = (torch.from_numpy(numbers[name])[:, None, None] for name in ("scale", "bias"))
    y = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt() * scale + bias
    return y, mean, variance


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("opset", "nodes"),
    [
        (15, "y, m, v = BatchNormalization <training_mode = 1, momentum = 0.75> (x, scale, bias, mean, var)"),
        (9, "y, m, v, sm, sv = BatchNormalization <momentum = 0.75> (x, scale, bias, mean, var)"),
        (7, "y, m, v, sm, sv = BatchNormalization <momentum = 0.75> (x, scale, bias, mean, var)"),
    ],
)
def test_training_mode_in_the_file(mode: str, opset: int, nodes: str, rng: np.random.Generator) -> None:
    numbers = _numbers(rng)
    outputs = ("y", "m", "v") if opset == 15 else ("y", "m", "v", "sm", "sv")
    proto = parse(nodes, opset=opset, inputs={"x": (4, 6, 5)}, initializers=numbers, outputs=outputs)
    module = imported(proto).train(mode == "train")
    x = torch.from_numpy(rng.normal(1, 2, size=(3, 4, 6, 5)).astype(np.float32))

    y, mean, variance, *of_batch = module(x)

    expected, batch_mean, batch_variance = _of_batch(numbers, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    old_mean, old_variance = torch.from_numpy(numbers["mean"]), torch.from_numpy(numbers["var"])
    torch.testing.assert_close(mean, 0.75 * old_mean + 0.25 * batch_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, 0.75 * old_variance + 0.25 * batch_variance, rtol=1e-5, atol=1e-6)
    for made, wanted in zip(of_batch, (batch_mean, batch_variance), strict=False):
        torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.get_buffer("mean"), old_mean, rtol=0, atol=0)
    y.square().sum().backward()
    gradient = module.get_parameter("scale").grad
    assert gradient is not None
    assert gradient.abs().min() > 0


def test_training_mode_takes_one_value_per_channel(rng: np.random.Generator) -> None:
    numbers = _numbers(rng)
    nodes = "y = BatchNormalization <training_mode = 1> (x, scale, bias, mean, var)"
    module = imported(parse(nodes, inputs={"x": (4,)}, initializers=numbers))
    (y,) = module(torch.ones(1, 4))
    # torch multiplies 1 / sqrt(epsilon) = 316 by each of x and the mean before it subtracts
    torch.testing.assert_close(y[0], torch.from_numpy(numbers["bias"]), rtol=0, atol=1e-4)


def test_statistics_of_each_pixel_are_refused(rng: np.random.Generator) -> None:
    proto = parse(
        "y = BatchNormalization <spatial = 0> (x, scale, bias, mean, var)",
        opset=7,
        inputs={"x": (4,)},
        initializers=_numbers(rng),
    )
    with pytest.raises(UnsupportedOpError, match="spatial=0 is not handled, spatial=1 is"):
        imported(proto)


def _affine(rng: np.random.Generator, *shape: int) -> dict[str, NDArray[np.float32]]:
    return {name: rng.normal(size=shape).astype(np.float32) for name in ("scale", "bias")}


@pytest.mark.parametrize("opset", [7, 21, 22])
@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 5), (4, 3, 6, 5), (4, 1)])
def test_instance_normalization(opset: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = InstanceNormalization <epsilon = 0.01> (x, scale, bias)",
        opset=opset,
        inputs={"x": shape},
        initializers=_affine(rng, 4),
        rtol=1e-5,
        atol=1e-5,  # sums in another order
    )
    assert list(dict(module.named_parameters())) == ["scale", "bias"]


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (3, (5,)), (2, (6, 5)), (-3, (4, 6, 5))])
def test_layer_normalization(opset: int, axis: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    module = assert_imports(
        f"y, m, i = LayerNormalization <axis = {axis}, epsilon = 0.01> (x, scale, bias)",
        opset=opset,
        initializers=_affine(rng, *shape),
        outputs=("y", "m", "i"),
        rtol=1e-5,
        atol=1e-5,
    )
    assert list(dict(module.named_parameters())) == ["scale", "bias"]


def test_layer_normalization_is_one_call_of_torch(rng: np.random.Generator) -> None:
    nodes = "y = LayerNormalization (x, scale)"
    proto = parse(nodes, inputs={"x": (4, 5)}, initializers={"scale": _affine(rng, 5)["scale"]})
    x = torch.from_numpy(rng.normal(size=(2, 4, 5)).astype(np.float32))
    module = imported(proto)
    expected = F.layer_norm(x, (5,), module.get_parameter("scale"))
    torch.testing.assert_close(module(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_are_broadcast(axis: int, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 4, 5)))
    scale, bias = torch.from_numpy(rng.normal(size=(4, 1))), torch.from_numpy(rng.normal(size=5))
    plain = layer_norm(x, torch.ones(5).double(), None, axis, 1e-5, torch.float32)
    made = layer_norm(x, scale, bias, axis, 1e-5, torch.float32)
    torch.testing.assert_close(made, plain * scale + bias, rtol=1e-12, atol=1e-12)
    root = rms_norm(x, torch.ones(5).double(), axis, 1e-5, torch.float32)
    torch.testing.assert_close(
        rms_norm(x, scale, axis, 1e-5, torch.float32), root * scale, rtol=1e-12, atol=1e-12
    )


def test_half_precision_is_normalized_in_float32(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(300, 40, size=(2, 4000)).astype(np.float16))  # the sum is no float16
    scale = torch.ones(4000, dtype=torch.float16)
    y, mean, inverse = layer_norm_with_statistics(x, scale, None, -1, 1e-5, torch.float32)
    assert (y.dtype, mean.dtype, inverse.dtype) == (torch.float16, torch.float32, torch.float32)
    torch.testing.assert_close(mean, x.float().mean(-1, keepdim=True), rtol=1e-5, atol=0)
    expected = F.layer_norm(x.float(), (4000,)).half()
    torch.testing.assert_close(y, expected, rtol=2**-10, atol=0)  # one step of float16
    assert rms_norm(x, scale, -1, 1e-5, torch.float32).isfinite().all()


@pytest.mark.parametrize(("opset", "channels"), [(18, 2), (20, 2), (21, 6), (22, 6)])
def test_group_normalization(opset: int, channels: int, rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = GroupNormalization <num_groups = 2, epsilon = 0.01> (x, scale, bias)",
        opset=opset,
        inputs={"x": (6, 4, 5)},
        initializers=_affine(rng, channels),
        rtol=1e-5,
        atol=1e-5,
    )
    assert list(dict(module.named_parameters())) == ["scale", "bias"]


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (2, (6, 5))])
def test_rms_normalization(axis: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    module = assert_imports(
        f"y = RMSNormalization <axis = {axis}, epsilon = 0.01> (x, scale)",
        opset=23,
        initializers={"scale": _affine(rng, *shape)["scale"]},
        rtol=1e-5,
        atol=1e-6,
    )
    assert list(dict(module.named_parameters())) == ["scale"]


@pytest.mark.parametrize("opset", [7, 21, 22])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_lp_normalization(opset: int, p: int, axis: int) -> None:
    assert_imports(f"y = LpNormalization <p = {p}, axis = {axis}> (x)", opset=opset, rtol=1e-5, atol=1e-6)


def test_lp_norm_of_zeros_is_zero_and_has_a_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    y = lp_norm(x, -1, 2)
    y.sum().backward()
    assert y.tolist() == [[0] * 3] * 2
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("attributes", ["", "<axes = [1, 3]>"])
def test_mean_variance_normalization(opset: int, attributes: str) -> None:
    assert_imports(
        f"y = MeanVarianceNormalization {attributes} (x)",
        opset=opset,
        rtol=1e-4,
        atol=1e-5,  # ONNX Runtime subtracts squares of means
    )


def test_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    channels = torch.randn(4, dtype=torch.float64, requires_grad=True)
    last = torch.randn(5, dtype=torch.float64, requires_grad=True)
    groups = torch.randn(2, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    stash = torch.float32
    assert check(lambda x, s: instance_norm(x, s, s, 1e-2), (x, channels))
    assert check(lambda x, s: layer_norm_with_statistics(x, s, s, -1, 1e-2, stash)[0], (x, last))
    assert check(lambda x, s: group_norm(x, s, s, 2, 1e-2), (x, groups))
    assert check(lambda x, s: rms_norm(x, s, -1, 1e-2, stash), (x, last))
    assert check(lambda x: lp_norm(x, 1, 2), (x,))
    assert check(lambda x: lp_norm(x, 1, 1), (x,))
    assert check(lambda x: mean_variance_norm(x, (0, 2)), (x,))
    assert check(lambda x, s: batch_norm_of_batch(x, s, s, s, s, 1e-2, 0.1), (x, channels))
