"""Metrics and losses of the user: what reaches them, and what is said when one does not work."""

from __future__ import annotations

import math
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

from mpqtool.batch import Batch
from mpqtool.errors import OptionError
from mpqtool.own import check_loss, make_loss, make_metric

OUTPUTS = [np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.ones((2, 1), np.float32)]


def counted(outputs: Any, reference: Any, labels: Any) -> Any:
    assert type(outputs) is type(reference) is list
    return (len(outputs) + np.float32(0.5) * len(reference)) if labels is None else labels.sum()


def of_shape(outputs: Any, reference: Any, labels: Any) -> Any:
    return outputs[0]


def nan(*_: Any) -> float:
    return math.nan


def words(*_: Any) -> str:
    return "good"


def wrong(*_: Any) -> None:
    raise KeyError("boxes\nand more")


def squared(outputs: Any, teacher: Any, labels: Any) -> Any:
    target = labels if teacher is None else teacher[0]
    return ((outputs[0] - target) ** 2).mean()


def logarithm(outputs: Any, teacher: Any, labels: Any) -> Any:
    return ((outputs[0] - teacher[0]) ** 2).mean().log()


def detached(outputs: Any, teacher: Any, labels: Any) -> Any:
    return outputs[0].detach().mean()


def infinite(outputs: Any, teacher: Any, labels: Any) -> Any:
    return outputs[0].mean() / 0


def test_a_metric_gets_arrays_and_gives_a_number() -> None:
    metric = make_metric(f"{__name__}:counted")
    assert metric(tuple(OUTPUTS), tuple(OUTPUTS), None) == 3
    assert metric(OUTPUTS, OUTPUTS, np.array([2, 5])) == 7
    broken = [np.full((2, 2), np.nan, np.float32)]
    assert metric(broken, broken, None) == -math.inf


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_shape", r"returned a ndarray of shape \(2, 2\), and one finite number is needed"),
        ("nan", "returned nan, and one finite number"),
        ("words", "returned 'good', and one"),
        ("wrong", "raised KeyError: 'boxes.nand more'. Change it"),
    ],
)
def test_a_metric_that_does_not_work_is_named(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        make_metric(f"{__name__}:{name}")(OUTPUTS, OUTPUTS, None)
    assert re.match(rf"metric '{__name__}:{name}' ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_loss_gets_the_teacher_and_the_labels() -> None:
    loss = make_loss(f"{__name__}:squared")
    x = torch.ones(2, 2, requires_grad=True)
    found = loss([x], Batch((), None, [torch.zeros(2, 2)]))
    assert (found.item(), found.requires_grad) == (1, True)
    assert loss([x], Batch((), torch.full((2, 2), 3.0), None)).item() == 4
    with torch.no_grad():  # as where a loss is only looked at
        loss([x], Batch((), None, [x]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_shape", r"returned a Tensor of shape \(2, 2\), and a tensor of shape \(\) is needed"),
        ("words", "returned 'good', and a tensor"),
        ("detached", "returned a tensor without a gradient"),
        ("infinite", "returned inf on the first samples"),
        ("wrong", "raised KeyError"),
    ],
)
def test_a_loss_that_does_not_work_is_named_before_training(name: str, message: str) -> None:
    spec = f"{__name__}:{name}"
    with pytest.raises(OptionError, match=message) as caught:
        check_loss(spec, make_loss(spec), OUTPUTS, None, taught=True)
    assert str(caught.value).startswith(f"loss {spec!r} ")
    assert "\n" not in str(caught.value)


def test_a_loss_that_has_no_value_at_the_teacher_itself_is_fine() -> None:
    spec = f"{__name__}:logarithm"
    check_loss(spec, make_loss(spec), [*OUTPUTS, np.array([1, 2])], None, taught=True)


def test_a_file_holds_functions_too(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "with space" / "metrics.py"  # not our module of that name
    file.parent.mkdir()
    file.write_text(
        "class Best:\n    @staticmethod\n    def one(outputs, reference, labels):\n        return 1\n"
    )
    assert make_metric(f"{file}:Best.one")(OUTPUTS, OUTPUTS, None) == 1
    assert "metrics" not in sys.modules
    with pytest.raises(OptionError, match="has no 'two'"):
        make_metric(f"{file}:two")
    file.write_text("import not_there")
    with pytest.raises(OptionError, match="ModuleNotFoundError: No module named 'not_there'"):
        make_metric(f"{file}:Best")
    with pytest.raises(OptionError, match=r"No such file: .*none\.py"):
        make_metric(f"{tmp_path / 'none.py'}:Best")
