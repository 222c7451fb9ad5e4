"""ONNX -> torch. ``import_graph`` turns a normal graph into a ``torch.fx.GraphModule``."""

from __future__ import annotations

__all__ = ["import_graph", "supported", "write_parameters"]

from . import (  # noqa: F401  each enters its handlers into the registry
    activation,
    arithmetic,
    attention,
    bitwise,
    blocks,
    cast,
    causal_conv,
    comparison,
    conv,
    creation,
    cumulative,
    deform,
    dropout,
    global_pooling,
    indexing,
    integer,
    joining,
    linear,
    loss,
    lrn,
    normalization,
    padding,
    pooling,
    quantization,
    recurrent,
    reduction,
    regions,
    resize,
    rotary_embedding,
    sampling,
    scatter,
    search,
    selection,
    shape,
    signal,
    slicing,
    softmax,
    unary,
    unpooling,
    window_functions,
)
from .graph import import_graph
from .registry import supported
from .writeback import write_parameters
