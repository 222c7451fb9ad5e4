from __future__ import annotations

import numpy as np
import pytest
import torch
from compare import run_onnx
from importing import assert_imports, imported, parse

from mpqtool.importer.padding import pad, pad_by_copies
from mpqtool.passes.errors import UnsupportedOpError

EXACT = {"rtol": 0, "atol": 0}
VERSIONS = [11, 13, 18, 19, 21, 23, 24, 25]


def _ints(**values: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.int64) for name, value in values.items()}


@pytest.mark.parametrize("opset", VERSIONS)
@pytest.mark.parametrize("value", [None, 1.5])
def test_pad(opset: int, value: float | None) -> None:
    constant = {} if value is None else {"c": np.float32(value)}
    assert_imports(
        f"y = Pad (x, p{', c' if constant else ''})",
        opset=opset,
        initializers={**_ints(p=[0, 0, 1, 2, 0, 1, 0, 3]), **constant},
        **EXACT,
    )


@pytest.mark.parametrize("opset", [2, 7])
@pytest.mark.parametrize("attributes", ["", ", value = -1.5", ', mode = "edge"', ', mode = "reflect"'])
def test_pad_by_attribute(opset: int, attributes: str) -> None:
    assert_imports(f"y = Pad <pads = [0, 0, 1, 2, 0, 0, -1, 3]{attributes}> (x)", opset=opset, **EXACT)


def test_pad_of_some_axes_and_below_zero() -> None:
    assert_imports("y = Pad (x, p, , a)", opset=18, initializers=_ints(p=[1, -1, 2, 0], a=[-1, 1]), **EXACT)


@pytest.mark.parametrize("opset", VERSIONS)
@pytest.mark.parametrize("mode", ["edge", "reflect"])
@pytest.mark.parametrize(
    "pads", [[0, 0, 1, 2, 0, 0, 3, 1], [0, 2, 0, 0, 0, 3, 0, 0], [0, -1, 4, -2, 0, 2, -1, 2]], ids=str
)
def test_pad_by_copies(opset: int, mode: str, pads: list[int]) -> None:
    assert_imports(f'y = Pad <mode = "{mode}"> (x, p)', opset=opset, initializers=_ints(p=pads), **EXACT)


@pytest.mark.parametrize("opset", [19, 21, 25])
@pytest.mark.parametrize("pads", [[1, 2, 3, 1], [-1, 0, 2, 2]], ids=str)
def test_pad_around(opset: int, pads: list[int]) -> None:
    given = _ints(p=pads, a=[2, -1])
    assert_imports('y = Pad <mode = "wrap"> (x, p, , a)', opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pads_longer_than_the_axis_are_those_of_numpy(mode: str, size: int) -> None:
    x = np.arange(size)
    made = pad_by_copies(torch.from_numpy(x), (7, 11), None, mode)
    assert made.tolist() == np.pad(x, (7, 11), mode=mode).tolist()


def test_a_value_that_is_computed() -> None:
    proto = parse(
        "m = ReduceMax <keepdims = 0> (x)  y = Pad (x, p, m)",
        inputs={"x": (2,)},
        initializers=_ints(p=[0, 1, 0, 1]),
    )
    x = torch.tensor([[1.0, 5.0]], requires_grad=True)
    (y,) = imported(proto)(x)
    np.testing.assert_array_equal(y.detach().numpy(), run_onnx(proto, {"x": x.detach().numpy()})["y"])
    y.sum().backward()
    assert x.grad.tolist() == [[1, 3]]


def test_an_integer_is_padded_exactly() -> None:
    largest = 2**63 - 1
    x = torch.zeros(1, dtype=torch.int64)
    assert pad(x, (1, 0), largest, None).tolist() == [largest, 0]
    assert pad(x, (1, 0), torch.tensor([largest]), None).tolist() == [largest, 0]
    assert pad(x.bool(), (1, 0), (True,), None).tolist() == [True, False]


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pads_have_a_gradient(mode: str) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad_by_copies(x, (2, -1, 1, 3), None, mode), x)


def test_another_mode_is_refused() -> None:
    proto = parse('y = Pad <mode = "mean"> (x, p)', inputs={"x": (4,)}, initializers=_ints(p=[0, 1, 0, 1]))
    with pytest.raises(UnsupportedOpError, match=r"mode='mean', and handled are 'constant', 'edge', 'refl"):
        imported(proto)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [("axes = [2, 3]", [9, 2]), ("axes = [-1, 1]", [2, 7]), ("axes = [3]", [5]), ("axes = [2]", [3])],
)
def test_center_crop_pad(attributes: str, shape: list[int]) -> None:
    given = _ints(s=shape)
    assert_imports(f"y = CenterCropPad <{attributes}> (x, s)", opset=18, initializers=given, **EXACT)
