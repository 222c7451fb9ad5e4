"""Plans that leave tensors in float: what is made of them, and what a file says of it."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from after_training import Network, every_layer
from verified import write_files

from mpqtool.passes import metadata, pipelines
from mpqtool.passes.errors import PlanError
from mpqtool.passes.plan import Plan
from mpqtool.passes.quantize import (
    check_fits,
    complete,
    extract,
    raise_dead_scales,
    with_exact_sums,
    with_fine_biases,
)
from mpqtool.runtime.inspect import inspect
from mpqtool.simulate import simulator_from_qdq

NAMES = ("w0", "w1", "w2", "w3", "x", "r0", "r1", "c2", "a")
WHY = "it costs too much"


@pytest.fixture
def network(rng: np.random.Generator) -> Network:
    return every_layer(rng, samples=3)


def _left(network: Network, *names: str) -> Plan:
    """The plan as a run would have it, with these tensors in float."""
    model = network.model
    plan = with_exact_sums(model, network.plan.without(dict.fromkeys(names, WHY)))
    return complete(model, with_fine_biases(model, raise_dead_scales(model, plan)))


def _subsets() -> list[tuple[str, ...]]:
    """Each tensor alone, some together, and all weights."""
    rng = np.random.default_rng(0)
    some = [tuple(map(str, rng.choice(NAMES, 4, replace=False))) for _ in range(3)]
    return [*((name,) for name in NAMES), *some, NAMES[:3]]


@pytest.mark.parametrize("names", _subsets(), ids="-".join)
def test_the_rest_is_the_same_in_every_engine(
    tmp_path: pathlib.Path, network: Network, names: tuple[str, ...]
) -> None:
    files = write_files(tmp_path, network.model, {"x": network.inputs.numpy()}, _left(network, *names))
    proof = files.verify(simulate=simulator_from_qdq(files.qdq), levels=["all"])
    assert proof.passed
    assert proof.codes_different == 0
    compared = {row.name for row in proof.tensors}
    assert {"x.codes", "r0.codes", "r1.codes", "c2.codes", "a.codes"} - compared <= {
        f"{n}.codes" for n in names
    }


@pytest.mark.parametrize(
    ("name", "islands"),
    [
        ("w1", {"Conv_1"}),
        ("x", {"Conv"}),
        ("r0", {"Conv", "Conv_1"}),
        ("c2", {"Conv_2", "Add"}),
        ("a", {"Add", "MatMul"}),
    ],
)
def test_a_layer_is_integer_if_its_weight_its_input_and_its_result_are(
    tmp_path: pathlib.Path, network: Network, name: str, islands: set[str]
) -> None:
    files = write_files(tmp_path, network.model, {"x": network.inputs.numpy()}, _left(network, name))
    found = inspect(files.integer)["nodes"]["islands"]
    assert {row["name"] for row in found if row["op"] != "Relu"} == islands
    assert all(
        "is not quantized" in row["reason"] or "before it is quantized" in row["reason"] for row in found
    )


@pytest.mark.parametrize("names", [("w1", "r0"), ("x",), ("a", "w3"), NAMES[:3]], ids="-".join)
def test_a_file_gives_its_plan_back(network: Network, names: tuple[str, ...]) -> None:
    plan = _left(network, *names)
    qdq = pipelines.quantize(network.model, plan)

    model, found = extract(qdq)

    assert found == plan
    assert found.left_float == dict.fromkeys(names, WHY)
    assert metadata.LEFT_FLOAT not in model.metadata_props
    again = pipelines.quantize(model, found)
    assert [node.op_type for node in again.graph] == [node.op_type for node in qdq.graph]
    assert again.metadata_props == qdq.metadata_props


def test_the_note_is_of_this_form(network: Network) -> None:
    qdq = pipelines.quantize(network.model, _left(network, "w1"))
    qdq.metadata_props[metadata.LEFT_FLOAT] = '{"w1": 3}'
    with pytest.raises(PlanError, match="'the tensors left in float': w1: Input should be a valid string"):
        extract(qdq)
    del qdq.metadata_props[metadata.LEFT_FLOAT]
    with pytest.raises(PlanError, match="weight 'w1' is not quantized"):
        extract(qdq)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(("w9",), "found tensor left in float 'w9', allowed 'w0', 'w1', 'w2'", id="unknown"),
        pytest.param(("c0",), "found tensor left in float 'c0', allowed", id="never-quantized"),
        pytest.param(NAMES[:4], "found every weight in left_float, allowed all but one", id="weights"),
        pytest.param(NAMES[4:], "found every activation in left_float, allowed all but one", id="values"),
    ],
)
def test_what_does_not_fit_is_refused(network: Network, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        check_fits(network.model, network.plan.without(dict.fromkeys(names, WHY)))
    assert "\n" not in str(caught.value)


def test_what_is_missing_may_be_left_in_float(network: Network) -> None:
    plan = network.plan.replaced(weights=network.plan.weights[1:])
    with pytest.raises(PlanError, match=r"weight 'w0' is missing, .* Add it, to left_float if it is to stay"):
        check_fits(network.model, plan)
    check_fits(network.model, plan.without({"w0": WHY}))
