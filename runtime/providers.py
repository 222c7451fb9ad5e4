"""The names of execution providers, apart from ``session.py`` so that a command can list them unloaded."""

from __future__ import annotations

__all__ = ["PROVIDERS"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""The execution providers by the names the commands use."""
