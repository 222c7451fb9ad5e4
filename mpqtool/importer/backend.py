"""The importer as an ONNX backend, so that the standard's own test suite can judge it.

``onnx.backend.test.BackendTest(mpqtool.importer.backend.Backend, __name__)`` makes the test cases.
"""

from __future__ import annotations

__all__ = ["Backend", "ImportedModel"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.backend.base
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx

from .dtypes import array_from_tensor, tensor_from_array
from .graph import import_graph


class ImportedModel(onnx.backend.base.BackendRep):
    """A model in torch that takes and gives arrays.

    Args:
        module: What ``import_graph`` made of the model.
        dtypes: Element types of the outputs.
    """

    def __init__(self, module: fx.GraphModule, dtypes: Sequence[ir.DataType]) -> None:
        super().__init__()
        self.module, self.dtypes = module.eval(), dtypes

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> tuple[NDArray[Any], ...]:
        """The outputs in graph order, for the inputs in graph order."""
        with torch.no_grad():
            outputs = self.module(*(tensor_from_array(np.asarray(array)) for array in inputs))
        return tuple(array_from_tensor(y, dtype) for y, dtype in zip(outputs, self.dtypes, strict=True))


class Backend(onnx.backend.base.Backend):
    """Imports a model as it is, without ``normalize``, and runs it in torch on the CPU."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> ImportedModel:
        """Import the model.

        Raises:
            UnsupportedOpError: Operators that cannot be imported.
        """
        graph = ir.from_proto(model)
        dtypes = [value.dtype or ir.DataType.UNDEFINED for value in graph.graph.outputs]
        return ImportedModel(import_graph(graph), dtypes)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device is the CPU."""
        return device == "CPU"
