from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.slicing import slice_axes, triangle
from mpqtool.runtime.session import make_session

EXACT = {"rtol": 0, "atol": 0}


def _ints(**values: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.int64) for name, value in values.items()}


@pytest.mark.parametrize("opset", [10, 11, 13])
@pytest.mark.parametrize(
    ("cut", "given"),
    [
        ("s, e", _ints(s=[0, 1], e=[9, 3])),
        ("s, e, a", _ints(s=[-3, 1], e=[2**31, -1], a=[2, -1])),
        ("s, e, a, t", _ints(s=[0, 1], e=[2**62, 5], a=[2, 3], t=[2, 3])),
        ("s, e, a, t", _ints(s=[-1, 4], e=[-(2**63), 0], a=[2, 3], t=[-1, -2])),
        ("s, e, a, t", _ints(s=[5, 0], e=[5, -9], a=[2, 1], t=[-1, -1])),
    ],
)
def test_slice(opset: int, cut: str, given: dict[str, np.ndarray]) -> None:
    assert_imports(f"y = Slice (x, {cut})", opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("attributes", ["", ", axes = [2, 3]"])
def test_slice_by_attribute(attributes: str) -> None:
    assert_imports(f"y = Slice <starts = [0, -3], ends = [9, 4]{attributes}> (x)", opset=9, **EXACT)


def test_slices_are_those_of_the_runtime_wherever_they_begin_and_end() -> None:
    """What lies outside is clamped in another way for each sign of the step."""
    bounds = [-(2**63), -5, -4, -3, -1, 0, 2, 3, 4, 2**31 - 1, 2**63 - 1]
    x = np.arange(4, dtype=np.float32)
    proto = parse("y = Slice (x, s, e, a, t)", inputs={"x": ()}, initializers=_ints(a=[0]))
    for name in "set":
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]))
    session = make_session(proto.SerializeToString(), level="disabled", threads=1)
    module = imported(proto)
    for start, end, step in itertools.product(bounds, bounds, [-3, -1, 1, 3]):
        feeds = [np.array([number], np.int64) for number in (start, end, step)]
        expected = session.run(None, dict(zip("xset", [x, *feeds], strict=True)))[0]
        (computed,) = module(*map(torch.from_numpy, [x, *feeds]))
        constant = slice_axes(torch.from_numpy(x), (start,), (end,), (0,), (step,))
        assert computed.tolist() == constant.tolist() == expected.tolist(), (start, end, step)


def test_slice_has_a_gradient() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: slice_axes(x, (2, 1), (-9, 9), None, (-2, 2)), x)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -9, -1, 0, 2, 9])
def test_trilu(upper: int, k: int | None) -> None:
    given = {} if k is None else {"k": np.int64(k)}
    inputs = "(x, k)" if given else "(x)"
    assert_imports(f"y = Trilu <upper = {upper}> {inputs}", opset=14, initializers=given, **EXACT)


def test_trilu_of_types_that_torch_has_no_kernel_for() -> None:
    x = torch.tensor([[1, 2], [3, 65535]])
    assert triangle(x.to(torch.uint16), 0, True).to(torch.int64).tolist() == [[1, 2], [0, 65535]]
    assert triangle(x.to(torch.float8_e5m2), torch.tensor(-1), False).float().tolist() == [[0, 0], [3, 0]]


def test_trilu_has_a_gradient() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: triangle(x, 1, True), x)
