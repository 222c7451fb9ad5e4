from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import threadpoolctl
from compare import assert_equivalent, run_onnx
from graphs import calibrated, quantized, residual_cnn
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases

from mpqtool.passes import metadata, pipelines
from mpqtool.runtime import kernels
from mpqtool.runtime.errors import RuntimeFault
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _compare(case: Case, *, islands: bool) -> int:
    """Compare the reference with ONNX Runtime at all levels; how many codes were compared."""
    model = pipelines.lower(pipelines.quantize(case.model, case.plan))
    reference = Reference(model)
    assert reference.codes
    floating = {node.op_type for node in model.graph if node.metadata_props.get(metadata.ISLAND)}
    # Softmax is a tail; a pool whose scales are too far apart for ONNX Runtime is rare, and right.
    assert islands or floating <= {"Softmax", "GlobalAveragePool"}
    assert not islands or floating >= {"Sin"}
    exact = {*reference.codes, *reference.exact_outputs}
    shown = [name for name in reference.exact_outputs if name not in {v.name for v in model.graph.outputs}]
    compared = 0
    for level in LEVELS:
        found = run_onnx(model, case.feeds, level=level, expose=[*reference.codes, *shown])
        expected = reference.run(case.feeds, {name: found[name] for name in reference.islands})
        for name in exact:
            assert found[name].dtype == expected[name].dtype, name
            gap = np.abs(found[name].astype(float) - expected[name].astype(float)).max(initial=0)
            assert gap <= (1 if name in reference.islands else 0), (level, name)
            compared += found[name].size
    return compared


@few
@given(cases())
def test_equals_onnx_runtime_at_every_level(case: Case) -> None:
    assert _compare(case, islands=False)


@settings(few, max_examples=8)
@given(cases(islands=True))
def test_equals_onnx_runtime_around_islands(case: Case) -> None:
    assert _compare(case, islands=True)


def _lowered(rng: np.random.Generator) -> tuple[ir.Model, dict[str, np.ndarray]]:
    model, feeds = residual_cnn(rng), {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    return pipelines.lower(pipelines.quantize(model, calibrated(model, feeds))), feeds


def test_runs_a_file_as_it_runs_a_model(rng: np.random.Generator, tmp_path: pathlib.Path) -> None:
    model, feeds = _lowered(rng)
    ir.save(model, tmp_path / "int.onnx")

    expected, found = Reference(model).run(feeds), Reference(tmp_path / "int.onnx").run(feeds)

    assert set(expected) == {*Reference(model).codes, "y"}
    assert_equivalent(expected, found, rtol=0, atol=0)


def test_knows_what_is_exact(rng: np.random.Generator) -> None:
    reference = Reference(_lowered(rng)[0])

    assert reference.codes == tuple(f"{n}.codes" for n in ("x", "r0", "m0", "c1", "c2", "r1", "g", "f"))
    assert reference.islands == ()
    assert reference.exact_outputs == ("y",)


def test_constant_inputs_are_unpacked(rng: np.random.Generator) -> None:
    reference = Reference(_lowered(rng)[0])

    constants = reference.constant_inputs()

    weight = constants["y", 3]
    assert weight.shape == (5, 8)
    assert weight.dtype == np.int8


def test_given_codes_count_at_islands_alone(rng: np.random.Generator) -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
        c = Conv (x, w)
        s = Exp (c)
        y = Conv (s, v)
    }
    """
    weights = {"w": rng.normal(size=(2, 2, 1, 1)), "v": rng.normal(size=(2, 2, 1, 1))}
    feeds = {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)}
    reference = Reference(pipelines.lower(quantized(text, weights, feeds)))
    plain = reference.run(feeds)
    zeros = {name: np.zeros_like(plain[name]) for name in ("c.codes", "s.codes")}

    found = reference.run(feeds, zeros)

    assert reference.islands == ("s.codes",)
    np.testing.assert_array_equal(found["c.codes"], plain["c.codes"])
    np.testing.assert_array_equal(found["s.codes"], plain["s.codes"])  # its own ones, to be compared
    assert len(np.unique(found["y.codes"])) <= 2  # one for each kernel: it went on from zeros
    assert len(np.unique(plain["y.codes"])) > 2


def test_an_unknown_operator_is_a_fault(rng: np.random.Generator) -> None:
    model, feeds = _lowered(rng)
    next(node for node in model.graph if node.op_type == "QLinearAdd").op_type = "QLinearMin"

    with pytest.raises(RuntimeFault, match=r"no QLinearMin \(domain 'com\.microsoft'\), node 'Add"):
        Reference(model).run(feeds)


def test_an_operator_that_cannot_be_computed_is_a_fault(rng: np.random.Generator) -> None:
    model, feeds = _lowered(rng)
    next(node for node in model.graph if node.op_type == "Flatten").op_type = "Hardmax2"

    with pytest.raises(RuntimeFault, match=r"cannot compute Hardmax2, node 'Flatten"):
        Reference(model).run(feeds)


def _blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_for_the_time_of_a_run(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = _lowered(rng)
    seen: list[list[int]] = []
    average = kernels.average

    def spy(*args: Any) -> Any:
        seen.append(_blas_threads())
        return average(*args)

    monkeypatch.setattr(kernels, "average", spy)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = _blas_threads()
        Reference(model).run(feeds)

        assert _blas_threads() == before
    assert 2 in before
    assert set(seen[0]) == {1}
