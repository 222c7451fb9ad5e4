from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import parse

from mpqtool.passes.normalize import SeparateStatisticsPass
from mpqtool.passes.pipelines import normalize

_ONE = "y = BatchNormalization(x, one, zero, zero, one)"
_TWO = "t = BatchNormalization(x, one, b, zero, two) y = BatchNormalization(t, one, b, zero, two)"
_FEEDS = {"x": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)}


def _weights(body: str) -> dict[str, np.ndarray]:
    numbers = {"one": 1.0, "zero": 0.0, "b": 0.5, "two": 2.0}
    return {name: np.full(3, value) for name, value in numbers.items() if name in body.replace("Batch", "")}


@pytest.mark.parametrize("body", [_ONE, _TWO], ids=["with-scale-and-bias", "with-each-other"])
def test_each_gets_its_own(body: str) -> None:
    model = parse(f"net (float[n,3,4] x) => (float[n,3,4] y) {{ {body} }}", _weights(body))
    before = run_onnx(model, _FEEDS)

    assert SeparateStatisticsPass()(model).modified

    own = [value for node in model.graph for value in node.inputs[3:]]
    assert all(len(value.uses()) == 1 for value in own)
    assert [value.name for value in model.graph[0].inputs[1:3]] == ["one", "zero" if body == _ONE else "b"]
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=0, atol=0)
    assert not SeparateStatisticsPass()(model).modified


def test_copies_are_called_after_the_node() -> None:
    model = normalize(parse(f"net (float[n,3,4] x) => (float[n,3,4] y) {{ {_ONE} }}", _weights(_ONE)))
    assert [value.name for value in model.graph[0].inputs[1:]] == [
        "one",
        "zero",
        "BatchNormalization.mean",
        "BatchNormalization.var",
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "net (float[n,3,4] x) => (float[n,3,4] y) { y = BatchNormalization(x, one, b, zero, two) }",
            id="its-own",
        ),
        pytest.param(
            "net (float[n,3,4] x, float[3] f) => (float[n,3,4] y) { y = BatchNormalization(x, f, f, f, f) }",
            id="fed",
        ),
    ],
)
def test_leaves_alone(text: str) -> None:
    weights = _weights("one b zero two") if "one" in text else {}
    assert not SeparateStatisticsPass()(parse(text, weights)).modified
