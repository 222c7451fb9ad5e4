from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import parse

from mpqtool.passes.normalize import ResolveAutoPadPass


def _conv(attributes: str, size: str = "7", weight: tuple[int, ...] = (3, 2, 3, 3)) -> str:
    return f"net (float[1,2,{size},{size}] x) => (float[a,b,c,d] y) {{ y = Conv<{attributes}>(x, w) }}"


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (1, 4), (2, 3), (2, 4), (3, 2)])
@pytest.mark.parametrize("size", [7, 8])
def test_writes_out_what_the_runtime_does(
    rng: np.random.Generator, mode: str, stride: int, kernel: int, size: int
) -> None:
    attributes = f'auto_pad="{mode}", strides=[{stride},{stride}]'
    text, weights = _conv(attributes, str(size)), {"w": rng.normal(size=(3, 2, kernel, kernel))}
    feeds = {"x": rng.normal(size=(1, 2, size, size)).astype(np.float32)}
    before = run_onnx(parse(text, weights), feeds)

    result = ResolveAutoPadPass()(parse(text, weights))

    assert result.modified
    assert "auto_pad" not in result.model.graph[0].attributes
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=0, atol=0)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_writes_out_the_padding_of_pools(rng: np.random.Generator, op: str) -> None:
    text = f"""net (float[1,2,7,7] x) => (float[a,b,c,d] y)
               {{ y = {op}<auto_pad="SAME_LOWER", kernel_shape=[2,3], strides=[2,2]>(x) }}"""
    feeds = {"x": rng.normal(size=(1, 2, 7, 7)).astype(np.float32)}
    result = ResolveAutoPadPass()(parse(text))
    assert result.modified
    assert_equivalent(run_onnx(parse(text), feeds), run_onnx(result.model, feeds), rtol=0, atol=0)


def test_a_dilated_kernel_covers_more() -> None:
    # ONNX Runtime refuses this combination, so there is nothing to compare with but the formula.
    model = parse(_conv('auto_pad="SAME_UPPER", dilations=[2,2]'), {"w": np.ones((3, 2, 3, 3))})
    assert ResolveAutoPadPass()(model).modified
    assert model.graph[0].attributes["pads"].as_ints() == (2, 2, 2, 2)


def test_a_symbolic_size_does_not_matter_at_stride_1() -> None:
    model = parse(_conv('auto_pad="SAME_UPPER"', "s"), {"w": np.ones((3, 2, 4, 4))})
    assert ResolveAutoPadPass()(model).modified
    assert model.graph[0].attributes["pads"].as_ints() == (1, 1, 2, 2)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_conv('auto_pad="SAME_UPPER", strides=[2,2]', "s"), id="size-unknown"),
        pytest.param(
            "net (float[1,2,7,7] x, float[3,2,k,k] w) => (float[a,b,c,d] y) "
            '{ y = Conv<auto_pad="SAME_UPPER">(x, w) }',
            id="kernel-unknown",
        ),
    ],
)
def test_leaves_alone(text: str) -> None:
    weights = {} if " w)" in text.split("=>")[0] else {"w": np.ones((3, 2, 3, 3))}
    model = parse(text, weights)
    assert not ResolveAutoPadPass()(model).modified
    assert model.graph[0].attributes["auto_pad"].as_string() == "SAME_UPPER"


def test_second_run_changes_nothing() -> None:
    model = ResolveAutoPadPass()(parse(_conv('auto_pad="VALID"'), {"w": np.ones((3, 2, 3, 3))})).model
    assert not ResolveAutoPadPass()(model).modified
