"""Which kind of data a spec stands for."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest

from mpqtool.data import load_data
from mpqtool.errors import DataError

MODULE = """
import numpy as np
from mpqtool.data import Data, Split

def arrays():
    return {"x": np.zeros((10, 2), np.float32), "label": np.arange(10) % 2}

def data():
    split = Split({"x": np.ones((3, 2), np.float32)})
    return Data("mine", split, split)

def nothing():
    return 3

def broken():
    raise KeyError("seven")

value = 1
"""


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_samples.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_samples", raising=False)
    return "my_samples"


def test_callable_in_the_working_directory_gives_arrays(module: str) -> None:
    data = load_data(f"{module}:arrays", inputs={"x": (None, 2)}, classes=2)
    assert (len(data.train), len(data.test), data.held_out) == (8, 2, True)


def test_callable_gives_data(module: str) -> None:
    data = load_data(f"{module}:data", inputs={"x": (None, 2)})
    np.testing.assert_array_equal(data.test.inputs["x"], np.ones((3, 2), np.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("nothing", "returned a int", id="other-type"),
        pytest.param("broken", "raised KeyError: 'seven'", id="raises"),
        pytest.param("value", "is a int, and a callable is needed", id="no-callable"),
        pytest.param("missing", "has no 'missing'", id="no-such-name"),
    ],
)
def test_callable_that_cannot_be_used(module: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"{module}:{name}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("no/such.npz", "No such file or folder: 'no/such.npz'", id="npz"),
        pytest.param("no_such_folder", "No such file or folder", id="folder"),
        pytest.param("idx:no_such", "No such folder: 'no_such'", id="idx"),
        pytest.param("cifar10:no_such", "No such folder: 'no_such'", id="cifar10"),
        pytest.param("no_such_module:f", "Cannot import 'no_such_module'", id="module"),
        pytest.param("mnist:/a b", "is of no known kind; it can be FILE.npz", id="kind"),
    ],
)
def test_nothing_there(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)


def test_batches_cover_the_split_in_order(module: str) -> None:
    split = load_data(f"{module}:arrays").train
    sizes = [len(batch["x"]) for batch in split.batches(3)]
    assert sizes == [3, 3, 2]
