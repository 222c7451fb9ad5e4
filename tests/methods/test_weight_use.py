"""What a weight multiplies: the columns of a convolution, all of them and some."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mpqtool.errors import UnsupportedOpError
from mpqtool.importer.conv import any_conv, padded_conv
from mpqtool.methods.weight_use import weight_use

CASES = {
    "conv1d": (F.conv1d, (3, 4, 11), (6, 4, 3), ((2,), (1,), (2,), 1)),
    "conv2d": (F.conv2d, (3, 4, 7, 9), (6, 4, 3, 2), ((1, 2), (1, 0), (1, 2), 1)),
    "conv3d": (F.conv3d, (2, 2, 4, 5, 4), (4, 2, 2, 3, 1), ((1, 2, 1), (0, 1, 1), (1, 1, 2), 1)),
    "groups": (F.conv2d, (3, 4, 6, 6), (6, 2, 3, 3), ((2, 2), (1, 1), (1, 1), 2)),
    "depthwise": (F.conv2d, (3, 4, 6, 6), (8, 1, 3, 3), ((1, 1), (1, 1), (1, 1), 4)),
    "uneven-pads": (padded_conv, (3, 4, 6, 5), (6, 4, 3, 3), ((2, 1), (0, 1, 2, 1), (1, 1), 1)),
    "same-pads": (any_conv, (3, 4, 6, 5), (6, 4, 3, 3), ((2, 2), None, (1, 1), 1, "SAME_UPPER")),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums of at most 36 products of float32, in another order


def _case(kind: str) -> tuple[Any, Tensor, Tensor, Tensor, tuple[Any, ...]]:
    target, given, kernel, window = CASES[kind]
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in (given, kernel, kernel[:1]))
    return target, x, weight, bias, window


@pytest.mark.parametrize("kind", CASES)
def test_weights_times_what_they_multiply_are_what_they_add(kind: str) -> None:
    target, x, weight, bias, window = _case(kind)
    y = target(x, weight, bias, *window)
    use = weight_use("w", target, (x, weight, bias, *window), {})

    columns, results = use.inputs(x[:, None]), use.results(use.added(y)[:, None])

    samples, groups, inputs, positions = columns.shape
    assert (samples, groups, positions) == (len(x), use.groups, y[0, 0].numel())
    by_group = weight.reshape(groups, -1, inputs)
    torch.testing.assert_close(by_group @ columns, results, **CLOSE)


@pytest.mark.parametrize("kind", CASES)
def test_some_positions_are_those_of_all(kind: str) -> None:
    target, x, weight, bias, window = _case(kind)
    use = weight_use("w", target, (x, weight, bias, *window), {})
    rows = x.unflatten(0, (1, -1))  # all in one sample, as one of sequences has its rows
    every = use.inputs(x[:, None])
    at = torch.randperm(every.shape[3], generator=torch.Generator().manual_seed(1))[:7]
    assert torch.equal(use.inputs(x[:, None], at), every[..., at])
    assert torch.equal(use.inputs(rows, at).unflatten(3, (len(x), -1)), every[..., at].movedim(0, 2)[None])


def test_a_matrix_takes_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 5, 3), (4, 3), (1, 4)))
    use = weight_use("w", F.linear, (x, weight), {"bias": bias})
    y = F.linear(x, weight, bias)
    assert (use.trailing, use.groups, use.kernel) == (1, 1, (4, 3))
    torch.testing.assert_close(weight @ use.inputs(x)[:, 0], use.results(use.added(y))[:, 0], **CLOSE)


def test_other_operators_are_refused() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(UnsupportedOpError, match=r"for mul, which uses the weight 'w'\. Known are Conv and"):
        weight_use("w", torch.mul, (x, x), {})
