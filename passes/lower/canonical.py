"""The form of a QDQ graph that the lowering passes know, from the file of any tool."""

from __future__ import annotations

__all__ = ["canonical_passes"]

import onnx_ir as ir
from onnx_ir.passes import common

from ..normalize import ConvertOpsetPass, InferShapesPass, RewriteReduceMeanPass
from . import foreign
from .names import NameCodesPass


def canonical_passes() -> tuple[ir.passes.PassBase, ...]:
    """The passes in their order; of a QDQ file of ours they change nothing but the version.

    uint8 activations with one scale each; int8 weights, scaled along axis 0; each layer
    ``DequantizeLinear -> operator -> (Relu | Clip)* -> QuantizeLinear [-> Clip]``. What cannot be brought to
    this form exactly stays as it is, and so float.
    """
    return (
        ConvertOpsetPass(),
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        foreign.SpellQdqPass(),
        InferShapesPass(),
        foreign.FoldQuantizedConstantsPass(),
        NameCodesPass(),  # before anything is inserted: these names are the same in the file as it is
        foreign.UnsignActivationsPass(),
        foreign.MergePairsPass(),
        RewriteReduceMeanPass(),
        foreign.CanonicalLayersPass(),
        foreign.QuantizeMovesPass(),
        foreign.MergePairsPass(),
        foreign.RescalePass(),
        foreign.CenterWeightsPass(),
        foreign.RaiseDeadScalesPass(),
        foreign.CheckWidthsPass(),
        common.RemoveUnusedNodesPass(),
        NameCodesPass(),
    )
