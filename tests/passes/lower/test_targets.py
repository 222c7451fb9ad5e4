"""All targets: the same integers, in files of the operators that each target has."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from offset_cases import OffsetCase, offset_cases
from strategies import Case, cases
from targets import TEXTS, check, qdq_and_feeds

from mpqtool.passes import pipelines
from mpqtool.passes.errors import PassError
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.lower.cuda import CarryInFloatPass
from mpqtool.passes.lower.standard import WriteStandardPass
from mpqtool.passes.metadata import TARGET
from mpqtool.passes.plan import Grid
from mpqtool.passes.targets import TARGETS
from mpqtool.runtime.session import OPTIMIZED, make_session


@pytest.mark.parametrize(
    ("bits", "grid", "powers_of_two"),
    [
        pytest.param(3, Grid.ODD, True, id="3-bit-powers-of-two"),
        pytest.param(8, Grid.SIGNED, False, id="8-bit-any-scales"),
    ],
)
@pytest.mark.parametrize("name", ["residual", *TEXTS])
def test_gives_the_integers_of_the_reference(
    rng: np.random.Generator, name: str, bits: int, grid: Grid, powers_of_two: bool
) -> None:
    widths = {"weight_bits": bits, "activation_bits": bits}
    check(*qdq_and_feeds(rng, name, **widths, grid=grid, powers_of_two=powers_of_two))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_gives_the_integers_of_the_reference_on_random_networks(case: Case) -> None:
    check(pipelines.quantize(case.model, case.plan), case.feeds)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=offset_cases())
def test_gives_the_integers_of_the_reference_with_offsets(case: OffsetCase) -> None:
    check(pipelines.quantize(case.model, case.plan), case.feeds)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(islands=True))
def test_goes_on_from_islands(case: Case) -> None:
    check(pipelines.quantize(case.model, case.plan), case.feeds)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["residual", *TEXTS])
def test_every_target_is_a_valid_file_of_its_operators(
    tmp_path: pathlib.Path, rng: np.random.Generator, name: str, target: str
) -> None:
    qdq, _ = qdq_and_feeds(rng, name, weight_bits=3)

    model = pipelines.lower(qdq, target=target)

    ir.save(model, tmp_path / "a.onnx")
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    domains = {node.domain for node in model.graph}
    assert model.metadata_props[TARGET] == target
    assert (CONTRIB in domains) is (target == "cpu")
    assert (CONTRIB in model.graph.opset_imports) is (target == "cpu")
    made = [value for node in model.graph if node.domain == "" for value in node.outputs]
    assert any(value.dtype is ir.DataType.UINT8 for value in made) is (target != "cuda")
    quantized = {node.op_type for node in model.graph} & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    assert bool(quantized) is (target != "cuda")


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
@pytest.mark.parametrize("target", ["standard", "cuda"])
def test_weights_are_packed_in_the_file_and_plain_once_it_is_loaded(
    tmp_path: pathlib.Path, rng: np.random.Generator, target: str, level: str
) -> None:
    model = pipelines.lower(qdq_and_feeds(rng, "residual", weight_bits=3)[0], target=target)
    assert any(name.endswith(".packed") for name in model.graph.initializers)

    session = make_session(ir.to_proto(model).SerializeToString(), level=level, threads=1, traces=tmp_path)

    pathlib.Path(session.end_profiling()).unlink()
    held = onnx.load(str(tmp_path / OPTIMIZED))
    ops = [node.op_type for node in held.graph.node]
    assert not any(op.startswith(("Unpack", "BitShift", "Gather", "Concat")) for op in ops)
    assert not {"CumSum", "Range", "Slice"} & set(ops)
    casts = ops.count("Cast")
    assert casts == (1 if target == "standard" else 0)  # the accumulator of the Gemm


def test_a_graph_for_a_gpu_stays_as_it_is_in_a_second_run(rng: np.random.Generator) -> None:
    model = pipelines.lower(qdq_and_feeds(rng, "functions-and-gates")[0], target="cuda")
    assert not CarryInFloatPass()(model).modified


def test_a_standard_graph_stays_as_it_is_in_a_second_run(rng: np.random.Generator) -> None:
    model = pipelines.lower(qdq_and_feeds(rng, "functions-and-gates")[0], target="standard")
    assert not WriteStandardPass()(model).modified


def test_an_operator_without_a_standard_form_is_named(rng: np.random.Generator) -> None:
    model = pipelines.lower(qdq_and_feeds(rng, "residual")[0])
    node = next(node for node in model.graph if node.op_type == "QGemm")
    node.op_type = "QAttention"
    with pytest.raises(
        PassError, match=r"Cannot write QAttention .*allowed: QGemm, QLinearAdd, .*--target cpu"
    ):
        WriteStandardPass()(model)
