"""QDQ graph to integer graph: one pass per operator family, in the order they run."""

from __future__ import annotations

__all__ = ["lowering_passes"]

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import PassError
from ..targets import TARGETS
from .add import LowerAddPass
from .average_pool import LowerAveragePoolPass
from .border import LowerBorderPass
from .canonical import canonical_passes
from .concat import LowerConcatPass
from .conv import LowerConvPass
from .cuda import CarryInFloatPass
from .foreign import ExplainPass
from .gemm import LowerGemmPass
from .islands import WriteOutIslandsPass
from .keep_float import KeepFloatPass
from .matmul import LowerMatMulPass
from .move import LowerMovePass
from .mul import LowerMulPass
from .opsets import ImportContribPass
from .pack import PackWeightsPass
from .prune import PruneKernelsPass
from .saturation import GuardSaturationPass
from .softmax import LowerSoftmaxPass
from .standard import WriteStandardPass
from .table import LowerTablePass
from .target import NoteTargetPass


def lowering_passes(
    target: str,
    *,
    vnni: bool = False,
    float_layers: Mapping[str, str] | None = None,
    ignore_unknown: bool = False,
) -> tuple[ir.passes.PassBase, ...]:
    """The passes that make an integer graph of a QDQ graph.

    Args:
        target: What it is to run on, of ``targets.TARGETS``.
        vnni: Whether it is for CPUs with VNNI only.
        float_layers: Operators to leave in float; see ``KeepFloatPass``.
        ignore_unknown: Whether names of no operator are ignored in ``float_layers``.

    Raises:
        PassError: The target is unknown.
    """
    if target not in TARGETS:
        raise PassError(
            f"Cannot lower for target {target!r}, allowed: {', '.join(TARGETS)}. Choose one of these."
        )
    return (
        *canonical_passes(),
        KeepFloatPass(float_layers or {}, ignore_unknown=ignore_unknown),
        LowerConvPass(),
        LowerBorderPass(),
        LowerGemmPass(),
        LowerMatMulPass(),
        LowerAddPass(),
        LowerMulPass(),
        LowerAveragePoolPass(),
        LowerTablePass(),
        LowerSoftmaxPass(),
        LowerMovePass(),
        LowerConcatPass(),
        ExplainPass(),
        WriteOutIslandsPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        PruneKernelsPass(),  # behind the removal of unused nodes: what is used has no other users
        *([CarryInFloatPass()] if target == "cuda" else []),  # takes int8 weights alone
        GuardSaturationPass(vnni=vnni),
        *([WriteStandardPass()] if target == "standard" else []),
        common.RemoveUnusedNodesPass(),
        PackWeightsPass(),
        NoteTargetPass(target),
        ImportContribPass(),
        common.RemoveUnusedOpsetsPass(process_functions=False),
    )
