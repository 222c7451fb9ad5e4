"""Scales of summands, on the grid of their sum."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from verified import write_files

from mpqtool.passes.arithmetic import add_ratios
from mpqtool.passes.functions import hard_swish_reach
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete, with_exact_sums

CONSTANTS = {
    "w": np.ones((2, 2, 1, 1)),
    "v": np.full((2, 2, 1, 1), 2.0),
    "three": np.array(3.0),
}
SUM = "c = Conv(x, w) d = Conv(x, v) s = Add(c, d)"
CHAIN = (
    "c = Conv(x, w) d = Conv(c, v) s = Add(c, d) e = Conv(s, w) t = Add(e, s) h = Conv(t, v) u = Add(t, h)"
)
CHAIN_SUMS = [("c", "d", "s"), ("e", "s", "t"), ("t", "h", "u")]


def _model(body: str) -> ir.Model:
    text = f"net (float[n,2,4,4] x) => (float[n,2,4,4] y) {{ {body} }}"
    return normal(text, {name: value for name, value in CONSTANTS.items() if f", {name})" in text})


def _moved(body: str, **before: float | tuple[float, int]) -> dict[str, float | None]:
    """The scales afterwards; ``before``: those before, perhaps with zero points."""
    model, plan = _planned(body, **before)
    return _scales(with_exact_sums(model, plan))


def _planned(body: str, **before: float | tuple[float, int]) -> tuple[ir.Model, Plan]:
    model = _model(f"{body} y = Conv(s, w)" if " y = " not in body else body)
    plan = place(model, weight_bits=8, activation_bits=8, grid=Grid.FULL)
    entries = []
    for entry in plan.activations:
        scale, zero = number if isinstance(number := before.get(entry.name, 0.1), tuple) else (number, 7)
        single = float(np.float32(scale))
        entries.append(entry.model_copy(update={"scale": single, "zero_point": zero}))
    return model, plan.replaced(activations=entries)


def _scales(plan: Plan) -> dict[str, float | None]:
    return {entry.name: entry.scale for entry in plan.activations}


def _f32(number: float) -> float:
    return float(np.float32(number))


def _is_in_step(scale: float | None, ratio: np.float32, total: float | None) -> bool:
    assert scale is not None
    assert total is not None
    return scale == float(ratio * np.float32(total))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.floats(0.5, 1.0, width=32).filter(lambda scale: hard_swish_reach(scale, 7) is None),
        min_size=7,
        max_size=7,
    )
)
def test_every_summand_is_on_the_grid_of_its_sum(numbers: list[float]) -> None:
    """Ratios of 1/2 to 2: half a step of their grid is below a part in ``2**13``."""
    before = dict(zip(("c", "d", "s", "e", "t", "h", "u"), numbers, strict=True))
    model, plan = _planned(f"{CHAIN} y = Conv(u, w)", **before)

    after = with_exact_sums(model, plan)

    scales = _scales(after)
    for first, second, total in CHAIN_SUMS:
        one, other, whole = (scales[name] for name in (first, second, total))
        assert one is not None
        assert other is not None
        assert whole is not None
        ratios = add_ratios(one, other, whole)
        for scale, ratio in zip((one, other), ratios, strict=True):
            assert _is_in_step(scale, ratio, whole)  # to the bit
    for name, number in before.items():
        assert scales[name] == pytest.approx(_f32(number), rel=2.0**-13)
    assert scales["u"] == _f32(before["u"])
    assert scales["x"] == _f32(0.1)
    assert with_exact_sums(model, after) == after


@pytest.mark.parametrize("join", ["Add(c, d)", "Sub(c, d)"])
@pytest.mark.parametrize("behind", ["s = {}", "r = {} s = Relu(r)"])
def test_sums_and_differences_also_with_a_relu_behind(join: str, behind: str) -> None:
    scales = _moved(f"c = Conv(x, w) d = Conv(x, v) {behind.format(join)}", c=0.0931, d=0.0717, s=0.113)

    assert scales["s"] == _f32(0.113)
    for name, ratio, old in zip(("c", "d"), add_ratios(0.0931, 0.0717, 0.113), (0.0931, 0.0717), strict=True):
        assert _is_in_step(scales[name], ratio, scales["s"])
        assert scales[name] != _f32(old)


def test_a_moved_value_has_the_scale_of_what_is_moved() -> None:
    body = "c = Conv(x, w) m = MaxPool<kernel_shape=[1,1]>(c) d = Conv(x, v) s = Add(m, d)"
    scales = _moved(body, c=0.0931, d=0.0717, s=0.113)
    assert _is_in_step(scales["c"], add_ratios(0.0931, 0.0717, 0.113)[0], scales["s"])


def test_a_value_plus_itself() -> None:
    scales = _moved("c = Conv(x, w) s = Add(c, c)", c=0.0931, s=0.113)
    assert _is_in_step(scales["c"], add_ratios(0.0931, 0.0931, 0.113)[0], scales["s"])


def test_a_value_in_two_sums_is_in_step_with_the_later_one() -> None:
    body = "c = Conv(x, w) d = Conv(x, v) s = Add(c, d) e = Conv(s, w) u = Add(c, e) y = Conv(u, w)"
    scales = _moved(body, c=0.0931, d=0.0717, s=0.113, e=0.0533, u=0.0877)

    of_c, of_e = add_ratios(0.0931, 0.0533, 0.0877)
    assert _is_in_step(scales["c"], of_c, scales["u"])
    assert _is_in_step(scales["e"], of_e, scales["u"])
    of_c, of_d = add_ratios(scales["c"] or 0, 0.0717, 0.113)
    assert _is_in_step(scales["d"], of_d, scales["s"])
    assert not _is_in_step(scales["c"], of_c, scales["s"])


def test_rounding_up_to_a_coarser_grid_is_rounded_again() -> None:
    """Ratios that add up to 1, in odd steps of the finer grid, though add up to less before."""
    step = 2.0**-15
    c, d = (16385 - 0.3) * step, (16383 - 0.3) * step
    assert add_ratios(*add_ratios(c, d, 1), 1) != add_ratios(c, d, 1)
    model, plan = _planned(SUM, c=c, d=d, s=1.0)

    after = with_exact_sums(model, plan)

    scales = _scales(after)
    assert add_ratios(scales["c"] or 0, scales["d"] or 0, 1) == (scales["c"], scales["d"])
    assert with_exact_sums(model, after) == after


def test_a_scale_that_hardswish_asks_for_is_left() -> None:
    whole = _f32(3 / 41)
    assert hard_swish_reach(whole, 100) == 41

    scales = _moved(SUM, c=(whole, 100), d=0.0717, s=0.113)

    assert scales["c"] == whole
    assert _is_in_step(scales["d"], add_ratios(whole, 0.0717, 0.113)[1], scales["s"])


def test_a_constant_multiplied_in_between_is_left() -> None:
    body = "c = Conv(x, w) d = Conv(x, v) m = Mul(c, three) s = Add(m, d)"
    assert _moved(body, c=0.0931, d=0.0717, s=0.113) == {
        "x": _f32(0.1), "c": _f32(0.0931), "d": _f32(0.0717), "s": _f32(0.113), "y": _f32(0.1)
    }  # fmt: skip


def test_a_scale_far_below_that_of_the_sum_is_left() -> None:
    """Its ratio is but a few steps of the grid, or less than one: it would be another scale."""
    for small in (1e-3, 1e-6, 1e-9):
        scales = _moved(SUM, c=0.113 * small, d=0.0717, s=0.113)
        assert scales["c"] == _f32(0.113 * small)
        assert _is_in_step(scales["d"], add_ratios(0.113 * small, 0.0717, 0.113)[1], scales["s"])


def test_a_plan_that_lacks_scales_is_left_where_it_does() -> None:
    model, plan = _planned(SUM, c=0.0931, d=0.0717, s=0.113)
    entries = [a.model_copy(update={"scale": None}) if a.name == "d" else a for a in plan.activations]
    plan = plan.replaced(activations=entries)

    assert with_exact_sums(model, plan) == plan


@pytest.mark.parametrize("constant", ["s = Add(c, three)", "s = Mul(c, c)"])
def test_what_is_no_sum_of_two_activations_is_left(constant: str) -> None:
    model, plan = _planned(f"c = Conv(x, w) {constant}", c=0.0931, s=0.113)
    assert with_exact_sums(model, plan) == plan


def _residual(rng: np.random.Generator) -> ir.Model:
    weights = {
        "w0": rng.normal(size=(4, 2, 3, 3)),
        "w1": rng.normal(size=(4, 4, 3, 3)) / 6,
        "w2": rng.normal(size=(4, 4, 3, 3)) / 6,
        "w3": rng.normal(size=(5, 4)),
    }
    text = """
        net (float[N, 2, 8, 8] x) => (float[N, 5] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w0)
            r = Relu (c)
            d = Conv <pads = [1, 1, 1, 1]> (r, w1)
            s = Add (d, r)
            q = Relu (s)
            e = Conv <pads = [1, 1, 1, 1]> (q, w2)
            t = Add (e, q)
            p = Relu (t)
            g = GlobalAveragePool (p)
            f = Flatten (g)
            y = Gemm <transB = 1> (f, w3)
        }
    """
    return normal(text, dict(weights))


def test_both_files_of_a_residual_network_round_the_same_sums(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    model, feeds = _residual(rng), {"x": rng.normal(size=(256, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds)

    different = []
    for index, planned in enumerate((plan, with_exact_sums(model, plan))):
        (tmp_path / str(index)).mkdir()
        result = write_files(tmp_path / str(index), model, feeds, complete(model, planned)).verify()
        assert result.passed
        different.append({row.name: row.local_different for row in result.tensors})

    for codes in ("q.codes", "p.codes"):
        assert different[0][codes] > 5
        assert different[1][codes] == 0
