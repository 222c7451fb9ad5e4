"""The torch simulation against the numpy reference on the emitted graph: two ways to the same integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import calibrated, residual_cnn
from targets import TEXTS, network

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete
from mpqtool.quantizers.attach import attach
from mpqtool.runtime.reference import Reference
from mpqtool.simulate import IntegerSimulation


def _plan(model: ir.Model, x: np.ndarray, **options: object) -> Plan:
    return complete(model, calibrated(model, {"x": x}, **options))


@pytest.mark.parametrize("grid", list(Grid))
@pytest.mark.parametrize("name", ["residual", *TEXTS])
@pytest.mark.parametrize("activation_bits", [3, 8])
def test_gives_the_codes_of_the_reference(
    rng: np.random.Generator, name: str, grid: Grid, activation_bits: int
) -> None:
    model = network(rng, name)
    x = rng.normal(size=(16, 2, 8, 8)).astype(np.float32)
    plan = _plan(model, x, weight_bits=3, activation_bits=activation_bits, grid=grid)
    reference = Reference(pipelines.lower(pipelines.quantize(model, plan)))
    expected = reference.run({"x": x})

    simulation = IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)({"x": x})

    compared = set(reference.codes) | {"y"}
    assert len(compared) > 4
    for value in compared:
        np.testing.assert_array_equal(simulation[value], expected[value], err_msg=value)


def test_a_weight_that_changes_by_one_code_is_noticed(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    x = rng.normal(size=(16, 2, 8, 8)).astype(np.float32)
    plan = _plan(model, x, weight_bits=4, activation_bits=8, grid=Grid.SIGNED)
    network = attach(import_graph(model), plan).eval()
    before = IntegerSimulation(network).on_arrays(model)({"x": x})
    with torch.no_grad():
        dict(network.named_parameters())["w0"][0, 0, 1, 1] += plan.weight("w0").scale[0]
    after = IntegerSimulation(network).on_arrays(model)({"x": x})
    assert any((before[name] != after[name]).any() for name in before)


def test_gradients_are_those_of_fake_quantization(rng: np.random.Generator) -> None:
    """Where nothing rounds differently, training in integers moves the weights the same way."""
    model = residual_cnn(rng)
    x = rng.normal(size=(16, 2, 8, 8)).astype(np.float32)
    plan = calibrated(model, {"x": x}, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    # Room at the ends: a value on the very edge of a clip passes the gradient in one and not in the other.
    roomy = [a.model_copy(update={"scale": float(np.float32(1.05 * a.scale))}) for a in plan.activations]
    plan = complete(model, plan.replaced(activations=roomy))
    gradients = []
    for wrap in (lambda network: network, IntegerSimulation):
        network = attach(import_graph(model), plan)
        wrap(network)(torch.from_numpy(x))[0].square().sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if n.startswith(("w", "b"))})
    assert set(gradients[0]) == {"w0", "b0", "w1", "b1", "w2", "w3", "b3"}
    for name, fake in gradients[0].items():
        exact = gradients[1][name]
        # Biases and sums are rounded in one of the two only.
        assert float((exact - fake).norm() / fake.norm()) < 1e-3, name
