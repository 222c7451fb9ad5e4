from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.scatter import scatter_elements, scatter_nd
from mpqtool.passes.errors import UnsupportedOpError

EXACT = {"rtol": 0, "atol": 0}
REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _given(rng: np.random.Generator, indices: list[int], updates: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"i": np.array(indices, np.int64), "u": rng.normal(size=updates).astype(np.float32)}


@pytest.mark.parametrize(
    ("operator", "opset"), [("Scatter", 9), *(("ScatterElements", v) for v in (11, 13, 16, 18))]
)
@pytest.mark.parametrize("attributes", ["", "<axis = -1>"])
def test_scatter_elements(rng: np.random.Generator, operator: str, opset: int, attributes: str) -> None:
    given = _given(rng, [[0, 0, 0]] if not attributes else [[2, 0, -1]], (1, 3))
    assert_imports(
        f"y = {operator} {attributes} (x, i, u)", opset=opset, inputs={"x": (3,)}, initializers=given, **EXACT
    )


@pytest.mark.parametrize(("opset", "reduction"), [(16, "add"), (16, "mul"), *((18, r) for r in REDUCTIONS)])
def test_scatter_elements_with_a_reduction(rng: np.random.Generator, opset: int, reduction: str) -> None:
    """Without a reduction the indices must differ."""
    given = _given(rng, [[2, 0, -1]] if reduction == "none" else [[2, 0, 2]], (1, 3))
    assert_imports(
        f'y = ScatterElements <axis = 1, reduction = "{reduction}"> (x, i, u)',
        opset=opset,
        inputs={"x": (4,)},
        initializers=given,
        rtol=1e-6,  # sums and products of two updates, in another order
        atol=1e-7,
    )


@pytest.mark.parametrize("opset", [11, 13, 16, 18])
@pytest.mark.parametrize(
    ("indices", "updates"),
    [([[0]], (1, 4, 3)), ([[0, 1], [0, -1]], (2, 3)), ([[[0, 1, 2]], [[-1, -2, 0]]], (2, 1)), ([0, 1], (3,))],
    ids=["slices", "rows", "elements", "one"],
)
def test_scatter_nd(
    rng: np.random.Generator, opset: int, indices: list[int], updates: tuple[int, ...]
) -> None:
    given = _given(rng, indices, updates)
    assert_imports("y = ScatterND (x, i, u)", opset=opset, inputs={"x": (4, 3)}, initializers=given, **EXACT)


@pytest.mark.parametrize(("opset", "reduction"), [(16, "add"), (16, "mul"), *((18, r) for r in REDUCTIONS)])
def test_scatter_nd_with_a_reduction(rng: np.random.Generator, opset: int, reduction: str) -> None:
    given = _given(rng, [[0, 1], [0, 2 if reduction == "none" else 1]], (2, 3))
    assert_imports(
        f'y = ScatterND <reduction = "{reduction}"> (x, i, u)',
        opset=opset,
        inputs={"x": (4, 3)},
        initializers=given,
        rtol=1e-6,  # sums and products of two updates, in another order
        atol=1e-7,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS.values())
def test_scattering_has_a_gradient(reduction: str | None) -> None:
    x, u = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(4, 3), (2, 3)])
    columns = torch.tensor([[0, 2, 1], [1, -1, 0]])
    assert torch.autograd.gradcheck(lambda x, u: scatter_elements(x, columns, u, 1, reduction), (x, u))
    assert torch.autograd.gradcheck(
        lambda x, u: scatter_nd(x, torch.tensor([[1], [-1]]), u, reduction), (x, u)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16, torch.bfloat16])
@pytest.mark.parametrize(
    ("reduction", "expected"), [(None, 2), ("sum", 5), ("prod", 6), ("amax", 3), ("amin", 2)]
)
def test_types(dtype: torch.dtype, reduction: str | None, expected: int) -> None:
    made = scatter_elements(
        torch.tensor([3, 9]).to(dtype), torch.tensor([0]), torch.tensor([2]).to(dtype), 0, reduction
    )
    assert made.dtype == dtype
    assert made.to(torch.int64).tolist() == [expected, 9]


def test_the_largest_numbers_keep_their_order() -> None:
    data, updates = (torch.tensor([number], dtype=torch.uint64) for number in (2**64 - 1, 1))
    made = [
        scatter_elements(data, torch.tensor([0]), updates, 0, r).tolist() for r in ("amax", "amin", "sum")
    ]
    assert made == [[2**64 - 1], [1], [0]]


def test_another_reduction_is_refused() -> None:
    proto = parse(
        'y = ScatterND <reduction = "mean"> (x, i, u)',
        inputs={"x": (4,)},
        initializers=_given(np.random.default_rng(0), [[0]], (1, 4)),
    )
    with pytest.raises(
        UnsupportedOpError, match=r"reduction='mean', and handled are 'none', 'add', 'mul', 'max'"
    ):
        imported(proto)


@pytest.mark.parametrize(("mode", "begins"), [("linear", [1, 2]), ("circular", [3, 4]), ("linear", None)])
@pytest.mark.parametrize("axis", [-2, 1])
def test_tensor_scatter(rng: np.random.Generator, mode: str, begins: list[int] | None, axis: int) -> None:
    """The loop of the standard."""
    proto = parse(
        f'y = TensorScatter <axis = {axis}, mode = "{mode}"> (x, u{", b" if begins else ""})',
        opset=24,
        inputs={"x": (5, 5, 3), "u": (2, 5, 3) if axis == 1 else (5, 2, 3)},
        initializers={"b": np.array(begins)} if begins else {},
    )
    x = rng.normal(size=(2, 5, 5, 3)).astype(np.float32)
    u = rng.normal(size=(2, 2, 5, 3) if axis == 1 else (2, 5, 2, 3)).astype(np.float32)
    expected = np.moveaxis(x.copy(), axis, 1)
    for sample in range(2):
        for step in range(2):
            place = ((begins or [0, 0])[sample] + step) % 5
            expected[sample, place] = np.moveaxis(u, axis, 1)[sample, step]
    (made,) = imported(proto)(torch.from_numpy(x), torch.from_numpy(u))
    np.testing.assert_array_equal(made.numpy(), np.moveaxis(expected, 1, axis))


def test_another_mode_is_refused() -> None:
    proto = parse('y = TensorScatter <mode = "ring"> (x, u)', opset=24, inputs={"x": (4, 3), "u": (1, 3)})
    with pytest.raises(UnsupportedOpError, match="mode='ring', and handled are 'linear', 'circular'"):
        imported(proto)
