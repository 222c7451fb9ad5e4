from __future__ import annotations

import numpy as np
from compare import run_onnx
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases

from mpqtool.passes import pipelines
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _compare(case: Case, *, islands: bool) -> int:
    """Compare the reference with ONNX Runtime at all levels; how many codes were compared."""
    model = pipelines.lower(pipelines.quantize(case.model, case.plan))
    reference = Reference(model)
    assert reference.codes
    assert bool(reference.islands) is islands
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
