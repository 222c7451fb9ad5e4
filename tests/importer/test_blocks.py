from __future__ import annotations

import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.blocks import depth_to_space, space_to_depth
from mpqtool.passes.errors import UnsupportedOpError

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_depth_to_space(opset: int) -> None:
    assert_imports("y = DepthToSpace <blocksize = 2> (x)", opset=opset, inputs={"x": (12, 3, 5)}, **EXACT)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_in_both_orders(opset: int, mode: str) -> None:
    body = f'y = DepthToSpace <blocksize = 2, mode = "{mode}"> (x)'
    assert_imports(body, opset=opset, inputs={"x": (12, 3, 5)}, **EXACT)


@pytest.mark.parametrize("opset", [7, 13])
def test_space_to_depth(opset: int) -> None:
    assert_imports("y = SpaceToDepth <blocksize = 2> (x)", opset=opset, inputs={"x": (3, 4, 6)}, **EXACT)


@pytest.mark.parametrize("channels_last", [True, False])
def test_one_is_the_way_back_of_the_other(channels_last: bool) -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    depth = space_to_depth(x, 2, channels_last)
    assert depth.shape == (2, 12, 2, 3)
    assert torch.equal(depth_to_space(depth, 2, channels_last), x)
    assert not torch.equal(depth_to_space(depth, 2, not channels_last), x)


@pytest.mark.parametrize("operator", ["DepthToSpace", "SpaceToDepth"])
def test_another_mode_is_refused(operator: str) -> None:
    proto = parse(f'y = {operator} <blocksize = 2, mode = "RCD"> (x)', opset=28, inputs={"x": (4, 2, 2)})
    with pytest.raises(UnsupportedOpError, match="mode='RCD', and handled are 'DCR', 'CRD'"):
        imported(proto)
