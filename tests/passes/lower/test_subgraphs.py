"""Graphs inside of operators: left as they are, with what they use of the graph around them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from foreign_conv import conv_model, verified

from mpqtool.passes import pipelines
from mpqtool.passes.lower.channels import read
from mpqtool.passes.lower.region import follow
from mpqtool.passes.values import is_op, names, only_user

_PAIR = "cq = QuantizeLinear (c, s1, z1) d = DequantizeLinear (cq, s1, z1)"

_CODES_TO_REAL = "a = DequantizeLinear (cq, s1, z1)", "e = DequantizeLinear (cq, s1, z1) b2 = Neg (e)"
_TAKEN_NAMES = (
    "code120 = Relu (d) zero_int8 = Neg (code120) a = Relu (zero_int8)",
    "float1 = Neg (d) b2 = Neg (float1)",
)
_QUANTIZED_INSIDE = (
    "q = QuantizeLinear (c, s1, z1) a = DequantizeLinear (q, s1, z1)",
    "k2 = Neg (xd) b2 = Conv (k2, w)",
)


def _branches(then: str, other: str) -> str:
    return (
        f"y = If (k) <then_branch = one () => (float[N, 4, 6, 6] a) {{ {then} }}, "
        f"else_branch = two () => (float[N, 4, 6, 6] b2) {{ {other} }}>"
    )


@pytest.mark.parametrize("target", ["cpu", "standard", "cuda"])
@pytest.mark.parametrize("taken", [True, False], ids=["then", "else"])
@pytest.mark.parametrize(
    ("before", "branches"),
    [
        (_PAIR, _CODES_TO_REAL),
        (f"r = Relu (c) {_PAIR.replace('(c,', '(r,')}", _TAKEN_NAMES),
        ("", _QUANTIZED_INSIDE),
    ],
    ids=["codes", "taken-names", "quantized-inside"],
)
def test_branches_use_the_values_around_them(
    tmp_path: pathlib.Path, before: str, branches: tuple[str, str], taken: bool, target: str
) -> None:
    qdq, feeds = conv_model("float[N, 4, 6, 6] y", before + _branches(*branches), ", bool k")

    result = verified(tmp_path, qdq, feeds | {"k": np.array(taken)}, target=target)

    assert result.passed, result.first_different


def test_a_loop_uses_the_values_around_it(tmp_path: pathlib.Path) -> None:
    body = (
        "y = Loop (n, t, d) <body = g (int64 i, bool go, float[N, 4, 6, 6] v) => "
        "(bool on, float[N, 4, 6, 6] sum) { on = Identity (go) e = DequantizeLinear (cq, s1, z1) "
        "sum = Add (v, e) }>"
    )
    qdq, feeds = conv_model("float[N, 4, 6, 6] y", _PAIR + body, n=np.int64(2), t=np.bool_(True))

    assert verified(tmp_path, qdq, feeds, target="cuda").passed


def test_a_user_in_a_branch_is_no_only_user() -> None:
    qdq, _ = conv_model("float[N, 4, 6, 6] y", _branches(*_QUANTIZED_INSIDE), ", bool k")
    (conv,) = [node for node in qdq.graph if is_op(node, "Conv")]

    assert len(conv.outputs[0].uses()) == 1
    assert only_user(conv.outputs[0]) is None


def test_names_in_branches_are_taken() -> None:
    qdq, _ = conv_model("float[N, 4, 6, 6] y", _PAIR + _branches(*_TAKEN_NAMES), ", bool k")

    assert {"x", "k", "wq", "c", "y", "code120", "zero_int8", "a", "float1", "b2"} <= names(qdq.graph)


def test_codes_that_a_branch_uses_keep_their_channels() -> None:
    used = "v = DequantizeLinear <axis = 0> (vq, ws, wz) e = Conv (d, v) y = QuantizeLinear (e, s1, z1)"
    layer = "QLinearConv (cq, s1, z1, vq, s, v0, s1, z1)"
    branches = (
        _branches(f"a = {layer}", f"b2 = {layer}").replace("float", "uint8").replace("y = If", "y2 = If")
    )
    outputs = "uint8[N, 4, 6, 6] y, uint8[N, 4, 6, 6] y2"
    weights = np.ones((4, 4, 1, 1), np.int8)
    qdq, _ = conv_model(outputs, f"{_PAIR} {used} {branches}", ", bool k", vq=weights, v0=np.int8(0))
    layers = [layer for node in pipelines.lower(qdq).graph if (layer := read(node)) is not None]

    assert len(layers) == 2
    assert follow(layers[0]) is None
