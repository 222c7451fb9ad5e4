from __future__ import annotations

import pathlib

import pytest

from mpqtool.passes import files
from mpqtool.passes.files import replacing, write_whole


def test_replaces_the_file_and_leaves_nothing_beside(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_fault_on_the_way_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_raises_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target) as beside:
            assert beside.suffix == ".onnx"
            beside.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    with pytest.raises(IsADirectoryError, match="it is a folder") as caught:
        write_whole(tmp_path, b"new")
    assert caught.value.strerror == "it is a folder. Give the name of a file"  # what ``save_model`` shows


def test_a_missing_folder_is_not_made(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no" / "a.bin", b"new")
