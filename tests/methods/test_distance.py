from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mpqtool.methods.distance import distance, output_sizes


class _Outputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, 3 * x[:, :1, None], x.argmax(1), 0 * x


def test_sizes_are_root_mean_squares_over_all_batches() -> None:
    x = torch.randn((5, 4), generator=torch.Generator().manual_seed(0))
    first, second, *others = output_sizes(_Outputs(), [(x[:2],), (x[2:],)])
    assert first == pytest.approx(math.sqrt(float(x.square().mean())))
    assert second == pytest.approx(3 * math.sqrt(float(x[:, 0].square().mean())))
    assert others == [None, None]  # codes; always 0


def test_distance_of_one_output_is_the_smoothed_mean() -> None:
    z, zq = torch.tensor([[0.0, 4.0], [2.0, 2.0]]), torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    wanted = (2 * math.sqrt(1e-5) + math.sqrt(1.5**2 + 1e-5) + math.sqrt(1 + 1e-5)) / 4
    assert float(distance([zq], [z], [2.0])) == pytest.approx(wanted)


def test_units_of_an_output_do_not_count() -> None:
    z, zq = (torch.randn((2, 3), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    wide = [t.repeat(1, 7)[..., None] for t in (zq, z)]
    once = distance([zq], [z], [1.0])
    twice = distance([zq, 100 * wide[0], zq.long()], [z, 100 * wide[1], z.long()], [1.0, 100.0, None])
    assert float(twice) == pytest.approx(2 * float(once))
