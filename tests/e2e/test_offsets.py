"""Learned offsets are exact all the way: what was trained is what the integer file computes."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from graphs import calibrated, normal
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from offset_cases import OffsetCase, offset_cases, with_offsets
from onnx_text import ops
from verified import write_files

from mpqtool.importer import import_graph
from mpqtool.passes import arithmetic, metadata, pipelines
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant
from mpqtool.passes.quantize import complete, raise_dead_scales
from mpqtool.passes.values import array
from mpqtool.quantizers.attach import attach, read_plan
from mpqtool.runtime.reference import Reference
from mpqtool.simulate import IntegerSimulation, simulator_from_qdq

Array = NDArray[Any]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(offset_cases())
def test_every_engine_gives_the_same_codes(case: OffsetCase) -> None:
    network = attach(import_graph(case.model), case.plan).eval()
    assert read_plan(network) == case.plan
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(pathlib.Path(folder), case.model, case.feeds, case.plan)
        simulation = IntegerSimulation(network).on_arrays(case.model)

        result = files.verify(simulate=simulation)

        again = simulator_from_qdq(files.qdq)(case.feeds)
        assert result.passed, result.first_different
        assert result.codes_different == result.island_different == 0
        assert result.codes_compared > 0
        for name, codes in simulation(case.feeds).items():
            np.testing.assert_array_equal(again[name], codes, err_msg=name)


SCALE, UNIT = 0.25, 0.25 * 0.5
PADS = {"none": [0, 0, 0, 0], "all-sides": [1, 1, 1, 1], "asymmetric": [2, 0, 0, 1]}


def _layer(pads: list[int], *, stride: int = 1, dilation: int = 1, group: int = 1) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {"w": 0.5 * rng.integers(-3, 4, (4, 4 // group, 3, 3)), "b": rng.normal(size=4)}
    return normal(
        f"""
        net (float[N, 4, 6, 6] x) => (float[N, 4, M, K] y) {{
            y = Conv <pads = {pads}, strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}],
                      group = {group}> (x, w, b)
        }}
        """,
        weights,
    )


def _layer_plan(padding: str) -> Plan:
    """The multiplier of the result is 1, so that its codes are the accumulator itself."""
    x = ActivationQuant(name="x", bits=2, padding=padding).with_beta(SCALE, -0.33)  # type: ignore[arg-type]
    y = ActivationQuant(name="y", bits=8, scale=UNIT, zero_point=128)
    w = WeightQuant(name="w", bits=(3,) * 4, grid=Grid.SIGNED, scale=(0.5,) * 4)
    return Plan(weights=(w,), activations=(x, y))


def _accumulators(model: ir.Model, padding: str, x: Array) -> Array:
    integer = pipelines.lower(pipelines.quantize(model, _layer_plan(padding)))
    return Reference(integer).run({"x": x})["y.codes"].astype(np.float64) - 128


def _true(model: ir.Model, x: Array, around: float) -> Array:
    """What training computes, ``s * codes + beta`` and then padded, in units of the accumulator."""
    plan = _layer_plan("offset").activations[0]
    assert plan.zero_point is not None
    codes = arithmetic.quantize(x, SCALE, plan.zero_point, 0, 3, offset=plan.offset).astype(np.float64)
    hat = torch.from_numpy(SCALE * codes - 0.33)
    attributes = next(node for node in model.graph if node.op_type == "Conv").attributes
    top, left, bottom, right = attributes.get_ints("pads")
    padded = torch.nn.functional.pad(hat, (left, right, top, bottom), value=around)
    weight, bias = (
        torch.from_numpy(np.array(array(model.graph.initializers[name]), np.float64)) for name in "wb"
    )
    windows = [attributes.get_ints(name) for name in ("strides", "dilations")]
    result = torch.nn.functional.conv2d(
        padded, weight, bias, windows[0], 0, windows[1], attributes.get_int("group", 1)
    )
    return result.numpy() / UNIT


@pytest.mark.parametrize("pads", list(PADS.values()), ids=list(PADS))
@pytest.mark.parametrize("window", [{}, {"stride": 2}, {"dilation": 2}, {"group": 2}, {"group": 4}])
def test_a_layer_computes_what_was_trained(pads: list[int], window: dict[str, int]) -> None:
    """The bias is rounded once, so no accumulator is off by more; a map rounds it and the offset."""
    model = _layer(pads, **window)
    x = np.random.default_rng(1).normal(size=(3, 4, 6, 6)).astype(np.float32)
    offset = _layer_plan("offset").activations[0].offset
    assert abs(offset) > 0.3 * SCALE  # the zero point alone would not do

    # What a layer pads with; how far the integers are off.
    for padding, around, most in (("offset", offset, 0.5), ("zero", 0.0, 1.0)):
        expected = _true(model, x, around)
        network = attach(import_graph(model), _layer_plan(padding)).eval()
        (fake,) = network(torch.from_numpy(x))

        # 1e-4: the offset is a float32. The result of fake quantization is rounded to a scale of one unit.
        assert np.abs(fake.detach().numpy() / UNIT - expected).max() <= 0.5 + 1e-4
        assert np.abs(_accumulators(model, padding, x) - expected).max() <= most + 1e-4


def test_the_naive_fold_is_wrong_at_the_border() -> None:
    """The control: equation 5 of LSQ+ as printed, for a network that was trained with zeros around it."""
    model = _layer(PADS["all-sides"])
    x = np.random.default_rng(1).normal(size=(3, 4, 6, 6)).astype(np.float32)

    error = np.abs(_accumulators(model, "offset", x) - _true(model, x, 0.0))

    assert error[:, :, 1:-1, 1:-1].max() <= 0.5 + 1e-4
    border = np.ones((6, 6), bool)
    border[1:-1, 1:-1] = False
    assert error[:, :, border].max() > 2
    assert (error[:, :, border] > 1.01).mean() > 0.3


POOLS = """
    net (float[N, 2, 8, 8] x) => (float[N, 3] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        k = Relu (c)
        p = AveragePool <kernel_shape = [2, 2], pads = [1, 0, 0, 1], count_include_pad = 1> (k)
        g = GlobalAveragePool (p)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, w1)
    }
"""


def test_average_pools_hand_an_offset_on(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    model = normal(
        POOLS, {"w0": rng.normal(size=(4, 2, 3, 3)), "b0": rng.normal(size=4), "w1": rng.normal(size=(3, 4))}
    )
    feeds = {"x": rng.normal(size=(4, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=8, grid=Grid.SIGNED)
    shared = {"k": -0.171, "p": -0.171, "g": -0.171}
    plan = plan.replaced(
        activations=[a.model_copy(update={"offset": shared.get(a.name, 0.0)}) for a in plan.activations]
    )
    plan = complete(model, plan)
    network = attach(import_graph(model), plan).eval()
    files = write_files(tmp_path, model, feeds, plan)

    result = files.verify(simulate=IntegerSimulation(network).on_arrays(model))

    assert result.passed, result.first_different
    assert result.island_different == 0
    assert ops(ir.load(files.integer)).count("QLinearConv") == 2  # the AveragePool is one of them
    real = run_onnx(model, feeds)["y"]
    (fake,) = network(torch.from_numpy(feeds["x"]))
    # What it pads with is the offset and not 0, so the first row and last column of p differ a little.
    assert np.abs(fake.detach().numpy() - real).max() < 0.1 * np.abs(real).max()


@pytest.mark.parametrize("function", ["Sigmoid", "HardSwish", "LeakyRelu", "Silu"])
def test_functions_make_values_with_offsets(
    tmp_path: pathlib.Path, rng: np.random.Generator, function: str
) -> None:
    """What LSQ+ is for: functions that go a little below 0."""
    body = "a = Sigmoid (c) s = Mul (c, a)" if function == "Silu" else f"s = {function} (c)"
    text = f"""
        net (float[N, 2, 5, 5] x) => (float[N, 3] y) {{
            c = Conv (x, w0)
            {body}
            d = Conv <pads = [1, 1, 1, 1]> (s, w1, b1)
            f = Flatten (d)
            y = Gemm <transB = 1> (f, w2)
        }}
    """
    shapes = {"w0": (3, 2, 1, 1), "w1": (2, 3, 3, 3), "b1": (2,), "w2": (3, 50)}
    model = normal(text, {name: rng.normal(size=shape) for name, shape in shapes.items()})
    feeds = {"x": rng.normal(size=(4, 2, 5, 5)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=4, activation_bits=3)
    # 3 is a whole number of codes there, so that HardSwish could be a product.
    even = {"bits": 8, "scale": 2.0**-4, "zero_point": 128}
    plan = plan.replaced(
        activations=[a.model_copy(update=even) if a.name == "c" else a for a in plan.activations]
    )
    plan = with_offsets(model, plan, {"s": -0.275})
    files = write_files(tmp_path, model, feeds, plan)

    result = files.verify(
        simulate=IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)
    )

    assert result.passed, result.first_different
    assert result.island_different == 0
    assert not any(metadata.ISLAND in node.metadata_props for node in ir.load(files.integer).graph)


@pytest.mark.parametrize("padding", ["offset", "zero"])
@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_every_target_gives_the_same_integers(padding: Any, target: str, rng: np.random.Generator) -> None:
    weights = {"w0": rng.normal(size=(4, 2, 3, 3)), "b0": rng.normal(size=4), "w1": rng.normal(size=(3, 4))}
    model = normal(POOLS, weights)
    feeds = {"x": rng.normal(size=(4, 2, 8, 8)).astype(np.float32)}
    plan = with_offsets(model, calibrated(model, feeds), {"x": -1.23}, padding)
    qdq = pipelines.quantize(model, plan)
    expected = Reference(pipelines.lower(qdq)).run(feeds)["y"]

    written = pipelines.lower(qdq, target=target)

    for level in ("disabled", "all"):
        np.testing.assert_array_equal(run_onnx(written, feeds, level=level)["y"], expected)


DEAD = """
    net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w0)
        n = BatchNormalization (c, gamma, shift, mean, var)
        r = Relu (n)
        d = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)
        g = GlobalAveragePool (d)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, w2)
    }
"""


def test_negative_and_dead_gammas_keep_their_biases(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    """The scale of a kernel that is all but 0 has to hold its bias and both offsets."""
    weights = {
        "w0": rng.normal(size=(4, 2, 3, 3)), "gamma": [1.0, -0.8, 0.0, 1e-12], "shift": [0.1, 0.2, 0.7, -0.4],
        "mean": rng.normal(size=4), "var": rng.uniform(0.5, 2, 4), "w1": rng.normal(size=(3, 4, 3, 3)),
        "b1": rng.normal(size=3), "w2": rng.normal(size=(3, 3)),
    }  # fmt: skip
    model = normal(DEAD, {name: np.asarray(value, np.float32) for name, value in weights.items()})
    feeds = {"x": rng.normal(size=(4, 2, 6, 6)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=4)
    plan = plan.replaced(weights=[w.model_copy(update={"scale": None}) for w in plan.weights])
    plan = with_offsets(model, plan, {"r": -0.31, "x": 0.07})
    assert plan == raise_dead_scales(model, plan)
    network = attach(import_graph(model), plan).eval()
    files = write_files(tmp_path, model, feeds, plan)

    result = files.verify(simulate=IntegerSimulation(network).on_arrays(model))

    assert result.passed, result.first_different
    codes = Reference(files.integer).run(feeds)["r.codes"]
    r = plan.activation("r")
    assert r is not None
    expected = arithmetic.quantize(
        [0.7, 0.0], r.scale or 0, r.zero_point or 0, 0, 2**r.bits - 1, offset=r.offset
    )
    assert (codes[:, 2] == expected[0]).all()  # gamma 0: the shift alone
    assert (codes[:, 3] == expected[1]).all()  # below 0, and a Relu
    assert len(np.unique(codes[:, 1])) > 3  # a negative gamma is a channel like any other
