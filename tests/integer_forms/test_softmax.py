"""Softmax in torch; ``test_tables.py`` holds its codes against the other engines."""

from __future__ import annotations

import torch

from mpqtool.integer_forms import Codes
from mpqtool.integer_forms.softmax import FORMS
from mpqtool.passes import functions

SCALE = torch.tensor(0.0512345)


def _codes(*, requires_grad: bool = False) -> Codes:
    codes = torch.randint(0, 256, (6, 9), generator=torch.Generator().manual_seed(0)).float()
    return Codes((codes - 117).requires_grad_(requires_grad), SCALE, 117, 255)


def test_gradient_is_that_of_softmax() -> None:
    x = _codes(requires_grad=True)
    weight = torch.arange(54.0).view(6, 9)
    real = x.real().detach().requires_grad_()

    (FORMS["Softmax"](torch.softmax, x, -1).rescale(torch.tensor(1 / 255)) * weight).sum().backward()

    (torch.softmax(real, -1) * weight).sum().backward()
    assert x.centered.grad is not None
    assert real.grad is not None
    # The sum of 9 terms of opposite signs, in another order of factors.
    torch.testing.assert_close(x.centered.grad, real.grad * SCALE * 255, rtol=1e-4, atol=1e-4)


def test_rounds_to_the_codes_of_the_definition() -> None:
    x = _codes()

    over_scale = FORMS["Softmax"](torch.softmax, x, 0).rescale(torch.tensor(1 / 255))

    expected = functions.softmax_codes(x.centered + 117, 0, float(SCALE), 1 / 255, 0, 0, 255)
    assert over_scale.round().tolist() == expected.tolist()


def test_real_values_are_left_to_torch() -> None:
    assert FORMS["Softmax"](torch.softmax, torch.zeros(3), -1) is NotImplemented
