from __future__ import annotations

import pytest
from onnx_text import parse

from mpqtool.passes.normalize.shape_values import SizeOf, sizes

_CONSTANTS = (
    "int64 zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[2] last = {-1, 0}, int64[1] axes = {0}"
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("v = Shape(x)", ["n", 4, 3]),
        ("v = Shape<start=1>(x)", [4, 3]),
        ("v = Shape<start=0, end=-1>(x)", ["n", 4]),
        ("s = Shape(x) v = Gather(s, zero)", ["n"]),
        ("s = Shape(x) v = Gather(s, last)", [3, "n"]),
        ("s = Shape(x) v = Slice(s, one, three)", [4, 3]),
        ("s = Shape(x) v = Slice(s, one, three, axes)", [4, 3]),
        ("s = Shape(x) g = Gather(s, zero) u = Unsqueeze(g, axes) v = Concat<axis=0>(u, three)", ["n", 3]),
        ("s = Shape(x) c = Cast<to=6>(s) v = Cast<to=7>(c)", ["n", 4, 3]),
        ("s = Shape(x) v = Add(s, one)", None),
        ("s = Shape(x) v = Gather(s, i)", None),
        ("v = Concat<axis=0>(i, one)", None),
    ],
)
def test_follows_what_exporters_write(body: str, expected: list[int | str] | None) -> None:
    model = parse(f"net (float[n,4,3] x, int64[1] i) => (int64[k] v) <{_CONSTANTS}> {{ {body} }}")
    found = sizes(model.graph.outputs[0])
    x = model.graph.inputs[0]
    if expected is None:
        assert found is None
    else:
        assert found == [SizeOf(x, 0) if size == "n" else size for size in expected]
