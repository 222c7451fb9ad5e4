from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_it_is_what_it_is_at_inference(opset: int) -> None:
    module = assert_imports("y = Dropout (x)", opset=opset, **EXACT)
    assert "y" in [node.meta.get("onnx_name") for node in module.graph.nodes]


@pytest.mark.parametrize("opset", [12, 13, 22])
def test_the_mask_keeps_everything(opset: int) -> None:
    assert_imports("y, m = Dropout (x)  z = Cast <to = 1> (m)", opset=opset, outputs=("y", "z"), **EXACT)


@pytest.mark.parametrize(("opset", "dtype"), [(9, torch.float32), (11, torch.bool)])
def test_the_mask_of_before_opset_12(opset: int, dtype: torch.dtype) -> None:
    """The standard did not say what it is at inference, and ONNX Runtime leaves it empty."""
    proto = parse("y, m = Dropout (x)", opset=opset, inputs={"x": (2,)}, outputs=("y", "m"))
    _, mask = imported(proto)(torch.zeros(1, 2))
    assert mask.tolist() == [[1, 1]]
    assert mask.dtype == dtype


@pytest.mark.parametrize(("ratio", "training"), [(0.0, True), (0.9, False)])
@pytest.mark.parametrize("mode", ["t", "c"])
def test_there_is_nothing_to_drop(ratio: float, training: bool, mode: str) -> None:
    given = {"r": np.float32(ratio), "t": np.bool_(training)}
    body = f"c = Identity (t)  y, m = Dropout (x, r, {mode})  z = Cast <to = 1> (m)"
    assert_imports(body, opset=13, initializers=given, outputs=("y", "z"), **EXACT)


@pytest.mark.parametrize("mode", ["t", "c"])
def test_a_file_that_asks_for_it_gets_it(mode: str) -> None:
    proto = parse(
        f"c = Identity (t)  y, m = Dropout <seed = 1> (x, r, {mode})",
        inputs={"x": (1000,)},
        initializers={"r": np.float32(0.25), "t": np.bool_(True)},
        outputs=("y", "m"),
    )
    torch.manual_seed(0)
    x = torch.ones(4, 1000, requires_grad=True)
    y, mask = imported(proto)(x)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0, torch.tensor(4 / 3).item()}
    assert torch.equal(y > 0, mask)
    assert torch.equal(x.grad, y)
    assert abs(mask.float().mean() - 0.75) < 0.03  # four standard deviations of the mean of 4000


@pytest.mark.parametrize("mode", ["t", "c"])
def test_numbers_may_be_lists_of_one(mode: str) -> None:
    body = f"c = Identity (t)  y = Dropout (x, r, {mode})"
    given = {"r": np.float32([0.5]), "t": np.array([False])}
    proto = parse(body, opset=13, inputs={"x": (3,)}, initializers=given)
    assert imported(proto)(torch.ones(1, 3))[0].tolist() == [[1, 1, 1]]

    given["t"] = np.array([True])
    proto = parse(body, opset=13, inputs={"x": (100,)}, initializers=given)
    assert set(imported(proto)(torch.ones(1, 100))[0].unique().tolist()) == {0, 2}
