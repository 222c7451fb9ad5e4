"""Float ONNX in, verified mixed-precision integer ONNX out."""

from __future__ import annotations

__all__ = [
    "QuantizeOptions",
    "SensitivityOptions",
    "__version__",
    "bench",
    "export_onnx",
    "import_onnx",
    "inspect",
    "lower",
    "quantize",
    "sensitivity",
    "verify",
]

import os
import typing

if typing.TYPE_CHECKING:
    from .api import bench, export_onnx, import_onnx, inspect, lower, quantize, sensitivity, verify
    from .options import QuantizeOptions
    from .sensitivity_options import SensitivityOptions

    __version__: str

_HOMES = dict.fromkeys(__all__, "api") | {
    "QuantizeOptions": "options",
    "SensitivityOptions": "sensitivity_options",
}

# In a checkout, passes/ and runtime/ stand beside this folder, and only an installation puts them inside
# it. Without this, `python -m pytest` in the root finds this folder first and then no mpqtool.passes.
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isdir(os.path.join(_root, "passes")) and os.path.isfile(os.path.join(_root, "pyproject.toml")):
    __path__.append(_root)
del _root


def __getattr__(name: str) -> object:
    """Load a public name on first use: ``import mpqtool`` alone stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("mpqtool")
    else:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
