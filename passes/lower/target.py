"""Note what an integer file is made for."""

from __future__ import annotations

__all__ = ["NoteTargetPass"]

import onnx_ir as ir

from .. import metadata


class NoteTargetPass(ir.passes.InPlacePass):
    """Write the target into the model, for what reads the file later; left alone if it is there already.

    Args:
        target: Of ``targets.TARGETS``.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = model.metadata_props.get(metadata.TARGET) != self.target
        model.metadata_props[metadata.TARGET] = self.target
        return ir.passes.PassResult(model, modified=modified)
