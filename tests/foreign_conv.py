"""A convolution as other tools write it, with what a test wants around it."""

from __future__ import annotations

__all__ = ["Arrays", "conv_model", "verified"]

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_text import parse

from mpqtool.passes import pipelines
from mpqtool.runtime.verify import VerifyResult, verify

Arrays = dict[str, NDArray[Any]]

_BODY = """
xq = QuantizeLinear (x, s, z)
xd = DequantizeLinear (xq, s, z)
w = DequantizeLinear <axis = 0> (wq, ws, wz)
c = Conv (xd, w, b)
"""


def conv_model(outputs: str, body: str, inputs: str = "", **others: Any) -> tuple[ir.Model, Arrays]:
    """``c = Conv (x)`` of quantized codes, and feeds for ``x``.

    Args:
        outputs: Those of the graph, as text.
        body: What comes behind ``c``.
        inputs: Further ones than ``x``, as text.
        others: Further initializers, or others of these: ``s1`` and ``z1`` are for the codes of ``c``.
    """
    rng = np.random.default_rng(1)
    arrays = {
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "s1": np.float32(0.05),
        "z1": np.uint8(120),
        "wq": rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "ws": (rng.random(4) * 0.01 + 0.001).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "b": rng.normal(size=4).astype(np.float32),
    }
    text = f"net (float[N, 2, 8, 8] x{inputs}) => ({outputs}) {{ {_BODY} {body} }}"
    held = {name: np.asarray(numbers) for name, numbers in (arrays | others).items()}
    feeds: Arrays = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    return parse(text, held, opset=21), feeds


def verified(folder: pathlib.Path, qdq: ir.Model, feeds: Arrays, *, target: str = "cpu") -> VerifyResult:
    """Lower, let the checker look at the file, and verify it."""
    before, after = folder / "a.qdq.onnx", folder / "a.int.onnx"
    ir.save(qdq, before)
    ir.save(pipelines.lower(qdq, target=target), after)
    onnx.checker.check_model(str(after))
    return verify(after, before, [feeds], threads=1)
