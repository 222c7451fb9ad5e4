from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqtool.passes.errors import PlanError
from mpqtool.passes.plan import ActivationQuant, Grid, Plan, WeightQuant

_scales = st.floats(min_value=1e-30, max_value=1e30, allow_nan=False)


@st.composite
def _weights(draw: st.DrawFn, name: str) -> WeightQuant:
    grid = draw(st.sampled_from(Grid))
    widths = st.integers(0, 8) if grid is Grid.ODD else st.sampled_from([0, 2, 3, 4, 5, 6, 7, 8])
    bits = tuple(draw(st.lists(widths, min_size=1, max_size=6)))
    scale = draw(st.none() | st.tuples(*[_scales] * len(bits)))
    return WeightQuant(name=name, bits=bits, grid=grid, scale=scale)


@st.composite
def _activations(draw: st.DrawFn, name: str) -> ActivationQuant:
    bits = draw(st.integers(1, 8))
    scale = draw(st.none() | _scales)
    zero_point = draw(st.none() | st.integers(0, 2**bits - 1))
    number = st.floats(allow_nan=False, allow_infinity=False)
    offset = 0.0 if scale is None or zero_point is None else draw(number)
    padding = draw(st.sampled_from(["offset", "zero"]))
    return ActivationQuant(
        name=name, bits=bits, scale=scale, zero_point=zero_point, offset=offset, padding=padding
    )


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    names = st.lists(st.text(min_size=1), unique=True, max_size=5)
    plan = Plan(
        weights=tuple(draw(_weights(name)) for name in draw(names)),
        activations=tuple(draw(_activations(name)) for name in draw(names)),
    )
    known = [entry.name for entry in (*plan.weights, *plan.activations)]
    left = st.dictionaries(st.sampled_from(known), st.text()) if known else st.just({})
    return plan.without(draw(left))


@settings(deadline=None)
@given(_plans())
def test_json_gives_the_same_plan_back(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@settings(deadline=None)
@given(_plans())
def test_json_has_one_line_per_tensor(plan: Plan) -> None:
    lines = plan.to_json().splitlines()
    rows = [line for line in lines if line.lstrip().startswith('{"name"')]
    assert len(rows) == len(plan.weights) + len(plan.activations)


@settings(deadline=None)
@given(_plans())
def test_entries_are_found_by_name(plan: Plan) -> None:
    assert [plan.weight(entry.name) for entry in plan.weights] == list(plan.weights)
    assert [plan.activation(entry.name) for entry in plan.activations] == list(plan.activations)
    assert plan.weight("\0 no such name") is None
    assert plan.activation("\0 no such name") is None


def _weight(**changes: Any) -> dict[str, Any]:
    return {"name": "w", "bits": [2, 4], "grid": "odd", "scale": [0.5, 0.25], **changes}


def _activation(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "bits": 4, "scale": 0.5, "zero_point": 3, **changes}


def _text(weights: list[Any] | None = None, activations: list[Any] | None = None, **more: Any) -> str:
    body = {
        "schema_version": 1,
        "weights": [_weight()] if weights is None else weights,
        "activations": [_activation()] if activations is None else activations,
        **more,
    }
    return json.dumps(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("not json", "Invalid JSON", id="not-json"),
        pytest.param(
            _text(weights=[_weight(bits=[9, 2])]),
            r"weights.0.bits.0: .*less than or equal to 8, found 9",
            id="bits-9",
        ),
        pytest.param(
            _text(weights=[_weight(bits=[-1, 2])]),
            r"greater than or equal to 0, found -1",
            id="bits-negative",
        ),
        pytest.param(_text(weights=[_weight(bits=[], scale=None)]), "bits is empty", id="no-kernels"),
        pytest.param(
            _text(weights=[_weight(scale=[0.5])]), "one entry per kernel, got 2 and 1", id="lengths-differ"
        ),
        pytest.param(_text(weights=[_weight(scale=[0.5, 0])]), "greater than 0, found 0", id="scale-0"),
        pytest.param(_text(weights=[_weight(grid="even")]), "'odd'.*found 'even'", id="grid"),
        pytest.param(
            _text(weights=[_weight(grid="signed", bits=[1, 2])]),
            "signed grid has no 1-bit",
            id="signed-1-bit",
        ),
        pytest.param(
            _text(weights=[_weight(grid="full", bits=[1, 2])]), "full grid has no 1-bit", id="full-1-bit"
        ),
        pytest.param(_text(weights=[_weight(), _weight()]), "listed twice: w", id="twice"),
        pytest.param(
            _text(weights=[_weight(axis=0)]), "weights.0.axis: no such field; remove it", id="unknown-field"
        ),
        pytest.param(
            _text(activations=[_activation(bits=0)]),
            "greater than or equal to 1, found 0",
            id="activation-0-bits",
        ),
        pytest.param(
            _text(activations=[_activation(zero_point=16)]), "0 to 15 at 4 bits, got 16", id="zero-point"
        ),
        pytest.param(
            _text(activations=[_activation(scale=-1)]), "greater than 0, found -1", id="scale-negative"
        ),
        pytest.param(
            _text(activations=[_activation(scale=None, offset=0.1)]),
            "offset is of no use without a scale",
            id="offset-alone",
        ),
        pytest.param(
            _text(activations=[_activation(padding="mirror")]),
            "'offset' or 'zero', found 'mirror'",
            id="padding",
        ),
        pytest.param(
            _text(activations=[_activation(tie="t")]),
            r"activations.0.tie: no such field; remove it\. Mend",
            id="tie-of-an-older-plan",
        ),
        pytest.param(
            _text(left_float={"x": "too wide", "w": "dear"}),
            "quantized, and in left_float too: w, x",
            id="quantized-and-float",
        ),
        pytest.param(
            _text(left_float=["y"]), "left_float: Input should be an object", id="float-without-reasons"
        ),
        pytest.param(_text(schema_version=2), "schema_version: .*found 2", id="schema"),
        pytest.param("{}", "weights: Field required", id="empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        Plan.from_json(text, source="'plan.json'")
    assert str(caught.value).startswith("Cannot use 'plan.json': ")
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=30)
@given(_plans(), st.text())
def test_what_stays_float_is_in_no_list(plan: Plan, why: str) -> None:
    names = [entry.name for entry in (*plan.weights, *plan.activations)]
    less = plan.without(dict.fromkeys(names[:1], why))
    assert less.left_float == plan.left_float | dict.fromkeys(names[:1], why)
    assert (
        [less.weight(name) for name in names[:1]]
        == [less.activation(name) for name in names[:1]]
        == [None][: len(names)]
    )
    assert less.replaced(weights=()).left_float == less.left_float
    if names:
        with pytest.raises(pydantic.ValidationError, match="quantized, and in left_float too: "):
            Plan(weights=plan.weights, activations=plan.activations, left_float={names[0]: why})


def test_a_plan_without_floats_does_not_speak_of_them() -> None:
    plan = Plan.from_json(_text())
    assert plan.left_float == {}
    assert "left_float" not in plan.to_json()
    assert '"left_float": {\n    "w": "why"\n  }\n}' in plan.without({"w": "why"}).to_json()


def test_a_plan_is_frozen() -> None:
    plan = Plan.from_json(_text())
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        plan.weights[0].bits = (8, 8)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("weight", "activation", "complete"),
    [
        pytest.param({}, {}, True, id="all"),
        pytest.param({"scale": None}, {}, False, id="weight-scale"),
        pytest.param({}, {"scale": None}, False, id="activation-scale"),
        pytest.param({}, {"zero_point": None}, False, id="zero-point"),
    ],
)
def test_complete_means_every_number(
    weight: dict[str, Any], activation: dict[str, Any], complete: bool
) -> None:
    plan = Plan.from_json(_text([_weight(**weight)], [_activation(**activation)]))
    assert plan.is_complete is complete


def test_replacing_checks_anew() -> None:
    plan = Plan.from_json(_text())
    other = plan.activations[0].model_copy(update={"bits": 8})
    assert plan.replaced(activations=[other]).activations == (other,)
    assert plan.replaced(activations=[other]).weights == plan.weights
    with pytest.raises(pydantic.ValidationError, match="listed twice"):
        plan.replaced(weights=plan.weights * 2)


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(2**-10, 2**10), st.floats(-300, 300))
def test_a_learned_offset_is_a_zero_point_and_what_it_stands_for(
    bits: int, scale: float, in_codes: float
) -> None:
    """Code ``c`` is ``scale * c + beta`` (LSQ+), and ``scale * (c - zero_point) + offset``."""
    beta = in_codes * scale
    entry = ActivationQuant(name="x", bits=bits).with_beta(scale, beta)

    assert entry.scale == float(np.float32(scale))
    assert entry.zero_point is not None
    for code in (0, 2**bits - 1):
        value = entry.scale * (code - entry.zero_point) + entry.offset
        assert value == pytest.approx(entry.scale * code + beta, rel=0, abs=1e-4 * scale)  # a float32 offset
    if -(2**bits - 1) <= beta / entry.scale <= 0:
        assert abs(entry.offset) <= entry.scale * (0.5 + 1e-4)
    elif beta > 0:
        assert (entry.zero_point, entry.offset) == (0, pytest.approx(beta, rel=1e-6))


def test_snapping_moves_the_grid_by_half_a_code_at_most() -> None:
    entry = ActivationQuant(name="x", bits=4, scale=0.5, zero_point=2, offset=0.2)

    assert (entry.snapped().zero_point, entry.snapped().offset) == (2, 0.0)
    # Real 0 is nearer to the code 1 here.
    assert entry.model_copy(update={"offset": 0.3}).snapped().zero_point == 1
    assert entry.model_copy(update={"offset": 0.0}).snapped() == entry.model_copy(update={"offset": 0.0})


def test_snapping_stretches_a_range_without_0() -> None:
    entry = ActivationQuant(name="x", bits=4, scale=0.5, zero_point=0, offset=4.0)  # 4 ... 11.5
    above, below = entry.snapped(), entry.model_copy(update={"zero_point": 15, "offset": -4.0}).snapped()
    assert (above.zero_point, below.zero_point) == (0, 15)
    assert above.scale == below.scale == pytest.approx(11.5 / 15)
    assert above.offset == below.offset == 0


def _ends(entry: ActivationQuant) -> tuple[float, float]:
    assert entry.scale is not None
    assert entry.zero_point is not None
    bottom = entry.offset - entry.scale * entry.zero_point
    return bottom, bottom + entry.scale * (2**entry.bits - 1)


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(2**-10, 2**10), st.floats(-600, 300))
def test_a_snapped_range_still_holds_the_values(bits: int, scale: float, in_codes: float) -> None:
    learned = ActivationQuant(name="x", bits=bits).with_beta(scale, in_codes * scale)

    snapped = learned.snapped()

    (bottom, top), (new_bottom, new_top) = _ends(learned), _ends(snapped)
    assert learned.scale is not None
    assert snapped.scale is not None
    assert snapped.offset == 0
    half = snapped.scale * (0.5 + 1e-4)  # offsets and scales are float32
    assert new_bottom <= bottom + half
    assert new_top >= top - half
    if bottom <= 0 <= top:
        assert snapped.scale == learned.scale
        assert abs(new_bottom - bottom) <= half
    else:
        assert snapped.zero_point == (0 if bottom > 0 else 2**bits - 1)
        assert new_bottom == pytest.approx(min(bottom, 0), abs=half)
        assert new_top == pytest.approx(max(top, 0), abs=half)


def test_a_plan_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match=r"Cannot read plan '.*plan.json': No such file"):
        Plan.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="it is not UTF-8 text"):
        Plan.load(path)
    path.write_text(_text(), encoding="utf-8")
    assert Plan.load(path) == Plan.from_json(_text())
