"""Arrows of the design: mpqtool -> runtime -> passes, and never back. Read from the sources, not run."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = {"mpqtool": "mpqtool", "passes": "mpqtool.passes", "runtime": "mpqtool.runtime"}
SOURCES = {
    (name if path.stem == "__init__" else f"{name}.{path.stem}"): path
    for folder, package in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
    for name in [".".join([package, *path.parent.relative_to(ROOT / folder).parts])]
}
# What each layer must not import, anywhere in it, not even inside a function.
FORBIDDEN = {
    "mpqtool.passes": ("torch", "onnxruntime", "mpqtool.runtime", "click", "rich_click"),
    "mpqtool.runtime": ("torch", "click", "rich_click"),
    "mpqtool.methods": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "mpqtool.quantizers": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
}
LOWER_LAYERS = ("mpqtool.passes", "mpqtool.runtime")


def _imports(module: str, path: pathlib.Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Full names of what a module imports; a type-only import counts like any other."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _violations(module: str, imported: str) -> list[str]:
    found = [
        forbidden
        for layer, names in FORBIDDEN.items()
        if _within(module, layer)
        for forbidden in names
        if _within(imported, forbidden)
    ]
    lower = any(_within(imported, layer) for layer in LOWER_LAYERS)
    if any(_within(module, layer) for layer in LOWER_LAYERS) and _within(imported, "mpqtool") and not lower:
        found.append("mpqtool")  # of mpqtool, the lower layers may see only each other
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_no_arrow_points_up(module: str) -> None:
    wrong = {name: _violations(module, name) for name in _imports(module, SOURCES[module])}
    assert not {name: why for name, why in wrong.items() if why}


def test_only_session_builds_sessions() -> None:
    named = [m for m, path in SOURCES.items() if "InferenceSession(" in path.read_text()]
    assert named == ["mpqtool.runtime.session"]


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("mpqtool.passes.x", "from torch import nn", "torch.nn"),
        ("mpqtool.passes.lower.x", "from ...runtime import session", "mpqtool.runtime.session"),
        ("mpqtool.passes.x", "from mpqtool.errors import DataError", "mpqtool.errors.DataError"),
        ("mpqtool.runtime.x", "def f():\n    import torch.nn", "torch.nn"),
        ("mpqtool.runtime.x", "from .. import data", "mpqtool.data"),
        ("mpqtool.methods.x", "import onnx_ir as ir", "onnx_ir"),
    ],
)  # fmt: skip
def test_a_wrong_arrow_is_seen(module: str, source: str, imported: str) -> None:
    path = SOURCES["mpqtool.errors"]  # any file that is not an __init__
    assert list(_imports(module, path, ast.parse(source))) == [imported]
    assert _violations(module, imported)


def test_all_sources_were_read() -> None:
    assert {"mpqtool", "mpqtool.passes.plan", "mpqtool.runtime.session", "mpqtool.cli.quantize"} <= set(
        SOURCES
    )
