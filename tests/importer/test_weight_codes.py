from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import parse
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, fx

from mpqtool.importer import import_graph, write_parameters
from mpqtool.passes.arithmetic import code_range
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.passes.quantize import InsertQdqPass, extract

Arrays = dict[str, NDArray[Any]]


def written_back(model: ir.Model, module: fx.GraphModule) -> int:
    return write_parameters(model, {k: v.detach().numpy() for k, v in module.named_parameters()})


def constants(model: ir.Model, *names: str) -> list[list[Any]]:
    found = [model.graph.initializers[name].const_value for name in names]
    return [array.numpy().tolist() for array in found if array is not None]


def product(
    rng: np.random.Generator, dtype: str, scale: NDArray[Any], zero: Any, attributes: str, high: int
) -> ir.Model:
    """``x @ w`` with a weight of ``(6, 4)`` in codes from 0 to ``high``, the two ends among them."""
    codes = rng.integers(0, high, (6, 4), endpoint=True)
    codes[0, :2] = 0, high
    kind = ir.DataType[dtype.upper()].numpy()
    return parse(
        "g (float[N,6] x) => (float[N,4] y)"
        f"{{ r = DequantizeLinear <{attributes}> (w, s, z) y = MatMul(x, r) }}",
        {
            "w": codes.astype(kind),
            "s": np.asarray(scale, np.float32),
            "z": np.broadcast_to(zero, np.shape(scale)).astype(kind),
        },
    )


GRANULARITY = {
    "tensor": (np.array(0.03), 2, "axis = 1"),
    "axis": (np.linspace(0.01, 0.07, 4), [0, 1, 2, 3], "axis = 1"),
    "blocks": (np.linspace(0.01, 0.07, 12).reshape(3, 4), 1, "axis = 0, block_size = 2"),
}


@pytest.mark.parametrize("granularity", GRANULARITY)
@pytest.mark.parametrize(
    ("dtype", "high"),
    [("int8", 127), ("uint8", 255), ("uint16", 65535), ("int16", 32767), ("int4", 7), ("uint4", 15)],
)
def test_trained_codes_are_what_torch_computes_with(
    granularity: str, dtype: str, high: int, rng: np.random.Generator
) -> None:
    scale, zero, attributes = GRANULARITY[granularity]
    model = product(rng, dtype, scale, zero, attributes, high)
    x = rng.normal(size=(5, 6)).astype(np.float32)
    before = constants(model, "w", "s", "z")
    module = import_graph(model)

    assert [name for name, _ in module.named_parameters()] == ["w"]
    written_back(model, module)
    assert constants(model, "w", "s", "z") == before  # every code comes back from its real value
    _assert_same(model, module, x)

    with torch.no_grad():  # far enough for a part of them to be clipped
        module.get_parameter("w").add_(torch.randn(6, 4) * high * 0.1)
    written_back(model, module)

    assert constants(model, "s", "z") == before[1:]
    assert constants(model, "w") != before[:1]
    _assert_same(model, module, x)


def _assert_same(model: ir.Model, module: fx.GraphModule, x: NDArray[np.float32]) -> None:
    y = module(torch.from_numpy(x))[0].detach().numpy()
    # The codes are the same; the sums of the product are in the runtime's order.
    assert_equivalent(run_onnx(model, {"x": x}), {"y": y}, rtol=1e-5, atol=1e-5 * float(np.abs(y).max()))


def test_parameter_is_the_real_values(rng: np.random.Generator) -> None:
    model = product(rng, "uint8", np.float32([0.5, 1, 2, 4]), [0, 1, 2, 3], "axis = 1", 255)
    (codes,) = constants(model, "w")
    parameter = import_graph(model).get_parameter("w")
    assert parameter.dtype == torch.float32
    expected = (np.array(codes) - [0, 1, 2, 3]) * [0.5, 1, 2, 4]
    np.testing.assert_array_equal(parameter.detach().numpy(), expected)


def test_gradient_reaches_every_weight_clipped_or_not(rng: np.random.Generator) -> None:
    model = product(rng, "int8", np.array(0.03), 0, "axis = 1", 127)
    module = import_graph(model)
    with torch.no_grad():
        module.get_parameter("w")[0] = 100.0
    x = torch.from_numpy(rng.normal(size=(5, 6)).astype(np.float32))
    module(x)[0].sum().backward()
    expected = x.sum(0)[:, None].expand(6, 4)
    torch.testing.assert_close(module.get_parameter("w").grad, expected, rtol=1e-6, atol=1e-6)


def test_float8_weights(rng: np.random.Generator) -> None:
    kind = ir.DataType.FLOAT8E4M3FN
    weight = rng.normal(size=(6, 4)).astype(kind.numpy())
    model = parse(
        "g (float[N,6] x) => (float[N,4] y) { r = DequantizeLinear(w, s) y = MatMul(x, r) }",
        {"s": np.array(0.5, np.float32), "w": weight},
    )
    module = import_graph(model)
    assert module.get_parameter("w").dtype == torch.float32
    before = constants(model, "w")
    written_back(model, module)
    assert constants(model, "w") == before
    with torch.no_grad():
        module.get_parameter("w").mul_(1.3)
    written_back(model, module)
    again = import_graph(model)
    x = torch.from_numpy(rng.normal(size=(5, 6)).astype(np.float32))
    torch.testing.assert_close(module(x)[0], again(x)[0], rtol=0, atol=0)


def test_a_bias_of_large_codes_comes_back_to_seven_digits() -> None:
    codes = np.array([2**31 - 1, -(2**31), 2**22, -(2**22) + 1, 5], np.int32)
    model = parse(
        "g (float[N,5] x) => (float[N,5] y) { r = DequantizeLinear(b, s) y = Add(x, r) }",
        {"b": codes, "s": np.array(1.7e-9, np.float32)},
    )
    x = np.zeros((1, 5), np.float32)
    expected = run_onnx(model, {"x": x})
    module = import_graph(model)
    y = module(torch.from_numpy(x))[0].detach().numpy()
    assert_equivalent(expected, {"y": y}, rtol=2**-22, atol=0)  # two roundings of float32 beyond 2**22

    written_back(model, module)

    (written,) = constants(model, "b")
    assert written[2:] == codes[2:].tolist()
    np.testing.assert_allclose(written[:2], codes[:2], rtol=2**-22)
    assert_equivalent({"y": y}, run_onnx(model, {"x": x}), rtol=0, atol=0)


def test_tied_weights_are_one_parameter(rng: np.random.Generator) -> None:
    model = parse(
        "g (float[N,4] x) => (float[N,4] y)"
        "{ r1 = DequantizeLinear(w, s) a = MatMul(x, r1) r2 = DequantizeLinear(w, s) y = MatMul(a, r2) }",
        {"w": rng.integers(-9, 9, (4, 4)).astype(np.int8), "s": np.array(0.1, np.float32)},
    )
    module = import_graph(model)
    assert len(list(module.parameters())) == 1
    with torch.no_grad():
        module.get_parameter("w").mul_(0.7)
    written_back(model, module)
    _assert_same(model, module, rng.normal(size=(2, 4)).astype(np.float32))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("r = DequantizeLinear(w, s) t = DequantizeLinear(w, s2) y = Mul(r, t)", id="two scales"),
        pytest.param("r = DequantizeLinear(w, s) t = Cast <to = 1> (w) y = Mul(r, t)", id="another reader"),
        pytest.param(
            "t = Mul(x, s) u = ReduceMean <keepdims = 0> (t) y = DequantizeLinear(w, u)", id="scale"
        ),
        pytest.param("y = DequantizeLinear(w, none)", id="scale of 0"),
    ],
)
def test_codes_that_are_no_weight_stay_codes(body: str, rng: np.random.Generator) -> None:
    codes = rng.integers(-9, 9, (4, 4)).astype(np.int8)
    numbers = {"s": 0.1, "s2": 0.2, "none": 0}
    model = parse(
        f"g (float[4,4] x) => (float[4,4] y) {{ {body} }}",
        {"w": codes, **{name: np.array(v, np.float32) for name, v in numbers.items()}},
    )
    module = import_graph(model)
    assert not list(module.parameters())
    x = rng.uniform(1, 2, (4, 4)).astype(np.float32)
    assert_equivalent(
        run_onnx(model, {"x": x}),
        {"y": module(torch.from_numpy(x))[0].numpy()},
        rtol=1e-6,  # the mean that is a scale
        atol=0,
    )
    torch.testing.assert_close(module.get_buffer("w"), torch.from_numpy(codes), rtol=0, atol=0)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self, *batches: NDArray[np.float32]) -> None:
        self.batches = [{"x": batch} for batch in batches]

    def get_next(self) -> Arrays | None:
        return self.batches.pop() if self.batches else None


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("weights", "activations"), [("QInt8", "QUInt8"), ("QUInt8", "QUInt8"), ("QInt8", "QInt16")]
)
def test_a_file_that_onnx_runtime_quantized_trains_on(
    per_channel: bool, weights: str, activations: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    shapes = {"w1": (5, 3, 3, 3), "b1": (5,), "w2": (5, 4), "b2": (4,)}
    model = parse(
        "g (float[N,3,8,8] x) => (float[N,4] y)"
        "{ c = Conv <kernel_shape = [3, 3]> (x, w1, b1) r = Relu(c) m = MaxPool <kernel_shape = [2, 2]> (r)"
        "  p = GlobalAveragePool(m) f = Flatten(p) y = Gemm(f, w2, b2) }",
        {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()},
    )
    x = rng.uniform(-2, 2, (8, 3, 8, 8)).astype(np.float32)
    ir.save(model, tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "qdq.onnx",
        _Calibration(x),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=QuantType[weights],
        activation_type=QuantType[activations],
    )
    model = ir.load(tmp_path / "qdq.onnx")
    module = import_graph(model)
    assert {name.split("_")[0] for name, _ in module.named_parameters()} == set(shapes)
    _assert_within_a_step(model, module, torch.from_numpy(x))

    losses = _train(module, torch.from_numpy(x), torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32)))

    assert losses[-1] < losses[0]
    assert written_back(model, module) == 4
    _assert_within_a_step(model, module, torch.from_numpy(x))
    torch.testing.assert_close(
        import_graph(model)(torch.from_numpy(x))[0], module(torch.from_numpy(x))[0], rtol=0, atol=0
    )


def _quantized(rng: np.random.Generator, grid: Grid) -> ir.Model:
    """Conv, Relu, Conv, quantized by our own pass to 2 to 8 bits."""
    shapes = {"w1": (5, 3, 3, 3), "w2": (4, 5, 3, 3)}
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"b1": rng.normal(size=5).astype(np.float32), "b2": rng.normal(size=4).astype(np.float32)}
    model = parse(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y)"
        "{ c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1) r = Relu(c)"
        "  y = Conv <kernel_shape = [3, 3]> (r, w2, b2) }",
        arrays,
    )
    bits = {"w1": (2, 3, 4, 8, 0), "w2": (2, 4, 4, 8)}
    plan = Plan(
        weights=tuple(
            WeightQuant(
                name=name,
                bits=widths,
                grid=grid,
                scale=tuple(1.0 / max(code_range(b, grid)[1], 1) for b in widths),
            )
            for name, widths in bits.items()
        ),
        activations=(
            ActivationQuant(name="x", bits=8, scale=0.02, zero_point=128),
            ActivationQuant(name="r", bits=4, scale=0.25, zero_point=0),
            ActivationQuant(name="y", bits=8, scale=0.05, zero_point=120),
        ),
    )
    return InsertQdqPass(plan)(model).model


@pytest.mark.parametrize("grid", list(Grid))
def test_our_own_file_trains_on_and_keeps_its_widths(grid: Grid, rng: np.random.Generator) -> None:
    model = _quantized(rng, grid)
    assert "Clip" in [node.op_type for node in model.graph]
    codes = constants(model, "w1.codes", "w2.codes", "b1.codes", "b2.codes")
    module = import_graph(model)
    x = torch.from_numpy(rng.uniform(-2, 2, (4, 3, 8, 8)).astype(np.float32))
    _assert_within_a_step(model, module, x)

    losses = _train(module, x, torch.from_numpy(rng.normal(size=(4, 4, 6, 6)).astype(np.float32)))

    assert losses[-1] < losses[0]
    assert written_back(model, module) == 4
    for before, after in zip(
        codes, constants(model, "w1.codes", "w2.codes", "b1.codes", "b2.codes"), strict=True
    ):
        assert before != after
    _assert_within_a_step(model, module, x)
    torch.testing.assert_close(import_graph(model)(x)[0], module(x)[0], rtol=0, atol=0)
    _, plan = extract(model)  # refuses codes beyond their widths
    weight = plan.weight("w1")
    assert weight is not None
    assert (weight.bits, weight.grid) == ((2, 3, 4, 8, 0), grid)
    for kernel, width in zip(np.array(constants(model, "w1.codes")[0]), weight.bits, strict=True):
        low, high = code_range(width, grid)
        assert low <= kernel.min()
        assert kernel.max() <= high
        assert grid is not Grid.ODD or width in (0, 8) or (kernel % 2 == 1).all()


def _train(module: fx.GraphModule, x: Tensor, target: Tensor) -> list[float]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for step in range(6):
        loss = torch.nn.functional.mse_loss(module(x)[0], target)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name
        optimizer.step()
        losses.append(loss.item())
    return losses


def _assert_within_a_step(model: ir.Model, module: fx.GraphModule, x: Tensor) -> None:
    """Equal but for sums half-way between two codes, which the order of adding decides: a step of y then."""
    y = module(x)[0].detach().numpy()
    (expected,) = run_onnx(model, {"x": x.numpy()}).values()
    difference = np.abs(y - expected)
    dequantize = model.graph.outputs[0].producer()
    assert dequantize is not None
    assert difference.max() <= 1.001 * constants(model, str(dequantize.inputs[1].name))[0]
    assert (difference > 1e-5).mean() < 0.05
