"""Networks with gates, functions of one number and attention: what becomes integer, and that it is exact."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import calibrated
from numpy.typing import NDArray

import mpqtool
from mpqtool import zoo
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete
from mpqtool.passes.targets import TARGETS
from mpqtool.runtime.verify import verify
from mpqtool.simulate import simulator_from_qdq

NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mobilenet_v3_small": ((3, 32, 32), {"width": 0.25, "small": True, "classes": 10}),
    "efficientnet_b0": ((3, 32, 32), {"width": 0.25, "depth": 0.3, "small": True, "classes": 10}),
    "transformer": ((3, 16, 16), {"width": 32, "depth": 1, "heads": 2, "size": 16}),
}
ISLANDS = {"transformer": {"LayerNormalization"}}


def _mixed(rng: np.random.Generator, plan: Plan) -> Plan:
    """Any width for every kernel, 3 to 8 for every activation but the input."""
    weights = [
        w.model_copy(update={"bits": tuple(map(int, rng.integers(1, 9, len(w.bits))))}) for w in plan.weights
    ]
    activations = [
        a if index == 0 else a.model_copy(update={"bits": int(rng.integers(3, 9))})
        for index, a in enumerate(plan.activations)
    ]
    return plan.replaced(weights=weights, activations=activations)


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, pathlib.Path, ir.Model, dict[str, NDArray[Any]]]:
    """The QDQ model of a network with random weights, its file, and inputs."""
    shape, arguments = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    mpqtool.export_onnx(getattr(zoo, request.param)(**arguments), folder / "float.onnx", input_shape=shape)
    model = pipelines.normalize(load_model(folder / "float.onnx"), fold_batch_norm=True)
    rng = np.random.default_rng(0)
    feeds = {str(model.graph.inputs[0].name): rng.normal(size=(3, *shape)).astype(np.float32)}
    plan = _mixed(rng, place(model, weight_bits=4, activation_bits=8, grid=Grid.ODD))
    qdq = pipelines.quantize(model, complete(model, calibrated(model, feeds, plan=plan)))
    save_model(qdq, folder / "qdq.onnx")
    return request.param, folder, qdq, feeds


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_the_same_integers(
    network: tuple[str, pathlib.Path, ir.Model, dict[str, NDArray[Any]]], target: str
) -> None:
    name, folder, qdq, feeds = network
    path = folder / f"{target}.onnx"
    save_model(pipelines.lower(qdq, target=target), path)

    proof = verify(path, folder / "qdq.onnx", [feeds], simulate=simulator_from_qdq(folder / "qdq.onnx"))
    nodes = mpqtool.inspect(path)["nodes"]

    assert proof.passed
    assert proof.codes_different == 0
    assert proof.codes_compared > 10_000
    assert nodes["mac_share_integer"] == 1
    assert {island["op"] for island in nodes["islands"]} == ISLANDS.get(name, set())
