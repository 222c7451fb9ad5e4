from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from importing import parse

from mpqtool.importer import import_graph, write_parameters
from mpqtool.passes.errors import ModelError


@pytest.fixture
def model(rng: np.random.Generator) -> ir.Model:
    arrays = {"w": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}
    return ir.from_proto(parse("y = Gemm <transB = 1> (x, w, b)", inputs={"x": (3,)}, initializers=arrays))


def test_onnx_runtime_then_gives_what_torch_gives(model: ir.Model, rng: np.random.Generator) -> None:
    module = import_graph(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-3)
    count = write_parameters(model, {k: v.detach().numpy() for k, v in module.named_parameters()})

    x = rng.normal(size=(5, 3)).astype(np.float32)
    assert count == 2
    assert_equivalent(
        run_onnx(model, {"x": x}),
        {"y": module(torch.from_numpy(x))[0].detach().numpy()},
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_array_is_copied_and_cast(model: ir.Model, dtype: type[np.floating]) -> None:
    bias = np.arange(4, dtype=dtype)
    write_parameters(model, {"b": bias})
    bias[:] = 9
    written = model.graph.initializers["b"].const_value
    assert written is not None
    assert (written.dtype, written.numpy().tolist()) == (ir.DataType.FLOAT, [0, 1, 2, 3])


def test_real_values_of_a_weight_in_codes_become_codes() -> None:
    arrays = {
        "w": np.array([[-3, 0], [5, 100]], np.int8),
        "s": np.float32([0.5, 2]),
        "z": np.array([0, 1], np.int8),
        "k": np.array([3], np.int64),
    }
    body = "r = DequantizeLinear <axis = 1> (w, s, z) y = MatMul(x, r)"
    model = ir.from_proto(parse(body, inputs={"x": (2,)}, initializers=arrays))

    write_parameters(model, {"w": np.float64([[1.3, 7], [-70, 6.9]])})
    written = model.graph.initializers["w"].const_value
    assert written is not None
    # 1.3 / 0.5 = 2.6; 7 / 2 = 3.5 is rounded to even; -140 is clipped; 6.9 / 2 = 3.45
    assert (written.dtype, written.numpy().tolist()) == (ir.DataType.INT8, [[3, 5], [-128, 4]])

    write_parameters(model, {"w": np.array([[1, 2], [3, 4]], np.int8), "k": np.array([7])})  # not real values
    written = model.graph.initializers["w"].const_value
    assert written is not None
    assert written.numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("other", (4,), "Cannot write 'other': the model has no such initializer"),
        ("b", (5,), r"Cannot write 'b': its shape is \[5\], and the initializer's is \[4\]"),
        ("b", (4, 1), r"its shape is \[4, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    model: ir.Model, name: str, shape: tuple[int, ...], message: str
) -> None:
    before = model.graph.initializers["w"].const_value
    with pytest.raises(ModelError, match=message):
        write_parameters(model, {"w": np.zeros((4, 3), np.float32), name: np.zeros(shape, np.float32)})
    assert model.graph.initializers["w"].const_value is before
