"""ONNX -> torch. ``import_graph`` turns a normal graph into a ``torch.fx.GraphModule``."""

from __future__ import annotations

__all__ = ["import_graph", "supported", "write_parameters"]

from . import (  # noqa: F401  each enters its handlers into the registry
    activation,
    conv,
    elementwise,
    linear,
    normalization,
    pooling,
    reduction,
    shape,
)
from .graph import import_graph
from .registry import supported
from .writeback import write_parameters
