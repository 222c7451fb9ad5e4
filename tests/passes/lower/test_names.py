from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.passes.lower.names import NameCodesPass

TEXT = """
net (float[N, 4] x) => (float[N, 4] y) {{
    q = QuantizeLinear (x, s, z)
    {clip}
    r = DequantizeLinear ({codes}, s, z)
    m = Neg (r)
    {taken}
    p = QuantizeLinear (m, s, z)
    y = DequantizeLinear (p, s, z)
}}
"""


def _model(*, clip: bool = False, taken: str = "other") -> ir.Model:
    weights = {"s": np.float32(0.1), "z": np.uint8(3), "low": np.uint8(0), "high": np.uint8(15)}
    text = TEXT.format(
        clip="k = Clip (q, low, high)" if clip else "",
        codes="k" if clip else "q",
        taken=f"{taken} = Neg (r)",
    )
    return parse(text, {name: np.array(value) for name, value in weights.items()})


def _names(model: ir.Model) -> set[str]:
    return {str(value.name) for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("clip", [False, True])
def test_codes_are_called_after_the_value(clip: bool) -> None:
    result = NameCodesPass()(_model(clip=clip))

    assert result.modified
    assert {"x.codes", "m.codes"} <= _names(result.model)
    codes = next(v for node in result.model.graph for v in node.outputs if v.name == "x.codes")
    producer = codes.producer()
    assert producer is not None
    assert producer.op_type == ("Clip" if clip else "QuantizeLinear")


def test_taken_names_are_left_alone() -> None:
    model = _model()
    next(v for n in model.graph for v in n.outputs if v.name == "other").name = "m.codes"

    result = NameCodesPass()(model)

    assert "x.codes" in _names(result.model)
    assert "p" in _names(result.model)


def test_second_run_changes_nothing() -> None:
    model = NameCodesPass()(_model()).model

    assert not NameCodesPass()(model).modified


def test_codes_of_another_scale_get_a_number() -> None:
    weights = {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.uint8(3), "n": np.int8(-1)}
    text = """
    net (float[N, 4] x) => (float[N, 4] y, float[N, 4] v, float[N, 4] w) {
        a = QuantizeLinear (x, s, z)   y = DequantizeLinear (a, s, z)
        b = QuantizeLinear (x, s, z)   v = DequantizeLinear (b, s, z)
        c = QuantizeLinear (x, t, n)   w = DequantizeLinear (c, t, n)
    }
    """

    result = NameCodesPass()(parse(text, {name: np.array(value) for name, value in weights.items()}))

    # the second has the scale of the first, and goes away
    assert {"x.codes", "b", "x_1.codes"} <= _names(result.model)
    assert not NameCodesPass()(result.model).modified
