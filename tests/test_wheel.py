"""What is installed: one import package, with every source file, and nothing that could shadow a user's."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("mpqtool", "passes", "runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built from a copy, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_holds_the_package_only(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mpqtool"}


def test_holds_every_source_file(wheel: list[str]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    }
    wanted = {name if name.startswith("mpqtool/") else f"mpqtool/{name}" for name in wanted}
    assert {name for name in wheel if name.endswith(".py")} == wanted


def test_holds_types_template_and_licence(wheel: list[str]) -> None:
    assert {"mpqtool/py.typed", "mpqtool/report/page.html"} <= set(wheel)
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)


def test_packages_are_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {p.parent.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("__init__.py")}
    dotted = {name.replace("/", ".") for name in found}
    assert set(listed) == {name if name.startswith("mpqtool") else f"mpqtool.{name}" for name in dotted}
