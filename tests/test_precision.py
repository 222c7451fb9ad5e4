from __future__ import annotations

import logging

import pytest
import torch

from mpqtool.errors import OptionError
from mpqtool.precision import autocast, check_precision, make_scaler
from mpqtool.reporter import Reporter

CPU = torch.device("cpu")


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(OptionError, match="mixed_precision is 'fp16', which needs a GPU, and none is found"):
        check_precision("fp16", CPU, Reporter(silent=True))


@pytest.mark.parametrize(
    ("precision", "device", "warned"),
    [("bf16", "cpu", True), ("no", "cpu", False), ("bf16", "cuda", False), ("fp16", "cuda", False)],
)
def test_warns_where_narrow_floats_are_slow(
    caplog: pytest.LogCaptureFixture, precision: str, device: str, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING, "mpqtool"):
        check_precision(precision, torch.device(device), Reporter(silent=True))
    assert bool(caplog.messages) is warned


@pytest.mark.parametrize(
    ("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_narrow_inside_only(precision: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(("precision", "scaled"), [("no", False), ("bf16", False), ("fp16", True)])
def test_only_float16_needs_scaled_gradients(precision: str, scaled: bool) -> None:
    loss = torch.tensor(1.0)
    assert (make_scaler(precision, CPU).scale(loss) > loss) == scaled
