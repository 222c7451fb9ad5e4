from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mpqtool.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, tensors_under
from mpqtool.errors import CheckpointError


def test_round_trip(tmp_path: pathlib.Path) -> None:
    tensors = {"a/x": torch.tensor(1.5), "a/y": torch.arange(6).view(2, 3), "b": torch.zeros(0)}
    save_checkpoint(tmp_path, Checkpoint(tensors, {"epoch": 3, "name": "é"}))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state == {"epoch": 3, "name": "é"}
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())
    assert tensors_under("a/", loaded.tensors).keys() == {"x", "y"}


def test_the_newest_replaces_the_last_and_leaves_nothing_beside(tmp_path: pathlib.Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, Checkpoint({"x": torch.ones(2)}, {"epoch": epoch}))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state["epoch"] == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_none_where_there_is_none(tmp_path: pathlib.Path) -> None:
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("keep", [0, 4, 40], ids=["empty", "torn-length", "torn-header"])
def test_a_torn_file_is_named(tmp_path: pathlib.Path, keep: int) -> None:
    save_checkpoint(tmp_path, Checkpoint({"x": torch.ones(100)}, {}))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"it is not a checkpoint .* Leave --resume out"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_before_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, Checkpoint({"x": torch.ones(2)}, {"epoch": 1}))
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as opened:
        state = opened.metadata()["state"]
    save_file({"x": torch.ones(2)}, path, metadata={"state": state})  # as it was written before
    with pytest.raises(CheckpointError, match=r"in format 1, allowed 7\. Leave --resume out") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
