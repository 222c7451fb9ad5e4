"""Check the importer: the same numbers from torch and from ONNX Runtime, at more than one batch size."""

from __future__ import annotations

__all__ = ["assert_imports", "imported", "parse"]

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from torch import fx

from mpqtool.importer import import_graph

BATCHES = (1, 3)


def parse(
    body: str,
    *,
    opset: int = 21,
    inputs: dict[str, tuple[int, ...]],
    initializers: dict[str, NDArray[Any]] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    """A model from the text of its nodes; ``inputs`` are float32, their shapes without the free batch."""
    ins = ", ".join(f"float[{', '.join(['N', *map(str, shape)])}] {name}" for name, shape in inputs.items())
    outs = ", ".join(f"float[] {name}" for name in outputs)
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    proto = onnx.parser.parse_model(f"{header} net ({ins}) => ({outs}) {{ {body} }}")
    for name, array in (initializers or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return proto


def imported(proto: onnx.ModelProto) -> fx.GraphModule:
    return import_graph(ir.from_proto(proto))


def assert_imports(
    body: str,
    *,
    opset: int,
    inputs: dict[str, tuple[int, ...]] | None = None,
    initializers: dict[str, NDArray[Any]] | None = None,
    outputs: tuple[str, ...] = ("y",),
    low: float = -2.0,
    high: float = 2.0,
    rtol: float,
    atol: float,
) -> fx.GraphModule:
    """Import the model, compare with ONNX Runtime at every batch size, and give the torch graph.

    Args:
        body: The nodes, as ONNX text.
        opset: Opset of the model, which decides the version of its operators.
        inputs: Shapes without the batch; ``x`` of ``(4, 6, 5)`` if left out.
        initializers: Arrays by name.
        outputs: Names of the outputs.
        low: Inputs are uniform from here ...
        high: ... to here.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """
    inputs = inputs or {"x": (4, 6, 5)}
    proto = parse(body, opset=opset, inputs=inputs, initializers=initializers, outputs=outputs)
    module = imported(proto).eval()
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        feeds = {
            name: rng.uniform(low, high, (batch, *shape)).astype(np.float32) for name, shape in inputs.items()
        }
        with torch.no_grad():
            made = module(*map(torch.from_numpy, feeds.values()))
        expected = run_onnx(proto, feeds)
        assert_equivalent(
            expected,
            {name: tensor.numpy() for name, tensor in zip(outputs, made, strict=True)},
            rtol=rtol,
            atol=atol,
        )
    return module
