"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from mpqtool.files import write_json, write_text


def test_writes_and_makes_folders(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": 1.5})
    assert json.loads(path.read_text()) == {"x": 1.5}
    write_text(path, "\N{GREEK SMALL LETTER BETA}\n")
    assert path.read_bytes() == b"\xce\xb2\n"
    assert os.listdir(path.parent) == ["b.json"]


def test_json_has_no_nan(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="permission bits")
def test_permissions_follow_the_umask(tmp_path: pathlib.Path) -> None:
    write_text(tmp_path / "x", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
