"""What the CPU flags mean."""

from __future__ import annotations

import pathlib
import platform

import pytest

from mpqtool import health


@pytest.mark.parametrize(
    ("flags", "present"),
    [
        pytest.param("sse2 avx2 fma", {"avx2"}, id="avx2"),
        pytest.param("avx2 avx512_vnni", {"avx2", "avx512_vnni"}, id="vnni"),
        pytest.param("avx2 amx_int8 amx_bf16", {"avx2", "amx"}, id="amx"),
    ],
)
def test_features(tmp_path: pathlib.Path, flags: str, present: set[str]) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nmodel name\t: A\nflags\t\t: {flags}\n")
    assert {name for name, there in health.cpu_features(cpuinfo).items() if there} == present


@pytest.mark.parametrize(
    ("machine", "features", "has"),
    [
        ("x86_64", {"avx2": True, "avx512_vnni": False, "avx_vnni": False, "amx": False}, False),
        ("x86_64", {"avx2": True, "avx512_vnni": False, "avx_vnni": True, "amx": False}, True),
        ("AMD64", dict.fromkeys(("avx2", "avx512_vnni", "avx_vnni", "amx")), False),
        ("arm64", dict.fromkeys(("avx2", "avx512_vnni", "avx_vnni", "amx")), True),
    ],
)
def test_has_vnni(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: dict[str, bool | None], has: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(health, "cpu_features", lambda path: features)
    assert health.has_vnni() is has


def test_features_unknown(tmp_path: pathlib.Path) -> None:
    assert set(health.cpu_features(tmp_path / "none").values()) == {None}


@pytest.mark.parametrize(
    ("machine", "flags", "words"),
    [
        ("x86_64", {"avx2": True}, "saturate at 16 bits"),
        ("x86_64", {"avx_vnni": True}, "nothing can saturate"),
        ("aarch64", {}, "no x86-64 CPU"),
    ],
)
def test_meaning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, machine: str, flags: dict[str, bool], words: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    features = {"avx2": False, "avx512_vnni": False, "avx_vnni": False, "amx": False} | flags
    assert words in health._meaning(features)  # type: ignore[arg-type]
