"""What an integer graph can be made for, apart from the passes so that a command can list it unloaded."""

from __future__ import annotations

__all__ = ["TARGETS"]

TARGETS = {
    "cpu": "ONNX Runtime on a CPU, the fastest form there: QLinear operators, some of domain com.microsoft",
    "standard": "any runtime of ONNX: the same integers from operators of the standard alone",
    "cuda": "ONNX Runtime on a GPU: integers in float32 from end to end, as GPUs lack QLinear operators",
}
"""The targets, each with what it is for."""
