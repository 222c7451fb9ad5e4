"""Sums and differences: the simulation, the reference and ONNX Runtime give the same integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from offset_cases import with_offsets
from onnx_text import ops

from mpqtool.importer import import_graph
from mpqtool.passes import metadata, pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete, extract
from mpqtool.quantizers.attach import attach
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS
from mpqtool.simulate import IntegerSimulation

FORMS = {
    "difference": "d = Sub (a, b)",
    "difference-broadcast": "g = GlobalAveragePool (a) d = Sub (g, b)",
    "less-a-constant": "d = Sub (a, c)",
    "from-a-constant": "d = Sub (c, a)",
    "from-a-number": "d = Sub (one, a)",
    "of-a-constant": "d = Add (c, a)",
    "softmax": "d = Softmax <axis = 1> (a)",
}
FEEDS = {"x": np.random.default_rng(5).normal(size=(3, 3, 6, 6)).astype(np.float32)}


def _model(form: str) -> ir.Model:
    rng = np.random.default_rng(0)
    text = f"""net (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y) <float one = {{0.7}}> {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        b = Conv (x, w1)
        {form}
        r = Relu (d)
        y = Conv (r, w2)
    }}"""
    shapes = {"w0": (4, 3, 3, 3), "w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1), "c": (4, 1, 6)}
    used = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return normal(
        text, {name: numbers for name, numbers in used.items() if name != "c" or "c" in form.split("(")[1]}
    )


def _check(model: ir.Model, plan: Plan) -> ir.Model:
    """All engines, from the file and from the plan; the integer file."""
    qdq = pipelines.quantize(model, plan)
    again, read = extract(qdq)
    lowered = pipelines.lower(qdq)
    reference = Reference(lowered)
    assert reference.islands == ()
    assert not [n for n in lowered.graph if metadata.ISLAND in n.metadata_props and n.op_type == "Sub"]
    expected = reference.run(FEEDS)
    found = {
        "simulation": IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)(FEEDS),
        "from the file": IntegerSimulation(attach(import_graph(again), read).eval()).on_arrays(again)(FEEDS),
        **{level: run_onnx(lowered, FEEDS, level=level, expose=reference.codes) for level in LEVELS},
    }
    for target in ("standard", "cuda"):
        other = pipelines.lower(qdq, target=target)
        found[target] = run_onnx(other, FEEDS, level="all", expose=reference.codes)
    for engine, codes in found.items():
        for name in reference.codes:
            assert len(np.unique(expected[name])) > 1
            np.testing.assert_array_equal(codes[name], expected[name], err_msg=f"{name}, {engine}")
    return lowered


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("form", FORMS)
def test_all_engines_agree(form: str, bits: int) -> None:
    model = _model(FORMS[form])

    lowered = _check(model, complete(model, calibrated(model, FEEDS, activation_bits=bits)))

    if form.startswith("difference"):
        assert "QLinearAdd" in ops(lowered)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("difference")])
def test_all_engines_agree_where_the_result_has_an_offset(form: str) -> None:
    model = _model(FORMS[form])
    plan = calibrated(model, FEEDS)

    lowered = _check(model, with_offsets(model, plan, {"r": -0.0123}))

    assert complete(model, with_offsets(model, plan, {"r": -0.0123})).activation("r").offset  # type: ignore[union-attr]
    assert "QLinearAdd" not in ops(lowered)


def test_a_difference_may_be_negative() -> None:
    plan = place(_model(FORMS["difference"]), weight_bits=4, activation_bits=8, grid=Grid.ODD)

    assert {entry.name: entry.zero_point for entry in plan.activations} == {
        "x": None,
        "a": None,
        "b": None,
        "r": 0,
        **({"y": None} if plan.activation("y") else {}),
    }


def test_the_real_result_of_a_difference_is_that_of_the_codes() -> None:
    """Where no quantizer follows, as in front of an operator that stays float."""
    model = normal(
        "net (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) { a = Conv (x, w) b = Conv (x, v) "
        "d = Sub (a, b) y = Neg (d) }",
        {"w": np.ones((4, 3, 1, 1)), "v": np.full((4, 3, 1, 1), 0.5)},
    )
    plan = complete(model, calibrated(model, FEEDS))

    result = IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)(FEEDS)

    real = run_onnx(model, FEEDS)["y"]
    scale = plan.activation("d").scale  # type: ignore[union-attr]
    assert np.abs(result["y"] - real).max() < 4 * (scale or 0)  # roundings of a, b and d, and of the input
