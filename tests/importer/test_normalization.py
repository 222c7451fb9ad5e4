from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse
from numpy.typing import NDArray

from mpqtool.passes.errors import UnsupportedOpError


def _numbers(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    arrays = {
        "scale": rng.normal(size=4),
        "bias": rng.normal(size=4),
        "mean": rng.normal(size=4),
        "var": rng.uniform(0.5, 2, 4),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("opset", [9, 14, 15])
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


def test_training_mode_in_the_file_is_refused(rng: np.random.Generator) -> None:
    proto = parse(
        "y, m, v = BatchNormalization <training_mode = 1> (x, scale, bias, mean, var)",
        inputs={"x": (4, 6, 5)},
        initializers=_numbers(rng),
    )
    with pytest.raises(UnsupportedOpError, match="training_mode=1, export the model in evaluation mode"):
        imported(proto)
