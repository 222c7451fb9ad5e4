"""QDQ graph to integer graph: one pass per operator family, in the order they run."""

from __future__ import annotations

__all__ = ["TARGETS", "lowering_passes"]

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import PassError
from ..normalize import ConvertOpsetPass
from .add import LowerAddPass
from .average_pool import LowerAveragePoolPass
from .concat import LowerConcatPass
from .conv import LowerConvPass
from .gemm import LowerGemmPass
from .islands import WriteOutIslandsPass
from .move import LowerMovePass
from .names import NameCodesPass
from .opsets import ImportContribPass
from .pack import PackWeightsPass

TARGETS = ("cpu",)
"""What an integer graph can be made for."""


def lowering_passes(target: str) -> tuple[ir.passes.PassBase, ...]:
    """The passes that make an integer graph of a QDQ graph.

    Raises:
        PassError: The target is unknown.
    """
    if target not in TARGETS:
        raise PassError(
            f"Cannot lower for target {target!r}, allowed: {', '.join(TARGETS)}. Choose one of these."
        )
    return (
        ConvertOpsetPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True),
        NameCodesPass(),
        LowerConvPass(),
        LowerGemmPass(),
        LowerAddPass(),
        LowerAveragePoolPass(),
        LowerMovePass(),
        LowerConcatPass(),
        WriteOutIslandsPass(),
        common.RemoveUnusedNodesPass(),
        PackWeightsPass(),
        ImportContribPass(),
        common.RemoveUnusedOpsetsPass(process_functions=False),
    )
